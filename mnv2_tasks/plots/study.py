"""Plots of a study: validation curves with the band of their seeds, and accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.plots import _epochs, _figure, _finish, _plain, _save


def plot_curves(results: Mapping[str, Any], path: str | Path) -> None:
    """The validation score over the epochs, a curve a variant: the mean of its seeds, and from the least to the most.

    results: as `study.report.summarise` gives them.
    """
    figure = _figure(8.5, 4.5)
    axis = figure.subplots()
    for i, variant in enumerate(results["variants"]):
        curve, color = variant["curve"], f"C{i % 10}"
        epochs = [point["epoch"] for point in curve]
        label = f"{_plain(variant['name'])}: {variant['mean']:.3f}"
        axis.plot(epochs, [p["mean"] for p in curve], color=color, linestyle="-" if i < 10 else "--", label=label)
        axis.fill_between(epochs, [p["low"] for p in curve], [p["high"] for p in curve], color=color, alpha=0.15, lw=0)
    _epochs(axis, "validation score")
    legend: Any = axis.get_legend()
    legend.set_title(_plain(results["metric"], length=60))
    _save(figure, path)


def plot_pareto(results: Mapping[str, Any], path: str | Path) -> None:
    """The metric against multiply-adds, with the standard deviation over the seeds and the Pareto front."""
    figure = _figure(8, 4.8)
    axis = figure.subplots()
    points = [(variant["madds"] / 1e6, variant["mean"]) for variant in results["variants"]]
    for i, (variant, (cost, value)) in enumerate(zip(results["variants"], points, strict=True)):
        label, marker = _plain(variant["name"]), "os^Dv"[i // 10 % 5]
        axis.errorbar(cost, value, variant["std"] or 0, fmt=marker, color=f"C{i % 10}", capsize=3, label=label)
    costs = [cost for cost, _ in points]
    if max(costs) > 1.02 * min(costs):  # of equal costs there is no front
        front = pareto_front(points)
        axis.plot(*zip(*front, strict=True), color="0.4", linewidth=1, zorder=0, label="Pareto front")
    axis.set(xlabel="multiply-adds, M", ylabel=_plain(results["metric"], length=60))
    if max(costs) > 2 * min(costs):
        axis.set_xscale("log")
    _finish(axis)
    _save(figure, path)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, value) that no other beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
