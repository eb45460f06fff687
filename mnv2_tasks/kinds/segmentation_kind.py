"""Segmentation: a class for every pixel."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.kinds.kind import (
    Apart,
    Arrays,
    Decided,
    Kind,
    Least,
    Picture,
    Prediction,
    Sample,
    Suppress,
    Targets,
    apart,
    check_labels,
    check_shape,
)
from mnv2_tasks.samples import IGNORED


class Segmentation(Kind):
    """Targets: mask (B, H, W) uint8, 255 unknown; in evaluation also whole (B, H', W'), the masks in their own pixels
    at the top left, padded with 255, and whole_size (B, 2), their (h, w).

    Predictions: mask (H, W) uint8, the likeliest class of every pixel; 255 where none is shown.
    """

    name = "segmentation"
    fields = ("mask",)
    needed = ("mask",)
    label = "pixel"
    published_classes = 21  # VOC
    drawn = "the likeliest class of every pixel"
    placed = True
    pictures = "masks"

    def unknown(self, canvas: tuple[int, int], classes: int) -> Sample:
        from torchvision import tv_tensors

        return {"mask": tv_tensors.Mask(torch.full(canvas, IGNORED, dtype=torch.uint8))}

    def originals(self, sample: Sample) -> Sample:
        return {"whole": sample["mask"]}

    def collate(self, samples: list[Sample], *, whole: bool) -> Targets:
        targets = super().collate(samples, whole=whole)
        if whole:
            targets |= _pad_whole([sample["whole"].as_subclass(Tensor) for sample in samples])
        return targets

    def follow(self, targets: Targets) -> Targets:
        return {"whole": targets["mask"], "whole_size": targets["size"], **targets}

    def check(self, targets: Targets, images: Tensor, classes: Sequence[str]) -> None:
        check_shape(targets["mask"], (len(images), *images.shape[-2:]), field="mask")
        check_labels(targets["mask"], classes, field="mask", unknown=IGNORED)

    def label_counts(self, split: Any, classes: int) -> tuple[list[int] | None, str]:
        """Pixels of each class, " in 9 of 20 masks"."""
        counted = getattr(split, "counted", 0)
        if not counted and hasattr(split, "label_counts"):  # masks of objects; a background is everywhere
            objects = split.label_counts().tolist()
            return [1] * (classes - len(objects)) + objects, ""
        among = f" in {counted:,} of {len(split):,} masks" if counted < len(split) else ""
        return (split.pixel_counts().tolist() if counted else None), among

    def is_blank(self, sample: Sample) -> bool | None:
        return bool((sample["mask"] == IGNORED).all()) if "mask" in sample else None

    def restore(self, prediction: Prediction, seen: tuple[int, int], original: tuple[int, int]) -> Prediction:
        part = prediction["mask"][None, None, : seen[0], : seen[1]].to(torch.uint8)
        return {**prediction, "mask": F.interpolate(part, size=original, mode="nearest-exact")[0, 0]}

    def narrow(self, prediction: Prediction, *, score: Least | None, chosen: Tensor | None) -> Prediction:
        """Pixels of other classes are 255."""
        if chosen is None:
            return prediction
        chosen_pixels = torch.cat([chosen, chosen.new_zeros(256 - len(chosen))])[prediction["mask"].long()]
        return {**prediction, "mask": torch.where(chosen_pixels, prediction["mask"], IGNORED)}

    def draw(
        self,
        image: Tensor,
        shown: Prediction | Targets,
        classes: tuple[str, ...],
        *,
        seen: tuple[int, int],
        least: Least | None = None,
    ) -> Tensor:
        """The mask over the image, and a legend below."""
        from mnv2_tasks.visual.mask_drawing import draw_mask

        return draw_mask(image, shown["mask"][: seen[0], : seen[1]], classes)

    def fullest(self, classes: int) -> Prediction | None:
        """All classes: the legend grows with those that are there."""
        return {"mask": torch.arange(classes, dtype=torch.uint8)[None].repeat(2, 1)}

    def overlays(
        self, sides: Mapping[str, Any], classes: tuple[str, ...], *, picture: Picture, least: float
    ) -> dict[str, Any]:
        names = {**dict(enumerate(classes)), IGNORED: "unknown"}
        masks = {}
        for side, annotation in sides.items():
            part = annotation["mask"][None, None, : picture.seen[0], : picture.seen[1]].to(torch.uint8)
            whole = F.interpolate(part, size=picture.image, mode="nearest")[0]
            height, width = whole.shape[1:]
            beside = (0, picture.canvas[1] - width, 0, picture.canvas[0] - height)
            masks[side] = {"mask_data": F.pad(whole, beside, value=IGNORED)[0].numpy(), "class_labels": names}
        return {"masks": masks}

    def counted(self, least: Least) -> str:
        return "masks with"

    def labels(self, prediction: Prediction, classes: int, least: Least) -> list[int]:
        return [label for label in prediction["mask"].unique().tolist() if label < classes]

    def leading(self, prediction: Prediction, classes: tuple[str, ...]) -> int | None:
        """That of the most pixels; a first class called background only where there is nothing else."""
        pixels = prediction["mask"].flatten().long().bincount(minlength=256)[: len(classes)]
        if classes[0].lower() == "background" and pixels[1:].any():
            pixels[0] = 0
        return int(pixels.argmax()) if pixels.any() else None

    def line(
        self,
        prediction: Prediction,
        classes: tuple[str, ...],
        *,
        picture: str | None = None,
        least: Least | None = None,
    ) -> Any:
        return {"mask": picture}

    def from_line(self, line: Any, picture: bytes | None) -> Prediction:
        from PIL import Image

        assert picture is not None, "masks are in the pictures"
        with Image.open(io.BytesIO(picture)) as mask:
            return {"mask": torch.from_numpy(np.array(mask))}

    def picture(self, prediction: Prediction) -> bytes:
        from PIL import Image

        content = io.BytesIO()
        Image.fromarray(prediction["mask"].numpy()).save(content, "PNG")
        return content.getvalue()

    def outputs(self, *, masks: str, nms: str) -> tuple[str, ...]:
        return ("mask" if masks == "argmax" else "logits",)

    def raw(self, outputs: Any) -> tuple[Tensor, ...]:
        """(logits (B, K, H, W),)."""
        return (outputs.logits,)

    def decide(self, head: Any, raw: tuple[Tensor, ...], size: tuple[int, int], how: Decided) -> list[Tensor]:
        (logits,) = raw
        return [logits if how.masks == "logits" else logits.argmax(1).to(torch.uint8)]

    def predictions(self, arrays: Arrays, decoding: Any, suppress: Suppress) -> list[Prediction]:
        masks = arrays["mask"] if "mask" in arrays else arrays["logits"].argmax(1)
        return [{"mask": torch.from_numpy(mask.astype(np.uint8))} for mask in masks]

    def count(self, metric: Any, predictions: list[Prediction], targets: Targets) -> None:
        """Logits are decided first, as the graphs of other formats do: all formats of a model are counted alike."""
        from mnv2_tasks.metrics.segmentation import count_masks

        masks = torch.stack([row["mask"] for row in predictions]).long()
        count_masks(metric, F.one_hot(masks, len(metric.classes)).movedim(-1, 1).float(), targets)  # (B, K, H, W)

    def difference(self, ours: Arrays, theirs: Arrays, pairs: list[tuple[Prediction, Prediction]]) -> Apart:
        if "mask" not in ours:
            return {**apart(ours["logits"], theirs["logits"]), "unlike": 0.0, "total": float(len(ours["logits"]))}
        unlike = float(sum(float((a["mask"] != b["mask"]).sum()) for a, b in pairs))
        total = float(sum(a["mask"].numel() for a, _ in pairs))
        return {"largest": 0.0, "relative": 0.0, "unlike": unlike, "total": total}


def _pad_whole(masks: list[Tensor]) -> Targets:
    """Masks (h, w) or (1, h, w) -> {whole (B, H', W'), whole_size (B, 2)}."""
    sizes = torch.tensor([tuple(mask.shape[-2:]) for mask in masks])  # (B, 2)
    height, width = sizes.max(0).values.tolist()
    whole = torch.full((len(masks), height, width), IGNORED, dtype=torch.uint8)
    for row, mask in zip(whole, masks, strict=True):
        row[: mask.shape[-2], : mask.shape[-1]] = mask.reshape(mask.shape[-2:])
    return {"whole": whole, "whole_size": sizes}


SEGMENTATION = Segmentation()
