"""Plots of the analyses: the spiral, positive channels by layer, costs of convolutions, and a network by layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tasks.visual.figure import finish_axis, new_figure, save_figure

LABELS = {"standard": "standard", "separable": "depthwise separable", "inverted_residual": "inverted residual"}


def plot_spiral(points: np.ndarray, outputs: Mapping[str, np.ndarray], errors: Mapping[str, float], path: Path) -> None:
    """The spiral (P, 2) and what comes back of it, {n: (P, 2)}, coloured along the spiral; mean errors as titles."""
    figure = new_figure(2.4 * (1 + len(outputs)), 2.9)
    panels = [("input", points), *((f"n = {n}\nerror {errors[n]:.2f}", back) for n, back in outputs.items())]
    for axis, (title, panel) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.scatter(*panel.T, c=np.linspace(0, 1, len(panel)), cmap="viridis", s=3)
        axis.set_title(title, fontsize=11)
        axis.set_aspect("equal", adjustable="datalim")
        axis.set_xticks([])
        axis.set_yticks([])
    save_figure(figure, path)


def plot_positive(panels: Mapping[str, Sequence[Mapping[str, Any]]], threshold: float, path: Path) -> None:
    """{title: rows of `positive_channels`}: mean, standard deviation and extremes of each layer, a panel a network."""
    figure = new_figure(9, 3.4 * len(panels))
    for axis, (title, rows) in zip(
        np.atleast_1d(figure.subplots(len(panels), 1, sharex=True)), panels.items(), strict=True
    ):
        x = np.arange(len(rows))
        mean, std = (np.array([row[name] for row in rows]) for name in ("mean", "std"))
        low, high = (np.array([row[name] for row in rows]) for name in ("low", "high"))
        axis.fill_between(x, low, high, color="C0", alpha=0.12, lw=0, label="least to most")
        axis.fill_between(x, mean - std, mean + std, color="C0", alpha=0.3, lw=0, label="standard deviation")
        axis.plot(x, mean, "o-", color="C0", markersize=4, label="mean")
        axis.axhline(threshold, color="C3", linestyle="--", linewidth=1, label="invertible above")
        axis.set(ylabel="share of channels above 0", ylim=(0, 1), title=title)
        finish_axis(axis)
    axis.set_xlabel("activated layer")
    save_figure(figure, path)


def plot_convolutions(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Multiply-adds against channels: formulas as lines, counts as points."""
    figure = new_figure(7, 4.2)
    axis = figure.subplots()
    channels = [row["channels"] for row in rows]
    for i, (name, label) in enumerate(LABELS.items()):
        axis.plot(channels, [row[name] / 1e6 for row in rows], color=f"C{i}", label=f"{label}, formula")
        axis.plot(
            channels, [row[f"{name}_counted"] / 1e6 for row in rows], "o", color=f"C{i}", label=f"{label}, counted"
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(channels, [str(n) for n in channels])
    axis.set(xlabel="channels, in and out", ylabel="multiply-adds, M")
    finish_axis(axis)
    save_figure(figure, path)


def plot_layers(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Parameters, multiply-adds, activation memory and receptive field of each layer."""
    quantities = {"parameters": ("parameters, k", 1e3), "madds": ("multiply-adds, M", 1e6)}
    quantities |= {"memory": ("activation, kB at 16 bits", 1e3), "receptive_field": ("receptive field, pixels", 1)}
    figure = new_figure(max(8.0, 0.16 * len(rows)), 8)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for axis, (name, (label, unit)) in zip(
        figure.subplots(len(quantities), 1, sharex=True), quantities.items(), strict=True
    ):
        for i, kind in enumerate(kinds):
            picked = [(x, row[name] / unit) for x, row in enumerate(rows) if row["kind"] == kind and name in row]
            if picked:
                axis.bar(*zip(*picked, strict=True), width=0.9, color=f"C{i}", label=kind)
        axis.set_ylabel(label, fontsize=9)
        axis.grid(axis="y", color="0.9", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    figure.axes[-1].set_xlabel("layer")
    save_figure(figure, path)
