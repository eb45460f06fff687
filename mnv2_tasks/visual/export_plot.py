"""Exported files beside each other: the metric against the latency, the size as the area of the dot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.visual.figure import finish_axis, new_figure, plain_text, save_figure


def plot_formats(rows: Sequence[Mapping[str, Any]], threads: str, path: str | Path) -> None:
    """A dot a file that has been timed; the mean of its metrics, or its megabytes where none is known.

    rows: {"file", "bytes", "metrics": {task: value}, "latency_ms": {threads: ms}}.
    """
    timed = [row for row in rows if "latency_ms" in row]
    known = all(row["metrics"] for row in timed)
    figure = new_figure(8, 4.8)
    axis = figure.subplots()
    for i, row in enumerate(timed):
        size = row["bytes"] / 1e6
        height = sum(row["metrics"].values()) / len(row["metrics"]) if known else size
        marker, label = "os^D"[i // 10 % 4], plain_text(row["file"])
        when = row["latency_ms"][threads]
        axis.scatter(when, height, s=20 + 25 * size, c=f"C{i % 10}", alpha=0.7, marker=marker, label=label)
    axis.set(xlabel=f"milliseconds an image, {threads} thread(s)", ylabel="metric" if known else "megabytes")
    axis.set_xscale("log")
    finish_axis(axis)
    legend: Any = axis.get_legend()
    for handle in legend.legend_handles if legend else ():  # the dots are large in the plot alone
        handle.set_sizes([40])
    save_figure(figure, path)
