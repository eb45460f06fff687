"""Curves of a run over its epochs as PNG files: losses and scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2_tasks.visual.figure import STYLES, epoch_axis, new_figure, plain_text, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = {"train": "-", "val": "--"}  # any other stage is dotted


def plot_losses(rows: list[dict[str, float]], path: str | Path) -> None:
    """Every column "task/stage/...loss" against "epoch", a panel a task; train solid, val dashed.

    rows: the rows of metrics.csv. A value may be missing, None, "" or NaN: the curve goes on to the next one.
    """
    keys = [key for key in _columns(rows) if key.endswith("loss") and len(_curve(rows, key)[0])]
    figure, panels = _panels(keys)
    for axis, task, task_keys in panels:
        names = list(dict.fromkeys(_split(key)[2] for key in task_keys))
        for key in sorted(task_keys, key=lambda key: names.index(_split(key)[2])):
            _, stage, name = _split(key)
            color, dashes = f"C{names.index(name) % 10}", DASHES.get(stage, ":")
            _line(axis, *_curve(rows, key), color, dashes, plain_text(f"{stage} {name}"))
        axis.set_title(plain_text(task) or "all tasks", fontsize=11)
        epoch_axis(axis, "loss")
    save_figure(figure, path)


def plot_scores(rows: list[dict[str, float]], path: str | Path, *, names: list[str]) -> None:
    """The columns `names` (higher is better) against "epoch", a panel a task; a star for the best epoch of each.

    rows: as in `plot_losses`. Names without a value are left out.
    """
    figure, panels = _panels([name for name in names if len(_curve(rows, name)[0])])
    for axis, task, task_keys in panels:
        for i, key in enumerate(task_keys):
            epochs, values = _curve(rows, key)
            best = int(values.argmax())
            _, stage, name = _split(key)
            label = f"{plain_text(f'{stage} {name}', length=40)}: best {values[best]:.3f}, epoch {epochs[best]:g}"
            _line(axis, epochs, values, f"C{i % 10}", STYLES[i % len(STYLES)], label)
            axis.plot(epochs[best], values[best], "*", color=f"C{i % 10}", markersize=12, markeredgecolor="black")
        axis.set_title(plain_text(task) or "all tasks", fontsize=11)
        epoch_axis(axis, "score")
    save_figure(figure, path)


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
    finite = np.array([point for point in points if math.isfinite(point[0]) and math.isfinite(point[1])])
    return (finite[:, 0], finite[:, 1]) if len(finite) else (np.empty(0), np.empty(0))


def _panels(keys: list[str]) -> tuple[Figure, list[tuple[Axes, str, list[str]]]]:
    """A figure with a panel a task, two a row, and (panel, task, its keys "task/stage/name"); one without keys."""
    tasks = list(dict.fromkeys(_split(key)[0] for key in keys)) or [""]
    across, down = min(2, len(tasks)), math.ceil(len(tasks) / 2)
    figure = new_figure(6.5 * across, 4 * down)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(tasks) :]:
        axis.set_axis_off()
    task_keys = [[key for key in keys if _split(key)[0] == task] for task in tasks]
    return figure, list(zip(axes, tasks, task_keys, strict=False))


def _line(axis: Axes, x: np.ndarray, y: np.ndarray, color: str, dashes: str, label: str) -> None:
    """A curve with markers while they are few; hollow where it is not solid, to tell single points apart."""
    marker, face = "o" if len(x) <= 30 else None, color if dashes == "-" else "white"
    axis.plot(x, y, dashes, color=color, marker=marker, markerfacecolor=face, markersize=4, label=label)
