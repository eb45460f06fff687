"""A confusion matrix as a PNG file and as a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mnv2_tasks.visual.figure import FEW, MOST, ends, left_out, new_figure, plain_text, save_figure, write_table


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
    present = [int(i) for i in np.argsort(-hits, kind="stable") if matrix[i].any()]
    indices = ends(present if k > MOST else list(range(k)))
    others = sorted(set(range(k)) - set(indices))
    columns = [matrix[:, indices], *([matrix[:, others].sum(1, keepdims=True)] if others else []), matrix[:, k:]]
    across = [plain_text(classes[i]) for i in indices] + ([f"{len(others)} others"] if others else []) + names[k:]
    down = [plain_text(classes[i]) for i in indices]
    counts = np.concatenate(columns, axis=1)[[*indices, *range(k, n)]]  # (rows, columns), perhaps the background's last
    share = counts[: len(indices)] / np.maximum(counts[: len(indices)].sum(axis=1, keepdims=True), 1)
    few = k <= FEW
    side = max(2.5, n * 0.5) if few else len(across) * 0.17
    figure = new_figure(side + 2.4, side + 1.6)
    strip = background and len(indices) > 0
    panels = figure.subplots(
        1 + strip, 1, squeeze=False, sharex=True, height_ratios=[max(len(indices), 1), 1][: 1 + strip]
    ).ravel()
    image = panels[0].imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    bar = figure.colorbar(image, ax=panels[0], fraction=0.04, pad=0.02, aspect=25)
    bar.set_label("share of the truth (row)")
    parts = [(panels[0], share, counts[: len(indices)], down)]
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
    more = f"{len(present)} classes{left_out(len(present))}" if others else ""
    panels[0].set_ylabel("truth")
    panels[0].set_title("\n".join(filter(None, (title, more))), fontsize=10)
    save_figure(figure, path)


def _count(value: float) -> str:
    """At most four characters, the width of a cell: 9999, 12k, 3M."""
    for unit, name in ((1, ""), (1000, "k"), (1_000_000, "M")):
        if round(value / unit) < (10_000 if unit == 1 else 1000):
            return f"{round(value / unit)}{name}"
    return f"{value:.0e}"
