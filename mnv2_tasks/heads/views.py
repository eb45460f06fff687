"""Segmentation from several views of an image: scales, mirrored, and windows."""

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.samples import resize

Call = Callable[[Tensor], Tensor]  # images (B, C, H, W) -> logits (B, K, H, W)


def predict_logits(
    call: Call,
    images: Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: tuple[int, int] | None = None,
    overlap: float = 1 / 3,
) -> Tensor:
    """Logits (B, K, H, W) of images (B, C, H, W) from the mean of the class probabilities over several views.

    Every scale of the image, each also mirrored with `flip`, and each cut into windows (h, w) that overlap by at
    least this part. One view gives the logits of `call` as they are; several give the log of the mean.
    """
    size = (images.shape[-2], images.shape[-1])
    views = []
    for scale in scales:
        view = _scaled(images, scale)
        views.append(resize(_slide(call, view, window, overlap), size))
        if flip:
            views.append(resize(_slide(call, view.flip(-1), window, overlap).flip(-1), size))
    if len(views) == 1:
        return views[0]
    return reduce(torch.logaddexp, [view.log_softmax(1) for view in views]) - math.log(len(views))


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return images
    if not images.is_floating_point():
        images = images.float() / 255
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _slide(call: Call, images: Tensor, window: tuple[int, int] | None, overlap: float) -> Tensor:
    height, width = images.shape[-2:]
    h, w = (height, width) if window is None else (min(window[0], height), min(window[1], width))
    tops, lefts = _starts(height, h, overlap), _starts(width, w, overlap)
    if len(tops) * len(lefts) == 1:
        return call(images)
    total, count = images.new_zeros((), dtype=torch.float32), images.new_zeros((height, width), dtype=torch.float32)
    for top in tops:
        for left in lefts:
            found = call(images[..., top : top + h, left : left + w]).softmax(1)
            total = total + F.pad(found, (left, width - left - w, top, height - top - h))
            count[top : top + h, left : left + w] += 1
    return (total / count).clamp(min=torch.finfo(total.dtype).tiny).log()


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin, evenly spread from edge to edge."""
    steps = math.ceil((length - window) / max(1, math.floor(window * (1 - overlap))))
    return [round(i * (length - window) / steps) for i in range(steps + 1)] if steps else [0]
