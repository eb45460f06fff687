"""A search: settings drawn from a space by Optuna, the best of many runs; `mnv2 search ssdlite task=ssdlite`.

Optuna is asked for each trial and told its end; the trials are processes of `mnv2 train`, here or as jobs of a cluster
(see `lab.jobs`). This process reads their metrics.csv and ends those that the pruner gives up. Hydra's own sweeper
holds all trials in one process, cannot end one early, and loses the search with it.
"""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2_tasks.assembly.overrides import override_value, quoted
from mnv2_tasks.assembly.settings import settle_anew
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import read_rows
from mnv2_tasks.lab.jobs.choice import choose_launcher
from mnv2_tasks.lab.jobs.job import Job, clock, last_line
from mnv2_tasks.lab.jobs.launchers import Launcher
from mnv2_tasks.lab.jobs.run_settings import common_overrides, runs_folder, settings_for_each
from mnv2_tasks.lab.jobs.sweep import write_sweep
from mnv2_tasks.lab.search.space import parse_space, shown
from mnv2_tasks.lab.search.trials import Taken, Trials
from mnv2_tasks.training.run_record import NAME, read_run
from mnv2_tasks.weights.trust import foreign_modules

ON_A_CLUSTER = 8  # trials at a time where neither `search.jobs` nor the machine says how many
WAIT = 2.0  # seconds between two looks at the trials of other runners, where there is nothing else to do


def wanted(config: Mapping[str, Any]) -> bool:
    """Whether a config asks for a search, and is not that of one of its trials."""
    return bool(config.get("search")) and config["search"]["trial"] is None


def run(config: Mapping[str, Any]) -> None:
    """Do the trials of a search that are not yet done, then write its table and plots; its folder is printed."""
    search, tasks = config["search"], list(config["heads"])
    if config.get("study"):
        raise InputError("study and search are given: leave out one of the two")
    if not isinstance(search["trials"], int) or search["trials"] < 1:
        raise InputError(f"search.trials={search['trials']}: give a number of trials, at least 1")
    space, overrides = parse_space(search["space"]), common_overrides("search")
    first = [f"{key}={override_value(entry.first)}" for key, entry in space.items()]
    try:
        settle_anew([*overrides, *first, "search.trial=first"])
    except InputError as error:
        raise InputError(f"search.space: {error}") from error
    folder = Path(config["runs"]) / "search" / search["name"] / str(config["name"] or "+".join(tasks))
    group = f"{search['name']} {folder.name}"
    trials = Trials(search, folder, name=group, settings=sorted(overrides), space=space)
    _refuse_strays(folder, trials)
    drawn = {key: entry.parameter() for key, entry in space.items()}
    write_sweep(folder / "sweep.yaml", search, [*overrides, "test=false"], drawn, of="search")
    launcher = choose_launcher(search, folder, search["trials"], of="search")
    try:
        _do(config, trials, launcher, overrides, folder, group)
    finally:
        launcher.leave([])


def _do(
    config: Mapping[str, Any],
    trials: Trials,
    launcher: Launcher,
    overrides: Sequence[str],
    folder: Path,
    group: str,
) -> None:
    from mnv2_tasks.lab.search.outcome import write

    search = config["search"]
    about = launcher.about if launcher.room else f"{launcher.about}, {ON_A_CLUSTER} at a time"
    print(
        f"search {search['name']}: {amount(search['trials'], 'trial')}, {about}; logs in {folder / 'logs'}", flush=True
    )
    if not trials.prunes:
        why = "none is chosen" if len(trials.objective) == 1 else "Optuna's pruners know one objective alone"
        print(f"no trial is ended before its time: {why}", flush=True)
    shared = settings_for_each(config, overrides, folder, group=group, workers=launcher.workers)
    runs = Runs(folder, list(config["heads"]), shared, tuple(foreign_modules({**config, "search": None})))
    search_on(trials, runs, launcher, most=search["trials"])
    with trials.asking:  # two runners that end at once write one after the other
        results = write(config, trials, runs, overrides)
    if results is not None:
        _log(config, results, folder, group)
        if search["retrain"] is not None:
            retrain(search["retrain"], results["best"][0], runs, launcher, folder)


