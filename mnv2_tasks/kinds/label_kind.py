"""What the two kinds of labels of whole images share: predictions of one score a class."""

from abc import abstractmethod
from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.kinds.kind import Apart, Arrays, Decided, Kind, Least, Picture, Prediction, Suppress, apart


class LabelKind(Kind):
    """Predictions: scores (K,) float32."""

    table = "labels.csv"

    def narrow(self, prediction: Prediction, *, score: Least | None, chosen: Tensor | None) -> Prediction:
        """The scores of other classes are 0."""
        if chosen is None:
            return prediction
        return {**prediction, "scores": torch.where(chosen, prediction["scores"], 0.0)}

    def labels(self, prediction: Prediction, classes: int, least: Least) -> list[int]:
        """The likeliest class."""
        return [int(prediction["scores"].argmax())]

    def leading(self, prediction: Prediction, classes: tuple[str, ...]) -> int | None:
        """The likeliest class."""
        return int(prediction["scores"].argmax())

    def overlays(
        self, sides: Mapping[str, Any], classes: tuple[str, ...], *, picture: Picture, least: float
    ) -> dict[str, Any]:
        """A caption: the truth, and what is predicted."""
        return {"caption": " | ".join(self.words(sides, classes, least=least))}

    def words(self, sides: Mapping[str, Any], classes: tuple[str, ...], *, least: float) -> tuple[str, str]:
        scores = sides["predictions"]["scores"]
        true, predicted = self.caption(sides["ground_truth"], scores, classes)
        return true, ", ".join(f"{classes[i]} {scores[i]:.2f}" for i in predicted) or "nothing"

    @abstractmethod
    def caption(self, target: Mapping[str, Tensor], scores: Tensor, classes: tuple[str, ...]) -> tuple[str, list[int]]:
        """The truth in words, and the predicted classes."""

    def line(
        self,
        prediction: Prediction,
        classes: tuple[str, ...],
        *,
        picture: str | None = None,
        least: Least | None = None,
    ) -> Any:
        """{label, score, scores}: the likeliest class by name, its score, and every class's."""
        scores = prediction["scores"].tolist()
        best = max(range(len(scores)), key=scores.__getitem__)
        rounded = [round(score, 5) if score == score else None for score in scores]  # JSON has no NaN
        return {"label": classes[best], "score": rounded[best], "scores": rounded}

    def from_line(self, line: Any, picture: bytes | None) -> Prediction:
        return {"scores": torch.tensor([nan if score is None else score for score in line["scores"]])}

    def row(self, line: Any) -> list[Any]:
        return [line["label"], line["score"], *line["scores"]]

    def outputs(self, *, masks: str, nms: str) -> tuple[str, ...]:
        return ("scores",)

    def raw(self, outputs: Any) -> tuple[Tensor, ...]:
        """(logits (B, K),)."""
        return (outputs.logits,)

    def decide(self, head: Any, raw: tuple[Tensor, ...], size: tuple[int, int], how: Decided) -> list[Tensor]:
        logits, temperature = raw[0], head.calibration.temperature
        return [self.scores(logits if temperature == 1 else logits / temperature)]

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Logits (B, K) -> scores (B, K)."""

    def predictions(self, arrays: Arrays, decoding: Any, suppress: Suppress) -> list[Prediction]:
        return [{"scores": torch.from_numpy(np.array(scores, np.float32))} for scores in arrays["scores"]]

    def difference(self, ours: Arrays, theirs: Arrays, pairs: list[tuple[Prediction, Prediction]]) -> Apart:
        return {**apart(ours["scores"], theirs["scores"]), "unlike": 0.0, "total": float(len(ours["scores"]))}
