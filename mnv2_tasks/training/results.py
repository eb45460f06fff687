"""What a run or an evaluation leaves: metrics.json, the table at the end, pictures and curves."""

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from statistics import median_high
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.complexity import forward_ms, model_cost
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError, amount, shorten
from mnv2_tasks.files import place_of, read_rows, write_settings
from mnv2_tasks.machine import environment
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.training import joint_gain
from mnv2_tasks.training.example_pictures import example_sheet, examples, task_examples
from mnv2_tasks.training.kept_images import keep_images
from mnv2_tasks.training.logged_results import log_results
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.out_of_fold import write_out_of_fold
from mnv2_tasks.training.run_record import RunRecord
from mnv2_tasks.training.run_report import NAME, write_run_report
from mnv2_tasks.training.wandb_artifacts import log_checkpoints
from mnv2_tasks.training.wandb_logger import WandbLogger

LISTED = 40  # classes, at most, with rows in the table at the end
Config = dict[str, Any]


def write_pictures(task: MultiTask, data: DataModule, split: str, folder: Path, *, count: int) -> None:
    """Example sheets, the worst predictions and the heads' plots of the side that was evaluated last."""
    for source in data.with_side(split):
        for name, pictures in task_examples(task, data, source, split, count).items():
            head = task.model.heads[name]
            place = place_of(folder, name, task.model.heads)
            place.mkdir(parents=True, exist_ok=True)
            if count:
                example_sheet(task, name, pictures, place / "examples.png")
                worst = head.worst(task.metrics[name], count)
                if worst:
                    pictures = examples(task, data, source, split, worst)
                    example_sheet(task, name, pictures, place / "worst.png", heading=f"the worst {head.ranked}; ")
            head.plot(task.metrics[name], task.classes[name], place)


def told_classes(names: Sequence[str]) -> str:
    """How many there are, and the names of the first and the last: "3 classes: cat, cow, dog"."""
    return f"{amount(len(names), 'class', 'classes')}: {shorten(', '.join(names), 60)}"


def print_start(task: MultiTask, data: DataModule, folder: Path) -> None:
    """What this run trains, in a line each: tasks and data, the network and its cost, the folder."""
    for source, kinds in data.assigned.items():
        heads = [f"{name} ({told_classes(task.classes[name])})" for name in kinds]
        height, width = data.sizes[source]
        print(f"task: {', '.join(heads)} on {source}, images of {height} x {width}")
    cost = model_cost(deepcopy(task.model), data.passes)  # which puts it into eval mode
    print(f"network: {cost['parameters'] / 1e6:.2f} M parameters, {cost['madds'] / 1e6:.0f} M multiply-adds an image")
    print(f"folder: {folder}")


def write_curves(task: MultiTask, folder: Path) -> None:
    """Losses and scores over the epochs, from metrics.csv."""
    from mnv2_tasks.visual.curves import plot_losses, plot_scores

    rows = read_rows(folder / "metrics.csv")
    if not rows:
        return
    names = [f"{name}/val/{curve}" for name, head in task.model.heads.items() for curve in head.curves]
    plot_losses(rows, folder / "losses.png")
    plot_scores(rows, folder / "scores.png", names=names)


def print_table(record: RunRecord) -> None:
    """A short table: a row a metric, a column a side, with its 95% interval where there is one; then the costs.

    Few classes have rows of their own.
    """
    sides = list(record.metrics)
    names = list(dict.fromkeys(name for side in sides for name in record.metrics[side]))
    if any(len(classes) > LISTED for classes in record.classes.values()):
        names = [name for name in names if name.count("/") == 1]
    width = max(map(len, names)) + 2
    wide = 27 if record.intervals else 9
    print("\n" + "".ljust(width) + "".join(side.rjust(9).ljust(wide) for side in sides).rstrip())
    for name in names:
        cells = (f"{record.metrics[side].get(name, math.nan):9.4f}{_interval(record, side, name)}" for side in sides)
        print(name.ljust(width) + "".join(cell.ljust(wide) for cell in cells).rstrip())
    cost = f"{record.parameters / 1e6:.2f} M parameters, {record.madds / 1e9:.3f} B multiply-adds"
    sizes = {"x".join(map(str, size)) for size in (record.sizes or {}).values()}
    print(f"{cost} at {' and '.join(sorted(sizes))}")
    if record.wall_seconds and record.epochs is not None:
        print(f"{amount(record.epochs, 'epoch')} in {record.wall_seconds:.0f} s")


