"""Whether one model is better than another on the same images: a paired bootstrap, or why it cannot be told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.compare.found_runs import FoundRun
from mnv2_tasks.lab.compare.rows import Row, reference
from mnv2_tasks.metrics.bootstrap import Difference, differences
from mnv2_tasks.metrics.image_results import ImageResults
from mnv2_tasks.training.kept_images import Kept, place, read_images


@dataclass(frozen=True)
class Verdict:
    """What is known of a row's headline against another's on the images of a side.

    Attributes:
        difference: of the two runs that `why` names; None where it cannot be told, and `why` says why.
    """

    row: str
    against: str
    metric: str
    difference: Difference | None
    why: str


def judge(rows: Sequence[Row], side: str, metric: str, *, count: int) -> list[Verdict]:
    """A verdict on each row that has the metric but the `reference`, which they are compared with."""
    against = reference(rows, side, metric)
    return [
        _judge(row, against, side, metric, count) for row in rows if row is not against and row.values(side, metric)
    ]


def _judge(row: Row, base: Row, side: str, metric: str, count: int) -> Verdict:
    def verdict(why: str, difference: Difference | None = None) -> Verdict:
        return Verdict(row.name, base.name, metric, difference, why)

    task, name = metric.split("/", 1)
    one, other = _pair(row, base)
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
    change = differences(kept.results, aligned(theirs, kept), count)[name]
    seeds = "" if len(row.runs) == len(base.runs) == 1 else f", seeds {one.seed} and {other.seed} alone"
    return verdict(f"{len(kept.names):,} images, {count:,} drawings{seeds}", change)


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
    if run.record.classes.get(task) != base.record.classes.get(task):
        return "other classes"
    same = type(kept.results) is type(theirs.results) and np.array_equal(
        kept.results.truths(), aligned(theirs, kept).truths()
    )
    return None if same else "the images are called alike, but what is true of them is not the same"


def aligned(kept: Kept, like: Kept) -> ImageResults:
    """The results of the same images in the order of `like`."""
    where = {name: place for place, name in enumerate(kept.names.tolist())}
    return kept.results.taken(np.array([where[name] for name in like.names.tolist()], np.int64))
