"""Plots of a run as PNG files: losses, scores, confusion."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = {"train": "-", "val": "--"}  # any other stage is dotted
STYLES = ("-", "--", "-.", ":")  # in turn, where curves may lie on each other
FEW = 20  # with more classes than this, curves and cells are no longer written out one by one
MOST = 60  # classes that a picture has room for


def plot_losses(rows: list[dict[str, float]], path: str | Path) -> None:
    """Every column "task/stage/...loss" against "epoch", a panel a task; train solid, val dashed.

    rows: the rows of metrics.csv. A value may be missing, None, "" or NaN: the curve goes on to the next one.
    """
    keys = [key for key in _columns(rows) if key.endswith("loss") and len(_curve(rows, key)[0])]
    figure, panels = _panels(keys)
    for axis, task, own in panels:
        names = list(dict.fromkeys(_split(key)[2] for key in own))
        for key in sorted(own, key=lambda key: names.index(_split(key)[2])):
            _, stage, name = _split(key)
            color, dashes = f"C{names.index(name) % 10}", DASHES.get(stage, ":")
            _line(axis, *_curve(rows, key), color, dashes, _plain(f"{stage} {name}"))
        axis.set_title(_plain(task) or "all tasks", fontsize=11)
        _epochs(axis, "loss")
    _save(figure, path)


def plot_scores(rows: list[dict[str, float]], path: str | Path, *, names: list[str]) -> None:
    """The columns `names` (higher is better) against "epoch", a panel a task; a star for the best epoch of each.

    rows: as in `plot_losses`. Names without a value are left out.
    """
    figure, panels = _panels([name for name in names if len(_curve(rows, name)[0])])
    for axis, task, own in panels:
        for i, key in enumerate(own):
            epochs, values = _curve(rows, key)
            best = int(values.argmax())
            _, stage, name = _split(key)
            label = f"{_plain(f'{stage} {name}', length=40)}: best {values[best]:.3f}, epoch {epochs[best]:g}"
            _line(axis, epochs, values, f"C{i % 10}", STYLES[i % len(STYLES)], label)
            axis.plot(epochs[best], values[best], "*", color=f"C{i % 10}", markersize=12, markeredgecolor="black")
        axis.set_title(_plain(task) or "all tasks", fontsize=11)
        _epochs(axis, "score")
    _save(figure, path)


def plot_confusion(
    matrix: np.ndarray, classes: tuple[str, ...], path: str | Path, *, background: bool = False, title: str = ""
) -> None:
    """A confusion matrix: rows are the truth, columns the prediction, colour the share of the row; and all counts, CSV.

    matrix: counts (K, K), or (K + 1, K + 1) with `background`, whose last column stands for missed objects and last
    row for predictions of no object. That row lies apart, grey, by the share of the column: there is no number of true
    backgrounds that it could be a part of. Of more than 60 classes the picture shows the best and the worst thirty.
    Counts are written in the cells up to 20 classes.
    """
    names = [*classes, *(["background"] if background else [])]
    n, k = len(names), len(classes)
    assert matrix.shape == (n, n), f"matrix: ({n}, {n}) for {k} classes, background={background}"
    rows = [[name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True)]
    write_table(Path(path).with_suffix(".csv"), ["truth / prediction", *names], rows)
    hits = np.diag(matrix)[:k] / np.maximum(matrix[:k].sum(axis=1), 1)
    there = [int(i) for i in np.argsort(-hits, kind="stable") if matrix[i].any()]
    shown = ends(there if k > MOST else list(range(k)))
    others = sorted(set(range(k)) - set(shown))
    columns = [matrix[:, shown], *([matrix[:, others].sum(1, keepdims=True)] if others else []), matrix[:, k:]]
    across = [_plain(classes[i]) for i in shown] + ([f"{len(others)} others"] if others else []) + names[k:]
    down = [_plain(classes[i]) for i in shown]
    counts = np.concatenate(columns, axis=1)[[*shown, *range(k, n)]]  # (rows, columns), perhaps the background's last
    share = counts[: len(shown)] / np.maximum(counts[: len(shown)].sum(axis=1, keepdims=True), 1)
    few = k <= FEW
    side = max(2.5, n * 0.5) if few else len(across) * 0.17
    figure = _figure(side + 2.4, side + 1.6)
    strip = background and len(shown) > 0
    panels = figure.subplots(
        1 + strip, 1, squeeze=False, sharex=True, height_ratios=[max(len(shown), 1), 1][: 1 + strip]
    ).ravel()
    image = panels[0].imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    bar = figure.colorbar(image, ax=panels[0], fraction=0.04, pad=0.02, aspect=25)
    bar.set_label("share of the truth (row)")
    parts = [(panels[0], share, counts[: len(shown)], down)]
    if strip:
        false = counts[-1:] / np.maximum(counts.sum(axis=0, keepdims=True), 1)
        panels[1].imshow(false, cmap="Greys", vmin=0, vmax=2, aspect="auto")  # never dark: it is no part of the truth
        parts.append((panels[1], false / 2, counts[-1:], ["background"]))
    size = 9 if few else 7
    for axis, colour, cells, labels in parts:
        axis.set_yticks(range(len(labels)), labels, fontsize=size)
        if few:
            for row, column in np.argwhere(cells > 0):
                ink = "white" if colour[row, column] > 0.55 else "black"
                axis.text(column, row, _count(cells[row, column]), ha="center", va="center", color=ink, fontsize=8)
        axis.set_xticks(np.arange(len(across) + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
        axis.grid(which="minor", color="0.9", linewidth=0.5)
        axis.tick_params(which="minor", length=0)
    panels[-1].set_xticks(range(len(across)), across, rotation=45 if few else 90, fontsize=size)
    if few:
        for tick in panels[-1].get_xticklabels():
            tick.set(ha="right", rotation_mode="anchor")
    panels[-1].set_xlabel("prediction" + ("\ngrey: share of the predictions (column)" if strip else ""))
    more = f"{len(there)} classes{left_out(len(there))}" if others else ""
    panels[0].set_ylabel("truth")
    panels[0].set_title("\n".join(filter(None, (title, more))), fontsize=10)
    _save(figure, path)


def ends(ranked: list[int]) -> list[int]:
    """The first and the last thirty; all of sixty or fewer."""
    return ranked if len(ranked) <= MOST else [*ranked[: MOST // 2], *ranked[-(MOST // 2) :]]


def left_out(classes: int) -> str:
    """What a title says of the classes that `ends` leaves out."""
    return f"; the best and the worst {MOST // 2}, all in the CSV file" if classes > MOST else ""


def write_table(path: Path, titles: list[str], rows: list[list[Any]]) -> None:
    """A table as CSV, for what a picture has no room for."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(titles)
        writer.writerows(rows)


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


def _panels(keys: list[str]) -> tuple[Figure, list[tuple[Axes, str, list[str]]]]:
    """A figure with a panel a task, two a row, and (panel, task, its keys "task/stage/name"); one without keys."""
    tasks = list(dict.fromkeys(_split(key)[0] for key in keys)) or [""]
    across, down = min(2, len(tasks)), math.ceil(len(tasks) / 2)
    figure = _figure(6.5 * across, 4 * down)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    own = [[key for key in keys if _split(key)[0] == task] for task in tasks]
    return figure, list(zip(axes, tasks, own, strict=False))


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
