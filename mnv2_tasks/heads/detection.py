"""What every detector does with its boxes once it has them: count, draw and plot them."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2_tasks.heads import Prediction, Targets
from mnv2_tasks.metrics.detection import CocoMAP

DRAWN_SCORE = 0.4  # weaker predictions stay off the pictures
SCORE, IOU = 0.5, 0.5  # from which a prediction counts, and is right, in confusion.png and worst.png


def update(metric: CocoMAP, predictions: list[Prediction], targets: Targets) -> None:
    """Count a batch in the pixels of the original images; repeats and images of unknown content do not count.

    predictions: {boxes (N, 4) xyxy, scores (N,), labels (N,)} an image, and targets as in `Head`, both in pixels of
    the model's input. Predicted boxes are clipped to the image, which may end before the input does.
    """
    found, truths = [], []
    for i in (targets["known"] & (targets["image_id"] >= 0)).nonzero().flatten().tolist():
        height, width = targets["size"][i].tolist()
        seen_height, seen_width = targets["seen"][i].tolist()
        scale = targets["boxes"].new_tensor([width / seen_width, height / seen_height] * 2)
        boxes = torch.minimum(predictions[i]["boxes"] * scale, scale.new_tensor([width, height] * 2))
        found.append({**predictions[i], "boxes": boxes})
        real = targets["labels"][i] >= 0
        truth = {name: targets[name][i][real] for name in ("boxes", "labels", "crowd", "area")}
        truths.append({**truth, "boxes": truth["boxes"] * scale, "image_id": int(targets["image_id"][i])})
    metric.update(found, truths)


def draw(
    image: Tensor,
    shown: Prediction | Targets,
    classes: tuple[str, ...],
    *,
    seen: tuple[int, int],
    least: float = DRAWN_SCORE,
) -> Tensor:
    """The boxes of a prediction that score `least`, or of one image's targets, on the image: see `Head.draw`."""
    from mnv2_tasks.draw import draw_boxes

    scores = shown.get("scores")
    real = shown["labels"] >= 0 if scores is None else scores >= least
    height, width = image.shape[1] / seen[0], image.shape[2] / seen[1]
    boxes = shown["boxes"][real] * shown["boxes"].new_tensor([width, height] * 2)
    kept = {name: shown[name][real] for name in ("labels", "scores", "crowd") if name in shown}
    return draw_boxes(image, boxes, kept.pop("labels"), classes, **kept)


def plot(metric: CocoMAP, classes: tuple[str, ...], folder: Path) -> None:
    """Precision against recall, and the confusion matrix, as PNG files."""
    from mnv2_tasks.plots import plot_confusion
    from mnv2_tasks.plots.detection import plot_precision_recall

    plot_precision_recall(metric.curves(), classes, folder / "precision_recall.png")
    matrix, title = metric.confusion(SCORE, IOU), f"score at least {SCORE:g}, IoU at least {IOU:g}"
    plot_confusion(matrix, classes, folder / "confusion.png", background=True, title=title)


class Detector(nn.Module):
    """The part of `Head` that does not depend on how boxes are found."""

    kind = "detection"
    primary = "map"
    curves = ("map", "map_50", "map_75")
    drawn = f"score at least {DRAWN_SCORE:g}"
    ranked = f"by F1 at score {SCORE:g}, IoU {IOU:g}"
    score_threshold: float
    nms: float

    def decide(self, *, score: float | None = None, iou: float | None = None) -> None:
        """Change the lowest score, and the IoU of suppression, that `predict` works with; None leaves it."""
        if score is not None:
            self.score_threshold = score
        if iou is not None:
            self.nms = iou

    @abstractmethod
    def predict(self, outputs: Any) -> list[Prediction]:
        """[{boxes (N, 4) xyxy in input pixels, scores (N,), labels (N,)}], highest score first."""

    def metrics(self, classes: tuple[str, ...]) -> CocoMAP:
        return CocoMAP(classes)

    def update(self, metric: CocoMAP, outputs: Any, targets: Targets) -> None:
        update(metric, self.predict(outputs), targets)

    def worst(self, metric: CocoMAP, count: int) -> list[int]:
        return metric.worst(count, score=SCORE, iou=IOU)

    draw = staticmethod(draw)
    plot = staticmethod(plot)
