"""A bar a class, for any value between 0 and 1."""

from pathlib import Path

import numpy as np

from mnv2_tasks.visual.figure import MOST, ends, left_out, new_figure, save_figure


def plot_bars(values: np.ndarray, labels: list[str], path: str | Path, *, xlabel: str, note: str = "") -> None:
    """Bars of values (N,) in 0..1, ascending, the best on top, and a line at their mean.

    Of more than 60 the best and the worst thirty are drawn, a dotted line between them. `note` follows the mean in the
    title.
    """
    indices = ends(list(range(len(values))))
    figure = new_figure(7, 1.2 + 0.3 * max(len(indices), 2))
    axis = figure.subplots()
    axis.barh(range(len(indices)), values[indices], color="C0")
    for row, value in enumerate(values[indices]):
        axis.text(1.02, row, f"{value:.3f}", va="center", fontsize=8)  # clear of the mean
    axis.set_yticks(range(len(indices)), [labels[i] for i in indices], fontsize=9)
    if len(values):
        axis.axvline(values.mean(), color="black", linestyle="--", linewidth=1)
    if len(indices) < len(values):
        axis.axhline(MOST / 2 - 0.5, color="0.5", linestyle=":", linewidth=1)
    mean = f"mean of {len(values)}: {values.mean():.3f}" if len(values) else "no values"
    axis.set(xlabel=xlabel, xlim=(0, 1.1), ylim=(-0.6, max(len(indices), 1) - 0.4))
    axis.set_title(mean + note + left_out(len(values)), fontsize=11)
    axis.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)
