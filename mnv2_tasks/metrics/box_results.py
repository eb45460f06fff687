"""COCO's average precision of images drawn with repeats: boxes are matched once, and then counted by weight."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.metrics.image_results import Floats, ImageResults, Whole

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
KEPT = 100  # predictions of an image and class that count
SCORE = 0.5  # from which a prediction counts in an image's F1


@dataclass(frozen=True)
class Boxes(ImageResults):
    """Predictions with what they match, as COCO's evaluation pairs them, and the numbers of true boxes.

    Args:
        images: (N,).
        place, label, score: (D,) of each prediction: its image's place in `images`, its class, its score; those of an
            image and class with the highest first, at most 100.
        matched, ignored: (D, 10) at the IoUs 0.5, 0.55, .. 0.95: whether a true box is matched; whether the prediction
            lies in a crowd, or is no box, and counts for nothing.
        true: (M, 3) place, class, number of the true boxes without crowds, where there are any.
        classes: their number.
    """

    images: Whole
    place: Whole
    label: Whole
    score: Floats
    matched: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    true: Whole
    classes: int

    @property
    def width(self) -> int:
        return len(self.images) + len(self.place)

    def values(self, weights: Whole) -> dict[str, Floats]:
        """Return "map", "map_50" and "map_75"."""
        precision = np.full((len(IOUS), len(weights), self.classes), np.nan)
        for k in np.unique(self.true[:, 1]).tolist():
            precision[:, :, k] = self._precision(weights, k)
        there = ~np.isnan(precision[0])  # (R, K): the class is in the images that were drawn
        sums = np.where(there, precision, 0).sum(2)  # (10, R)
        with np.errstate(invalid="ignore"):
            means = sums / there.sum(1)
        return {"map": means.mean(0), "map_50": means[0], "map_75": means[5]}

    def _precision(self, weights: Whole, k: int) -> Floats:
        """(10, R): the mean precision of a class over the recalls 0, 0.01 .. 1, NaN where no true box was drawn."""
        truths = self.true[self.true[:, 1] == k]
        total = weights[:, truths[:, 0]] @ truths[:, 2]  # (R,)
        own = np.flatnonzero(self.label == k)
        own = own[np.argsort(-self.score[own], kind="stable")]
        drawn = weights[:, self.place[own]]  # (R, D)
        counted = np.cumsum(drawn, 1)
        need = _needed(total)
        found = np.zeros((len(IOUS), len(weights)))
        for t in range(len(IOUS)):
            matched, ignored = self.matched[own, t], self.ignored[own, t]
            right = np.flatnonzero(matched & ~ignored)  # elsewhere precision only falls
            if not len(right):
                continue
            hits = np.cumsum(drawn[:, right], 1)
            seen = counted[:, right]
            if ignored.any():
                seen = seen - np.cumsum(drawn * ignored, 1)[:, right]
            precision = hits / (seen + np.spacing(1))
            best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]  # at this recall or a higher one
            apart = np.arange(len(weights))[:, None] * (
                int(total.max(initial=0)) + 2
            )  # a row's counts above all before
            index = np.searchsorted((hits + apart).ravel(), (need + apart).ravel()).reshape(need.shape)
            index -= np.arange(len(weights))[:, None] * len(right)
            read = np.take_along_axis(best, np.minimum(index, len(right) - 1), 1)
            found[t] = np.where(index < len(right), read, 0).mean(1)
        return np.where(total > 0, found, np.nan)

    def quality(self) -> Floats:
        """F1 of the predictions that score 0.5 or more, class by class at IoU 0.5; 1 where nothing is and is found."""
        count = len(self.images)
        sure = (self.score >= SCORE) & ~self.ignored[:, 0]
        hits = np.bincount(self.place[sure & self.matched[:, 0]], minlength=count)
        marks = np.bincount(self.place[sure], minlength=count)
        marks = marks + np.bincount(self.true[:, 0], weights=self.true[:, 2], minlength=count)
        return np.where(marks > 0, 2 * hits / np.maximum(marks, 1), 1.0)

    def truths(self) -> Whole:
        return self.true[np.lexsort(self.true.T)]

    def taken(self, order: Whole) -> "Boxes":
        where = np.full(len(self.images), -1)
        where[order] = np.arange(len(order))
        rows, truths = where[self.place] >= 0, self.true[where[self.true[:, 0]] >= 0]
        index = np.flatnonzero(rows)
        index = index[np.argsort(where[self.place[index]], kind="stable")]
        return Boxes(
            self.images[order],
            where[self.place[index]],
            self.label[index],
            self.score[index],
            self.matched[index],
            self.ignored[index],
            np.column_stack([where[truths[:, 0]], truths[:, 1:]]),
            self.classes,
        )


def _needed(total: Whole) -> Whole:
    """(R, 101): the fewest hits of `total` (R,) true boxes whose share, as a float, reaches each recall."""
    whole = np.maximum(total, 1)[:, None]
    need = np.maximum(np.floor(RECALLS * whole).astype(np.int64) - 1, 0)
    for _ in range(2):
        need += need / whole < RECALLS
    return need


def match(overlaps: Floats, crowd: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pair the predictions of an image and class with its true boxes, as COCO's evaluation does.

    Each prediction in turn takes the free box that it overlaps most, by the IoU or more; else it may lie in a crowd,
    of which any number can.

    Args:
        overlaps: (D, G), the highest score first; COCO's own of crowds.
        crowd: (G,).

    Returns:
        matched, ignored: (D, 10), at each of `IOUS`.
    """
    matched = np.zeros((len(overlaps), len(IOUS)), np.bool_)
    ignored, free = matched.copy(), np.repeat(~crowd[None], len(IOUS), 0)  # (10, G)
    least = np.minimum(IOUS, 1 - 1e-10)
    for d in np.flatnonzero((overlaps >= least[0]).any(1)).tolist():
        row = overlaps[d]
        open_boxes = np.where(free, row, -1.0)
        best = len(row) - 1 - open_boxes[:, ::-1].argmax(1)  # of equal ones the last, as there
        takes = open_boxes[np.arange(len(IOUS)), best] >= least
        free[np.flatnonzero(takes), best[takes]] = False
        in_crowd = ~takes & (row[crowd].max(initial=0.0) >= least)
        matched[d], ignored[d] = takes | in_crowd, in_crowd
    return matched, ignored
