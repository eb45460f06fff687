"""Multi-label classification: any number of classes an image, and images of which some classes are not known."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.kinds.kind import Least, Prediction, Sample, Targets, check_shape, least_of
from mnv2_tasks.kinds.label_kind import LabelKind

SCORE = 0.5  # above which a class counts as there


class MultiLabelling(LabelKind):
    """Targets: presence (B, K) float of 0 and 1, -1 unknown. Predictions: scores (K,) float32, each in 0..1."""

    name = "multilabel"
    fields = ("presence",)
    needed = ("presence",)
    label = "label"
    published_classes = 80  # COCO
    usual_score = SCORE
    drawn = f"classes of score above {SCORE:g}"

    def unknown(self, canvas: tuple[int, int], classes: int) -> Sample:
        return {"presence": torch.full((classes,), -1.0)}

    def check(self, targets: Targets, images: Tensor, classes: Sequence[str]) -> None:
        check_shape(targets["presence"], (len(images), len(classes)), field="presence")

    def draw(
        self,
        image: Tensor,
        shown: Prediction | Targets,
        classes: tuple[str, ...],
        *,
        seen: tuple[int, int],
        least: Least | None = None,
    ) -> Tensor:
        """The classes that score above 0.5, or above `least`, the likeliest first, or the true ones."""
        from mnv2_tasks.visual.drawing import draw_label

        if "scores" not in shown:
            presence = shown["presence"]
            empty = "none" if (presence >= 0).any() else "unknown"
            return draw_label(image, (presence > 0).nonzero().flatten(), classes, empty=empty)
        scores, label = shown["scores"].sort(descending=True, stable=True)
        there = scores > (SCORE if least is None else least_of(least, label))
        return draw_label(image, label[there], classes, scores=scores[there])

    def line(
        self,
        prediction: Prediction,
        classes: tuple[str, ...],
        *,
        picture: str | None = None,
        least: Least | None = None,
    ) -> Any:
        """{label, score, scores, labels}: besides those of one label an image, the classes that score above `least`."""
        there = (prediction["scores"] > (SCORE if least is None else least)).nonzero().flatten().tolist()
        line = super().line(prediction, classes, picture=picture, least=least)
        return {**line, "labels": [classes[i] for i in there]}

    def caption(self, target: Mapping[str, Tensor], scores: Tensor, classes: tuple[str, ...]) -> tuple[str, list[int]]:
        true = ", ".join(classes[i] for i in (target["presence"] > 0).nonzero().flatten().tolist()) or "nothing"
        return true, [i for i in range(len(classes)) if scores[i] > SCORE]

    def counted(self, least: Least) -> str:
        return "images, by their best class,"

    def scores(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()

    def count(self, metric: Any, predictions: list[Prediction], targets: Targets) -> None:
        scores = torch.stack([row["scores"] for row in predictions]).double()
        metric.update(torch.logit(scores, 1e-12), targets["presence"], targets["image_id"])


MULTILABEL = MultiLabelling()
