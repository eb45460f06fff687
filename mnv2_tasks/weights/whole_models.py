"""Whole models of others, their heads included, under our names."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnv2_tasks.errors import InputError
from mnv2_tasks.weights.layouts import backbone_state
from mnv2_tasks.weights.tensors import State, load_exactly, read_state


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


def fill_model(
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
    expected, start = model.state_dict(), f"heads.{task}."
    differences = set[float]()
    for name, value in state.items():
        if name.startswith(start) and name in expected and value.shape != expected[name].shape:
            step = len(wider[name]) - len(expected[name]) if expected[name].ndim else 0
            fits = step and value.shape[1:] == expected[name].shape[1:]
            differences.add((len(value) - len(expected[name])) / step if fits else 0.5)
    (difference,) = differences if len(differences) == 1 else (0.5,)
    return len(classes[task]) + int(difference) if difference == int(difference) else None


def _model_state(model: nn.Module, path: str | Path) -> State:
    """The tensors of a file under the names of a whole model."""
    state = read_state(path)
    for key, convert in FOREIGN.items():
        if any(name.startswith(key) for name in state):
            heads: Any = model.heads
            buffers = {"mean", "std"} | {f"heads.{h}.{b}" for h in heads for b in ("shapes", "class_weights")}
            computed = {name: value for name, value in model.state_dict().items() if name in buffers}
            state = computed | convert(state)  # not learned: they come from the configuration
            break
    else:
        state = {name.removeprefix("model."): value for name, value in state.items()}
    return state
