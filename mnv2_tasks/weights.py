"""Pretrained weights in: from torchvision, timm, TensorFlow ports and our own runs, without executing code."""

import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile, is_zipfile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.foreign import open_regular

State = dict[str, Tensor]
MOST_UNPACKED = 50  # times its own size that a file may unpack to
PUBLISHED_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


def read_file(path: str | Path) -> dict[str, Any]:
    """What a `.pth`, `.pt`, `.ckpt`, `.safetensors` or `.npz` file holds. Nothing in the file is executed."""
    path = Path(path)
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
            held = torch.load(file, map_location="cpu", weights_only=True)
            _refuse_hollow(held, os.fstat(file.fileno()).st_size)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: not a file of plain tensors (cut short, or holding code, which is never run); "
            "download it again, or save its state dict anew"
        ) from error
    except InputError:
        raise
    except Exception as error:  # a damaged file leads readers anywhere
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); it may be cut short: copy it again") from error
    if not isinstance(held, dict):
        raise InputError(f"{path}: holds a {type(held).__name__}, not named tensors; save a state dict")
    if not all(isinstance(name, str) for name in held):
        raise InputError(f"{path}: its tensors have no names; save a state dict")
    return held


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


def _refuse_hollow(held: Any, size: int) -> None:
    """ValueError for tensors that are not stored value by value in these `size` bytes: they cost nothing, copies do."""
    total, nodes, seen = 0, [held], set()
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
    held = read_file(path)
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(held.get(key), dict):
            held = held[key]
    state = {name: value for name, value in held.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not state:
        raise InputError(f"{path}: holds no tensors; expected a state dict")
    return {re.sub(r"^(_orig_mod\.|module\.)+", "", name): value for name, value in state.items()}


# ------------------------------------------------------------------------------------------ backbone layouts

BLOCK_PARTS = ("expand.0", "expand.1", "depthwise.0", "depthwise.1", "linear.0", "linear.1")


def from_torchvision(name: str) -> str | None:
    """features.N.conv... -> ours; None for what is not part of the trunk."""
    for theirs, ours in (("features.0.", "stem."), ("features.18.", "last.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = re.fullmatch(r"features\.(\d+)\.conv\.(\d+(?:\.[01])?)\.(\w+)", name)
    if not match:
        return None
    index, part, leaf = int(match[1]) - 1, match[2], match[3]
    parts = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if index else ["0.0", "0.1", "1", "2"]
    return f"blocks.{index}.{BLOCK_PARTS[-len(parts) :][parts.index(part)]}.{leaf}" if part in parts else None


def from_timm(name: str) -> str | None:
    """timm's mobilenetv2_*: conv_stem, blocks.stage.repeat.conv_pw / conv_dw / conv_pwl, conv_head -> ours."""
    for theirs, ours in (
        ("conv_stem.", "stem.0."),
        ("bn1.", "stem.1."),
        ("conv_head.", "last.0."),
        ("bn2.", "last.1."),
    ):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    match = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(conv_pwl|conv_pw|conv_dw|bn[123])\.(\w+)", name)
    if not match:
        return None
    stage, repeat = int(match[1]), int(match[2])
    parts = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"] if stage else ["conv_dw", "bn1", "conv_pw", "bn2"]
    index = sum((1, 2, 3, 4, 3, 3, 1)[:stage]) + repeat
    return f"blocks.{index}.{BLOCK_PARTS[-len(parts) :][parts.index(match[3])]}.{match[4]}"


def _from_ours(name: str) -> str | None:
    name = re.sub(r"^(model\.)?backbone\.", "", name)
    return name if name.startswith(("stem.", "blocks.", "last.")) else None


# The key that tells a layout from the others -> how its names become ours.
BACKBONE_LAYOUTS: dict[str, Callable[[str], str | None]] = {
    r"features\.0\.0\.weight": from_torchvision,
    r"conv_stem\.weight": from_timm,
    r"((model\.)?backbone\.)?stem\.0\.weight": _from_ours,
}


def backbone_state(state: State, source: str) -> State:
    """The trunk's tensors of a state dict in torchvision's, timm's or our own layout, under our names."""
    for key, rename in BACKBONE_LAYOUTS.items():
        if any(re.fullmatch(key, name) for name in state):
            return {ours: value for name, value in state.items() if (ours := rename(name))}
    raise InputError(
        f"{source}: not a MobileNetV2 in torchvision's, timm's or our own layout (first keys: "
        f"{', '.join(list(state)[:3])}); rename its tensors to one of them"
    )


def load_backbone(backbone: MobileNetV2, weights: str | Path | None) -> str:
    """Fill a backbone: None leaves it as it is, "imagenet" is torchvision's, anything else is a file.

    Returns a line on what was loaded and what the file holds besides, "" for None.

    Raises InputError where tensors are missing or of another shape, naming them and what would fix it. The last
    convolution may be missing here or there: segmenters do without it.
    """
    if weights is None:
        return ""
    if str(weights) == "imagenet":
        whole, source = _imagenet(), "torchvision's ImageNet weights"
    else:
        whole, source = read_state(weights), str(weights)
    state = backbone_state(whole, source)
    others = len(whole) - len(state)
    told = f"trunk from {source}; heads begin anew"
    told += f", for its {others} other tensors, such as its own head's, are not taken" if others else ""
    if backbone.last is None or not any(name.startswith("last.") for name in state):
        state = {name: value for name, value in state.items() if not name.startswith("last.")}
        state |= {name: value for name, value in backbone.state_dict().items() if name.startswith("last.")}
    load_exactly(backbone, state, source, hint=_backbone_hint(backbone, state))
    return told


def _imagenet() -> State:
    from torchvision.models import MobileNet_V2_Weights

    weights = MobileNet_V2_Weights.IMAGENET1K_V2
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except OSError as error:  # URLError is one
        raise InputError(
            f"backbone.weights=imagenet: cannot download {weights.url} ({error}); fetch that file on a machine with "
            "a network and pass backbone.weights=<file>, or train from scratch with backbone.weights=null"
        ) from error


def _backbone_hint(backbone: MobileNetV2, state: State) -> str:
    """What of the configuration would make these tensors fit, or nothing."""
    stem = state.get("stem.0.weight")
    if stem is not None and stem.shape[1] != backbone.stem[0].in_channels:
        return f"the file is for images of {stem.shape[1]} channels: set backbone.in_channels={stem.shape[1]}"
    for width in PUBLISHED_WIDTHS:
        with torch.device("meta"):
            shapes = {n: v.shape for n, v in MobileNetV2(width).state_dict().items() if not n.startswith("last.")}
        if all(name in state and state[name].shape == shape for name, shape in shapes.items()):
            return f"the file is a MobileNetV2 of width {width}: set backbone.width={width}"
    return "use the block type and width that the file was trained with"


def load_exactly(module: nn.Module, state: State, source: str, *, hint: str) -> None:
    """`load_state_dict(strict=True)` with an error that a person can act on; changes nothing when it fails."""
    check_fit(module, state, source, hint=hint)
    module.load_state_dict({**module.state_dict(), **state})


def check_fit(module: nn.Module, state: State, source: str, *, hint: str) -> None:
    """Refuse tensors that are not, by name and shape, those of the module, which may lie on the meta device."""
    own = module.state_dict()
    # Counters of batches are bookkeeping that many files leave out.
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    surplus = [name for name in state if name not in own]
    wrong = [
        f"{n} {tuple(v.shape)} for {tuple(own[n].shape)}"
        for n, v in state.items()
        if n in own and v.shape != own[n].shape
    ]
    if not (missing or surplus or wrong):
        return
    found = [(missing, "missing"), (surplus, "not known here"), (wrong, "of another shape")]
    parts = [
        f"{len(names)} tensors {what} ({names[0]}{', ...' if len(names) > 1 else ''})" for names, what in found if names
    ]
    raise InputError(f"{source}: does not fit the model: {'; '.join(parts)}; {hint}")


# ---------------------------------------------------------------------------------- whole models of others


def ssdlite_from_tensorflow(state: State) -> State:
    """An SSDLite ported from TensorFlow's Object Detection API -> the names of our `Model` with one ssdlite head.

    Theirs: `features.*` as in torchvision, `extras.k` (1x1, depthwise, 1x1), `box_heads.k` and `cls_heads.k`
    (depthwise, then 1x1). Boxes are (ty, tx, th, tw) there and (tx, ty, tw, th) here; background is column 0 in
    both. Build the model with `padding=same`, `norm_eps=1e-3`, the original default boxes and sigmoid scores
    (`configs/experiment/ssdlite_pedestrian.yaml`).
    """
    ours: State = {f"backbone.{name}": value for name, value in backbone_state(state, "weights").items()}
    for name, value in state.items():
        match = re.fullmatch(r"(extras|box_heads|cls_heads)\.(\d+)\.(.+)", name)
        if not match:
            continue
        part = {"extras": "extras", "box_heads": "box_layers", "cls_heads": "score_layers"}[match[1]]
        if part == "box_layers" and re.fullmatch(r"1\.(weight|bias)", match[3]):
            order = torch.arange(len(value)).view(-1, 4)[:, [1, 0, 3, 2]].flatten()
            value = value[order]
        ours[f"heads.ssdlite.{part}.{match[2]}.{match[3]}"] = value
    return ours


def deeplabv3_from_tensorflow(state: State) -> State:
    """A DeepLabv3 ported from TensorFlow's models/research/deeplab -> our `Model` with one deeplabv3 head.

    Theirs: `features.*` as in torchvision (without the last convolution), `aspp0`, `image_pooling`,
    `concat_projection` and `logits`, which have the same names here. Build the model with `padding=same` and the
    light head (`configs/experiment/deeplabv3_voc.yaml`).
    """
    trunk = {name: value for name, value in backbone_state(state, "weights").items() if not name.startswith("last.")}
    ours: State = {f"backbone.{name}": value for name, value in trunk.items()}
    for name, value in state.items():
        if name.startswith(("aspp0.", "image_pooling.", "concat_projection.", "logits.")):
            ours[f"heads.deeplabv3.{name}"] = value
    return ours


def classifier_from_torchvision(state: State) -> State:
    """torchvision's `mobilenet_v2`, with its last layer -> our `Model` with one classifier head."""
    ours = {f"backbone.{name}": value for name, value in backbone_state(state, "weights").items()}
    return ours | {f"heads.classifier.linear.{leaf}": state[f"classifier.1.{leaf}"] for leaf in ("weight", "bias")}


FOREIGN: dict[str, Callable[[State], State]] = {  # the start of a key that tells a layout -> how it becomes ours
    "classifier.1.": classifier_from_torchvision,
    "cls_heads.": ssdlite_from_tensorflow,
    "concat_projection.": deeplabv3_from_tensorflow,
}


def load_model(
    model: nn.Module,
    path: str | Path,
    *,
    classes: Mapping[str, Sequence[str]] | None = None,
    build: Callable[[dict[str, tuple[str, ...]]], nn.Module] | None = None,
) -> None:
    """Fill a whole model from one of our files, or from others' in a layout of `FOREIGN`.

    With its `classes`, and what builds it of others, weights for another number of classes are told so. Raises
    InputError for tensors that do not fit.
    """
    state = _model_state(model, path)
    try:
        load_exactly(model, state, str(path), hint="use the task, backbone and class count that it was trained with")
    except InputError as error:
        if classes is None or build is None:
            raise
        ours = {task: tuple(names) for task, names in classes.items()}
        for task, names in ours.items():
            if theirs := _class_count(model, build, state, task, ours):
                raise InputError(
                    f"{path}: weights for {_classes(theirs)}, and the data of {task} has {_classes(len(names))}; "
                    f"{_class_fix(theirs, names)}"
                ) from error
        raise


def _classes(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"


def _class_fix(theirs: int, names: Sequence[str]) -> str:
    if theirs < len(names):
        example = ",".join(names[:theirs]) if theirs < 4 else "..."
        return f"choose theirs, in their order, as data.classes=[{example}]"
    return "give data that has all of theirs, in their order"


def _class_count(
    model: nn.Module,
    build: Callable[[dict[str, tuple[str, ...]]], nn.Module],
    state: State,
    task: str,
    classes: dict[str, tuple[str, ...]],
) -> int | None:
    """For how many classes the tensors of a task's head are; None where that is not all that does not fit.

    A head's layers grow by the same number of rows with every class.
    """
    try:
        with torch.device("meta"):
            wider = build({**classes, task: (*classes[task], "")}).state_dict()
    except InputError:  # a head whose settings are for so many classes alone
        return None
    own, start = model.state_dict(), f"heads.{task}."
    differences = set[float]()
    for name, value in state.items():
        if name.startswith(start) and name in own and value.shape != own[name].shape:
            step = len(wider[name]) - len(own[name]) if own[name].ndim else 0
            fits = step and value.shape[1:] == own[name].shape[1:]
            differences.add((len(value) - len(own[name])) / step if fits else 0.5)
    (difference,) = differences if len(differences) == 1 else (0.5,)
    return len(classes[task]) + int(difference) if difference == int(difference) else None


def _model_state(model: nn.Module, path: str | Path) -> State:
    """The tensors of a file under the names of a whole model."""
    state = read_state(path)
    for key, convert in FOREIGN.items():
        if any(name.startswith(key) for name in state):
            buffers = {"mean", "std"} | {f"heads.{h}.{b}" for h in model.heads for b in ("shapes", "class_weights")}  # type: ignore[union-attr]
            computed = {name: value for name, value in model.state_dict().items() if name in buffers}
            state = computed | convert(state)  # not learned: they come from the configuration
            break
    else:
        state = {name.removeprefix("model."): value for name, value in state.items()}
    return state
