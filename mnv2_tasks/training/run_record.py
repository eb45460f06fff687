"""metrics.json: the record of a run or an evaluation, written and read in one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import read_json, write_json

NAME = "metrics.json"
SIDES = ("train", "val", "test")
NUMBERS = ("parameters", "madds", "latency_ms", "step_ms")  # of a record; the last two are not always measured
FIX = "give the folder of a finished run"
Metrics = Mapping[str, float | None]  # {"ssdlite/map": ...}; None for what is not a number


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What a run or an evaluation found, and what its model costs; None for what an evaluation has not."""

    metrics: Mapping[str, Metrics]  # {side: {metric: value}}; in the file the sides stand at its top
    primaries: Mapping[str, str]  # {task: its headline metric}
    classes: Mapping[str, list[str]]  # {task: names}
    parameters: float
    madds: float  # multiply-adds of an image
    latency_ms: float | None = None  # of the forward pass of an image, without decoding
    sizes: Mapping[str, list[int]] | None = None  # {data set: [height, width]}
    passes: list[Any] | None = None  # see `DataModule.passes`
    best_epoch: int | None = None
    epochs: int | None = None
    step_ms: float | None = None
    images_per_second: float | None = None
    wall_seconds: float | None = None
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None  # {side: {metric: its 95% [low, high]}}
    matched: Any = None  # what `backbone.match` found
    auto: Mapping[str, Any] | None = None  # what was found for settings that were `auto`
    joint: Mapping[str, Any] | None = None  # see `joint_gain.compare`
    model: str | None = None  # the file that was evaluated
    contents: list[str] | None = None  # what each side of the data holds, a line each
    environment: Mapping[str, str] | None = None  # {what: version, or name}

    @property
    def tasks(self) -> list[str]:
        return list(self.primaries)

    def headline(self, side: str, task: str) -> float | None:
        """A task's headline metric on a side; None where it was not measured."""
        return self.metrics.get(side, {}).get(f"{task}/{self.primaries[task]}")

    def checkpoint(self, folder: Path) -> Path | None:
        """The checkpoint that was measured: that of an evaluation, of the run in `folder` its best, else its last.

        None where it is no longer there, or the file was none.
        """
        own = [folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
        candidates = own if self.model is None else [Path(self.model)]
        return next((path for path in candidates if path.suffix == ".ckpt" and path.is_file()), None)

    def write(self, folder: Path) -> None:
        """Write metrics.json; what is None is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "metrics"}
        write_json(
            folder / NAME, {**self.metrics, **{key: value for key, value in values.items() if value is not None}}
        )


def read_run(path: Path) -> RunRecord:
    """Read a metrics.json. Raises InputError for a file that is none, or is damaged."""
    content = read_json(path, fix=FIX)
    if not isinstance(content, dict) or "primaries" not in content:
        raise InputError(f"{path}: not the metrics of a run; {FIX}")
    number = (float, int, NoneType)
    values: dict[str, tuple[type, ...]] = {"primaries": (str,), "classes": (list,), **dict.fromkeys(SIDES, number)}
    for key, types in values.items():
        section = content.get(key, {})
        if not isinstance(section, dict) or not all(isinstance(value, types) for value in section.values()):
            raise InputError(f'{path}: "{key}" is not what a run writes; {FIX}')
    for key in NUMBERS:
        if not isinstance(content.get(key), number):
            raise InputError(f'{path}: "{key}" is {quote(content[key])}; {FIX}')
    names = {field.name for field in fields(RunRecord)} - {"metrics"}
    known: dict[str, Any] = {"classes": {}, "parameters": 0, "madds": 0}
    known |= {key: content[key] for key in names if content.get(key) is not None}
    return RunRecord(metrics={side: content[side] for side in SIDES if side in content}, **known)
