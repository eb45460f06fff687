"""Plots of segmentation as PNG files: IoU per class."""

from pathlib import Path

import numpy as np

from mnv2_tasks.plots import _figure, _plain, _save, ends, left_out, write_table


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
    shown = ends(list(range(len(present))))
    figure = _figure(7, 1.2 + 0.3 * max(len(shown), 2))
    axis = figure.subplots()
    axis.barh(range(len(shown)), iou[shown], color="C0")
    for row, value in enumerate(iou[shown]):
        axis.text(value + 0.01, row, f"{value:.3f}", va="center", fontsize=8)
    axis.set_yticks(range(len(shown)), [f"{_plain(classes[present[i]])} ({share[i]:.1%})" for i in shown], fontsize=9)
    if present:
        axis.axvline(iou.mean(), color="black", linestyle="--", linewidth=1)
    mean = f"mean of {len(present)}: {iou.mean():.3f}" if present else "no values"
    mean += left_out(len(present))
    axis.set(xlabel="IoU (share of the true pixels beside the name)", xlim=(0, 1.1), title=mean)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