@dataclass(frozen=True)
class Runs:
    """What the runs of a search share.

    Attributes:
        folder: of the search.
        tasks: those of the command.
        shared: settings of all runs.
        trust: modules that a run which goes on may build its parts from.
    """

    folder: Path
    tasks: Sequence[str]
    shared: Sequence[str]
    trust: tuple[str, ...] = ()

    def place(self, settings: Mapping[str, Any], name: str) -> Path:
        """The folder of a run."""
        return runs_folder(self.folder, settings, self.tasks) / name

    def job(self, settings: Mapping[str, Any], name: str, *more: str) -> Job:
        drawn = [f"{key}={override_value(value)}" for key, value in settings.items()]
        told = [*self.shared, *drawn, f"name={quoted(name)}", f"search.trial={quoted(name)}", *more]
        log = self.folder / "logs" / f"{name}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        return Job(Path.cwd(), self.place(settings, name), log, told, self.trust)


@dataclass(eq=False)
class _Active:
    taken: Taken
    job: Job
    started: Any  # what its launcher knows it by
    began: float
    seen: int = 0  # when metrics.csv was last read, as the system tells time


def search_on(trials: Trials, runs: Runs, launcher: Launcher, *, most: int) -> None:
    """Do trials, as many at a time as the launcher takes, until `most` have ended, other runners' among them.

    A line for each trial that ends, with the time left; what a run itself prints goes to logs/<trial>.txt. Ctrl-C ends
    the program with a line on what is done; the same command goes on with the trials that were not.
    """
    active: list[_Active] = []
    began, look = time.monotonic(), 0.0
    if before := trials.ended():
        print(f"{before} of {most} have ended already", flush=True)
    try:
        while True:
            if time.monotonic() >= look:
                room = launcher.room or ON_A_CLUSTER
                while len(active) < room and (one := _begin(trials, runs, launcher, most)):
                    active.append(one)
                look = time.monotonic() + WAIT
            if not active and not trials.running(here=True):
                break
            time.sleep(launcher.pause if active else WAIT)
            for one in list(active):
                if (word := _look(trials, launcher, one)) is None:
                    continue
                active.remove(one)
                look, ended = 0.0, trials.ended()
                left = (time.monotonic() - began) / (ended - before) * (most - ended)
                end = f"; about {clock(left)} left" if ended < most else ""
                took = clock(time.monotonic() - one.began)
                print(
                    f"[{ended}/{most}] {one.taken.name} {word} ({took}), {describe(one.taken.settings)}{end}",
                    flush=True,
                )
    except BaseException as error:
        rest = launcher.leave([one.started for one in active])
        for one in active:
            trials.let_go(one.taken)
        if not isinstance(error, KeyboardInterrupt):
            raise
        print(f"stopped: {trials.ended()} of {most} trials have ended; {rest}", file=sys.stderr)
        raise SystemExit(130) from None
    if elsewhere := trials.running(here=False):
        print(f"{amount(elsewhere, 'trial')} of another folder still running: its own runner writes of it", flush=True)


def _begin(trials: Trials, runs: Runs, launcher: Launcher, most: int) -> _Active | None:
    """A trial that nobody does, begun or gone on with; None where there is none."""
    with trials.asking:
        if (taken := trials.take(most)) is None:
            return None
        job = runs.job(taken.settings, taken.name, "test=false")
        one = _Active(taken, job, launcher.start(job), time.monotonic())
    if taken.goes_on:
        print(f"{taken.name} goes on: its runner has ended", flush=True)
    return one


