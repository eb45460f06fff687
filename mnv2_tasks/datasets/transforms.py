"""Random and plain transforms on the one sample format, from torchvision's transforms.v2."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2_tasks.samples import IGNORED

Size = tuple[int, int]
Fit = Literal["stretch", "pad", "crop"]

GREY = 127  # what fills empty places of images
FILL = {tv_tensors.Image: GREY, tv_tensors.Mask: IGNORED}


def _per_box(sample: dict[str, Any]) -> tuple[Tensor, ...]:
    return sample["labels"], sample["crowd"], sample["area"]


def _colours(photometric: float) -> list[v2.Transform]:
    return [v2.RandomApply([v2.RandomPhotometricDistort()], p=photometric)] if photometric else []


def _flips(flip: float, vertical_flip: float) -> list[v2.Transform]:
    return [v2.RandomHorizontalFlip(flip), v2.RandomVerticalFlip(vertical_flip)]


def seen_size(size: Size, original: Size, fit: Fit) -> Size:
    """The (h, w), at the top left of an input of `size`, that holds an image of `original` (H, W)."""
    if fit != "pad":
        return size
    scale = min(size[0] / original[0], size[1] / original[1])
    return max(1, round(original[0] * scale)), max(1, round(original[1] * scale))


def plain(size: Size, fit: Fit, original: Size) -> v2.Transform:
    """Nothing random: an image of `original` (H, W) brought to `size` (H, W).

    "stretch" as SSD does; "pad" keeps the proportions and fills the right or the bottom; "crop" keeps them and cuts
    the middle out of the image scaled to 8/7 of the size, as ImageNet is evaluated: the shorter side to 256, then 224
    of it, to the last bit what torchvision's transforms.v2 make of Resize(256) and CenterCrop(224).
    """
    if fit == "crop":
        (height, width), (rows, columns) = (round(side * 8 / 7) for side in size), original
        if height * columns >= width * rows:
            width = height * columns // rows
        else:
            height = width * rows // columns
        return v2.Compose([v2.Resize((height, width), antialias=True), v2.CenterCrop(size)])
    height, width = seen_size(size, original, fit)
    steps: list[v2.Transform] = [v2.Resize((height, width), antialias=True)]
    if (height, width) != size:
        steps.append(v2.Pad([0, 0, size[1] - width, size[0] - height], fill=FILL))
    return v2.Compose(steps)


def classification(
    size: Size,
    *,
    scale: Sequence[float] = (0.35, 1.0),
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    photometric: float = 0.0,
    trivial: bool = False,
    erase: float = 0.0,
    pad: int = 0,
) -> v2.Transform:
    """A random part of the image resized to (H, W), as Inception was trained.

    Args:
        size: (H, W) of the input.
        scale: the part of the image's area, from and to.
        flip: chance that the image is mirrored.
        vertical_flip: chance that it is turned upside down; for pictures without an up and a down.
        photometric: chance that brightness, contrast and colours change.
        trivial: whether TrivialAugment (arXiv 2103.10158) is added; for long trainings.
        erase: chance that a rectangle is erased.
        pad: above 0 it takes the place of `scale`: resize, pad by so many pixels, cut (H, W) out, as for CIFAR.
    """
    steps: list[v2.Transform]
    if pad:
        steps = [v2.Resize(size, antialias=True), v2.RandomCrop(size, padding=pad, fill=FILL)]
    else:
        steps = [v2.RandomResizedCrop(size, scale=tuple(scale), antialias=True)]
    steps += [*_flips(flip, vertical_flip), *_colours(photometric)]
    if trivial:
        steps.append(v2.TrivialAugmentWide())
    if erase:
        steps.append(v2.RandomErasing(p=erase, value=GREY))
    return v2.Compose(steps)


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

    Boxes that leave the picture, and crowds, are dropped.

    Args:
        size: (H, W) of the input.
        flip: chance that the image is mirrored.
        vertical_flip: chance that it is turned upside down; for pictures without an up and a down: cells, satellite
            views.
        zoom_out: chance that the image is laid on a larger canvas, which makes objects small.
        zoom_out_to: the largest side of that canvas, in sides of the image.
        iou_crop: chance that a part is cut out whose overlap with the objects is as SSD draws it.
        photometric: chance that brightness, contrast and colours change.
    """
    steps: list[v2.Transform] = []
    if zoom_out:
        steps.append(v2.RandomZoomOut(fill=FILL, side_range=(1.0, zoom_out_to), p=zoom_out))
    if iou_crop:
        steps.append(v2.RandomApply([v2.RandomIoUCrop()], p=iou_crop))
    steps += [v2.Resize(size, antialias=True), *_flips(flip, vertical_flip), *_colours(photometric)]
    return v2.Compose([*steps, *_tidy_boxes()])


def segmentation(
    size: Size,
    *,
    scale: Sequence[float] = (0.5, 2.0),
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    photometric: float = 0.5,
) -> v2.Transform:
    """Scaled by a random factor, then (H, W) cut out, padded where too small.

    Args:
        size: (H, W) of the input.
        scale: the factor, from and to; 1: the image just fits the input.
        flip: chance that the image is mirrored.
        vertical_flip: chance that it is turned upside down; for pictures without an up and a down.
        photometric: chance that brightness, contrast and colours change.
    """
    steps: list[v2.Transform] = [
        v2.ScaleJitter(size, scale_range=tuple(scale), antialias=True),
        v2.RandomCrop(size, pad_if_needed=True, fill=FILL),
        *_flips(flip, vertical_flip),
        *_colours(photometric),
    ]
    return v2.Compose(steps)


def joint(
    size: Size,
    *,
    scale: Sequence[float] = (0.5, 1.0),
    ratio: Sequence[float] = (0.75, 1.333),
    flip: float = 0.5,
    vertical_flip: float = 0.0,
    photometric: float = 0.5,
) -> v2.Transform:
    """For images that serve several kinds at once: a random part, flipped, colours distorted.

    Args:
        size: (H, W) of the input.
        scale: the part of the image's area, from and to.
        ratio: width over height of that part, from and to.
        flip: chance that the image is mirrored.
        vertical_flip: chance that it is turned upside down; for pictures without an up and a down.
        photometric: chance that brightness, contrast and colours change.
    """
    crop = v2.RandomResizedCrop(size, scale=tuple(scale), ratio=tuple(ratio), antialias=True)
    return v2.Compose([crop, *_flips(flip, vertical_flip), *_colours(photometric), *_tidy_boxes()])


class _Sanitize(v2.SanitizeBoundingBoxes):
    """Leaves samples without boxes as they are."""

    def forward(self, *inputs: Any) -> Any:
        (sample,) = inputs
        return super().forward(sample) if "boxes" in sample else sample


def _tidy_boxes() -> list[v2.Transform]:
    return [v2.ClampBoundingBoxes(), _Sanitize(min_size=1, labels_getter=_per_box)]


def seeded(transform: Any, sample: Any, seed: int) -> Any:
    """Apply a random transform as if torch's generator had just been seeded, and leave that generator as it was."""
    state = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return transform(sample)
    finally:
        torch.random.set_rng_state(state)
