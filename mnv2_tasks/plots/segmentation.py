"""Plots of segmentation as PNG files: IoU per class."""

from pathlib import Path

import numpy as np

from mnv2_tasks.plots import _figure, _plain, _save


def plot_iou(matrix: np.ndarray, classes: tuple[str, ...], path: str | Path) -> None:
    """A bar a class, the best on top, with its share of the true pixels beside the name; a line at the mean.

    matrix: (K, K) pixels, rows truth. Classes that are in neither truth nor prediction have no bar.
    """
    assert matrix.shape == (len(classes), len(classes)), "matrix: (K, K)"
    hits, truth = np.diag(matrix).astype(float), matrix.sum(1)
    union = truth + matrix.sum(0) - hits
    present = [int(k) for k in np.argsort(hits / np.maximum(union, 1), kind="stable") if union[k]]
    iou = hits[present] / union[present]
    share = truth[present] / max(int(matrix.sum()), 1)
    figure = _figure(7, 1.2 + 0.3 * max(len(present), 2))
    axis = figure.subplots()
    axis.barh(range(len(present)), iou, color="C0")
    for row, value in enumerate(iou):
        axis.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=8)
    names = [f"{_plain(classes[k])} ({part:.1%})" for k, part in zip(present, share, strict=True)]
    axis.set_yticks(range(len(present)), names, fontsize=9)
    if present:
        axis.axvline(iou.mean(), color="black", linestyle="--", linewidth=1)
    mean = f"mean of {len(present)}: {iou.mean():.3f}" if present else "no values"
    axis.set(xlabel="IoU (share of the true pixels beside the name)", xlim=(0, 1.1), title=mean)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
