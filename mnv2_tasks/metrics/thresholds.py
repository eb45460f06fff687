"""From which score on a class is best taken to be there."""

from typing import NamedTuple

import numpy as np


class Threshold(NamedTuple):
    value: float  # what scores as much counts
    precision: float
    recall: float
    f1: float


def best_threshold(
    scores: np.ndarray, right: np.ndarray, positives: int, *, precision: float | None = None
) -> Threshold | None:
    """The threshold of the highest F1, or that of the highest recall whose precision reaches `precision`.

    scores (N,) of what is predicted, right (N,) bool, positives: how many there are to be found. Of equal ones it is
    the highest; it lies in the middle between the last score that counts and the next lower one. None without positives
    or predictions, and where no threshold is as precise.
    """
    if not positives or not len(scores):
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each run of equal scores
    hits, found = np.cumsum(right[order])[last], last + 1
    f1, accuracy = 2 * hits / (found + positives), hits / found
    good = np.arange(len(last)) if precision is None else np.flatnonzero(accuracy >= precision)
    if not len(good):
        return None
    best = good[np.argmax((f1 if precision is None else hits)[good])]
    level = ranked[last]
    below = level[best + 1] if best + 1 < len(level) else 0.0
    return Threshold(
        float((level[best] + below) / 2), float(accuracy[best]), float(hits[best] / positives), float(f1[best])
    )


def at_threshold(scores: np.ndarray, right: np.ndarray, positives: int, value: float) -> Threshold:
    """What counts from the score `value` on, as `best_threshold` takes it; 0 where there is nothing to divide by."""
    found = scores >= value
    hits = float(right[found].sum())
    total = float(found.sum())
    return Threshold(value, hits / max(total, 1.0), hits / max(positives, 1), 2 * hits / max(total + positives, 1.0))
