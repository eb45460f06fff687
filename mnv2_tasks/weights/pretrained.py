"""A trunk filled from pretrained weights: torchvision's, or a file in a layout that is known."""

from pathlib import Path

import torch

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.weights.layouts import backbone_state
from mnv2_tasks.weights.tensors import State, load_exactly, read_state

PUBLISHED_WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


def fill_backbone(backbone: MobileNetV2, weights: str | Path | None) -> str:
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
    summary = f"trunk from {source}; heads begin anew"
    summary += f", for its {others} other tensors, such as its own head's, are not taken" if others else ""
    if backbone.last is None or not any(name.startswith("last.") for name in state):
        state = {name: value for name, value in state.items() if not name.startswith("last.")}
        state |= {name: value for name, value in backbone.state_dict().items() if name.startswith("last.")}
    load_exactly(backbone, state, source, hint=_backbone_hint(backbone, state))
    return summary


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
