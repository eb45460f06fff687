"""An exported file as a network to call: what its metadata says, and images fed in the form that it wants."""

import hashlib
import threading
import warnings
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError, quote, reason_of
from mnv2_tasks.export.formats import Session, format_of, need
from mnv2_tasks.export.metadata import FIX, InputForm, Metadata, parse_metadata
from mnv2_tasks.files import parse_json, read_json

ABOUT = "model.json"  # beside the files
_TURNS: dict[str, Any] = defaultdict(threading.RLock)  # of the formats whose calls take turns


class Exported:
    """A file that `python -m mnv2_tasks.export` wrote, in its own runtime.

    Call it with images (B, C, H, W) uint8 -> {output name: array}, as `about.outputs` names them. Several threads
    may call it at once, and several models of a format: they run at once where the format is `concurrent`, else in
    turn. The arrays are the caller's own.

    Raises InputError where the file is none of ours, cut short, or its runtime is not installed; and where loading it
    runs code that it holds, unless its format is named in `trust`.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, trust: Collection[str] = ()) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{path}: no such file; check the path")
        self.name = format_of(self.path)
        target = need(self.name)
        if target.runs_code and self.name not in trust:
            raise InputError(f"{path}: loading it runs code in it; if you trust the file, say so: trust=[{self.name}]")
        try:
            with _TURNS[self.name]:
                self.about: Metadata = read_about(self.path)
                session = target.read(self.path, self.about, threads)
        except InputError:
            raise
        except Exception as error:  # every runtime has its own
            reason = reason_of(error)[:200]
            raise InputError(
                f"{path}: {self.name} cannot read it ({reason}); export it again, or copy it again"
            ) from error

        self.session: Session = session if target.concurrent else self._in_turn(session)

    def _in_turn(self, session: Session) -> Session:
        def run(images: np.ndarray) -> list[np.ndarray]:
            with _TURNS[self.name]:
                return [np.array(value) for value in session(images)]  # a runtime may write into its own again

        return run

    def feed(self, images: Tensor) -> np.ndarray:
        """(B, C, H, W) uint8 in the layout and type that the graph takes."""
        return as_input(images, self.about.input).numpy()

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        about = self.about
        (height, width), batch = images.shape[2:], about.input.shape[0]
        if {"height", "width"}.isdisjoint(about.dynamic) and (height, width) != about.size:
            raise InputError(f"{self.path}: takes images of {' x '.join(map(str, about.size))}, not {height} x {width}")
        if "batch" in about.dynamic:
            return self._named(self.session(self.feed(images)))
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            short = batch - len(part)
            filled = part if not short else part[[*range(len(part)), *([0] * short)]]
            parts.append([value[: len(part)] for value in self.session(self.feed(filled))])
        return self._named([np.concatenate(column) for column in zip(*parts, strict=True)])

    def _named(self, values: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.about.outputs, values, strict=True))


def as_input(images: Tensor, form: InputForm) -> Tensor:
    """(B, C, H, W) uint8 -> the same in the layout and the type of `form`, floats in 0..1."""
    if form.layout == "nhwc":
        images = images.permute(0, 2, 3, 1)
    if form.dtype == "float32":
        images = images.float() / 255
    return images.contiguous()


def read_about(path: Path) -> Metadata:
    """What an exported file says of itself or, where its format has no place for that, model.json beside it.

    Raises InputError where neither does, or model.json was written with another file.
    """
    beside = path.parent / ABOUT
    content: dict[str, Any] = {}
    if beside.is_file():
        content = read_json(beside, fix=FIX)
        if not isinstance(content, dict) or not isinstance(content.get("files", {}), dict):
            raise InputError(f"{beside}: it does not tell of files; {FIX}")
    entry = content.get("files", {}).get(path.name)
    if entry is not None and not isinstance(entry, dict):
        raise InputError(f"{beside}: what it tells of {path.name} is {quote(entry)}; {FIX}")
    is_other = entry is not None and "sha256" in entry and entry["sha256"] != digest(path)
    text = need(format_of(path)).embedded(path)
    if text:
        if is_other:
            warnings.warn(
                f"{beside} was written with another {path.name}: what is inside the file counts", stacklevel=2
            )
        about = parse_json(text, path, fix=FIX)
    elif is_other:
        raise InputError(f"{beside}: it was written with another {path.name}; put the model.json of this one there")
    elif entry is None:
        raise InputError(f"{path}: it does not say what it is: keep {ABOUT} beside it, as the export wrote it")
    else:
        about = {**{key: value for key, value in content.items() if key != "files"}, **entry}
    return parse_metadata(about, path)


def parts_of(path: Path) -> list[Path]:
    """The files of an exported model: it, or those of its folder, and the weights beside it under the same name."""
    if path.is_dir():
        return sorted(part for part in path.rglob("*") if part.is_file())
    partners = {".xml": (".bin",), ".param": (".bin",)}.get(path.suffix, ())
    return [path, *(path.with_suffix(end) for end in partners)]


def digest(path: Path) -> str:
    """SHA-256 of an exported model's files, in hexadecimal."""
    total = hashlib.sha256()
    for part in parts_of(path):
        total.update(part.read_bytes())
    return total.hexdigest()
