"""Segmentation from several views of an image: scales, mirrored, and windows."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import resize

Call = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, K, H, W)


@dataclass(frozen=True)
class Views:
    """The views of an image whose class probabilities are averaged.

    Every scale of it, each also mirrored with `flip`, and each cut into windows (h, w) that overlap by at least this
    part. Raises InputError for values that are none.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, ...] | None = None
    overlap: float = 0.33

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0 or not 0 <= self.overlap < 1:
            raise InputError(
                f"head.scales is {list(self.scales)}, overlap {self.overlap}: use scales above 0, overlap in [0, 1)"
            )

    @property
    def several(self) -> bool:
        """Whether there is more than the image as it is."""
        return self.scales != (1,) or self.flip or self.window is not None


def predict_logits(call: Call, images: Tensor, views: Views) -> Tensor:
    """Logits (B, K, H, W) of images (B, C, H, W) from the mean of the class probabilities over the views.

    One view gives the logits of `call` as they are; several give the log of the mean.
    """
    size = (images.shape[-2], images.shape[-1])
    logits = []
    for scale in views.scales:
        view = _scaled(images, scale)
        logits.append(resize(_slide(call, view, views), size))
        if views.flip:
            logits.append(resize(_slide(call, view.flip(-1), views).flip(-1), size))
    if len(logits) == 1:
        return logits[0]
    return reduce(torch.logaddexp, [each.log_softmax(1) for each in logits]) - math.log(len(logits))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    if not images.is_floating_point():
        images = images.float() / 255
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _slide(call: Call, images: Tensor, views: Views) -> Tensor:
    height, width = images.shape[-2:]
    h, w = (height, width) if views.window is None else map(min, views.window, (height, width))
    tops, lefts = _starts(height, h, views.overlap), _starts(width, w, views.overlap)
    if len(tops) * len(lefts) == 1:
        return call(images)
    total, count = images.new_zeros((), dtype=torch.float32), images.new_zeros((height, width), dtype=torch.float32)
    for top in tops:
        for left in lefts:
            scores = call(images[..., top : top + h, left : left + w]).softmax(1)
            total = total + F.pad(scores, (left, width - left - w, top, height - top - h))
            count[top : top + h, left : left + w] += 1
    return (total / count).clamp(min=torch.finfo(total.dtype).tiny).log()


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin, evenly spread from edge to edge."""
    steps = math.ceil((length - window) / max(1, math.floor(window * (1 - overlap))))
    return [round(i * (length - window) / steps) for i in range(steps + 1)] if steps else [0]