def _interval(record: RunRecord, side: str, name: str) -> str:
    ends = (record.intervals or {}).get(side, {}).get(name)
    return f" ({ends[0]:.4f}-{ends[1]:.4f})" if ends else ""


def evaluate(task: MultiTask, data: DataModule, trainer: pl.Trainer, split: str) -> dict[str, float]:
    """The metrics of one side, {"ssdlite/map": ...}; the module's metrics keep what plots need."""
    task.split = data.tested = split
    trainer.test(task, datamodule=data, verbose=False)
    values = {name: float(value) for name, value in trainer.callback_metrics.items()} | task.results
    return {name.replace(f"/{split}/", "/"): value for name, value in values.items() if f"/{split}/" in name}


def record_of(metrics: dict[str, dict[str, float]], model: Model, data: DataModule, classes: Classes) -> RunRecord:
    """The record of an evaluation: its metrics by side, and what the model costs; how long it takes is not measured."""
    cost = model_cost(model, data.passes)
    return RunRecord(
        metrics=metrics,
        primaries={task: head.primary for task, head in model.heads.items()},
        classes={task: list(names) for task, names in classes.items()},
        parameters=cost["parameters"],
        madds=cost["madds"],
        sizes={source: list(size) for source, size in data.sizes.items()},
        passes=data.passes,
        contents=data.contents,
        environment=environment(),
    )


def finish(
    task: MultiTask,
    data: DataModule,
    config: Config,
    folder: Path,
    *,
    began: float,
    make_trainer: Callable[[], pl.Trainer],
) -> None:
    """Evaluate the best checkpoint on val, and on test where there is one; write metrics.json and the pictures.

    With `test: false` in the config, test is left alone.

    make_trainer: gives one for evaluation alone.
    """
    from mnv2_tasks.weights.checkpoint import read_checkpoint
    from mnv2_tasks.weights.tensors import load_exactly

    loggers = task.trainer.loggers  # those of the training
    best = folder / "checkpoints" / "best.ckpt"
    if not best.exists():
        best = best.with_name("last.ckpt")
        if not best.exists():
            raise InputError(
                f"{folder}: no epoch was trained; give trainer.max_epochs (max_steps, max_time) room for one"
            )
        rank_zero_only(print)("no validation chose a best epoch: what is evaluated is the last one, last.ckpt")
    checkpoint = read_checkpoint(best)
    load_exactly(task.model, checkpoint["state"], str(best), hint="the file was changed")
    sides = ["val"] + (["test"] if config.get("test", True) and data.with_side("test") else [])
    metrics: dict[str, dict[str, float]] = {}
    intervals: dict[str, Any] = {}
    for side in sides:
        metrics[side] = evaluate(task, data, make_trainer(), side)
        if task.trainer.is_global_zero:
            intervals[side] = keep_images(task.metrics.items(), data, side, folder, count=config["intervals"])
    if not task.trainer.is_global_zero:
        return
    if data.folds is not None:
        write_out_of_fold(task, data, folder)
    write_pictures(task, data, sides[-1], folder, count=config["examples"])
    write_curves(task, folder)
    rows = read_rows(folder / "metrics.csv")
    record = replace(
        record_of(metrics, task.model, data, task.classes),
        latency_ms=forward_ms(task.model, data.passes),
        best_epoch=checkpoint["epoch"],
        epochs=len(rows),
        step_ms=_middle(rows, "step_ms"),
        images_per_second=_middle(rows, "images_per_second"),
        wall_seconds=round(time.monotonic() - began, 1),
        matched=config.get("matched"),
        intervals=intervals if config["intervals"] else None,
        auto=config.get("auto"),
    )
    if config["baselines"]:
        record = replace(record, joint=joint_gain.compare(record, config["baselines"]))
    write_settings(folder / "config.yaml", config)  # those that a run without another epoch was evaluated with
    record.write(folder)
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.send_history(rows)  # where no epoch was left, no training has sent it
            log_checkpoints(logger, record, config, folder)
    write_run_report(folder, record, config)
    step = int(rows[-1]["step"]) - 1 if rows else 0
    log_results(loggers, record, folder, step=step, task=task, data=data, split=sides[-1])
    print_table(record)
    if record.joint:
        joint_gain.print_comparison(record.joint)
    print(f"run folder: {folder} ({NAME} shows all of it)")


def _middle(rows: list[dict[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name)]
    return median_high(values) if values else None
