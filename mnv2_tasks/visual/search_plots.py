"""Plots of a search: scores trial by trial, what mattered, the settings side by side, and score against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from mnv2_tasks.visual.figure import finish_axis, new_figure, plain_text, save_figure

COSTS = {"parameters": "parameters", "madds": "multiply-adds", "latency_ms": "milliseconds"}
Rows = Sequence[Mapping[str, Any]]


def plot_history(results: Mapping[str, Any], path: str | Path) -> None:
    """The score of each trial in their order, and the best until then.

    results: as search.json has them; so for all plots of this file.
    """
    figure = new_figure(8, 4.5)
    axis = figure.subplots()
    for state, marker, face in (("complete", "o", "C0"), ("ended early", "v", "none")):
        rows = [(i, row["score"]) for i, row in enumerate(results["trials"]) if _has(row, state)]
        if rows:
            axis.plot(*zip(*rows, strict=True), marker, color="C0", markerfacecolor=face, label=state)
    done = [(i, row["score"]) for i, row in enumerate(results["trials"]) if _has(row, "complete")]
    best = accumulate((score for _, score in done), max)
    axis.step([i for i, _ in done], list(best), where="post", color="C1", label="the best until then")
    for n, i in enumerate(i for i, row in enumerate(results["trials"]) if row["state"] == "failed"):
        axis.axvline(i, color="0.8", zorder=0, label=None if n else "failed")
    axis.set(xlabel="trial", ylabel="best val/score of the trial")
    finish_axis(axis)
    save_figure(figure, path)


def plot_importance(importance: Mapping[str, float], path: str | Path) -> None:
    """The share of each setting in what tells good trials from others."""
    figure = new_figure(8, 1.2 + 0.35 * len(importance))
    axis = figure.subplots()
    names = list(importance)
    axis.barh(range(len(names)), list(importance.values()), color="C0")
    axis.set_yticks(range(len(names)), [plain_text(name, length=40) for name in names])
    axis.set(xlabel="importance (PED-ANOVA)", ylim=(len(names) - 0.5, -0.5))
    axis.grid(color="0.9", linewidth=0.7, axis="x")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def plot_parallel(results: Mapping[str, Any], path: str | Path) -> None:
    """A line a complete trial through the values of its settings, coloured by its score, the best on top."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    rows = sorted((row for row in results["trials"] if _has(row, "complete")), key=lambda row: row["score"])
    names = list(dict.fromkeys(key for row in rows for key in row["settings"]))
    scales = [_Scale([row["settings"][name] for row in rows]) for name in names]
    figure = new_figure(max(6.0, 1.7 * len(names) + 2), 4.5)
    axis = figure.subplots()
    colors = ScalarMappable(Normalize(rows[0]["score"], rows[-1]["score"]), "viridis")
    for row in rows:
        heights = [scale.height(row["settings"][name]) for scale, name in zip(scales, names, strict=True)]
        axis.plot(range(len(names)), heights, color=colors.to_rgba(row["score"]), marker="o", markersize=3, lw=1.2)
    for x, scale in enumerate(scales):
        axis.axvline(x, color="0.7", lw=0.8, zorder=0)
        for height, text in scale.ticks():
            axis.text(x + 0.03, height, plain_text(text, length=16), fontsize=7, va="bottom", color="0.3")
    axis.set_xticks(range(len(names)), [plain_text(name.rpartition(".")[2], length=20) for name in names])
    axis.set(yticks=[], ylim=(-0.05, 1.1), xlim=(-0.1, len(names) - 0.4))
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
    figure.colorbar(colors, ax=axis, label="best val/score")
    save_figure(figure, path)


class _Scale:
    """Heights from 0 to 1 for the values of a setting: by their logarithm where they span much, else evenly."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        self._names = list(dict.fromkeys(map(str, sorted(values) if self._numbers else values)))
        self._low: float = min(values) if self._numbers else 0
        self._high: float = max(values) if self._numbers else len(self._names) - 1
        self._log = self._numbers and self._low > 0 and self._high > 20 * self._low

    def height(self, value: Any) -> float:
        place = value if self._numbers else self._names.index(str(value))
        low, high = self._low, self._high
        if low == high:
            return 0.5
        if self._log:
            return math.log(place / low) / math.log(high / low)
        return float((place - low) / (high - low))

    def ticks(self) -> list[tuple[float, str]]:
        if self._numbers:
            return [(self.height(value), f"{value:.3g}") for value in dict.fromkeys((self._low, self._high))]
        return [(self.height(name), name) for name in self._names]


def plot_fronts(results: Mapping[str, Any], path: str | Path) -> None:
    """The score against each cost that it was weighed against, and the trials of the front."""
    costs = results["objective"][1:]
    figure = new_figure(6.5 * len(costs), 4.5)
    for axis, cost in zip(figure.subplots(1, len(costs), squeeze=False).ravel(), costs, strict=True):
        unit, what = (1, "") if cost == "latency_ms" else (1e6, ", M")
        for rows, style, label in (
            ([row for row in results["trials"] if _has(row, "complete")], {"color": "0.7"}, "trials"),
            (results["best"], {"color": "C0"}, "Pareto front"),
        ):
            axis.plot([row[cost] / unit for row in rows], [row["score"] for row in rows], "o", label=label, **style)
        for row in results["best"]:
            number = str(int(row["name"].rpartition("_")[2]))
            axis.annotate(
                number, (row[cost] / unit, row["score"]), xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        axis.set(xlabel=f"{COSTS[cost]}{what}", ylabel="best val/score")
        finish_axis(axis)
    save_figure(figure, path)


def _has(row: Mapping[str, Any], state: str) -> bool:
    return row["state"] == state and row["score"] is not None
