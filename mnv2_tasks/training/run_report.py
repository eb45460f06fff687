"""report.html: a run or an evaluation as a page that people read, made of what stands in its folder."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.files import place_of
from mnv2_tasks.training.logged_results import class_tables
from mnv2_tasks.training.run_record import RunRecord
from mnv2_tasks.visual.page import Section, write_report

NAME = "report.html"
CAPTIONS = {
    "losses": "Losses over the epochs: train solid, val dashed",
    "scores": "Scores on val over the epochs",
    "examples": "Examples: the truth on the left, the prediction on the right",
    "worst": "The worst predictions, the worst first",
    "confusion": "Confusion: the truth down, the prediction across",
    "reliability": "Calibration: how often a confidence is right",
    "precision_recall": "Precision over recall, a curve a class",
    "accuracy": "Accuracy of each class",
    "ap": "Average precision of each class",
    "iou": "Intersection over union of each class",
}
CURVES, PICTURES = ("losses", "scores"), ("worst", "examples")


def write_run_report(folder: Path, record: RunRecord, settings: Mapping[str, Any]) -> None:
    """Write report.html beside what it shows.

    settings: those of config.yaml, or of the evaluation.
    """
    sections = [
        Section("What was done", record.contents or (), commands=_commands(folder)),
        Section("Curves", figures=_figures(folder, CURVES)),
        *_task_sections(folder, record),
        Section("Metrics", titles=["metric", *record.metrics], rows=list(_metric_rows(record))),
        Section("Beside single runs", titles=("task", "side", "metric", "joint", "single", "%"), rows=_joint(record)),
        Section("Cost and machine", titles=("what", "how much, or which"), rows=list(_costs(record))),
        Section("How to go on", commands=_next(folder, record)),
        Section("Settings", folded=yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)),
    ]
    write_report(
        folder / NAME,
        title=f"{', '.join(record.tasks)} on {', '.join(settings['data'])}",
        about=str(folder),
        numbers=list(_headlines(record)),
        sections=sections,
    )


def _headlines(record: RunRecord) -> Iterator[tuple[str, Any, str]]:
    side = list(record.metrics)[-1]
    for task, metric in record.primaries.items():
        ends = (record.intervals or {}).get(side, {}).get(f"{task}/{metric}")
        sure = f", {ends[0]:.4f} to {ends[1]:.4f} (95%)" if ends else ""
        yield f"{task}: {metric.replace('_', ' ')}", record.headline(side, task), f"on {side}{sure}"
    for side, delta in ((record.joint or {}).get("delta_m") or {}).items():
        yield "Δm", f"{delta:+.2f}%", f"on {side}, beside single runs"
    yield "parameters", f"{record.parameters / 1e6:.2f} M", ""
    yield "multiply-adds", f"{record.madds / 1e6:,.0f} M", "an image"
    if record.latency_ms:
        yield "latency", f"{record.latency_ms:.1f} ms", "of a forward pass, on the machine below"
    if record.epochs is not None:
        yield "epochs", record.epochs, f"the best is {record.best_epoch}, counted from 0"


def _commands(folder: Path) -> list[tuple[str, str]]:
    """Each start of the run: (when, what was typed)."""
    path = folder / "commands.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [(when, command) for when, _, command in (line.partition("  ") for line in lines)]


def _metric_rows(record: RunRecord) -> Iterator[list[Any]]:
    """A row a metric, without those of single classes."""
    names = dict.fromkeys(name for metrics in record.metrics.values() for name in metrics)
    for name in sorted(names, key=lambda name: record.tasks.index(name.partition("/")[0])):
        if name.count("/") == 1:
            shown = name if len(record.tasks) > 1 else name.partition("/")[2]
            yield [shown.replace("_", " "), *(metrics.get(name) for metrics in record.metrics.values())]


def _task_sections(folder: Path, record: RunRecord) -> Iterator[Section]:
    tables = dict(class_tables(record))
    for task in record.tasks:
        place, of = place_of(folder, task, record.tasks), f" of {task}" if len(record.tasks) > 1 else ""
        yield Section(f"Pictures{of}", figures=_figures(place, PICTURES))
        others = sorted(path.stem for path in place.glob("*.png") if path.stem not in (*CURVES, *PICTURES))
        table = tables.get(task)
        titles, rows = (table.columns, table.rows) if table else ((), ())
        yield Section(f"Classes{of}", titles=titles, rows=rows, figures=_figures(place, others))


def _figures(place: Path, names: Any) -> list[tuple[Path, str]]:
    return [(place / f"{name}.png", CAPTIONS.get(name, name.replace("_", " "))) for name in names]


def _joint(record: RunRecord) -> list[list[Any]]:
    tasks = (record.joint or {}).get("tasks") or {}
    return [
        [task, side, row["metric"], row["joint"], row["single"], row["change"]]
        for task, sides in tasks.items()
        for side, row in sides.items()
    ]


def _costs(record: RunRecord) -> Iterator[list[Any]]:
    for name, size in (record.sizes or {}).items():
        yield [f"size of {name}'s images", " x ".join(map(str, size))]
    measured = {
        "milliseconds of a training step": record.step_ms,
        "training images a second": record.images_per_second,
        "seconds in all": record.wall_seconds,
    }
    yield from ([name, f"{value:,.1f}"] for name, value in measured.items() if value is not None)
    yield from map(list, (record.environment or {}).items())


def _next(folder: Path, record: RunRecord) -> list[tuple[str, str]]:
    """Commands that go on from here, with the checkpoint that was evaluated."""
    best = record.checkpoint(folder)
    if best is None:
        return []
    ckpt, model = shlex.quote(f"ckpt={best}"), shlex.quote(f"model={best}")
    commands = [
        ("The metrics of another side, or of other data", f"python -m mnv2_tasks.evaluate {ckpt} split=test"),
        ("Predictions on pictures of one's own", f"python -m mnv2_tasks.predict {model} source=<image or folder>"),
        ("Files for servers, browsers and phones", f"python -m mnv2_tasks.export {ckpt} to=[onnx,litert]"),
    ]
    if not record.model:
        longer = shlex.quote(f"resume={folder}")
        more = f"python train.py {longer} trainer.max_epochs={2 * (record.epochs or 1)}"
        commands.append(("A longer training, where the curves still rise", more))
    return commands
