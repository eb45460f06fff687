"""Classification metrics of a whole run, from a few numbers an image, exact over any number of processes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics import PerImage
from mnv2_tasks.metrics.image_results import Labels, Presences

BINS = 15  # of the calibration error, as in the paper
IMAGE, LABEL, PREDICTION, RANK, CONFIDENCE, LOSS = range(6)  # columns of ClassificationMetric's rows


def calibration(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions gathered in bins ((m - 1) / BINS, m / BINS] of confidence (Guo et al., arXiv 1706.04599, section 2).

    confidence (N,) of the predicted class, in 0..1; correct (N,) bool. Returns per bin, (BINS,) each: how many they
    are, the sum of their confidences, and how many are correct.
    """
    index = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence, side="left")

    def gather(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, weights=values.astype(np.float64), minlength=BINS)

    return gather(np.ones(len(index))), gather(confidence), gather(correct)


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Sum of precision times the step in recall over the distinct scores, not interpolated; NaN without a positive.

    scores (N,), truth (N,) of 0 and 1. The same definition as torchmetrics' (and scikit-learn's), which counts in
    float32, and so to 1e-7 only.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each run of equal scores
    hits = np.cumsum(truth[order])[last]
    return float((np.diff(hits, prepend=0) / hits[-1] * hits / (last + 1)).sum())


class ClassificationMetric(PerImage):
    """Top-1, top-5, accuracy per class, calibration, confusion; the class of equal scores with the lower index wins.

    `compute` gives float64 scalars: "top1"; "top5" where there are more than 5 classes; "mean_class_accuracy", over
    the classes that have images; "ece", the expected calibration error over 15 bins (see `calibration`); and
    `accuracy/<class>`, the share of its images that are predicted as it. NaN where there is nothing to count.
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        """Take the class names, in the order of the labels."""
        super().__init__(classes, width=6)

    def update(self, logits: Tensor, labels: Tensor, image_ids: Tensor) -> None:
        """Add a batch: logits (B, K), labels (B,), -1 unknown, image_ids (B,), -1 for repeats; neither -1 counts.

        Raises:
            InputError: a label that is no class, a logit that is not finite.
        """
        logits, labels, image_ids = _known(logits, labels, image_ids, self.classes)
        if len(labels) and int(labels.max()) >= len(self.classes):
            row = int(labels.argmax())
            raise InputError(
                f"image {int(image_ids[row])}: its label is {int(labels[row])}; give 0..{len(self.classes) - 1}, the "
                "index of its class, or -1 where it is unknown"
            )
        label_logits = logits.gather(1, labels[:, None])
        earlier = torch.arange(len(self.classes)) < labels[:, None]
        rank = ((logits > label_logits) | ((logits == label_logits) & earlier)).sum(1)
        confidence, loss = logits.softmax(1).amax(1), logits.logsumexp(1) - label_logits[:, 0]
        self.add(image_ids, labels, logits.argmax(1), rank, confidence, loss)

    def compute(self) -> dict[str, Tensor]:
        """Return float64 scalars on the CPU, named as above."""
        table, count = self.table(), len(self.classes)
        labels, predictions = table[:, [LABEL, PREDICTION]].astype(np.int64).T
        matrix = np.bincount(labels * count + predictions, minlength=count**2).reshape(count, count)
        self.last = table, matrix
        total, confidence, correct = self.reliability()
        result = {"top1": _ratio(matrix.trace(), len(table))}
        if count > 5:
            result["top5"] = _ratio((table[:, RANK] < 5).sum(), len(table))
        accuracy = [_ratio(*pair) for pair in zip(matrix.diagonal(), matrix.sum(1), strict=True)]
        result["mean_class_accuracy"] = _mean(accuracy)
        result["ece"] = _ratio(np.abs(correct - confidence).sum(), total.sum())
        return _scalars(
            result | {f"accuracy/{name}": value for name, value in zip(self.classes, accuracy, strict=True)}
        )

    def confusion(self) -> np.ndarray:
        """Return the counted images: (K, K) int64, rows truth, columns prediction."""
        return self.computed()[1]

    def most_confused(self, count: int) -> list[tuple[int, int, int]]:
        """Return the commonest mistakes as (truth, prediction, images), the commonest first."""
        wrong = self.confusion().copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = zip(*(axis.tolist() for axis in np.unravel_index(order, wrong.shape)), strict=True)
        return [
            (truth, prediction, int(wrong[truth, prediction]))
            for truth, prediction in pairs
            if wrong[truth, prediction]
        ]

    def reliability(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `calibration` of the counted images."""
        table = self.computed()[0]
        return calibration(table[:, CONFIDENCE], table[:, RANK] == 0)

    def by_image(self) -> Labels:
        """Return what `compute` saw, an image a row."""
        table = self.computed()[0]
        image, label, prediction, rank = table[:, [IMAGE, LABEL, PREDICTION, RANK]].astype(np.int64).T
        return Labels(image, label, prediction, rank, table[:, CONFIDENCE], table[:, LOSS], len(self.classes))

    def worst(self, count: int) -> list[int]:
        """Return the image_ids with the highest cross-entropy, the highest first."""
        table = self.computed()[0]
        return table[np.argsort(-table[:, LOSS], kind="stable")[:count], IMAGE].astype(np.int64).tolist()


