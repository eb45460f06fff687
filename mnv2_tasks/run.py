"""The run folder: opening and resuming it, the trainer that fills it, and the files that a run leaves."""

import inspect
import logging
import os
import shlex
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median_high
from typing import Any

import pytorch_lightning as pl
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mnv2_tasks import __version__, joint, report
from mnv2_tasks.callbacks import (
    DRAFT,
    EMA,
    AtStop,
    Best,
    EpochLog,
    Examples,
    Last,
    Progress,
    Settings,
    WholeFiles,
    read_rows,
    write_settings,
)
from mnv2_tasks.changes import compose_changes, trusted
from mnv2_tasks.cli import one_line, suggest
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.listing import amount
from mnv2_tasks.errors import InputError, quote, reason_of
from mnv2_tasks.folders import new_folder
from mnv2_tasks.foreign import read_text
from mnv2_tasks.model import complete_backbone
from mnv2_tasks.stopping import Stop
from mnv2_tasks.tasks import MultiTask
from mnv2_tasks.trust import refuse_foreign, refuse_unknown

Config = dict[str, Any]
PLAIN_SECTIONS = ("loader", "optim", "trainer")  # whose keys are the same in every run
MOST_CONFIG = 1 << 20  # bytes of a config.yaml
LAST = "last.ckpt"
OURS = {  # arguments of the Trainer that every run gives it
    "callbacks": "others go beside them: callbacks=<of configs/callbacks>, or +callbacks.<name>._target_=<class>",
    "logger": "choose others with logger=wandb or logger=tensorboard",
    "enable_checkpointing": "best.ckpt and last.ckpt are always written",
    "default_root_dir": "its folder is <runs>/<task>/<name>",
    "use_distributed_sampler": "the order of the images is shared out by itself",
}
RUN_VARIABLE = "MNV2_TASKS_RUN"  # tells the processes of one run its folder


def open_folder(config: Config) -> Path:
    """Where the run writes: runs/<task>/<name or time>, its own folder again when it is resumed.

    Called once everything that can be wrong with the input has been checked, so that nothing half-written stays. A new
    run has its config.yaml from here on, and can be resumed wherever it ends; a resumed one's is changed by `Settings`.
    """
    if config["resume"]:
        folder = Path(config["resume"])
    else:
        base = Path(config["runs"]) / "+".join(config["heads"])
        try:
            folder = new_folder(base, config["name"])
        except InputError as error:
            old = base / str(config["name"])
            if not (old / "config.yaml").exists():
                raise
            raise InputError(
                f"{old}: a run of that name exists; choose another name=, or go on with resume={old}"
            ) from error
        write_settings(folder / "config.yaml", config)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return folder


def agree(trainer: pl.Trainer, decide: Callable[[], Path]) -> Path:
    """The folder that the first of a run's processes decides on; the others are told, and all write one run.

    Processes that Lightning starts find it in their environment. Those that torchrun, srun or another launcher started
    are told through their process group, which is made for it. Where the first is refused, it alone says why.
    """
    if int(os.environ.get("LOCAL_RANK", 0)) and RUN_VARIABLE in os.environ:
        return Path(os.environ[RUN_VARIABLE])
    strategy = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)  # of one process: none
    starts_others = strategy.launcher is not None and not (environment and environment.creates_processes_externally)
    if starts_others and trainer.num_nodes > 1:
        raise InputError(f"trainer.num_nodes={trainer.num_nodes}: start it with torchrun or srun on several machines")
    if starts_others and HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise InputError("-m on several processes: start it with torchrun, one run after the other, or as a study")
    if starts_others or trainer.world_size == 1:
        folder = decide()
        if starts_others:
            os.environ[RUN_VARIABLE] = str(folder)
        return folder
    strategy.setup_environment()
    answer: str | None = None
    try:
        if trainer.is_global_zero:
            answer = str(decide())
    finally:  # the others wait for it
        answer = strategy.broadcast(answer)
    if answer is None:
        raise SystemExit(2)
    return Path(answer)


