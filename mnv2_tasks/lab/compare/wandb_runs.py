"""A run that W&B knows, as the folder of a run: its settings, metrics and epochs, without checkpoints and images."""

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.files import write_rows, write_settings
from mnv2_tasks.training.run_record import NUMBERS, SIDES, RunRecord
from mnv2_tasks.weights.artifacts import PREFIX, logged_in


def fetch(path: str, downloads: Path, *, trust: Sequence[str] = ()) -> Path:
    """The folder that is made of `wandb:<entity>/<project>/<run>`.

    Raises InputError where no one is logged in, there is no such run, or it was not made by `mnv2 train`.
    """
    if not logged_in():
        raise InputError(f"{path}: no one is logged in to W&B; run `wandb login`, or give the run's folder")
    from wandb import Api

    from mnv2_tasks.weights.trust import refuse_foreign

    try:
        run = Api().run(path.removeprefix(PREFIX))
        settings, summary = dict(run.config), dict(run.summary)
        history = [dict(row) for row in run.scan_history()]
    except Exception as error:  # of the network, of W&B, of an old server
        raise InputError(f"{path}: it cannot be read ({reason_of(error)}); check its name, or give a folder") from error
    if not isinstance(settings.get("heads"), Mapping) or not isinstance(settings.get("backbone"), Mapping):
        raise InputError(f"{path}: its config has no heads and backbone; give a run of mnv2 train")
    refuse_foreign(settings, path, trust=trust)
    record = _record(settings, summary)
    if not record.metrics:
        raise InputError(f"{path}: its summary has no metrics of a side, such as val/ssdlite/map: it has not finished")
    folder = downloads / str(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder / "config.yaml", settings)
    rows = [{name: value for name, value in row.items() if _is_number(value)} for row in history]
    write_rows(folder / "metrics.csv", [row for row in rows if "epoch" in row and "val/score" in row])
    record.write(folder)
    return folder


def _record(settings: Mapping[str, Any], summary: Mapping[str, Any]) -> RunRecord:
    from mnv2_tasks.assembly.build import head_class

    primaries = {task: head_class(task, head).primary for task, head in settings["heads"].items()}
    numbers = {name: float(value) for name, value in summary.items() if _is_number(value)}
    metrics: dict[str, dict[str, float]] = {}
    for name, value in numbers.items():
        side, _, metric = name.partition("/")
        if side in SIDES and metric.partition("/")[0] in primaries:
            metrics.setdefault(side, {})[metric] = value
    costs = {name: numbers.get(name) for name in NUMBERS}
    return RunRecord(
        metrics=metrics,
        primaries=primaries,
        classes={},
        parameters=costs["parameters"] or 0,
        madds=costs["madds"] or 0,
        latency_ms=costs["latency_ms"],
        epochs=int(numbers["epochs"]) if "epochs" in numbers else None,
        best_epoch=int(numbers["best_epoch"]) if "best_epoch" in numbers else None,
        wall_seconds=numbers.get("wall_seconds"),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