class LogitMetric(PerImage):
    """The logits themselves, for what is fitted to them; takes what `ClassificationMetric` takes.

    `compute` gives "top1".
    """

    def __init__(self, classes: tuple[str, ...]) -> None:
        super().__init__(classes, width=2 + len(classes))

    def update(self, logits: Tensor, labels: Tensor, image_ids: Tensor) -> None:
        """Add a batch, as `ClassificationMetric.update` says."""
        logits, labels, image_ids = _known(logits, labels, image_ids, self.classes)
        self.add(image_ids, labels, logits)

    def compute(self) -> dict[str, Tensor]:
        """Return float64 scalars on the CPU, named as above."""
        table = self.table()
        self.last = logits, labels = table[:, 2:], table[:, LABEL].astype(np.int64)
        return _scalars({"top1": _ratio((logits.argmax(1) == labels).sum(), len(labels))})

    def fitted_to(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits (N, K) and the labels (N,) of the counted images."""
        return self.computed()


class MultiLabelMetric(PerImage):
    """Mean average precision over the classes that an image may have several of, and F1 where a score passes 0.5.

    `compute` gives float64 scalars: "map", the mean over the classes that have a positive; "f1", of the decisions on
    all classes and images together (micro); and `ap/<class>` (see `average_precision`). NaN without a positive.
    """

    def __init__(self, classes: tuple[str, ...], thresholds: Sequence[float] | None = None) -> None:
        """Take the class names, in the order of the columns, and scores in place of 0.5, one a class."""
        super().__init__(classes, width=1 + 2 * len(classes))
        self.least = np.zeros(len(classes))  # logits
        if thresholds is not None:
            self.least = torch.logit(torch.tensor(thresholds, dtype=torch.float64), 1e-12).numpy()

    def update(self, logits: Tensor, presence: Tensor, image_ids: Tensor) -> None:
        """Add a batch: logits (B, K), presence (B, K) of 1, 0 and -1 for unknown, image_ids (B,), -1 for repeats.

        Raises InputError where a logit is not finite.
        """
        # Logits, not scores: these come out equal where they are close to 1.
        logits, presence, image_ids = _known(logits, presence, image_ids, self.classes)
        self.add(image_ids, logits, presence)

    def compute(self) -> dict[str, Tensor]:
        """Return float64 scalars on the CPU, named as above."""
        table = self.table()
        logits, presence = self._halves(table)
        known, positives = presence >= 0, logits > self.least
        columns = zip(logits.T, presence.T, known.T, strict=True)
        precision = [average_precision(column[mask], truth[mask] > 0) for column, truth, mask in columns]
        hits, marks = (positives & (presence > 0)).sum(), (positives & known).sum() + (presence > 0).sum()
        self.last = table, np.array(precision)
        result = {"map": _mean(precision), "f1": _ratio(2 * hits, marks)}
        return _scalars(result | {f"ap/{name}": value for name, value in zip(self.classes, precision, strict=True)})

    def by_image(self) -> Presences:
        """Return what `compute` saw, an image a row; logits from those of the thresholds on."""
        table = self.computed()[0]
        logits, presence = self._halves(table)
        return Presences(table[:, IMAGE].astype(np.int64), logits - self.least, presence.astype(np.int8))

    def fitted_to(self) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """Return of each class the scores (N,), the images that have it (N,) bool, and how many those are."""
        logits, presence = self._halves(self.computed()[0])
        scores, known = torch.from_numpy(logits).sigmoid().numpy(), presence >= 0
        columns = [(scores[known[:, k], k], presence[known[:, k], k] > 0) for k in range(len(self.classes))]
        return [(column, truth, int(truth.sum())) for column, truth in columns]

    def worst(self, count: int) -> list[int]:
        """Return the image_ids with the highest mean binary cross-entropy, the highest first."""
        table = self.computed()[0]
        logits, presence = self._halves(table)
        known = presence >= 0
        each = np.where(known, np.logaddexp(0, logits) - logits * presence, 0)
        order = np.argsort(-each.sum(1) / known.sum(1), kind="stable")[:count]
        return table[order, IMAGE].astype(np.int64).tolist()

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the average precision of each class, NaN without a positive, and its positives: (K,) each."""
        table, precision = self.computed()
        return precision, (self._halves(table)[1] > 0).sum(0)

    def _halves(self, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits and presence, (N, K) each."""
        logits, presence = np.split(table[:, 1:], 2, axis=1)
        return logits, presence


def _known(logits: Tensor, truth: Tensor, image_ids: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """The images that count, in main memory, logits in float64: not every device has the type."""
    logits, truth, image_ids = (values.detach().cpu() for values in (logits, truth, image_ids))
    assert logits.shape == (len(truth), len(classes)) and len(image_ids) == len(truth), "logits (B, K), truth (B, ...)"
    counts = ((truth >= 0) if truth.ndim == 1 else (truth >= 0).any(1)) & (image_ids >= 0)
    logits, truth, image_ids = logits[counts].double(), truth[counts], image_ids[counts]
    if not logits.isfinite().all():
        row = int((~logits.isfinite()).any(1).nonzero()[0])
        raise InputError(
            f"image {int(image_ids[row])}: its scores are not finite: the training has diverged; lower "
            "the learning rate, or train in 32-bit floating point"
        )
    return logits, truth, image_ids


def _ratio(part: Any, whole: Any) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _mean(values: list[float]) -> float:
    """Of those that are not NaN."""
    numbers = [value for value in values if value == value]
    return float(np.mean(numbers)) if numbers else float("nan")


def _scalars(values: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
