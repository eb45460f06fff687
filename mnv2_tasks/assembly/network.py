"""The network that a config describes, built, and filled from a checkpoint."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.weights.checkpoint import read_trusted
from mnv2_tasks.weights.tensors import check_fit, load_exactly
from mnv2_tasks.weights.trust import BEFORE

Module = TypeVar("Module", bound=nn.Module)
MOST_PARAMETERS = 10**9  # of a network
DISAGREE = "its config and its tensors disagree: use the settings that it was trained with, or copy the file again"


def build_backbone(section: Mapping[str, Any]) -> MobileNetV2:
    """The trunk of a `backbone` section without what others than its class take."""
    from hydra.utils import instantiate

    return instantiate(section)


def build_model(config: Mapping[str, Any], classes: Classes) -> Model:
    """A model, without pretrained weights, from the `backbone` and `heads` sections of a plain config."""
    from hydra.utils import instantiate

    section = dict(config["backbone"])
    mean, std = section.pop("mean"), section.pop("std")
    for key in BEFORE:
        section.pop(key, None)
    backbone = build_backbone(section)
    channels = section.get("in_channels", 3)
    mean, std = ([values[0]] * channels if len(set(values)) == 1 else list(values) for values in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"backbone.mean and backbone.std must have in_channels={channels} values")
    heads = {task: instantiate(head)(backbone.taps, len(classes[task])) for task, head in config["heads"].items()}
    return Model(backbone, heads, mean=mean, std=std)


def load_model(path: str | Path, *, trust: Collection[str] = ()) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, in eval mode, and the checkpoint as `read_trusted` gives it."""
    checkpoint = read_trusted(path, trust=trust)
    return restore_model(checkpoint["config"], checkpoint, path), checkpoint


def restore_model(config: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str | Path) -> Model:
    """The model that `config` describes, in eval mode, as a checkpoint that was read from `path` has it."""
    where = f"{path} ({checkpoint['writer']})"
    build = partial(build_model, config, checkpoint["classes"])
    model = build_and_fill(build, checkpoint["state"], config_at=where, tensors_at=where, hint=DISAGREE)
    for task, calibration in checkpoint["calibrations"].items():
        model.heads[task].calibration = calibration
    return model


def build_and_fill(
    build: Callable[[], Module], state: Mapping[str, Tensor], *, config_at: str, tensors_at: str, hint: str
) -> Module:
    """As `build_told`, filled with the tensors `state`, in eval mode. Raises InputError that ends with `hint`."""
    module = build_told(build, config_at, state, tensors_at=tensors_at, hint=hint)
    load_exactly(module, dict(state), tensors_at, hint=hint)
    return module.eval()


def build_told(
    build: Callable[[], Module],
    config_at: str,
    state: Mapping[str, Tensor] | None = None,
    *,
    tensors_at: str = "",
    hint: str = DISAGREE,
) -> Module:
    """What `build` makes of the config of somebody's file: without memory first, so that a damaged config costs none.

    Raises InputError, in which the files of the config and of the tensors `state` are called `config_at` and
    `tensors_at`, where it builds none, one larger than any network, or one that `state` does not fit.
    """
    try:
        with torch.device("meta"):
            outline = build()
        if state is not None:
            check_fit(outline, dict(state), tensors_at or config_at, hint=hint)
        elif (count := sum(p.numel() for p in outline.parameters())) > MOST_PARAMETERS:
            raise InputError(f"its network would have {count:,} parameters; copy the file again")
        return build()
    except InputError as error:
        raise (
            error if str(error).startswith(tensors_at or config_at) else InputError(f"{config_at}: {error}")
        ) from error
    except Exception as error:  # whatever a damaged setting leads to
        raise InputError(f"{config_at}: its config builds no model ({reason_of(error)}); {hint}") from error
