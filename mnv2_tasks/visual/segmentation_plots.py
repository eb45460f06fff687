"""Plots of segmentation as PNG files: IoU per class."""

from pathlib import Path

import numpy as np

from mnv2_tasks.visual.class_bars import plot_bars
from mnv2_tasks.visual.figure import plain_text, write_table


def plot_iou(matrix: np.ndarray, classes: tuple[str, ...], path: str | Path) -> None:
    """A bar a class, the best on top, with its share of the true pixels beside the name; a line at the mean.

    matrix: (K, K) pixels, rows truth. Classes that are in neither truth nor prediction have no bar; of more than 60 the
    best and the worst thirty do. All stand in a CSV file beside the picture.
    """
    assert matrix.shape == (len(classes), len(classes)), "matrix: (K, K)"
    hits, truth = np.diag(matrix).astype(float), matrix.sum(1)
    union = truth + matrix.sum(0) - hits
    present = [int(k) for k in np.argsort(hits / np.maximum(union, 1), kind="stable") if union[k]]
    iou = hits[present] / union[present]
    share = truth[present] / max(int(matrix.sum()), 1)
    table = [[classes[k], float(iou[i]), float(share[i])] for i, k in reversed(list(enumerate(present)))]
    write_table(Path(path).with_suffix(".csv"), ["class", "iou", "share of the true pixels"], table)
    labels = [f"{plain_text(classes[k])} ({part:.1%})" for k, part in zip(present, share, strict=True)]
    plot_bars(iou, labels, path, xlabel="IoU (share of the true pixels beside the name)")
