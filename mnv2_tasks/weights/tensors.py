"""Named tensors of files, read without executing code, and put into modules that they fit exactly."""

import os
import pickle
import re
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.files import open_regular
from mnv2_tasks.weights.artifacts import local_file

State = dict[str, Tensor]
MOST_UNPACKED = 50  # times its own size that a file may unpack to


def read_file(path: str | Path) -> dict[str, Any]:
    """What a `.pth`, `.pt`, `.ckpt`, `.safetensors` or `.npz` file holds, or a W&B artifact (see `local_file`).

    Nothing in the file is executed.
    """
    path = local_file(path)
    if not path.exists():
        raise InputError(f"{path}: no such weights file; check the path")
    try:
        with open_regular(path) as file:
            if path.suffix == ".safetensors":
                return dict(load_file(path))
            _refuse_bomb(file)
            if path.suffix == ".npz":
                with np.load(file, allow_pickle=False) as arrays:
                    return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
            content = torch.load(file, map_location="cpu", weights_only=True)
            _refuse_hollow(content, os.fstat(file.fileno()).st_size)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a file of plain tensors (cut short, or holding code, which is never run); "
            "download it again, or save its state dict anew"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file leads readers anywhere
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); it may be cut short: copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not named tensors; save a state dict")
    if not all(isinstance(name, str) for name in content):
        raise InputError(f"{path}: its tensors have no names; save a state dict")
    return content


def _refuse_bomb(file: IO[bytes]) -> None:
    """ValueError for a zip, as .npz and .pth files are, that unpacks to far more than weights can."""
    size = os.fstat(file.fileno()).st_size
    if is_zipfile(file):
        file.seek(0)
        with ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MOST_UNPACKED * max(size, 1 << 16):  # of trained weights, compressing saves a tenth
            raise ValueError(f"its {size:,} bytes unpack to {unpacked:,}")
    file.seek(0)


def _refuse_hollow(content: Any, size: int) -> None:
    """ValueError for tensors that are not stored value by value in these `size` bytes: they cost nothing, copies do."""
    total, nodes, seen = 0, [content], set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, Tensor):
            if node.layout != torch.strided or node.is_meta or node.is_quantized or node.is_complex():
                raise ValueError("it holds tensors that are no plain arrays of real numbers")
            total += node.numel() * node.element_size()
        elif isinstance(node, (dict, list, tuple)) and id(node) not in seen:
            seen.add(id(node))
            nodes += node.values() if isinstance(node, dict) else node
    if total > MOST_UNPACKED * max(size, 1 << 16):
        raise ValueError(f"its {size:,} bytes stand for {total:,}")


def read_state(path: str | Path) -> State:
    """The named tensors of a weights file, out of whatever a training framework wrapped them in."""
    content = read_file(path)
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: holds no tensors; expected a state dict")
    return {re.sub(r"^(_orig_mod\.|module\.)+", "", name): value for name, value in state.items()}


def load_exactly(module: nn.Module, state: State, source: str, *, hint: str) -> None:
    """`load_state_dict(strict=True)` with an error that a person can act on; changes nothing when it fails."""
    check_fit(module, state, source, hint=hint)
    module.load_state_dict({**module.state_dict(), **state})


def check_fit(module: nn.Module, state: State, source: str, *, hint: str) -> None:
    """Refuse tensors that are not, by name and shape, those of the module, which may lie on the meta device."""
    expected = module.state_dict()
    # Counters of batches are bookkeeping that many files leave out.
    missing = [name for name in expected if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in expected]
    wrong = [
        f"{n} {tuple(v.shape)} for {tuple(expected[n].shape)}"
        for n, v in state.items()
        if n in expected and v.shape != expected[n].shape
    ]
    if not (missing or surplus or wrong):
        return
    faults = [(missing, "missing"), (surplus, "not known here"), (wrong, "of another shape")]
    parts = [
        f"{len(names)} tensors {what} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, what in faults
        if names
    ]
    raise InputError(f"{source}: does not fit the model: {'; '.join(parts)}; {hint}")
