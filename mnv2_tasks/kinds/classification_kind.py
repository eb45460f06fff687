"""Classification: one class an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.kinds.kind import Least, Prediction, Sample, Targets, check_labels, check_shape
from mnv2_tasks.kinds.label_kind import LabelKind

DRAWN = 3  # classes of a prediction, on pictures


class Classification(LabelKind):
    """Targets: label (B,) int64, -1 unknown; or soft labels (B, K) float, all 0 unknown.

    Predictions: scores (K,) float32, which sum to 1.
    """

    name = "classification"
    fields = ("label",)
    needed = ("label",)
    label = "image"
    published_classes = 1000  # ImageNet
    drawn = f"the {DRAWN} likeliest classes"
    mixes = True

    def unknown(self, canvas: tuple[int, int], classes: int) -> Sample:
        return {"label": torch.tensor(-1)}

    def check(self, targets: Targets, images: Tensor, classes: Sequence[str]) -> None:
        label = targets["label"]
        if label.is_floating_point():
            check_shape(label, (len(images), len(classes)), field="label")
        else:
            check_shape(label, (len(images),), field="label")
            check_labels(label, classes, field="label", unknown=-1)

    def draw(
        self,
        image: Tensor,
        shown: Prediction | Targets,
        classes: tuple[str, ...],
        *,
        seen: tuple[int, int],
        least: Least | None = None,
    ) -> Tensor:
        """The most likely classes with their scores, or the true one."""
        from mnv2_tasks.visual.drawing import draw_label

        if "scores" not in shown:
            label = shown["label"].reshape(1)
            return draw_label(image, label[label >= 0], classes, empty="unknown")
        scores, label = shown["scores"].topk(min(DRAWN, len(classes)))
        return draw_label(image, label, classes, scores=scores)

    def caption(self, target: Mapping[str, Tensor], scores: Tensor, classes: tuple[str, ...]) -> tuple[str, list[int]]:
        label = int(target["label"])
        return classes[label] if label >= 0 else "unknown", [int(scores.argmax())]

    def counted(self, least: Least) -> str:
        return "images"

    def scores(self, logits: Tensor) -> Tensor:
        return logits.softmax(1)

    def count(self, metric: Any, predictions: list[Prediction], targets: Targets) -> None:
        scores = torch.stack([row["scores"] for row in predictions]).double()
        metric.update(scores.clamp(min=1e-30).log(), targets["label"], targets["image_id"])


CLASSIFICATION = Classification()
