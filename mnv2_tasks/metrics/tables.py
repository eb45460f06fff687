"""Metrics as tables, for programs that draw charts of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CURVES = 50  # classes, from which on a curve has every fifth of its points


class Table(NamedTuple):
    """Named columns, and rows of texts and numbers."""

    columns: list[str]
    rows: list[list[str | float]]


def confusion_table(matrix: np.ndarray, names: Sequence[str]) -> Table:
    """A row for each pair of classes that was counted: matrix (K, K), rows truth, columns prediction."""
    pairs = [(int(t), int(p)) for t, p in np.argwhere(matrix)]
    return Table(["truth", "prediction", "count"], [[names[t], names[p], int(matrix[t, p])] for t, p in pairs])


def precision_recall_table(precision: np.ndarray, classes: Sequence[str]) -> Table:
    """A point of a class's curve a row: precision (R, K) at R recalls over 0..1, NaN for a class without truth."""
    points, present = len(precision), np.flatnonzero(~np.isnan(precision).all(0)).tolist()
    every = 5 if len(present) > CURVES else 1
    rows: list[list[str | float]] = [
        [r / (points - 1), float(precision[r, k]), classes[k]] for k in present for r in range(0, points, every)
    ]
    return Table(["recall", "precision", "class"], rows)


def reliability_table(count: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> Table:
    """A bin of confidences a row, of what `classification.calibration` gives; empty ones are left out."""
    bins = np.flatnonzero(count)
    rows: list[list[str | float]] = [
        [float(confidence[b] / count[b]), float(correct[b] / count[b]), int(count[b])] for b in bins
    ]
    return Table(["confidence", "accuracy", "images"], rows)
