"""What every segmenter does with its logits once it has them: the loss, decoding, pictures and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2_tasks import segmentation
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Prediction, Targets
from mnv2_tasks.metrics.segmentation import SegmentationMetric, count_masks


class MaskLoss(nn.Module):
    """One loss or a weighted sum of several over the known pixels; see `segmentation.losses`.

    forward: logits (B, K, H, W), mask (B, H, W) -> {"<name>_loss": float32 scalar}

    Args:
        loss: cross_entropy, dice, lovasz or focal, or {name: weight} of several.
        class_weights: of the cross-entropy: None, one weight a class, or a rule that `balance` fills in from the
            training pixels: "balanced" or "median_frequency" (see `segmentation.class_balance`).
    """

    def __init__(
        self,
        num_classes: int,
        loss: str | Mapping[str, float],
        class_weights: segmentation.Rule | Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.parts = segmentation.loss_weights(loss)
        self.rule = class_weights if isinstance(class_weights, str) else None
        weights = [1.0] * num_classes if isinstance(class_weights, str) else class_weights
        if self.rule not in (None, "balanced", "median_frequency"):
            raise InputError(f"head.class_weights is {self.rule!r}: use null, balanced, median_frequency or a list")
        if weights is not None and (len(weights) != num_classes or min(weights) < 0):
            raise InputError(f"head.class_weights is {list(weights)}: give {num_classes} values, none below 0")
        if weights is not None and "cross_entropy" not in self.parts:
            raise InputError("head.class_weights weighs the cross-entropy: add cross_entropy to head.loss, or use null")
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", None if weights is None else torch.tensor(list(weights)).float())

    def balance(self, counts: Tensor) -> str:
        """Fill in the class weights from (K,) training pixels of each class by the rule; returns what it did."""
        assert self.rule is not None and self.class_weights is not None, "head.class_weights is no rule"
        self.class_weights.copy_(segmentation.class_balance(counts, self.rule))  # type: ignore[arg-type]
        return f"class weights ({self.rule}): " + " ".join(f"{weight:.2f}" for weight in self.class_weights.tolist())

    def forward(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return segmentation.losses(logits, mask, self.parts, class_weights=self.class_weights)


@torch.no_grad()
def predict(logits: Tensor) -> list[Prediction]:
    """(B, K, H, W) -> [{mask (H, W) uint8: the likeliest class of every pixel of the input}]."""
    return [{"mask": mask} for mask in logits.argmax(1).to(torch.uint8)]


def draw(image: Tensor, shown: Prediction | Targets, classes: tuple[str, ...], *, seen: tuple[int, int]) -> Tensor:
    """The mask of a prediction, or of one image's targets, over the image: see `Head.draw`."""
    from mnv2_tasks.draw.masks import draw_mask

    return draw_mask(image, shown["mask"][: seen[0], : seen[1]], classes)


def plot(metric: SegmentationMetric, classes: tuple[str, ...], folder: Path) -> None:
    """The confusion matrix and the IoU of every class, as PNG files."""
    from mnv2_tasks.plots import plot_confusion
    from mnv2_tasks.plots.segmentation import plot_iou

    plot_confusion(metric.confusion(), classes, folder / "confusion.png")
    plot_iou(metric.confusion(), classes, folder / "iou.png")


class Segmenter(nn.Module):
    """The part of `Head` that does not depend on how the logits (B, K, H, W), `outputs.logits`, are made."""

    kind = "segmentation"
    primary = "miou"
    curves: tuple[str, ...] = ("miou", "pixel_accuracy")
    drawn = "the likeliest class of every pixel"
    ranked = "by the mIoU of the image"
    mask_loss: MaskLoss

    def balance(self, counts: Tensor) -> str:
        """See `MaskLoss.balance`."""
        return self.mask_loss.balance(counts)

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """{"<name>_loss"} for each of the losses: float32 means over the known pixels."""
        return self.mask_loss(outputs.logits, targets["mask"])

    def predict(self, outputs: Any) -> list[Prediction]:
        """[{mask (H, W) uint8: the likeliest class of every pixel of the input}]."""
        return predict(outputs.logits)

    def metrics(self, classes: tuple[str, ...]) -> SegmentationMetric:
        return SegmentationMetric(classes)

    def update(self, metric: SegmentationMetric, outputs: Any, targets: Targets) -> None:
        count_masks(metric, outputs.logits, targets)

    def worst(self, metric: SegmentationMetric, count: int) -> list[int]:
        return metric.worst(count)

    draw = staticmethod(draw)
    plot = staticmethod(plot)