def _look(trials: Trials, launcher: Launcher, one: _Active) -> str | None:
    """Tell Optuna what a run has come to; what became of it in words, None while it runs."""
    folder, table = one.job.folder, one.job.folder / "metrics.csv"
    said = launcher.ended(one.started)
    changed = table.stat().st_mtime_ns if table.exists() else 0
    if said is None and changed == one.seen:
        return None
    one.seen, rows = changed, read_rows(table)
    gives_up = trials.report(one.taken, rows)
    best = max((row["val/score"] for row in rows if math.isfinite(row.get("val/score", math.nan))), default=None)
    about = {"epochs": len(rows), "run": str(folder)}
    if said is None:
        if not gives_up or (folder / NAME).exists():  # it has its numbers, and draws pictures
            return None
        launcher.end(one.started)
        trials.prune(one.taken, {**about, "score": best})
        return f"ended early, at {best:.4f} after {amount(len(rows), 'epoch')}"
    if not (folder / NAME).exists():
        return _failed(trials, one, "; ".join(filter(None, (said, last_line(one.job.log)))))
    record = read_run(folder / NAME)
    found = {
        "score": best,
        "parameters": record.parameters,
        "madds": record.madds,
        "latency_ms": record.latency_ms,
    }
    if missing := [name for name in trials.objective if found[name] is None]:
        return _failed(trials, one, f"it has no {missing[0]}; a search needs validations")
    values = [float(found[name] or 0) for name in trials.objective]
    trials.complete(one.taken, values, {**about, **found, "seconds": record.wall_seconds})
    return " ".join(f"{name} {value:.4g}" for name, value in zip(trials.objective, values, strict=True))


def _failed(trials: Trials, one: _Active, error: str) -> str:
    trials.fail(one.taken, error)
    return f"FAILED: {error}"


def retrain(epochs: Any, best: Mapping[str, Any], runs: Runs, launcher: Launcher, folder: Path) -> None:
    """Train the settings of the best trial for this many epochs, from their beginning, as a run of its own."""
    from filelock import FileLock

    if not isinstance(epochs, int) or epochs < 1:
        raise InputError(f"search.retrain={epochs}: give a number of epochs, at least 1, or null")
    name = f"{best['name']}_{epochs}_epochs"
    job = runs.job(best["settings"], name, f"trainer.max_epochs={epochs}")
    with FileLock(folder / "locks" / "retrain.lock"):  # another runner may be at it
        if not (job.folder / NAME).exists():
            print(f"{best['name']} is trained anew for {amount(epochs, 'epoch')}; log: {job.log}", flush=True)
            started = launcher.start(job)
            try:
                while (said := launcher.ended(started)) is None:
                    time.sleep(launcher.pause)
            except KeyboardInterrupt:
                print(f"stopped: {launcher.leave([started])}", file=sys.stderr)
                raise SystemExit(130) from None
            if not (job.folder / NAME).exists():
                raise InputError(f"{name} failed: {'; '.join(filter(None, (said, last_line(job.log))))}")
    record = read_run(job.folder / NAME)
    sides = {side: [record.headline(side, task) for task in record.tasks] for side in record.metrics}
    told = ", ".join(f"{side} {' '.join(f'{value:.4f}' for value in values)}" for side, values in sides.items())
    print(f"{name}: {told} ({', '.join(record.primaries.values())}); run folder: {job.folder}", flush=True)


def describe(settings: Mapping[str, Any]) -> str:
    """Drawn settings in a line."""
    return " ".join(f"{key}={shown(value)}" for key, value in settings.items())


def _refuse_strays(folder: Path, trials: Trials) -> None:
    """Raises InputError where the folder has runs that the storage does not know: new trials would go on with them."""
    if not trials.all() and (strays := sorted((folder / "runs").glob("*/trial_*"))):
        raise InputError(f"{strays[0]}: a run of a search that its storage does not know; give this one a name=")


def _log(config: Mapping[str, Any], results: Mapping[str, Any], folder: Path, group: str) -> None:
    """The search as a run of its own in the loggers: its best trials, its plots."""
    from mnv2_tasks.assembly.logging_to import logging_to

    told = {**config, "search": {**config["search"], "storage": None}}  # its address may hold a password
    with logging_to(told, folder, job_type="search", group=group, name=group) as loggers:
        if loggers:
            from mnv2_tasks.training.logged_results import log_rows

            log_rows(loggers, {trial["name"]: trial for trial in results["best"]}, folder)
