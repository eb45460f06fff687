"""Classifiers: pooling, dropout and one linear layer on the last tap; one class an image, or any number of them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv2_tasks.backbone import Tap
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Head, Prediction, Taps, Targets
from mnv2_tasks.kinds import CLASSIFICATION, MULTILABEL
from mnv2_tasks.metrics.classification import ClassificationMetric, MultiLabelMetric
from mnv2_tasks.metrics.tables import Table, confusion_table, reliability_table

CONFUSED = 100  # pairs of classes in confused.csv


class Outputs(NamedTuple):
    logits: Tensor  # (B, K)


@runtime_checkable
class LabelCounts(Protocol):
    """Samples that know their labels without reading every image."""

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images show each class."""


class _Pooled(Head):
    """Global average pooling, dropout, linear: the last rows of Table 2 of the paper, started as in torchvision."""

    needs: tuple[str, ...] = ("c5x",)
    strides = (32, 16, 8)

    def __init__(self, taps: dict[str, Tap], num_classes: int, *, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise InputError(f"head.dropout is {dropout}: use 0 or more, and less than 1")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(taps[self.needs[0]].channels, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        x = F.adaptive_avg_pool2d(taps[self.needs[0]], 1).flatten(1)  # (B, channels)
        return Outputs(self.linear(self.dropout(x)))

    def evidence(self, outputs: Outputs, prediction: Prediction, label: int) -> Tensor:
        """The logit of the class."""
        return outputs.logits[0, label]


class Classifier(_Pooled):
    """One class an image, by softmax cross-entropy.

    Args:
        taps, num_classes: what the backbone declares; classes.
        dropout: of the pooled features.
        label_smoothing: the part of the truth that is spread over all classes (arXiv 1512.00567, section 7).
        class_weights: of the loss, for uneven data: one a class, or "balanced", filled in by `learn_from`. They are
            part of the state dict. The loss is divided by the weights of the batch, as torch's cross-entropy is.
    """

    kind = CLASSIFICATION
    primary = "top1"
    curves = ("top1", "top5", "mean_class_accuracy")
    ranked = "by cross-entropy"

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        dropout: float = 0.2,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Sequence[float] | None = None,
    ) -> None:
        super().__init__(taps, num_classes, dropout=dropout)
        if not 0 <= label_smoothing < 1:
            raise InputError(f"head.label_smoothing is {label_smoothing}: use 0 or more, and less than 1")
        self.label_smoothing = label_smoothing
        self.is_balanced = isinstance(class_weights, str)
        self.register_buffer("class_weights", _class_weights(class_weights, num_classes))
        self.class_weights: Tensor | None

    @property
    def learns(self) -> bool:
        return self.is_balanced

    def learn_from(self, split: Any) -> str:
        """Fill in the class weights from the labels of the training images."""
        if not isinstance(split, LabelCounts):
            raise InputError("this data set cannot tell its label counts in advance; give a list as head.class_weights")
        return self.balance(split.label_counts())

    def balance(self, counts: Tensor) -> str:
        """Fill in the class weights from (K,) training images of each class; returns what it did.

        n / (k n_class) for n images of k classes, so that every class has the same sum of weights, and the mean over
        the images is 1; also 1 for a class without images.
        """
        assert self.class_weights is not None, "head.class_weights is null"
        there = counts > 0
        even = counts.sum() / there.sum()
        self.class_weights.copy_(torch.where(there, even / counts.clamp(min=1), 1.0))
        low, high = self.class_weights[there].aminmax() if there.any() else (torch.ones(()), torch.ones(()))
        return f"class weights from {int(counts.sum())} training images: {low:.3g} to {high:.3g}"

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """{cross_entropy}: the mean over the images with a known label; labels (B,), or soft ones (B, K)."""
        label = targets["label"]
        with torch.autocast(outputs.logits.device.type, enabled=False):
            logits = outputs.logits.float()
            weight = torch.ones_like(logits[0]) if self.class_weights is None else self.class_weights.float()
            hard = label.ndim == 1
            known = label >= 0 if hard else label.sum(1) > 0  # (B,)
            mass = weight[label.clamp(min=0)] if hard else label.float() @ weight  # (B,)
            each = F.cross_entropy(
                logits,
                label if hard else label.float(),
                weight=weight,
                ignore_index=-1,
                label_smoothing=self.label_smoothing,
                reduction="none",
            )
            return {"cross_entropy": _mean(each, known, mass)}

    @torch.no_grad()
    def predict(self, outputs: Outputs) -> list[Prediction]:
        """[{scores (K,) float32, which sum to 1}]."""
        return [{"scores": scores} for scores in self.kind.scores(self._calibrated(outputs))]

    def _calibrated(self, outputs: Outputs) -> Tensor:
        return outputs.logits.float() / self.calibration.temperature

    def metrics(self, classes: tuple[str, ...]) -> ClassificationMetric:
        return ClassificationMetric(classes)

    def update(self, metric: ClassificationMetric, outputs: Outputs, targets: Targets) -> None:
        metric.update(self._calibrated(outputs), targets["label"], targets["image_id"])

    def worst(self, metric: ClassificationMetric, count: int) -> list[int]:
        return metric.worst(count)

    def plot(self, metric: ClassificationMetric, classes: tuple[str, ...], folder: Path) -> None:
        """confusion.png, reliability.png and accuracy.png; confused.csv with the commonest errors."""
        from mnv2_tasks.visual.classification_plots import plot_class_bars, plot_reliability
        from mnv2_tasks.visual.confusion import plot_confusion

        matrix = metric.confusion()
        plot_confusion(matrix, classes, folder / "confusion.png")
        plot_reliability(*metric.reliability(), folder / "reliability.png")
        images = matrix.sum(1)
        plot_class_bars(matrix.diagonal() / images.clip(1), images, classes, folder / "accuracy.png", of="accuracy")
        with (folder / "confused.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["truth", "prediction", "count"])
            for truth, found, count in metric.most_confused(CONFUSED):
                writer.writerow([classes[truth], classes[found], count])

    def tables(self, metric: ClassificationMetric, classes: tuple[str, ...]) -> dict[str, Table]:
        return {
            "reliability": reliability_table(*metric.reliability()),
            "confusion": confusion_table(metric.confusion(), classes),
        }


class MultiLabel(_Pooled):
    """Any number of classes an image, by binary cross-entropy on each; for partly labelled images too.

    Args:
        taps, num_classes, dropout: as in `Classifier`.
    """

    kind = MULTILABEL
    primary = "map"
    curves = ("map", "f1")
    ranked = "by binary cross-entropy"

    def __init__(self, taps: dict[str, Tap], num_classes: int, *, dropout: float = 0.2) -> None:
        super().__init__(taps, num_classes, dropout=dropout)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """{binary_cross_entropy}: the mean over the (image, class) pairs of which something is known."""
        presence = targets["presence"].float()
        with torch.autocast(outputs.logits.device.type, enabled=False):
            known = presence >= 0
            each = F.binary_cross_entropy_with_logits(outputs.logits.float(), presence.clamp(min=0), reduction="none")
            return {"binary_cross_entropy": _mean(each, known, torch.ones_like(each))}

    @torch.no_grad()
    def predict(self, outputs: Outputs) -> list[Prediction]:
        """[{scores (K,) float32, each in 0..1}]."""
        return [{"scores": scores} for scores in outputs.logits.float().sigmoid()]

    def metrics(self, classes: tuple[str, ...]) -> MultiLabelMetric:
        return MultiLabelMetric(classes, self.calibration.thresholds)

    def update(self, metric: MultiLabelMetric, outputs: Outputs, targets: Targets) -> None:
        metric.update(outputs.logits, targets["presence"], targets["image_id"])

    def worst(self, metric: MultiLabelMetric, count: int) -> list[int]:
        return metric.worst(count)

    def plot(self, metric: MultiLabelMetric, classes: tuple[str, ...], folder: Path) -> None:
        """ap.png: the average precision of each class."""
        from mnv2_tasks.visual.classification_plots import plot_class_bars

        plot_class_bars(*metric.per_class(), classes, folder / "ap.png", of="average precision")


def _mean(each: Tensor, known: Tensor, mass: Tensor) -> Tensor:
    """Sum of the known losses over their mass; 0, with gradients of 0, where nothing is known."""
    whole = (mass * known).sum()
    return (each * known).sum() / torch.where(whole > 0, whole, 1)


def _class_weights(given: str | Sequence[float] | None, num_classes: int) -> Tensor | None:
    if given is None:
        return None
    if isinstance(given, str):
        if given != "balanced":
            raise InputError(f"head.class_weights is {given!r}: use null, balanced or a list")
        return torch.ones(num_classes)
    if len(given) != num_classes or min(given) < 0:
        raise InputError(f"head.class_weights has {len(given)} values for {num_classes} classes: give one each, >= 0")
    return torch.tensor([float(weight) for weight in given])
