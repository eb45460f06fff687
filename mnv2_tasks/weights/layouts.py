"""The trunk under other libraries' names, torchvision's and timm's: into ours and back."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.blocks import InvertedResidual
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.model import Model
from mnv2_tasks.weights.tensors import State

# What torchvision's and timm's networks are fixed to.
BLOCK = {"linear": True, "shortcut": "bottleneck", "kernel_size": 3, "activation": "relu6"}
BACKBONE = {"expansion": 6, "divisor": 8, "in_channels": 3, "stem_stride": 2, "padding": "symmetric", "norm_eps": 1e-5}
TIMM = {
    0.35: "mobilenetv2_035",
    0.5: "mobilenetv2_050",
    0.75: "mobilenetv2_075",
    1.0: "mobilenetv2_100",
    1.4: "mobilenetv2_140",
}


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


def torchvision_state(model: Model, section: Mapping[str, Any]) -> State:
    """The tensors under the names of `torchvision.models.mobilenet_v2(width_mult=..., num_classes=...)`.

    Its classifier comes along where the model has a classifier head; else the state is that of its `features`, prefixed
    (give the network `classifier = nn.Identity()`). Raises InputError for what torchvision's network cannot express.
    """
    import torch
    from torchvision.models import mobilenet_v2

    tensors = _published(model, section, "torchvision")
    if model.backbone.last is None:
        raise InputError(
            "as=torchvision: its network has the last convolution (tap c5x), which this model's heads do without"
        )
    with torch.device("meta"):
        theirs = mobilenet_v2(width_mult=section["width"])
    state = {name: tensors[ours] for name in theirs.state_dict() if (ours := from_torchvision(name))}
    for head in model.heads.values():
        if isinstance(head, Classifier):
            linear = head.linear
            state |= {"classifier.1.weight": linear.weight.detach(), "classifier.1.bias": linear.bias.detach()}
            break
    return plain_state(state)


def timm_state(model: Model, section: Mapping[str, Any]) -> State:
    """The tensors under the names of `timm.create_model("mobilenetv2_100", features_only=True)`.

    Raises InputError for what timm's network cannot express.
    """
    import timm

    tensors = _published(model, section, "timm")
    name = TIMM.get(section["width"])
    if name is None:
        raise InputError(f"as=timm: it has widths {', '.join(map(str, TIMM))}, not {section['width']:g}")
    theirs = timm.create_model(name, features_only=True).state_dict()
    state = {name: tensors[ours] for name in theirs if (ours := from_timm(name)) and ours in tensors}
    if missing := [name for name in theirs if name not in state]:
        raise InputError(
            f"as=timm: its network goes on to {missing[-1].rpartition('.')[0]}, which this model's heads do without"
        )
    return plain_state(state)


def _published(model: Model, section: Mapping[str, Any], library: str) -> State:
    """The backbone's tensors, where its structure is the published one; `section` is its part of the config."""
    block = section.get("block") or {}
    reasons = {
        "it is not MobileNetV2's table": type(model.backbone) is not MobileNetV2,
        "its blocks are not inverted residuals": any(type(b) is not InvertedResidual for b in model.backbone.blocks),
        "its blocks differ from the published ones": any(
            block.get(key, published) != published for key, published in BLOCK.items()
        ),
        **{
            f"its {key} is {section.get(key)}": section.get(key, published) != published
            for key, published in BACKBONE.items()
        },
        "its output stride is not 32": library == "torchvision" and section.get("output_stride", 32) != 32,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise InputError(f"as={library}: that library cannot express this backbone ({wrong[0]}); use as=hub")
    return dict(model.backbone.state_dict())


def plain_state(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone().contiguous() for name, value in state.items()}
