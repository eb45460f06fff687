"""What a metric saw of each image, few numbers that make its headline again for any images drawn with repeats."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]


class ImageResults(ABC):
    """The results of N images; all fields of a form are arrays, or the number of classes.

    Attributes:
        images: (N,) their image_ids, rising.
    """

    images: Whole

    @property
    def width(self) -> int:
        """The numbers that `values` holds for one row of its weights."""
        return len(self.images)

    @abstractmethod
    def values(self, weights: Whole) -> dict[str, Floats]:
        """{metric: (R,)} where image n counts weights[r, n] times, (R, N); NaN where there is nothing to count.

        With weights of 1 these are the metric's own values, by its own names.
        """

    @abstractmethod
    def quality(self) -> Floats:
        """(N,) how good each prediction is, 0..1; NaN where nothing is known."""

    @abstractmethod
    def truths(self) -> NDArray[np.generic]:
        """What is true of the images, as far as it is kept: equal for two models that saw the same images."""

    @abstractmethod
    def taken(self, order: Whole) -> "ImageResults":
        """The images at these places (M,), in this order."""


@runtime_checkable
class TellsImages(Protocol):
    """A metric that tells each image's part in it."""

    def by_image(self) -> ImageResults:
        """What the last `compute` saw."""


@dataclass(frozen=True)
class Labels(ImageResults):
    """Of one class an image, (N,) each: its truth, the class predicted, the truth's place by score, 0 the first."""

    images: Whole
    truth: Whole
    predicted: Whole
    rank: Whole
    confidence: Floats
    loss: Floats
    classes: int

    def values(self, weights: Whole) -> dict[str, Floats]:
        """Return "top1", "top5" where there are more than 5 classes, and "mean_class_accuracy"."""
        right = self.rank == 0
        found = {"top1": _ratio(weights @ right, weights.sum(1))}
        if self.classes > 5:
            found["top5"] = _ratio(weights @ (self.rank < 5), weights.sum(1))
        pairs = [
            [np.bincount(self.truth, weights=row * part, minlength=self.classes) for part in (right, 1)]
            for row in weights
        ]
        hits, images = np.array(pairs).reshape(-1, 2, self.classes).swapaxes(0, 1)
        return found | {"mean_class_accuracy": _mean(_ratio(hits, images))}

    def quality(self) -> Floats:
        """The probability of the true class."""
        return np.exp(-self.loss)

    def truths(self) -> Whole:
        return self.truth

    def taken(self, order: Whole) -> "Labels":
        image, truth, predicted, rank = (a[order] for a in (self.images, self.truth, self.predicted, self.rank))
        return Labels(image, truth, predicted, rank, self.confidence[order], self.loss[order], self.classes)


@dataclass(frozen=True)
class Presences(ImageResults):
    """Of any number of classes an image, (N, K) each: logits, and presence of 1, 0 and -1 for unknown."""

    images: Whole
    logits: Floats
    presence: NDArray[np.int8]

    @property
    def width(self) -> int:
        return self.logits.size

    def values(self, weights: Whole) -> dict[str, Floats]:
        """Return "map" and "f1"."""
        columns = zip(self.logits.T, self.presence.T, strict=True)
        precision = np.stack([self._precision(weights, *column) for column in columns], 1)  # (R, K)
        known, positive, present = self.presence >= 0, self.logits > 0, self.presence > 0
        hits = weights @ (positive & present).sum(1)
        return {
            "map": _mean(precision),
            "f1": _ratio(2 * hits, weights @ ((positive & known).sum(1) + present.sum(1))),
        }

    @staticmethod
    def _precision(weights: Whole, logits: Floats, presence: NDArray[np.int8]) -> Floats:
        """(R,) as `classification.average_precision`, of the images (N,) of one class that are known."""
        known = np.flatnonzero(presence >= 0)
        order = known[np.argsort(-logits[known], kind="stable")]
        if not len(order):
            return np.full(len(weights), np.nan)
        last = np.append(np.flatnonzero(np.diff(logits[order])), len(order) - 1)  # of each run of equal scores
        drawn = weights[:, order]
        rank = np.cumsum(drawn, 1)[:, last]
        hits = np.cumsum(drawn * (presence[order] > 0), 1)[:, last]
        steps = np.diff(hits, axis=1, prepend=0) * hits / np.maximum(rank, 1)
        return _ratio(steps.sum(1), hits[:, -1])

    def quality(self) -> Floats:
        """The geometric mean of the probabilities of what is known."""
        known = self.presence >= 0
        each = np.where(known, np.logaddexp(0, self.logits) - self.logits * self.presence, 0)
        return np.exp(-each.sum(1) / known.sum(1))

    def truths(self) -> NDArray[np.int8]:
        return self.presence

    def taken(self, order: Whole) -> "Presences":
        return Presences(self.images[order], self.logits[order], self.presence[order])


@dataclass(frozen=True)
class Masks(ImageResults):
    """Of masks: pixels (N, 3, K) of each class that are right, true and predicted."""

    images: Whole
    pixels: Whole

    @property
    def width(self) -> int:
        return len(self.images) + self.pixels[0].size if len(self.images) else 1

    def values(self, weights: Whole) -> dict[str, Floats]:
        """Return "miou", "pixel_accuracy", "mean_class_accuracy" and "frequency_weighted_iou"."""
        flat = self.pixels.reshape(len(self.pixels), -1).astype(np.float64)  # exact below 2^53, and many times faster
        sums = (weights.astype(np.float64) @ flat).reshape(len(weights), *self.pixels.shape[1:])
        hits, truth, predicted = sums.swapaxes(0, 1)  # (R, K) each
        iou, total = _ratio(hits, truth + predicted - hits), truth.sum(1)
        return {
            "miou": _mean(iou),
            "pixel_accuracy": _ratio(hits.sum(1), total),
            "mean_class_accuracy": _mean(_ratio(hits, truth)),
            "frequency_weighted_iou": _ratio((truth * np.nan_to_num(iou)).sum(1), total),
        }

    def quality(self) -> Floats:
        """The mIoU of the image."""
        hits, truth, predicted = self.pixels.swapaxes(0, 1).astype(np.float64)
        return _mean(_ratio(hits, truth + predicted - hits))

    def truths(self) -> Whole:
        return self.pixels[:, 1]

    def taken(self, order: Whole) -> "Masks":
        return Masks(self.images[order], self.pixels[order])


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> Floats:
    """NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    return np.divide(np.asarray(part, np.float64), whole, out=np.full(whole.shape, np.nan), where=whole != 0)


def _mean(values: Floats) -> Floats:
    """Of each row (R, K) those that are not NaN; NaN where there is none."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(1), there.sum(1))
