"""Plots of detection as PNG files: precision against recall."""

from pathlib import Path

import numpy as np

from mnv2_tasks.visual.figure import FEW, STYLES, finish_axis, new_figure, plain_text, save_figure, write_table


def plot_precision_recall(precision: np.ndarray, classes: tuple[str, ...], path: str | Path) -> None:
    """Precision against recall at IoU 0.5, a curve a class and their mean, with AP50 in the legend and as CSV.

    precision: (101, K) at the recalls 0, 0.01, ... 1 (COCO's), NaN for a class that has no truth. AP50 is the
    mean over the recalls, COCO's definition. A curve ends with the recall that its class reaches; the mean goes on
    with 0 for it. With more than 20 classes only the five best and the five worst are named; the others are thin and
    grey.
    """
    assert precision.ndim == 2 and precision.shape[1] == len(classes), "precision: (recalls, classes)"
    recall = np.linspace(0, 1, len(precision))
    present = [k for k in range(len(classes)) if not np.isnan(precision[:, k]).all()]
    score = {k: float(np.nanmean(precision[:, k])) for k in present}
    ranked = sorted(present, key=lambda k: -np.nan_to_num(score[k], nan=-1.0))
    write_table(Path(path).with_suffix(".csv"), ["class", "AP50"], [[classes[k], score[k]] for k in ranked])
    named = ranked if len(ranked) <= FEW else ranked[:5] + ranked[-5:]
    figure = new_figure(7.5, 4.8)
    axis = figure.subplots()
    reached = {k: int(np.flatnonzero(precision[:, k] > 0).max(initial=0)) + 1 for k in present}
    if len(present) > 1:  # below the others, which would hide behind it
        mean = np.nanmean(precision[:, present], axis=1)
        label = f"mean of {len(present)}: {np.nanmean(list(score.values())):.3f}"
        axis.plot(recall, mean, color="0.55", linewidth=4, label=label)
    for k in set(ranked) - set(named):
        axis.plot(recall[: reached[k]], precision[: reached[k], k], color="0.8", linewidth=0.6, zorder=1)
    for i, k in enumerate(named):
        marker = "o" if reached[k] == 1 else None  # a single point has no line
        axis.plot(
            recall[: reached[k]], precision[: reached[k], k], color=f"C{i % 10}", linewidth=1.6, marker=marker,
            linestyle=STYLES[i % len(STYLES)], label=f"{plain_text(classes[k])}: {score[k]:.3f}",
        )  # fmt: skip
    absent = len(classes) - len(present)
    axis.set(xlabel="recall", ylabel="precision", xlim=(-0.01, 1.01), ylim=(-0.02, 1.03))
    axis.set_title("predictions of every score, right where IoU is at least 0.5", fontsize=10)
    notes = [f"{absent} without truth"] * bool(absent) + ["five best, five worst"] * (named is not ranked)
    finish_axis(axis, title="AP50" + (f" ({'; '.join(notes)})" if notes else ""))
    save_figure(figure, path)
