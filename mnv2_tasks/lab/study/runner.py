"""A study: one setting varied over seeds, as runs of their own, then a table and plots; `mnv2 study blocks`.

The runs are processes of `mnv2 train`, here or as jobs of a cluster (see `launchers`). Hydra's launchers would hold
them in one process or end them all with the first that fails; these go on, and a study that was stopped does only what
is left when started again.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.assembly.overrides import as_typed, quoted, typed
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_text
from mnv2_tasks.lab.study.job import Job
from mnv2_tasks.lab.study.launchers import LAUNCHERS, Launcher, Local, OnRay, Submitit
from mnv2_tasks.lab.study.plan import Run, override_value, plan
from mnv2_tasks.machine import cores
from mnv2_tasks.weights.trust import foreign_modules

METHODS = ("grid", "random", "bayes")  # of a W&B sweep
FIRST_CUT = 3  # validations after which hyperband first ends the worst runs
MEMORY = 2 << 30  # bytes that a run on the CPU may need


def wanted(config: Mapping[str, Any]) -> bool:
    """Whether a config asks for a study, and is not that of one of its runs."""
    return bool(config.get("study")) and config["study"]["variant"] is None


def run(config: Mapping[str, Any]) -> None:
    """Do the runs of a study that are not yet done, then write its table and plots; its folder is printed."""
    from mnv2_tasks.lab.study.summary import write

    folder = Path(config["runs"]) / "study" / config["study"]["name"] / str(config["name"] or "+".join(config["heads"]))
    overrides = _common_overrides()
    runs = plan(config["study"], folder, tasks=list(config["heads"]))
    _same_study(folder, overrides, config["study"]["vary"], runs)
    write_sweep(folder / "sweep.yaml", config, overrides)
    launcher = _launcher(config["study"], folder, len(runs))
    print(f"study {config['study']['name']}: {len(runs)} runs, {launcher.about}; logs in {folder / 'logs'}", flush=True)
    shared = [
        *overrides,
        f"runs={quoted(str(folder / 'runs'))}",
        *_for_each(config, overrides, folder, launcher.workers),
        *([f"folds.groups={quoted(config['study']['groups'])}"] if config["study"].get("groups") else []),
    ]
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
                        failed[log] = "; ".join(filter(None, (said, _last_line(log))))
                    word = "done" if one.finished else f"FAILED: {failed[log]}"
                    end = f"; about {_clock(left)} left" if left else ""
                    print(f"[{done}/{total}] {one.named}: {word} ({_clock(took)}){end}", flush=True)
        finally:
            rest = launcher.leave(list(active))
    except KeyboardInterrupt:
        done = sum(one.finished for one in runs)
        print(f"stopped: {done} of {total} runs are finished; {rest}", file=sys.stderr)
        raise SystemExit(130) from None
    return failed


def _launcher(study: Mapping[str, Any], folder: Path, runs: int) -> Launcher:
    name, jobs = study.get("launcher", "local"), study["jobs"]
    if name not in LAUNCHERS:
        raise InputError(f"study.launcher={name}: use {', '.join(LAUNCHERS[:-1])} or {LAUNCHERS[-1]}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise InputError(f"study.jobs={jobs}: give a number of runs at a time, at least 1, or null")
    if name == "submitit":
        return Submitit(study["submitit"], jobs, folder)
    if name == "ray":
        return OnRay(study["ray"], jobs)
    return Local(*_room(jobs, runs))


def _common_overrides() -> list[str]:
    """The settings of the command line that hold for every run."""
    command, pattern = typed(), re.compile(r"^\+*(study\.|name=|runs=|resume=|hydra\.)")
    places = [override for override in command.of_hydra if override.startswith("hydra.searchpath=")]
    return [*places, *(override for override in command.settings if not pattern.match(override))]


def _for_each(config: Mapping[str, Any], overrides: Sequence[str], folder: Path, workers: int | None) -> list[str]:
    """What else all runs are told: their W&B group, and as many loader processes as there are cores left."""
    extra = []
    if "wandb" in config["logger"]:
        extra.append(f"logger.wandb.group={quoted(_group(config, folder))}")
    if workers is not None and not any(override.startswith("loader.workers=") for override in overrides):
        extra.append(f"loader.workers={workers}")
    return extra


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
    fold = [] if one.fold is None else [f"folds.count={one.folds}", f"folds.number={one.fold}"]
    return [*shared, *varied, *fold, *identity]


def _room(jobs: int | None, runs: int) -> tuple[int, list[str | None]]:
    """How many runs at a time, and the GPUs that they share in turn; [None] where there is none."""
    import torch

    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices: list[str | None] = [*(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))]
        return min(jobs or len(devices), runs), devices
    most, meminfo = cores(), Path("/proc/meminfo")
    if meminfo.exists() and (free := re.search(r"MemAvailable: +(\d+)", meminfo.read_text(encoding="utf-8"))):
        most = max(1, min(most, 1024 * int(free[1]) // MEMORY))
    return min(jobs or most, runs), [None]


def _same_study(folder: Path, overrides: Sequence[str], vary: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Raises InputError where the folder holds runs with other settings: they would be mixed in."""
    path, settings = folder / "study.yaml", sorted(overrides)
    begun = any((one.folder / "checkpoints").exists() for one in runs)
    before = settings
    if begun and path.exists():
        fix = "give this study a name=, or remove that folder"
        try:
            before = list(yaml.safe_load(read_text(path, fix=fix))["settings"])
        except (yaml.YAMLError, TypeError, KeyError) as error:
            raise InputError(f"{path}: it does not tell the settings of a study; {fix}") from error
    if sorted(map(as_typed, before)) != settings:  # those of older versions stand as Hydra composed them
        changed = ", ".join(sorted(set(map(as_typed, before)) ^ set(settings)))
        raise InputError(
            f"{folder}: holds a study with other settings ({changed}); give this one a name=, or remove that folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"settings": settings, "vary": dict(vary)}, sort_keys=False), encoding="utf-8")


def write_sweep(path: Path, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """The same runs as a W&B sweep: `wandb sweep <path>`, then `wandb agent` on as many machines as there are.

    Raises InputError for a method that W&B has not.
    """
    search = {"method": "grid", "stop_early": False, **(config["study"].get("sweep") or {})}
    method = search["method"]
    if method not in METHODS:
        raise InputError(f"study.sweep.method={method}: use {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    pairs = (override.split("=", 1) for override in overrides if not override.startswith("logger="))
    fixed: dict[str, Any] = {key: {"value": value} for key, value in pairs}
    fixed |= {"logger": {"value": "wandb"}, "study.variant": {"value": "sweep"}}
    varied = {key: {"values": [override_value(v) for v in values]} for key, values in config["study"]["vary"].items()}
    sweep = {
        "program": "mnv2_tasks.train",
        "name": f"{config['study']['name']} {path.parent.name}",
        "method": method,
        "metric": {"name": "val/score", "goal": "maximize"},
        **({"early_terminate": {"type": "hyperband", "min_iter": FIRST_CUT}} if search["stop_early"] else {}),
        "command": ["${interpreter}", "-m", "${program}", "${args_no_hyphens}"],
        "parameters": {**fixed, **varied, "seed": {"values": list(config["study"]["seeds"])}},
    }
    path.write_text(yaml.safe_dump(sweep, sort_keys=False), encoding="utf-8")


def _last_line(log: Path) -> str:
    if not log.exists():
        return f"it left no {log}, which has to be on a disk that its machine shares with this one"
    lines: Iterator[str] = (
        line.strip() for line in re.split(r"[\r\n]", log.read_text(errors="replace", encoding="utf-8"))
    )
    texts = [line for line in lines if line]
    errors = [match[1] for line in texts if (match := re.search(r"(?:^|\])(error: .*)", line))]  # behind a progress bar
    return (errors or texts or ["it printed nothing"])[-1]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
