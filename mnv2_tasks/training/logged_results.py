"""What a run or an evaluation found, sent to its loggers: numbers, the pictures of its folder, tables, predictions."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.metrics.tables import Table
from mnv2_tasks.samples import spread
from mnv2_tasks.training.example_pictures import examples
from mnv2_tasks.training.loggers import wandb_image
from mnv2_tasks.training.module import LOGGED, MultiTask
from mnv2_tasks.training.run_record import RunRecord
from mnv2_tasks.training.wandb_logger import WandbLogger

DRAWN = 0.5  # score of the boxes that a table of predictions counts
APART = (
    "primaries",
    "classes",
    "passes",
    "sizes",
    "matched",
    "model",
    "contents",
    "environment",
)  # of a record: no results


def log_results(
    loggers: Iterable[Logger],
    record: RunRecord,
    folder: Path,
    *,
    step: int = 0,
    task: MultiTask | None = None,
    data: DataModule | None = None,
    split: str = "val",
) -> None:
    """Send the record, and the PNG files of the folder; to W&B, tables and charts too.

    Args:
        step: the last one of the training.
        task, data, split: what was evaluated last, for tables of it; None: without them.
    """
    numbers = dict(record_numbers(record))
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if logger.is_off:
                continue
            logger.experiment.summary.update(numbers)
            row = {f"classes/{name}": as_wandb(table) for name, table in class_tables(record)}
            row |= wandb_pictures(folder)
            if task is not None and data is not None:
                row |= charts(task)
                row |= prediction_tables(task, data, split, logger.predictions)
            logger.send(row, step)
        else:
            logger.log_metrics(numbers, step)
            _log_pictures(logger, folder, step)


def log_rows(loggers: Iterable[Logger], rows: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """What a report says of files, or of a study's variants: "<name>/latency_ms/1", ...; and the folder's pictures.

    rows: {name: its numbers, nested as they may be, and texts}.
    """
    numbers = dict(_numbers({file.replace(".", "_"): row for file, row in rows.items()}))  # to W&B a dot is a level
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            if not logger.is_off:
                logger.experiment.summary.update(numbers)
                logger.send({"rows": as_wandb(_in_columns(rows)), **wandb_pictures(folder)}, 0)
        else:
            logger.log_metrics(numbers, 0)
            _log_pictures(logger, folder, 0)


def _in_columns(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """A name a row; a column for each number or text that any of them has."""
    flat = {
        file: {**{key: value for key, value in row.items() if isinstance(value, str)}, **dict(_numbers(row))}
        for file, row in rows.items()
    }
    columns = list(dict.fromkeys(key for row in flat.values() for key in row if key != "file"))
    lines: list[Any] = [[file, *(row.get(key) for key in columns)] for file, row in flat.items()]
    return Table(["name", *columns], lines)


def record_numbers(record: RunRecord) -> Iterator[tuple[str, float]]:
    """The numbers of metrics.json as "<side>/<task>/<metric>", "parameters", ...; of many classes not each one."""
    for side, metrics in record.metrics.items():
        for name, value in metrics.items():
            task = name.partition("/")[0]
            if value is not None and (name.count("/") == 1 or len(record.classes.get(task, ())) <= LOGGED):
                yield f"{side}/{name}", float(value)
    rest = {name: value for name, value in vars(record).items() if name not in (*APART, "metrics")}
    yield from _numbers(rest)


def _numbers(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{place}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{place}{name}", float(value)


def class_tables(record: RunRecord) -> Iterator[tuple[str, Table]]:
    """(task, a row a class): every "<metric>/<class>" of every side."""
    for task, names in record.classes.items():
        columns: dict[str, dict[str, float | None]] = {}
        for side, metrics in record.metrics.items():
            for name, value in metrics.items():
                own, _, rest = name.partition("/")
                metric, _, label = rest.partition("/")
                if own == task and label:
                    columns.setdefault(f"{side} {metric}", {})[label] = value
        if columns:
            rows: list[Any] = [[label, *(values.get(label) for values in columns.values())] for label in names]
            yield task, Table(["class", *columns], rows)


def charts(task: MultiTask) -> dict[str, Any]:
    """{"charts/<task>/<name>": W&B's chart} of what each head was evaluated on last."""
    from wandb import plot, plot_table

    found: dict[str, Any] = {}
    for name, head in task.model.heads.items():
        for title, table in head.tables(task.metrics[name], task.classes[name]).items():
            content = as_wandb(table)
            if title == "confusion":
                fields = dict(zip(("Actual", "Predicted", "nPredictions"), table.columns, strict=True))
                chart = plot_table("wandb/confusion_matrix/v1", content, fields, {"title": f"{name}: {title}"})
            else:
                x, y, other = table.columns
                stroke = other if table.rows and isinstance(table.rows[0][2], str) else None
                chart = plot.line(content, x, y, stroke=stroke, title=f"{name}: {title}")
            found[f"charts/{name}/{title}"] = chart
    return found


def prediction_tables(task: MultiTask, data: DataModule, split: str, count: int) -> dict[str, Any]:
    """{"predictions/<task>": a row a picture, of the highest loss first}: the worst, then others spread over the side.

    The column "name", a file's, joins the tables of several runs.
    """
    from wandb import Table as WandbTable

    tables = {}
    for source in data.with_side(split) if count else ():
        samples = data.split(source, split)
        for name, kind in data.assigned[source].items():
            head, classes = task.model.heads[name], task.classes[name]
            picked = dict.fromkeys([*head.worst(task.metrics[name], count), *spread(samples, count, kind.name)])
            indices = list(picked)[:count]
            shown = zip(indices, examples(task, data, source, split, indices), strict=True)
            table = WandbTable(columns=["name", "image", "truth", "prediction", "loss"])
            for index, one in sorted(shown, key=lambda pair: -pair[1].losses[name]):
                sides = {"ground_truth": one.targets[name], "predictions": one.predictions[name]}
                height, width = one.image.shape[1:]
                image = wandb_image(one, name, kind, classes, (height, width))
                file = samples.file_name(index) if hasattr(samples, "file_name") else f"{source} {split} {index}"
                table.add_data(file, image, *kind.words(sides, classes, least=DRAWN), one.losses[name])
            tables[f"predictions/{name}"] = table
    return tables


def as_wandb(table: Table) -> Any:
    """A table as W&B's."""
    from wandb import Table as WandbTable

    return WandbTable(columns=list[str | int](table.columns), data=table.rows)


def wandb_pictures(folder: Path) -> dict[str, Any]:
    """{"pictures/<name>": W&B's image} of a folder's PNG files."""
    from wandb import Image

    return {f"pictures/{name}": Image(str(path)) for name, path in pictures_of(folder)}


def pictures_of(folder: Path) -> list[tuple[str, Path]]:
    """(its place below the folder without the suffix, the file) of the PNG files of a folder and its tasks'."""
    files = sorted([*folder.glob("*.png"), *folder.glob("*/*.png")])
    return [(str(path.relative_to(folder).with_suffix("")), path) for path in files]


def _log_pictures(logger: Any, folder: Path, step: int) -> None:
    """The folder's pictures to TensorBoard or MLflow; to MLflow its tables and settings too."""
    from PIL import Image

    experiment = logger.experiment
    if isinstance(logger, TensorBoardLogger):
        for name, path in pictures_of(folder):
            with Image.open(path) as picture:
                experiment.add_image(name, np.array(picture.convert("RGB")), step, dataformats="HWC")
    elif isinstance(logger, MLFlowLogger):
        for path in [*(path for _, path in pictures_of(folder)), *folder.glob("*.csv"), *folder.glob("*.yaml")]:
            place = path.parent.relative_to(folder)
            experiment.log_artifact(logger.run_id, str(path), None if place == Path() else str(place))
