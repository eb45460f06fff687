"""Whether one model is better than another on the same images: a paired bootstrap, or why it cannot be told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.compare.found_runs import FoundRun
from mnv2_tasks.lab.compare.rows import Row
from mnv2_tasks.metrics.bootstrap import Difference, differences
from mnv2_tasks.training.kept_images import Kept, place, read_images


@dataclass(frozen=True)
class Verdict:
    """What is known of a row's headline against the baseline's on the images of a side.

    Attributes:
        difference: of the two runs that `why` names; None where it cannot be told, and `why` says why.
    """

    row: str
    metric: str
    difference: Difference | None
    why: str


def judge(rows: Sequence[Row], side: str, metric: str, *, count: int) -> list[Verdict]:
    """A verdict on each row but the first, which is the baseline; `count` drawings."""
    task, name = metric.split("/", 1)
    return [_judge(row, rows[0], side, task, name, count) for row in rows[1:]]


def _judge(row: Row, base: Row, side: str, task: str, name: str, count: int) -> Verdict:
    def verdict(why: str, difference: Difference | None = None) -> Verdict:
        return Verdict(row.name, f"{task}/{name}", difference, why)

    one, other = _pair(row, base)
    if lacking := [run.name for run in (base, row) if f"{task}/{name}" not in _names(run)]:
        return verdict(f"{' and '.join(lacking)}: no {task}/{name}")
    try:
        kept, theirs = (read_images(place(run.folder, task, side)) for run in (one, other))
    except InputError as error:
        return verdict(str(error))
    if kept is None or theirs is None:
        none = " and ".join(run.name for run, own in ((other, theirs), (one, kept)) if own is None)
        return verdict(f"{none}: no results by image of {side}; mnv2 evaluate ckpt=... split={side} writes them")
    if why := apart((one, kept), (other, theirs), task):
        return verdict(why)
    if name not in kept.results.values(np.ones((1, len(kept.names)), np.int64)):
        return verdict(f"{name} is no number of images")
    results = kept.results, aligned(theirs, kept)
    change = differences(*results, count)[name]
    seeds = "" if len(row.runs) == len(base.runs) == 1 else f", seeds {one.seed} and {other.seed} alone"
    return verdict(f"{len(kept.names):,} images, {count:,} drawings{seeds}", change)


def _names(row: Row) -> list[str]:
    return [f"{task}/{metric}" for task, metric in row.record.primaries.items()]


def _pair(row: Row, base: Row) -> tuple[FoundRun, FoundRun]:
    """Two runs of one seed where there are any, else the first ones."""
    seeds = {run.seed: run for run in base.runs}
    return next(((run, seeds[run.seed]) for run in row.runs if run.seed in seeds), (row.first, base.first))


def apart(one: tuple[FoundRun, Kept], other: tuple[FoundRun, Kept], task: str) -> str | None:
    """Why two runs were not measured on the same images; None where they were."""
    (run, kept), (base, theirs) = one, other
    names, others = set(kept.names.tolist()), set(theirs.names.tolist())
    if names != others or len(names) != len(kept.names):
        both = len(names & others)
        return f"other images: {len(names):,} and {len(others):,} with {both:,} in both"
    data = [_data(each, task) for each in (run, base)]
    if not (kept.of_files and theirs.of_files) and data[0] != data[1]:
        return "the images are no files, and the settings of the data are not the same: they may be others"
    classes = [each.record.classes.get(task) for each in (run, base)]
    return "other classes" if classes[0] != classes[1] else None


def _data(run: FoundRun, task: str) -> Any:
    settings = run.settings or {}
    return settings.get("data"), (settings.get("assign") or {}).get(task)


def aligned(kept: Kept, like: Kept) -> Any:
    """The results of the same images in the order of `like`."""
    where = {name: place for place, name in enumerate(kept.names.tolist())}
    return kept.results.taken(np.array([where[name] for name in like.names.tolist()], np.int64))
