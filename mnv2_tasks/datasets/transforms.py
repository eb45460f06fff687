"""Random and plain transforms on the one sample format, from torchvision's transforms.v2."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

Size = tuple[int, int]


def _per_box(sample: dict[str, Any]) -> tuple[Tensor, ...]:
    return sample["labels"], sample["crowd"], sample["area"]


def plain(size: Size) -> v2.Transform:
    """Stretch to (H, W), as SSD does; nothing random."""
    return v2.Resize(size, antialias=True)


def detection(
    size: Size,
    *,
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    zoom_out: float = 0.5,
    zoom_out_to: float = 2.0,
    iou_crop: float = 1.0,
    photometric: float = 0.5,
) -> v2.Transform:
    """SSD's augmentation (its section 2.2): zoom out, crop by IoU, flip, distort colours; then stretched to (H, W).

    flip, zoom_out, iou_crop and photometric are probabilities; zoom_out_to is the largest side of the zoomed-out
    canvas, in sides of the image. Boxes that leave the picture, and crowds, are dropped.
    """
    steps: list[v2.Transform] = []
    if zoom_out:
        steps.append(v2.RandomZoomOut(fill=127, side_range=(1.0, zoom_out_to), p=zoom_out))
    if iou_crop:
        steps.append(v2.RandomApply([v2.RandomIoUCrop()], p=iou_crop))
    steps += [v2.Resize(size, antialias=True), v2.RandomHorizontalFlip(flip), v2.RandomVerticalFlip(vertical_flip)]
    if photometric:
        steps.append(v2.RandomApply([v2.RandomPhotometricDistort()], p=photometric))
    steps += [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=1, labels_getter=_per_box)]
    return v2.Compose(steps)


def seeded(transform: v2.Transform, sample: dict[str, Any], seed: int) -> dict[str, Any]:
    """Apply a random transform as if torch's generator had just been seeded, and leave that generator as it was."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return transform(sample)
    finally:
        torch.random.set_rng_state(state)
