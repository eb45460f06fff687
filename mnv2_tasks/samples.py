"""What a sample holds and what its masks leave open, for data, heads and metrics alike."""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from torchvision.tv_tensors import BoundingBoxes

IGNORED = 255  # in a mask: pixels that neither training nor a metric counts


def resize(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear; as it is where the size is right."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def as_boxes(corners: Tensor, canvas: tuple[int, int]) -> "BoundingBoxes":
    """(N, 4) xyxy in pixels of an image of `canvas` (H, W), in the form that torchvision's transforms move along."""
    from torchvision.tv_tensors import BoundingBoxes

    wrapped: Any = BoundingBoxes  # to mypy a call is one of the tensor's own
    return wrapped(corners, format="XYXY", canvas_size=canvas)


def spread(split: Any, count: int, kind: str | None = None) -> list[int]:
    """`count` indices spread evenly over a split; of a `kind` of annotation, over the images that have it."""
    known = split.known(kind) if kind and hasattr(split, "known") else []
    among = known or range(len(split))
    return [among[i] for i in torch.linspace(0, len(among) - 1, min(count, len(among))).long().unique().tolist()]
