"""Checkpoints of ours: what they hold, read without executing code, and checked."""

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import replacing
from mnv2_tasks.kinds.calibration import Calibration, parse_calibrations, told
from mnv2_tasks.model import Classes
from mnv2_tasks.weights.moved_names import MOST_NESTED, with_new_names
from mnv2_tasks.weights.tensors import read_file
from mnv2_tasks.weights.trust import class_names, refuse_foreign, refuse_unknown, writer

# What versions worked with whose checkpoints do not tell it. Mean and std are buffers, so that the weights bring them.
OLD_BACKBONE = {"in_channels": 3, "mean": [0.5], "std": [0.5], "weights": None, "match": None}
OLD_CONFIG = {"fit": "stretch", "assign": {}}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours, read without executing code: {"config", "classes", "calibrations", "state", "epoch",
    "epochs", "step", "writer"}, of which epoch is that in which it was written, and epochs are those done.

    Settings that its version did not have yet get the values that it worked with. Raises InputError where the file is
    cut short, damaged, or not one of ours.
    """
    content = read_file(path)
    about = content.get("mnv2_tasks")
    if about is None:
        lightning = "; it is another Lightning project's" if "pytorch-lightning_version" in content else ""
        raise InputError(f"{path}: not a checkpoint of mnv2_tasks{lightning}; weights alone go to backbone.weights")
    by = writer(about)
    if isinstance(about, Mapping) and about.get("config", by) is None:
        raise InputError(
            f"{path} ({by}): its task was built in Python without config=..., so that it does not tell its network; "
            "build the same model and call MultiTask.load_from_checkpoint(<this file>, model=<it>, classes=<{task: "
            "names}>), or build it as a mnv2_tasks.JointTask, whose checkpoints tell"
        )
    try:
        config, classes = checked_config(about)
        calibrations = parse_calibrations(about.get("calibration"), classes)
        config["size"]  # has to be there
        tensors = content["state_dict"]
        if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise InputError("state_dict holds no named tensors")
    except InputError as error:
        raise InputError(f"{path} ({by}): {error}; train or export the model again, or copy the file again") from error
    except KeyError as error:
        raise InputError(f"{path} ({by}): it has no {error.args[0]}; copy the whole file again") from error
    state = {n.removeprefix("model."): value for n, value in tensors.items() if n.startswith("model.")}
    epoch, step = (content.get(n) if isinstance(content.get(n), int) else None for n in ("epoch", "global_step"))
    epochs = about.get("epochs")  # done; earlier versions wrote checkpoints at the end of one
    epochs = epochs if isinstance(epochs, int) else (epoch or 0) + 1
    place = {"epoch": epoch, "epochs": epochs, "step": step}
    return {
        "config": config,
        "classes": classes,
        "calibrations": calibrations,
        "state": state,
        **place,
        "writer": by,
    }


def write_calibrated(path: str | Path, calibrations: Mapping[str, Calibration]) -> Path:
    """A checkpoint of ours once more, with what was fitted to its heads: <stem>.calibrated.ckpt beside it.

    Versions that know nothing of it read the copy as they read the original, which stays as it is; what the copy of
    an earlier calibration held is replaced.
    """
    content, path = read_file(path), Path(path)
    about = {**content["mnv2_tasks"], "calibration": told(calibrations)}
    calibrated = path.with_name(f"{path.stem.removesuffix('.calibrated')}.calibrated.ckpt")
    with replacing(calibrated) as draft:
        torch.save({**content, "mnv2_tasks": about}, draft)
    return calibrated


def checked_config(about: Any) -> tuple[dict[str, Any], Classes]:
    """The "config" and "classes" that a file tells of a model, of the form that a model is built from.

    Raises InputError, without the file's name, for what is of another form; KeyError for what is missing.
    """
    if not isinstance(about, Mapping) or not isinstance(about["config"], Mapping):
        raise InputError("its config is no dictionary")
    config = {str(key): value for key, value in with_new_names(about["config"]).items()}
    for section in ("backbone", "heads"):
        if not isinstance(config[section], Mapping) or not config[section]:
            raise InputError(f"its {section} section is {quote(config[section])}")
    backbone, heads, classes = config["backbone"], config["heads"], about["classes"]
    for name, part in {"backbone": backbone, **heads}.items():
        if not isinstance(name, str) or not isinstance(part, Mapping) or not isinstance(part.get("_target_"), str):
            raise InputError(f"its {quote(name)} section does not say what to build")
    classes = class_names(classes, heads, of="heads")
    config["backbone"] = complete_backbone(backbone)
    config = {**OLD_CONFIG, **config}
    if not isinstance(config["assign"], Mapping) or not all(isinstance(v, str) for v in config["assign"].values()):
        raise InputError(f"its assign is {quote(config['assign'])}")
    for number in _numbers([config["backbone"], heads]):
        if not abs(number) <= 1e6:  # nor NaN
            raise InputError(f"its backbone or heads hold the number {quote(number)}")
    if "size" in config and not all(map(_is_size, _each_size(config["size"]))):
        raise InputError(f"its size is {quote(config['size'])}")
    if config["fit"] not in ("stretch", "pad", "crop"):
        raise InputError(f"its fit is {quote(config['fit'])}")
    return config, classes


def complete_backbone(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `backbone` section with the defaults of what its version did not have yet; an own class brings its own."""
    ours = {}
    if str(section.get("_target_")).startswith("mnv2_tasks."):
        parameters = inspect.signature(MobileNetV2).parameters.values()
        ours = {p.name: p.default for p in parameters if isinstance(p.default, (bool, int, float, str))}
    return {**ours, **OLD_BACKBONE, **section}


def _numbers(node: Any, depth: int = 0) -> Iterator[float]:
    if depth > MOST_NESTED:
        raise InputError("its backbone or heads section is nested too deep")
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _numbers(child, depth + 1)
    elif isinstance(node, (int, float)):
        yield node


def _each_size(size: Any) -> list[Any]:
    return list(size.values()) if isinstance(size, Mapping) else [size]


def _is_size(size: Any) -> bool:
    sides = [size, size] if isinstance(size, int) else size
    return (
        isinstance(sides, (list, tuple))
        and len(sides) == 2
        and all(isinstance(side, int) and 32 <= side <= 2**14 for side in sides)
    )


def read_trusted(path: str | Path, *, trust: Collection[str] = ()) -> dict[str, Any]:
    """`read_checkpoint`, for a model to be built from it.

    Raises InputError where a section of the checkpoint asks for anything but what belongs there and is of this package
    or of the modules named in `trust`.
    """
    checkpoint = read_checkpoint(path)
    config, where = checkpoint["config"], f"{path} ({checkpoint['writer']})"
    refuse_foreign(config, where, trust=trust)
    refuse_unknown({key: config[key] for key in ("backbone", "heads")}, where)
    return checkpoint
