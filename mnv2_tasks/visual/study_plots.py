"""Plots of a study: validation curves with the band of their seeds, and accuracy against cost or variant by variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.visual.figure import STYLES, epoch_axis, finish_axis, new_figure, plain_text, save_figure

BANDS = 6  # with more variants than this, the bands of their seeds would hide each other
LONG = 6  # epochs from which the second half has a panel of its own


def plot_curves(results: Mapping[str, Any], path: str | Path) -> None:
    """The validation score over the epochs, a curve a variant: the mean of its seeds, and from the least to the most.

    The second half stands beside it on a scale of its own, where variants lie close.
    results: as `study.report.summarise` gives them.
    """
    variants = results["variants"]
    last = max((point["epoch"] for variant in variants for point in variant["curve"]), default=0)
    begins = [0, last / 2] if last + 1 >= LONG else [0]
    banded = len(variants) <= BANDS and any(len(variant["values"]) > 1 for variant in variants)
    figure = new_figure(5.5 * len(begins) + 3, 4.5)
    panels = figure.subplots(1, len(begins), squeeze=False).ravel()
    for axis, begin in zip(panels, begins, strict=True):
        for i, variant in enumerate(variants):
            curve, color = [p for p in variant["curve"] if p["epoch"] >= begin], f"C{i % 10}"
            epochs, label = [p["epoch"] for p in curve], f"{plain_text(variant['name'])}: {variant['mean']:.3f}"
            axis.plot(
                epochs, [p["mean"] for p in curve], color=color, linestyle=STYLES[i % len(STYLES)], label=label,
                marker="o" if len(epochs) == 1 else None,
            )  # fmt: skip
            if banded:
                low, high = ([p[end] for p in curve] for end in ("low", "high"))
                axis.fill_between(epochs, low, high, color=color, alpha=0.15, lw=0)
        epoch_axis(axis, "validation score")
        if legend := axis.get_legend():
            notes = [plain_text(results["metric"], length=60), *["band: least to most of the seeds"] * banded]
            legend.set_title("\n".join(notes))
            legend.set_visible(axis is panels[-1])
            legend.set_in_layout(axis is panels[-1])
    panels[0].set_title("all epochs" if len(panels) > 1 else "", fontsize=10)
    if len(panels) > 1:
        panels[1].set_title("the second half", fontsize=10)
    save_figure(figure, path)


def plot_pareto(results: Mapping[str, Any], path: str | Path) -> None:
    """The metric against multiply-adds, with the standard deviation over the seeds and the Pareto front."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    figure = new_figure(8, 4.8)
    axis = figure.subplots()
    points = [(variant["madds"] / 1e6, variant["mean"]) for variant in results["variants"]]
    for i, (variant, (cost, value)) in enumerate(zip(results["variants"], points, strict=True)):
        label, marker = plain_text(variant["name"]), "os^Dv<>"[i % 7]
        axis.errorbar(cost, value, variant["std"] or 0, fmt=marker, color=f"C{i % 10}", capsize=3, label=label)
    axis.plot(*zip(*pareto_front(points), strict=True), color="0.4", linewidth=1, zorder=0, label="Pareto front")
    axis.set(xlabel="multiply-adds, M", ylabel=plain_text(results["metric"], length=60))
    costs = [cost for cost, _ in points]
    if max(costs) > 2 * min(costs):
        axis.set_xscale("log")
        few = max(costs) < 20 * min(costs)  # 30, 40, 60 in place of powers of ten
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}") if few else NullFormatter())
        axis.tick_params(axis="x", which="minor", labelsize=8)
    finish_axis(axis, title=_deviations(results))
    save_figure(figure, path)


def plot_values(results: Mapping[str, Any], path: str | Path) -> None:
    """The metric of each variant, a row each, where all cost the same: a dot a seed, the mean and the deviation."""
    variants = results["variants"]
    figure = new_figure(8, 1.4 + 0.4 * max(len(variants), 2))
    axis = figure.subplots()
    for row, variant in enumerate(variants):
        values = list(variant["values"].values())
        if len(values) > 1:
            axis.plot(values, [row] * len(values), "o", color="0.6", markersize=4, label=None if row else "a seed")
        label = "mean ± standard deviation" if len(values) > 1 else "one seed"
        axis.errorbar(
            variant["mean"], row, xerr=variant["std"], fmt="D", color="C0", capsize=4, label=None if row else label
        )
    axis.axvline(variants[0]["mean"], color="0.4", linestyle="--", linewidth=1, label="the first variant's")
    axis.set_yticks(range(len(variants)), [plain_text(variant["name"]) for variant in variants])
    axis.set(xlabel=plain_text(results["metric"], length=60), ylim=(len(variants) - 0.5, -0.5))
    low, high = (end(variant["madds"] / 1e6 for variant in variants) for end in (min, max))
    axis.set_title(f"all at {low:.1f}{f' to {high:.1f}' if f'{low:.1f}' != f'{high:.1f}' else ''} M multiply-adds")
    finish_axis(axis)
    save_figure(figure, path)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, value) that no other beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front


def _deviations(results: Mapping[str, Any]) -> str | None:
    return "mean ± standard deviation" if any(variant["std"] for variant in results["variants"]) else None
