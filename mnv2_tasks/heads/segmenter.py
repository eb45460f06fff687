"""What every segmenter does with its logits once it has them: the loss, decoding and plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Head, Prediction, Targets, mask_losses
from mnv2_tasks.kinds import SEGMENTATION
from mnv2_tasks.metrics.segmentation import SegmentationMetric, count_masks
from mnv2_tasks.metrics.tables import Table, confusion_table


@runtime_checkable
class PixelCounts(Protocol):
    """Samples that know their pixels without reading every mask."""

    def pixel_counts(self) -> Tensor:
        """(K,) int64: pixels of each class."""


class MaskLoss(nn.Module):
    """One loss or a weighted sum of several over the known pixels; see `mask_losses.losses`.

    forward: logits (B, K, H, W), mask (B, H, W) -> {`<name>_loss`: float32 scalar}

    Args:
        loss: cross_entropy, dice, lovasz or focal, or {name: weight} of several.
        class_weights: of the cross-entropy: None, one weight a class, or a rule that `balance` fills in from the
            training pixels: "balanced" or "median_frequency" (see `mask_losses.class_balance`).
    """

    def __init__(
        self,
        num_classes: int,
        loss: str | Mapping[str, float],
        class_weights: mask_losses.Rule | Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.parts = mask_losses.loss_weights(loss)
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
        self.class_weights.copy_(mask_losses.class_balance(counts, self.rule))
        return f"class weights ({self.rule}): " + " ".join(f"{weight:.2f}" for weight in self.class_weights.tolist())

    def forward(self, logits: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return mask_losses.losses(logits, mask, self.parts, class_weights=self.class_weights)


class Segmenter(Head):
    """The part of `Head` that does not depend on how the logits (B, K, H, W), `outputs.logits`, are made."""

    kind = SEGMENTATION
    primary = "miou"
    curves: tuple[str, ...] = ("miou", "pixel_accuracy")
    ranked = "by the mIoU of the image"
    mask_loss: MaskLoss

    @property
    def learns(self) -> bool:
        return self.mask_loss.rule is not None

    def learn_from(self, split: Any) -> str:
        """Fill in the class weights from the pixels of the training masks."""
        if not isinstance(split, PixelCounts):
            raise InputError("this data set cannot tell its pixel counts in advance; give a list as head.class_weights")
        return self.balance(split.pixel_counts())

    def balance(self, counts: Tensor) -> str:
        """See `MaskLoss.balance`."""
        return self.mask_loss.balance(counts)

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """{`<name>_loss`} for each of the losses: float32 means over the known pixels."""
        return self.mask_loss(outputs.logits, targets["mask"])

    @torch.no_grad()
    def predict(self, outputs: Any) -> list[Prediction]:
        """[{mask (H, W) uint8: the likeliest class of every pixel of the input}]."""
        return [{"mask": mask} for mask in outputs.logits.argmax(1).to(torch.uint8)]

    def evidence(self, outputs: Any, prediction: Prediction, label: int) -> Tensor:
        """The logits of the class, summed over the pixels that show it."""
        return outputs.logits[0, label][prediction["mask"] == label].sum()

    def metrics(self, classes: tuple[str, ...]) -> SegmentationMetric:
        return SegmentationMetric(classes)

    def update(self, metric: SegmentationMetric, outputs: Any, targets: Targets) -> None:
        count_masks(metric, outputs.logits, targets)

    def worst(self, metric: SegmentationMetric, count: int) -> list[int]:
        return metric.worst(count)

    def plot(self, metric: SegmentationMetric, classes: tuple[str, ...], folder: Path) -> None:
        """The confusion matrix and the IoU of every class, as PNG files."""
        from mnv2_tasks.visual.confusion import plot_confusion
        from mnv2_tasks.visual.segmentation_plots import plot_iou

        plot_confusion(metric.confusion(), classes, folder / "confusion.png")
        plot_iou(metric.confusion(), classes, folder / "iou.png")

    def tables(self, metric: SegmentationMetric, classes: tuple[str, ...]) -> dict[str, Table]:
        return {"confusion": confusion_table(metric.confusion(), classes)}
