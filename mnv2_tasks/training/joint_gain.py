"""What joint training gains and costs: delta-m, and the joint model's cost against the sum of single-task runs."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.training.run_record import NAME, RunRecord, read_run

# Fields of a run's record, and what one of their units is called.
COSTS = {
    "parameters": ("M parameters", 1e6),
    "madds": ("B multiply-adds", 1e9),
    "latency_ms": ("ms an image, without decoding", 1.0),
    "step_ms": ("ms a training step", 1.0),
}


def delta_m(joint: Mapping[str, float], single: Mapping[str, float]) -> float:
    """Mean relative change over the tasks against their single-task runs, in percent; above 0 joint training gains.

    Every task's headline metric is one of which more is better (see `heads.Head.primary`).

    Maninis, Radosavovic and Kokkinos, "Attentive Single-Tasking of Multiple Tasks" (arXiv 1904.08918): their measure
    of multi-task performance.

    Args:
        joint, single: {task: its one headline metric}.

    Raises:
        InputError: no tasks, other tasks on one side than on the other, a baseline that is 0 or not finite.
    """
    if not joint or set(joint) != set(single):
        raise InputError(
            f"delta-m is over the same tasks, at least one: joint {', '.join(sorted(joint)) or 'none'}, "
            f"single {', '.join(sorted(single)) or 'none'}"
        )
    changes = [relative_change(joint[task], single[task], task=task) for task in joint]
    return sum(changes) / len(changes)


def relative_change(joint: float, single: float, *, task: str) -> float:
    """In percent of `single`."""
    if not (math.isfinite(single) and single != 0):
        raise InputError(f"{task}: the baseline is {single}, which nothing can be relative to; train it longer")
    return 100 * (joint - single) / single


def read_baselines(baselines: Mapping[str, str | Path], classes: Mapping[str, Collection[str]]) -> dict[str, RunRecord]:
    """{task: its single-task run}; to be called before a joint run too, so that it fails early.

    Args:
        baselines: {task: run folder, or its metrics.json}.
        classes: {task: class names} of the joint run, all of whose tasks need a baseline.

    Raises:
        InputError: a task without a baseline or the other way round; a file that is missing, cannot be read, is of
            another task or other classes, or whose headline metric on val is 0 or missing.
    """
    if missing := sorted(set(classes) - set(baselines)):
        raise InputError(f"baselines: none for {', '.join(missing)}; add baselines.{missing[0]}=<its run folder>")
    if unknown := sorted(set(baselines) - set(classes)):
        raise InputError(f"baselines.{unknown[0]}: no such task in this run, which has {', '.join(sorted(classes))}")
    return {task: _read_baseline(task, baselines[task], classes[task]) for task in classes}


def _read_baseline(task: str, place: str | Path, classes: Collection[str]) -> RunRecord:
    path = Path(place) / NAME if Path(place).is_dir() else Path(place)
    where = f"baselines.{task}={place}"
    if not path.is_file():
        raise InputError(f"{where}: no {NAME} there; give the folder of a finished run of {task}")
    record = read_run(path)
    if record.tasks != [task]:
        raise InputError(f"{where}: a run of {' and '.join(record.tasks)}; give a run of {task} alone")
    theirs = record.classes.get(task, [])
    if list(theirs) != list(classes):
        apart = sorted(set(map(str, theirs)) ^ set(classes))
        about = f"only one of the two has {', '.join(apart[:5])}" if apart else "in another order"
        raise InputError(f"{where}: its classes are not those of this run ({about}); train it on the same data")
    if not (value := record.headline("val", task)):
        raise InputError(f"{where}: its {record.primaries[task]} on val is {value}; train it longer")
    return record


def compare(record: RunRecord, baselines: Mapping[str, str | Path]) -> dict[str, Any]:
    """A joint run against a single-task run of each of its tasks.

    Args:
        record: the joint run.
        baselines: {task: run folder, or its metrics.json}.

    Returns:
        delta_m: {side: percent}, for test only where all runs have it.
        tasks: {task: {side: {"metric", "joint", "single", "change": percent}}}.
        cost: {"parameters", "madds", "latency_ms", "step_ms": {"joint", "single": the sum of theirs, "ratio"}}; one
            that a run has not measured is left out.
        baselines: {task: path}.

    Raises InputError as `read_baselines` does.
    """
    singles = read_baselines(baselines, record.classes)
    tasks: dict[str, dict[str, Any]] = {task: {} for task in singles}
    deltas = {}
    for side in ("val", "test"):
        single = {task: run.headline(side, task) for task, run in singles.items()}
        joint = {task: record.headline(side, task) for task in singles}
        if side not in record.metrics or not all(single.values()):
            continue
        values = {task: math.nan if value is None else value for task, value in joint.items()}
        bases = {task: value for task, value in single.items() if value is not None}
        deltas[side] = delta_m(values, bases)
        for task in singles:
            change = relative_change(values[task], bases[task], task=task)
            row = {"metric": record.primaries[task], "joint": values[task], "single": bases[task]}
            tasks[task][side] = row | {"change": change}
    cost = {}
    for name in COSTS:
        parts, whole = [getattr(run, name) for run in singles.values()], getattr(record, name)
        if whole and all(parts):
            cost[name] = {"joint": whole, "single": sum(parts), "ratio": whole / sum(parts)}
    return {"delta_m": deltas, "tasks": tasks, "cost": cost, "baselines": {t: str(p) for t, p in baselines.items()}}


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """A short table of what `compare` gives: a row a task and side, then delta-m, then a row a cost."""
    rows = [
        (f"{side} {task}/{row['metric']}", row["joint"], row["single"], f"{row['change']:+8.2f}%")
        for task, sides in comparison["tasks"].items()
        for side, row in sides.items()
    ]
    for name, row in comparison["cost"].items():
        label, unit = COSTS[name]
        rows.append((label, row["joint"] / unit, row["single"] / unit, f"x{row['ratio']:8.3f}"))
    width = max(map(len, (row[0] for row in rows)), default=0) + 2
    print("\n" + "".ljust(width) + "".join(title.rjust(10) for title in ("joint", "single", "change")))
    for label, joint, single, change in rows:
        print(f"{label.ljust(width)}{joint:10.4f}{single:10.4f} {change}")
    for side, value in comparison["delta_m"].items():
        print(f"delta-m on {side}: {value:+.2f}%")
