"""A study: one setting varied over seeds, as runs of their own, then a table and plots; `mnv2 study blocks`.

The runs are processes of `mnv2 train`, here or as jobs of a cluster (see `lab.jobs`). Hydra's launchers would hold
them in one process or end them all with the first that fails; these go on, and a study that was stopped does only what
is left when started again.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.assembly.overrides import override_value, quoted
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_text
from mnv2_tasks.lab.jobs.choice import choose_launcher
from mnv2_tasks.lab.jobs.job import Job, clock, last_line
from mnv2_tasks.lab.jobs.launchers import Launcher
from mnv2_tasks.lab.jobs.run_settings import common_overrides, refuse_others, settings_for_each
from mnv2_tasks.lab.jobs.sweep import write_sweep
from mnv2_tasks.lab.study.plan import Run, plan
from mnv2_tasks.weights.trust import foreign_modules


def wanted(config: Mapping[str, Any]) -> bool:
    """Whether a config asks for a study, and is not that of one of its runs."""
    return bool(config.get("study")) and config["study"]["variant"] is None


def run(config: Mapping[str, Any]) -> None:
    """Do the runs of a study that are not yet done, then write its table and plots; its folder is printed."""
    from mnv2_tasks.lab.study.summary import write

    folder = Path(config["runs"]) / "study" / config["study"]["name"] / str(config["name"] or "+".join(config["heads"]))
    overrides = [*common_overrides(), *_folds(config["study"])]
    runs = plan(config["study"], folder, tasks=list(config["heads"]))
    _same_study(folder, overrides, config["study"]["vary"], runs)
    write_sweep(folder / "sweep.yaml", config["study"], overrides, _varied(config["study"]))
    launcher = choose_launcher(config["study"], folder, len(runs))
    print(f"study {config['study']['name']}: {len(runs)} runs, {launcher.about}; logs in {folder / 'logs'}", flush=True)
    shared = settings_for_each(config, overrides, folder, group=_group(config, folder), workers=launcher.workers)
    trust = foreign_modules(config)
    failed = execute(runs, lambda one: _settings(one, shared), launcher, folder=folder, trust=trust)
    results = write(config, runs, folder)
    if results:
        _log(config, results, folder)
    if failed:
        log, why = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {len(runs)} runs failed, first {log.name}: {why}")


def execute(
    runs: Sequence[Run],
    settings: Callable[[Run], Sequence[str]],
    launcher: Launcher,
    *,
    folder: Path,
    trust: Sequence[str] = (),
) -> dict[Path, str]:
    """Start what is not finished, as many at a time as the launcher takes.

    A line for each run that ends, with the time left; what a run itself prints goes to logs/<run>.txt. Ctrl-C ends the
    program with a line on what is done and what becomes of the rest.

    Returns:
        {log: why} of the runs that failed.
    """
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    waiting = [one for one in runs if not one.finished]
    done, total, began = len(runs) - len(waiting), len(runs), time.monotonic()
    if done:
        print(f"{done} of {total} are finished already", flush=True)
    active: dict[Any, tuple[Run, Path, float]] = {}
    failed: dict[Path, str] = {}
    first, rest = done, ""
    try:
        try:
            while waiting or active:
                while waiting and (launcher.room is None or len(active) < launcher.room):
                    one, place = waiting.pop(0), Path.cwd()
                    log = logs / f"{one.folder.name}.txt"
                    job = Job(place, one.folder, log, settings(one), trust)
                    active[launcher.start(job)] = one, log, time.monotonic()
                time.sleep(launcher.pause)
                for started in list(active):
                    if (said := launcher.ended(started)) is None:
                        continue
                    one, log, at = active.pop(started)
                    done += 1
                    took, left = time.monotonic() - at, (time.monotonic() - began) / (done - first) * (total - done)
                    if not one.finished:
                        failed[log] = "; ".join(filter(None, (said, last_line(log))))
                    word = "done" if one.finished else f"FAILED: {failed[log]}"
                    end = f"; about {clock(left)} left" if left else ""
                    print(f"[{done}/{total}] {one.named}: {word} ({clock(took)}){end}", flush=True)
        finally:
            rest = launcher.leave(list(active))
    except KeyboardInterrupt:
        done = sum(one.finished for one in runs)
        print(f"stopped: {done} of {total} runs are finished; {rest}", file=sys.stderr)
        raise SystemExit(130) from None
    return failed


def _log(config: Mapping[str, Any], results: Mapping[str, Any], folder: Path) -> None:
    """The study as a run of its own in the loggers: its variants with their costs, its plots."""
    from mnv2_tasks.assembly.logging_to import logging_to

    group = _group(config, folder)
    with logging_to({**config}, folder, job_type="study", group=group, name=group) as loggers:
        if loggers:
            from mnv2_tasks.training.logged_results import log_rows

            log_rows(loggers, {variant["name"]: variant for variant in results["variants"]}, folder)


def _group(config: Mapping[str, Any], folder: Path) -> str:
    return f"{config['study']['name']} {folder.name}"


def _settings(one: Run, shared: Sequence[str]) -> list[str]:
    """Of a run that begins."""
    varied = [f"{key}={override_value(value)}" for key, value in one.settings.items()]
    identity = [f"seed={one.seed}", f"name={quoted(one.folder.name)}", f"study.variant={quoted(one.variant)}"]
    fold = [] if one.fold is None else [f"folds.number={one.fold}"]
    return [*shared, *varied, *fold, *identity]


def _folds(study: Mapping[str, Any]) -> list[str]:
    """What all runs are told of the folds that they are cut into."""
    if not study.get("folds"):
        return []
    groups = study.get("groups")
    return [f"folds.count={study['folds']}", *([f"folds.groups={quoted(groups)}"] if groups else [])]


def _varied(study: Mapping[str, Any]) -> dict[str, Any]:
    """What varies, as parameters of a W&B sweep."""
    varied: dict[str, Any] = {
        key: {"values": [override_value(value) for value in values]} for key, values in study["vary"].items()
    }
    if study.get("folds"):
        varied["folds.number"] = {"values": list(range(study["folds"]))}
    return {**varied, "seed": {"values": list(study["seeds"])}}


def _same_study(folder: Path, overrides: Sequence[str], vary: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Raises InputError where the folder holds runs with other settings: they would be mixed in."""
    path, settings = folder / "study.yaml", sorted(overrides)
    begun = any((one.folder / "checkpoints").exists() for one in runs)
    if begun and path.exists():
        fix = "give this study a name=, or remove that folder"
        try:
            before = list(yaml.safe_load(read_text(path, fix=fix))["settings"])
        except (yaml.YAMLError, TypeError, KeyError) as error:
            raise InputError(f"{path}: it does not tell the settings of a study; {fix}") from error
        refuse_others(folder, "study", before, settings)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"settings": settings, "vary": dict(vary)}, sort_keys=False), encoding="utf-8")
