"""Plots of classification as PNG files: calibration, and a bar for each class."""

from pathlib import Path

import numpy as np

from mnv2_tasks.visual.class_bars import plot_bars
from mnv2_tasks.visual.figure import new_figure, plain_text, save_figure, write_table


def plot_reliability(count: np.ndarray, confidence: np.ndarray, correct: np.ndarray, path: str | Path) -> None:
    """Accuracy against confidence, and below it how many predictions are so sure; on the diagonal they are calibrated.

    Per bin of equal width over 0..1: how many predictions, the sum of their confidences, how many are correct.
    """
    bins, total = len(count), max(float(count.sum()), 1.0)
    occupied = count > 0
    accuracy, sure = correct[occupied] / count[occupied], confidence[occupied] / count[occupied]
    figure = new_figure(5, 5.6)
    axis, share = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    middles = ((np.arange(bins) + 0.5) / bins)[occupied]
    axis.bar(middles, accuracy, 0.94 / bins, color="C0", alpha=0.75, label="accuracy")
    axis.plot(sure, sure, "o", color="C1", markersize=5, label="mean confidence of the bin")
    axis.plot([0, 1], [0, 1], "--", color="0.4", linewidth=1)
    error = np.abs(correct - confidence).sum() / total
    title = f"expected calibration error {error:.4f}" if occupied.any() else "no values"
    axis.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02), title=title)
    axis.legend(loc="upper left", fontsize=9, frameon=False)
    share.bar((np.arange(bins) + 0.5) / bins, count / total, 0.94 / bins, color="0.6")
    share.set(xlabel="confidence", ylabel="share of images")
    for panel in (axis, share):
        panel.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_class_bars(
    values: np.ndarray, counts: np.ndarray, classes: tuple[str, ...], path: str | Path, *, of: str
) -> None:
    """A bar a class, the best on top, with the number of its images beside the name, and a line at the mean.

    values (K,) in 0..1, called `of`; counts (K,): classes with none have no bar; of more than 60 the best and the worst
    thirty do. All stand in a CSV file beside the picture.
    """
    assert len(values) == len(counts) == len(classes), "one value and count a class"
    ranked = [int(k) for k in np.argsort(values, kind="stable") if counts[k]]
    table = [[classes[k], float(values[k]), int(counts[k])] for k in reversed(ranked)]
    write_table(Path(path).with_suffix(".csv"), ["class", of, "images"], table)
    absent = len(classes) - len(ranked)
    labels = [f"{plain_text(classes[k])} ({counts[k]})" for k in ranked]
    note = f" ({absent} without images)" if absent else ""
    plot_bars(values[ranked], labels, path, xlabel=f"{of} (images beside the name)", note=note)
