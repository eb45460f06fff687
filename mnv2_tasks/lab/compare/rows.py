"""Runs as the rows of one table: those that differ by the seed alone together, with differences from a baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.compare.found_runs import FoundRun
from mnv2_tasks.lab.study.summary import paired_difference
from mnv2_tasks.training.run_record import RunRecord

# Settings that are no part of what was trained.
ASIDE = ("name", "runs", "resume", "trust", "study", "examples", "intervals", "baselines", "logger", "callbacks")


@dataclass(frozen=True)
class Row:
    """Runs of the same settings, the seed apart.

    Attributes:
        name: of the first run, of a study its variant.
        runs: at least one.
    """

    name: str
    runs: tuple[FoundRun, ...]

    @property
    def first(self) -> FoundRun:
        return self.runs[0]

    @property
    def record(self) -> RunRecord:
        """Of the first run, for what the seed does not change."""
        return self.first.record

    def values(self, side: str, metric: str) -> dict[int, float]:
        """{seed: value} of the runs that have it; a run without a seed has its place in the row."""
        found = {}
        for place, run in enumerate(self.runs):
            value = run.record.metrics.get(side, {}).get(metric)
            if value is not None:
                found[place if run.seed is None else run.seed] = value
        return found

    def mean_of(self, name: str) -> float | None:
        """The mean over the runs of a number of the record, such as "wall_seconds"."""
        values = [value for run in self.runs if (value := getattr(run.record, name)) is not None]
        return mean(values) if values else None


def together(runs: Sequence[FoundRun]) -> list[Row]:
    """The rows, in the order of their first runs. Runs of one seed, or without settings, stand by themselves."""
    groups: dict[str, list[FoundRun]] = {}
    for place, run in enumerate(runs):
        key = f"run {place}"
        if run.settings is not None and run.record.model is None:
            key = json.dumps(
                {**_compared(run.settings), "sides": sorted(run.record.metrics)}, sort_keys=True, default=str
            )
            if any(other.seed == run.seed for other in groups.get(key, ())):
                key = f"run {place}"
        groups.setdefault(key, []).append(run)
    names = [_name(group) for group in groups.values()]
    return [
        Row(name if names.count(name) == 1 else group[0].name, tuple(group))
        for name, group in zip(names, groups.values(), strict=True)
    ]


def _compared(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in (*ASIDE, "seed")}


def _name(group: Sequence[FoundRun]) -> str:
    study = (group[0].settings or {}).get("study")
    variant = study.get("variant") if isinstance(study, Mapping) else None
    return str(variant or group[0].name)


def with_baseline(rows: Sequence[Row], baseline: str | None) -> list[Row]:
    """The rows with the baseline first. Raises InputError where none is called or lies so."""
    if baseline is None:
        return list(rows)
    wanted = str(baseline).rstrip("/")
    for row in rows:
        if wanted == row.name or any(wanted in (run.name, str(run.folder)) for run in row.runs):
            return [row, *(other for other in rows if other is not row)]
    raise InputError(f"baseline={baseline}: none of the runs; there are {', '.join(row.name for row in rows)}")


def choose_side(rows: Sequence[Row], side: str | None) -> tuple[str, list[Row], list[str]]:
    """The side, the rows that were evaluated on it, and a line for each of the others.

    Not given, it is the first of test, val and train that all have, else the one that most have.
    Raises InputError where fewer than two have it.
    """
    counts = {name: sum(_has(row, name) for row in rows) for name in ("test", "val", "train")}
    chosen = side or max(counts, key=lambda name: counts[name])
    there = [row for row in rows if _has(row, chosen)]
    if len(there) < 2:
        have = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise InputError(
            f"side={chosen}: compare needs two runs that were evaluated on it ({have}); evaluate the others"
        )
    return chosen, there, [f"{row.name}: not evaluated on {chosen}" for row in rows if not _has(row, chosen)]


def _has(row: Row, side: str) -> bool:
    return any(row.record.headline(side, task) is not None for task in row.record.tasks)


def headlines(rows: Sequence[Row], side: str) -> dict[str, str]:
    """{headline metric, "task/metric": its task}, of all that a row has on the side."""
    pairs = {f"{task}/{metric}": task for row in rows for task, metric in row.record.primaries.items()}
    return {name: task for name, task in pairs.items() if any(row.values(side, name) for row in rows)}


def reference(rows: Sequence[Row], side: str, metric: str) -> Row:
    """The row that others are compared with by a metric that some row has: the first, or the first that has it."""
    return next(row for row in rows if row.values(side, metric))


def measured(rows: Sequence[Row], side: str, metric: str) -> list[dict[str, Any]]:
    """A metric of each row: {values: {seed: value}, mean, std, difference}; None for what there is not.

    The difference is from the `reference`, paired by seed, as `paired_difference` gives it.
    """
    against = reference(rows, side, metric)
    base = against.values(side, metric)
    found = []
    for row in rows:
        values = row.values(side, metric)
        numbers = list(values.values())
        found.append(
            {
                "values": values,
                "mean": mean_of(values),
                "std": stdev(numbers) if len(numbers) > 1 else None,
                "difference": _difference(values, base) if row is not against else None,
            }
        )
    return found


def mean_of(values: Mapping[int, float]) -> float | None:
    """Over the seeds; None where there is no value."""
    return mean(values.values()) if values else None


def _difference(values: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any] | None:
    """Paired by seed where they share one; that of the means, without an interval, where they share none."""
    if not values or not base:
        return None
    if set(values) & set(base):
        return paired_difference(values, base)
    return {"mean": mean(values.values()) - mean(base.values()), "low": None, "high": None, "pairs": 0}


def settings_apart(rows: Sequence[Row]) -> tuple[dict[str, list[Any]], list[str]]:
    """{dotted name: the value of each row} of the settings that are not the same, and the rows without settings."""
    from mnv2_tasks.assembly.changes import differences
    from mnv2_tasks.assembly.overrides import value_of

    known = [row for row in rows if row.first.settings is not None]
    names: dict[str, None] = {}
    for row in known[1:]:
        first, other = (_compared(one.first.settings or {}) for one in (known[0], row))
        names |= dict.fromkeys(differences(first, other))
    apart = {name: [value_of(row.first.settings or {}, name) for row in rows] for name in names}
    return apart, [row.name for row in rows if row not in known]