def resumed_config(folder: str | Path, changes: list[str], defaults: Config) -> Config:
    """The config of a run to be continued, with changes as on the command line, such as trainer.max_epochs=40.

    What its version did not have yet is as `defaults`, the config of a new run, says. Raises InputError where the file
    is damaged, or asks for anything but this package's parts and those of the modules that `trust=[...]` names.
    """
    path = Path(folder) / "config.yaml"
    if not path.exists():
        raise InputError(
            f"resume={folder}: no run to continue there (config.yaml is needed, and checkpoints/last.ckpt)"
        )
    fix = "correct it, or take the config.yaml of a copy"
    try:
        own = yaml.safe_load(read_text(path, fix=fix, most=MOST_CONFIG))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}; {fix}") from error
    if not isinstance(own, dict):
        raise InputError(f"{path}: holds no settings; {fix}")
    _fill(own, {**defaults, "trust": []}, path, "")
    own.pop("photos", None)  # of experiment=pets3: runs once kept what only its interpolations read
    own["backbone"] = complete_backbone(own["backbone"])
    own |= {"trust": [], "resume": str(folder)}  # what is trusted is said now
    refuse_foreign(own, path, trust=trusted(changes))
    refuse_unknown(own, path)
    if unknown := [key for key in own if key not in defaults and key not in ("trust", "matched", "study")]:
        fix = "take it out, or use the version that wrote it"
        raise InputError(f"{path}: this version ({__version__}) has no setting {quote(unknown[0])}; {fix}")
    study = own.get("study")
    if study and (not isinstance(study, dict) or study.get("variant") is None):  # it would start commands of its own
        raise InputError(f"{path}: its study section is no run's, but a whole study's; set study to null")
    try:
        return {**compose_changes(own, changes), "resume": str(folder)}
    except InputError as error:
        if changes:
            raise
        raise InputError(f"{path}: {error}") from error


def _fill(own: dict[str, Any], defaults: Mapping[str, Any], path: Path, prefix: str) -> None:
    """Put the defaults where `own` lacks a setting. Raises InputError for one of another type than its default."""
    for key, default in defaults.items():
        name, value = f"{prefix}{key}", own.setdefault(key, default)
        if name == "optim.schedule" and value is None:  # the rate stays as it is
            continue
        if isinstance(default, Mapping) and not isinstance(value, dict):
            raise InputError(f"{path}: {name} is {quote(value)}, not a section of settings; correct it")
        if isinstance(default, Mapping) and key in PLAIN_SECTIONS:
            _fill(value, default, path, f"{name}.")
        elif isinstance(default, (int, float)) and isinstance(value, (str, list, dict)) and key != "size":
            raise InputError(f"{path}: {name} is {quote(value)}, not a number or true or false; correct it")


def make_trainer(config: Config, folder: Path | None, stop: Stop | None = None) -> pl.Trainer:
    """Lightning's Trainer with the config's `trainer` section as it stands; `folder=None` is for evaluation alone."""
    _quiet()
    known = inspect.signature(pl.Trainer.__init__).parameters
    ours = config["trainer"].get("_target_") == "pytorch_lightning.Trainer"
    if ours and (unknown := [key for key in config["trainer"] if key not in (*known, "_target_")]):
        raise InputError(f"trainer.{unknown[0]}: Lightning's Trainer has no such setting{suggest(unknown[0], known)}")
    if dropped := [key for key in OURS if key in config["trainer"]]:
        raise InputError(f"trainer.{dropped[0]}: every run has its own; {OURS[dropped[0]]}")
    callbacks: list[Callback] = [Progress(), *([AtStop(stop)] if stop else [])]
    loggers: list[Any] = []
    if folder is not None:
        callbacks += [
            Best(folder / "checkpoints"),
            Last(folder / "checkpoints" / LAST),
            EpochLog(folder / "metrics.csv"),
            Examples(count=config["examples"]),
            Settings(config, folder / "config.yaml"),
        ]
        if config["ema"]:
            callbacks.append(EMA(config["ema"]))
        if config["early_stopping"]:
            callbacks.append(EarlyStopping("val/score", patience=config["early_stopping"], mode="max"))
        callbacks += [_callback(name, node) for name, node in config["callbacks"].items() if node]
        loggers = [instantiate(node, folder=str(folder)) for node in config["logger"].values() if node]
    if config.get("early_stopping") and config["trainer"].get("limit_val_batches") == 0:
        raise InputError("early_stopping waits for val/score, but trainer.limit_val_batches=0; set it to null")
    try:
        trainer = instantiate(
            {**config["trainer"], **_launched(config["trainer"])},
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[WholeFiles(), *instantiate(config["trainer"].get("plugins") or [])],
            enable_checkpointing=folder is not None,
            default_root_dir=str(folder or "."),
            use_distributed_sampler=False,
            _convert_="all",
        )
    except InstantiationException as error:
        raise InputError(f"trainer: {str(error.__cause__ or error).splitlines()[0]}") from error
    if not isinstance(trainer.max_epochs, int):
        raise InputError(f"trainer.max_epochs={trainer.max_epochs}: give a whole number")
    if trainer.max_epochs == trainer.max_steps == -1:
        raise InputError("trainer.max_epochs: the learning rate needs an end to fall to; give it a number")
    return trainer


