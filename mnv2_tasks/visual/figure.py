"""What all plots share: the figure, its axes and names, the classes that it has room for, and tables beside it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = ("-", "--", "-.", ":")  # in turn, where curves may lie on each other
FEW = 20  # with more classes than this, curves and cells are no longer written out one by one
MOST = 60  # classes that a picture has room for


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


def new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def epoch_axis(axis: Axes, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set(xlabel="epoch", ylabel=label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if axis.lines:
        first, last = axis.dataLim.intervalx
        if last - first < 1:
            axis.set_xlim(first - 0.5, last + 0.5)
    finish_axis(axis)


def finish_axis(axis: Axes, *, title: str | None = None) -> None:
    """The common look, and a legend on the right outside, where it never lies on a curve."""
    axis.grid(color="0.9", linewidth=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if not axis.lines:
        axis.text(0.5, 0.5, "no values", ha="center", va="center", transform=axis.transAxes, color="0.4")
        return
    legend = axis.legend(title=title, loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=9, frameon=False)
    legend.set_alignment("left")


def plain_text(text: str, *, length: int = 28) -> str:
    """A name on one line, cut where it is long, with its dollar signs kept from being read as mathematics."""
    text = " ".join(text.split())
    text = text if len(text) <= length else text[: length - 1] + "…"
    text = " " + text if text.startswith("_") else text  # a legend leaves out what starts with an underscore
    return text.replace("$", r"\$")


def save_figure(figure: Figure, path: str | Path) -> None:
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.1)
