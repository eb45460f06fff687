"""What every detector does with its boxes once it has them: count and plot them."""

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.heads import Head, Prediction, Targets
from mnv2_tasks.kinds import DETECTION
from mnv2_tasks.metrics.detection import CocoMAP
from mnv2_tasks.metrics.tables import Table, confusion_table, precision_recall_table

SCORE, IOU = 0.5, 0.5  # from which a prediction counts, and is right, in confusion.png and worst.png


class Detector(Head):
    """The part of `Head` that does not depend on how boxes are found."""

    kind = DETECTION
    primary = "map"
    curves = ("map", "map_50", "map_75")
    ranked = f"by F1 at score {SCORE:g}, IoU {IOU:g}"

    def decide(self, *, score: float | None = None, iou: float | None = None) -> None:
        """Change the lowest score, and the IoU of suppression, that `predict` works with; None leaves it."""
        assert self.decoding is not None, "a detector without `decoding` decides by itself"
        if score is not None:
            self.decoding = replace(self.decoding, score_threshold=score)
        if iou is not None:
            self.decoding = replace(self.decoding, nms=iou)

    @abstractmethod
    def predict(self, outputs: Any) -> list[Prediction]:
        """[{boxes (N, 4) xyxy in input pixels, scores (N,), labels (N,)}], highest score first."""

    @property
    def _least(self) -> float | np.ndarray:
        """The score from which a prediction counts in pictures; of each class (K,), where thresholds are fitted."""
        return SCORE if self.calibration.thresholds is None else np.array(self.calibration.thresholds)

    def metrics(self, classes: tuple[str, ...]) -> CocoMAP:
        return CocoMAP(classes)

    def update(self, metric: CocoMAP, outputs: Any, targets: Targets) -> None:
        self.kind.count(metric, self.predict(outputs), targets)

    def worst(self, metric: CocoMAP, count: int) -> list[int]:
        return metric.worst(count, score=self._least, iou=IOU)

    def plot(self, metric: CocoMAP, classes: tuple[str, ...], folder: Path) -> None:
        """Precision against recall, and the confusion matrix, as PNG files."""
        from mnv2_tasks.visual.confusion import plot_confusion
        from mnv2_tasks.visual.detection_plots import plot_precision_recall

        plot_precision_recall(metric.curves(), classes, folder / "precision_recall.png")
        least = f"{SCORE:g}" if self.calibration.thresholds is None else "the threshold of its class"
        matrix, title = metric.confusion(self._least, IOU), f"score at least {least}, IoU at least {IOU:g}"
        plot_confusion(matrix, classes, folder / "confusion.png", background=True, title=title)

    def tables(self, metric: CocoMAP, classes: tuple[str, ...]) -> dict[str, Table]:
        return {
            "precision_recall": precision_recall_table(metric.curves(), classes),
            "confusion": confusion_table(metric.confusion(self._least, IOU), [*classes, "background"]),
        }


def found_again(prediction: Prediction, label: int, boxes: Tensor, scores: Tensor) -> Tensor:
    """Which of an image's boxes (A, 4), before suppression, those of a class in its prediction (N, 4) are: (N,).

    scores (A,) of that class. Boxes that the image's edge cuts may be equal; their scores then tell them apart.
    """
    own = prediction["labels"] == label
    there = torch.cat([prediction["boxes"][own], prediction["scores"][own, None] * boxes.amax()], 1)  # (N, 5)
    return torch.cdist(there, torch.cat([boxes, scores[:, None] * boxes.amax()], 1).detach(), p=float("inf")).argmin(1)