def _callback(name: str, section: Config) -> Callback:
    try:
        callback = instantiate(section, _convert_="all")
    except InstantiationException as error:
        raise InputError(f"callbacks.{name}: {reason_of(error)}") from error
    if not isinstance(callback, Callback):
        raise InputError(f"callbacks.{name}: {quote(callback)} is no Lightning callback; give its class as _target_")
    return callback


@contextmanager
def stoppable(folder: Path) -> Iterator[Stop]:
    """A signal ends what is within after the batch at hand, with a line on what is there, and 128 + its number."""
    with Stop() as stop:
        try:
            yield stop
        except SystemExit:
            if stop.number is None:
                raise
    if stop.number is not None:
        epochs = len(read_rows(folder / "metrics.csv")) if (folder / "checkpoints" / LAST).exists() else 0
        rank_zero_only(print)(
            f"stopped by {signal.Signals(stop.number).name}: {amount(epochs, 'epoch')} done; "
            f"python train.py {shlex.quote(f'resume={folder}')} goes on",
            file=sys.stderr,
        )
        raise SystemExit(128 + stop.number)


def has_begun(folder: Path) -> bool:
    """Whether a run has done an epoch."""
    return (folder / "checkpoints" / LAST).exists() or (folder / "metrics.csv").exists()


def last_checkpoint(folder: Path) -> Path | None:
    """From where a run goes on; None where it ended before its first epoch did. Says what it found, if not a whole one.

    A run that has lost its last.ckpt has results of its own; then the path is of no file.
    """
    last = folder / "checkpoints" / LAST
    draft = Path(f"{last}{DRAFT}")
    if draft.exists():
        rank_zero_only(print)(f"{draft}: not written to its end, and left aside: the one before counts")
    if has_begun(folder):
        return last
    rank_zero_only(print)(f"{folder}: none of its epochs was done: it starts from the beginning")
    return None


