"""Plots of a run as PNG files: losses, scores, precision against recall, confusion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = {"train": "-", "val": "--"}  # any other stage is dotted
FEW = 20  # with more classes than this, curves and cells are no longer written out one by one


def plot_losses(rows: list[dict[str, float]], path: str | Path) -> None:
    """Every column "task/stage/...loss" against "epoch", a panel a task; train solid, val dashed.

    rows: the rows of metrics.csv. A value may be missing, None, "" or NaN: the curve goes on to the next one.
    """
    panels: dict[str, list[str]] = {}
    for key in _columns(rows):
        if key.endswith("loss") and len(_curve(rows, key)[0]):
            panels.setdefault(_split(key)[0], []).append(key)
    across, down = min(2, max(1, len(panels))), max(1, math.ceil(len(panels) / 2))
    figure = _figure(6.5 * across, 4 * down)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis, (task, keys) in zip(axes, panels.items(), strict=False):
        names = list(dict.fromkeys(_split(key)[2] for key in keys))
        for key in sorted(keys, key=lambda key: names.index(_split(key)[2])):
            _, stage, name = _split(key)
            color, dashes = f"C{names.index(name) % 10}", DASHES.get(stage, ":")
            _line(axis, *_curve(rows, key), color, dashes, _plain(f"{stage} {name}"))
        axis.set_title(_plain(task) or "all tasks", fontsize=11)
        _epochs(axis, "loss")
    for axis in axes[len(panels) :]:
        if panels:
            axis.set_axis_off()
        else:
            _epochs(axis, "loss")
    _save(figure, path)


def plot_scores(rows: list[dict[str, float]], path: str | Path, *, names: list[str]) -> None:
    """The columns `names` (higher is better) against "epoch"; a star and a value for the best epoch of each.

    rows: as in `plot_losses`. Names without a value are left out.
    """
    figure = _figure(8.5, 4)
    axis = figure.subplots()
    for i, name in enumerate(names):
        epochs, values = _curve(rows, name)
        if not len(values):
            continue
        best = int(values.argmax())
        label = f"{_plain(name, length=60)}: best {values[best]:.3f}, epoch {epochs[best]:g}"
        _line(axis, epochs, values, f"C{i % 10}", "-", label)
        axis.plot(epochs[best], values[best], "*", color=f"C{i % 10}", markersize=12, markeredgecolor="black")
    _epochs(axis, "score")
    _save(figure, path)


def plot_precision_recall(
    precision: np.ndarray, classes: tuple[str, ...], path: str | Path, *, ap: dict[str, float] | None = None
) -> None:
    """Precision against recall at IoU 0.5, a curve a class and their mean, with AP50 in the legend.

    precision: (101, K) at the recalls 0, 0.01, ... 1 (COCO's), NaN for a class that has no truth. `ap` gives
    AP50 by class name; without it the mean over the recalls stands, which is COCO's definition. With more
    than 20 classes only the five best and the five worst (dashed) are named; the others are thin and grey.
    """
    assert precision.ndim == 2 and precision.shape[1] == len(classes), "precision: (recalls, classes)"
    recall = np.linspace(0, 1, len(precision))
    present = [k for k in range(len(classes)) if not np.isnan(precision[:, k]).all()]
    score = {k: (ap or {}).get(classes[k], float(np.nanmean(precision[:, k]))) for k in present}
    ranked = sorted(present, key=lambda k: -np.nan_to_num(score[k], nan=-1.0))
    named = ranked if len(ranked) <= FEW else ranked[:5] + ranked[-5:]
    figure = _figure(7.5, 4.8)
    axis = figure.subplots()
    for k in set(ranked) - set(named):
        axis.plot(recall, precision[:, k], color="0.8", linewidth=0.6)
    for i, k in enumerate(named):
        dashes = "--" if i >= (10 if named is ranked else 5) else "-"
        label = f"{_plain(classes[k])}: {score[k]:.3f}"
        axis.plot(recall, precision[:, k], color=f"C{i % 10}", linewidth=1.4, linestyle=dashes, label=label)
    if len(present) > 1:
        mean = np.nanmean(precision[:, present], axis=1)
        label = f"mean of {len(present)}: {np.nanmean(list(score.values())):.3f}"
        axis.plot(recall, mean, color="black", linewidth=3, label=label)
    absent = len(classes) - len(present)
    axis.set(xlabel="recall", ylabel="precision (IoU 0.5)", xlim=(0, 1.01), ylim=(0, 1.03))
    _finish(axis, title="AP50" + (f" ({absent} without truth)" if absent else ""))
    _save(figure, path)


def plot_confusion(matrix: np.ndarray, classes: tuple[str, ...], path: str | Path, *, background: bool = False) -> None:
    """A confusion matrix: rows are the truth, columns the prediction, colour the share of the row.

    matrix: counts (K, K), or (K + 1, K + 1) with `background`, whose last row and column stand for no object.
    Counts are written in the cells up to 20 classes.
    """
    names = [_plain(name) for name in classes] + (["background"] if background else [])
    n = len(names)
    assert matrix.shape == (n, n), f"matrix: ({n}, {n}) for {len(classes)} classes, background={background}"
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    few = len(classes) <= FEW
    side = max(2.5, n * 0.5) if few else min(16.0, n * 0.17)
    figure = _figure(side + 2.4, side + 1.6)
    axis = figure.subplots()
    image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02, aspect=25)
    bar.set_label("share of the truth (row)")
    step = math.ceil(n / 95)  # more names than this do not fit beside each other
    size = 9 if few else 7
    axis.set_xticks(range(0, n, step), names[::step], rotation=45 if few else 90, fontsize=size)
    axis.set_yticks(range(0, n, step), names[::step], fontsize=size)
    if few:
        for tick in axis.get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
        for row, column in np.argwhere(matrix > 0):
            ink = "white" if share[row, column] > 0.55 else "black"
            count = _count(matrix[row, column])
            axis.text(column, row, count, ha="center", va="center", color=ink, fontsize=8)
    axis.set(xlabel="prediction", ylabel="truth")
    if step == 1:  # with more classes the lines would hide the cells
        axis.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="0.9", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    _save(figure, path)


def _columns(rows: list[dict[str, float]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _split(key: str) -> tuple[str, str, str]:
    """ "task/stage/name" in its three parts; what is missing on the left is empty."""
    *task, stage, name = ("", "", *key.split("/"))
    return "/".join(filter(None, task)), stage, name


def _curve(rows: list[dict[str, float]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The epochs and the finite values of one column; a row without "epoch" counts by its place."""

    def number(value: Any) -> float:
        return math.nan if value is None or value == "" else float(value)

    points = [(number(row.get("epoch", i)), number(row.get(key))) for i, row in enumerate(rows)]
    kept = np.array([point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])])
    return (kept[:, 0], kept[:, 1]) if len(kept) else (np.empty(0), np.empty(0))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def _line(axis: Axes, x: np.ndarray, y: np.ndarray, color: str, dashes: str, label: str) -> None:
    """A curve with markers while they are few; hollow where it is not solid, to tell single points apart."""
    marker, face = "o" if len(x) <= 30 else None, color if dashes == "-" else "white"
    axis.plot(x, y, dashes, color=color, marker=marker, markerfacecolor=face, markersize=4, label=label)


def _epochs(axis: Axes, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if axis.lines:
        first, last = axis.dataLim.intervalx
        if last - first < 1:
            axis.set_xlim(first - 0.5, last + 0.5)
    _finish(axis)


def _finish(axis: Axes, *, title: str | None = None) -> None:
    """The common look, and a legend on the right outside, where it never lies on a curve."""
    axis.grid(color="0.9", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if not axis.lines:
        axis.text(0.5, 0.5, "no values", ha="center", va="center", transform=axis.transAxes, color="0.4")
        return
    legend = axis.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    legend.set_alignment("left")


def _plain(text: str, *, length: int = 28) -> str:
    """A name on one line, cut where it is long, with its dollar signs kept from being read as mathematics."""
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    text = " " + text if text.startswith("_") else text  # a legend leaves out what starts with an underscore
    return text.replace("$", r"\$")


def _count(value: float) -> str:
    """At most four characters, the width of a cell: 9999, 12k, 3M."""
    for unit, name in ((1, ""), (1000, "k"), (1_000_000, "M")):
        if round(value / unit) < (10_000 if unit == 1 else 1000):
            return f"{round(value / unit)}{name}"
    return f"{value:.0e}"


def _save(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.1)
