"""The loss against the learning rate of a range test."""

from collections.abc import Sequence
from pathlib import Path

from mnv2_tasks.visual.figure import finish_axis, new_figure, save_figure


def plot_rates(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], chosen: float, path: str | Path
) -> None:
    """Raw and smoothed losses of each step against its rate, and the rate that was chosen."""
    figure = new_figure(6.5, 4)
    axis = figure.subplots()
    axis.plot(rates, losses, ".", color="0.7", markersize=4, label="a step")
    axis.plot(rates, smoothed, color="C0", label="smoothed")
    axis.axvline(chosen, color="C1", linestyle="--", label=f"chosen: {chosen:g}")
    low, high = min(smoothed), max(smoothed[0], losses[0])
    axis.set(xscale="log", xlabel="learning rate", ylabel="loss")
    axis.set_ylim(low - 0.15 * (high - low), high + 0.6 * (high - low))
    finish_axis(axis)
    save_figure(figure, path)