def _launched(section: Mapping[str, Any]) -> dict[str, int]:
    """Where `devices` is "auto": one for each process that torchrun or srun started on this machine; the machines."""
    if section.get("devices") != "auto":
        return {}
    if TorchElasticEnvironment.detect():
        here, everywhere = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect() and os.environ.get("SLURM_NTASKS_PER_NODE", "").isdecimal():
        here, everywhere = int(os.environ["SLURM_NTASKS_PER_NODE"]), int(os.environ["SLURM_NTASKS"])
    else:
        return {}
    return {"devices": here, "num_nodes": section.get("num_nodes", max(1, everywhere // here))}


def fit(trainer: pl.Trainer, task: MultiTask, data: DataModule, last: Path | None) -> bool:
    """Train, from where the checkpoint `last` stopped; False where no epoch was left.

    Raises InputError where no run can go on from that file.
    """
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        return _started(trainer) or trainer.strategy.launcher is not None  # whose processes may keep the callbacks
    except MisconfigurationException as error:  # parts that do not go together
        raise InputError(f"trainer: {reason_of(error)}") from error
    except Exception as error:  # whatever a damaged state leads to
        if last is None or _started(trainer) or one_line(error):
            raise
        raise InputError(
            f"{last}: no run can go on from it ({reason_of(error)}); put a copy in its place, or start another run "
            f"with backbone.weights={last}"
        ) from error


def _started(trainer: pl.Trainer) -> bool:
    return any(isinstance(callback, EpochLog) and callback.started for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _quiet() -> None:
    """Lightning's advice is for those who write loops; its errors stay."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for what in (
        ".*does not have many workers.*",
        ".*LeafSpec.*",
        ".*logging interval.*",
        ".*exists and is not empty.*",
        ".*in eval mode.*",  # frozen layers are
        ".*callbacks used to create the checkpoint.*",  # one that is switched off
    ):
        warnings.filterwarnings("ignore", what)


def evaluate(task: MultiTask, data: DataModule, trainer: pl.Trainer, split: str) -> dict[str, float]:
    """The metrics of one side, {"ssdlite/map": ...}; the module's metrics keep what plots need."""
    task.split = data.tested = split
    trainer.test(task, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()} | task.results
    return {name.replace(f"/{split}/", "/"): value for name, value in found.items() if f"/{split}/" in name}


def describe(task: MultiTask, data: DataModule) -> dict[str, Any]:
    """What metrics.json tells of the model besides its metrics."""
    return {
        "primaries": {name: head.primary for name, head in task.model.heads.items()},
        **report.model_cost(task.model, data.passes),
        "latency_ms": report.latency(task.model, data.passes),
        "sizes": {name: list(size) for name, size in data.sizes.items()},
        "passes": data.passes,
        "classes": {name: list(names) for name, names in task.classes.items()},
    }


def finish(
    task: MultiTask, data: DataModule, config: Config, folder: Path, *, began: float, stop: Stop | None = None
) -> None:
    """Evaluate the best checkpoint on val, and on test where there is one; write metrics.json and the pictures."""
    from mnv2_tasks.model import read_checkpoint
    from mnv2_tasks.weights import load_exactly

    best = folder / "checkpoints" / "best.ckpt"
    if not best.exists():
        best = best.with_name("last.ckpt")
        if not best.exists():
            raise InputError(
                f"{folder}: no epoch was trained; give trainer.max_epochs (max_steps, max_time) room for one"
            )
        rank_zero_only(print)("no validation chose a best epoch: what is evaluated is the last one, last.ckpt")
    checkpoint = read_checkpoint(best)
    load_exactly(task.model, checkpoint["state"], str(best), hint="the file was changed")
    sides = ["val"] + (["test"] if data.with_side("test") else [])
    results: dict[str, Any] = {}
    for side in sides:
        trainer = make_trainer(config, None, stop)
        results[side] = evaluate(task, data, trainer, side)
        if trainer.is_global_zero and side == sides[-1]:
            report.write_pictures(task, data, side, folder, count=config["examples"])
    if not trainer.is_global_zero:
        return
    report.write_curves(task, folder)
    rows = read_rows(folder / "metrics.csv")
    results |= {
        "best_epoch": checkpoint["epoch"],
        "epochs": len(rows),
        **describe(task, data),
        "step_ms": _middle(rows, "step_ms"),
        "images_per_second": _middle(rows, "images_per_second"),
        "wall_seconds": round(time.monotonic() - began, 1),
        "matched": config.get("matched"),
    }
    if config["baselines"]:
        results["joint"] = joint.compare(results, config["baselines"])
    write_settings(folder / "config.yaml", config)  # those that a run without another epoch was evaluated with
    report.write_json(folder / "metrics.json", results)
    report.print_table(results, sides)
    if config["baselines"]:
        joint.print_comparison(results["joint"])
    print(f"run folder: {folder}")


def _middle(rows: list[dict[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name)]
    return median_high(values) if values else None
