"""What a sample holds and what its masks leave open, for data, heads and metrics alike."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255  # in a mask: pixels that neither training nor a metric counts


def resize(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinear; as it is where the size is right."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def spread(split: Any, count: int, kind: str | None = None) -> list[int]:
    """`count` indices spread evenly over a split; of a `kind` of annotation, over the images that have it."""
    known = split.known(kind) if kind and hasattr(split, "known") else []
    among = known or range(len(split))
    return [among[i] for i in torch.linspace(0, len(among) - 1, min(count, len(among))).long().unique().tolist()]
