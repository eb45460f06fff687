"""Lightning's Trainer of a config, and the folder that all processes of one run agree on."""

import inspect
import logging
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from pytorch_lightning.callbacks import Callback, EarlyStopping
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only
from torch.distributed import is_initialized

from mnv2_tasks.assembly.logging_to import make_loggers
from mnv2_tasks.errors import InputError, quote, reason_of, suggest
from mnv2_tasks.processes import Stop
from mnv2_tasks.training.callbacks import EMA, EpochLog, Examples, Settings
from mnv2_tasks.training.checkpoints import LAST, AtStop, Best, Checkpoints, Every, WholeFiles
from mnv2_tasks.training.progress import Progress
from mnv2_tasks.training.step_log import StepLog

Config = dict[str, Any]
OURS = {  # arguments of the Trainer that every run gives it
    "callbacks": "others go beside them: callbacks=<of configs/callbacks>, or +callbacks.<name>._target_=<class>",
    "logger": "choose others with logger=wandb, logger=tensorboard or logger=mlflow",
    "enable_checkpointing": "best.ckpt and last.ckpt are always written",
    "default_root_dir": "its folder is <runs>/<task>/<name>",
    "use_distributed_sampler": "the order of the images is shared out by itself",
}
RUN_VARIABLE = "MNV2_TASKS_RUN"  # tells the processes of one run its folder


def agree(trainer: pl.Trainer, decide: Callable[[], Path]) -> Path:
    """The folder that the first of a run's processes decides on; the others are told, and all write one run.

    Processes that Lightning starts find it in their environment. Those that torchrun, srun or another launcher started
    are told through their process group, which is made for it. Where the first is refused, it alone says why.
    """
    if is_started_by_another():
        return Path(os.environ[RUN_VARIABLE])
    begins = starts_others(trainer)
    if begins and trainer.num_nodes > 1:
        raise InputError(f"trainer.num_nodes={trainer.num_nodes}: start it with torchrun or srun on several machines")
    if begins and HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise InputError("-m on several processes: start it with torchrun, one run after the other, or as a study")
    if begins or trainer.world_size == 1:
        folder = decide()
        if begins:
            os.environ[RUN_VARIABLE] = str(folder)
        return folder
    strategy = join(trainer)
    answer: str | None = None
    try:
        if trainer.is_global_zero:
            answer = str(decide())
    finally:  # the others wait for it
        answer = strategy.broadcast(answer)
    if answer is None:
        raise SystemExit(2)
    return Path(answer)


def is_started_by_another() -> bool:
    """Whether Lightning has started this process for a run whose first process is at work."""
    return bool(int(os.environ.get("LOCAL_RANK", 0)) and RUN_VARIABLE in os.environ)


def starts_others(trainer: pl.Trainer) -> bool:
    """Whether the other processes of a run are still to be started, by Lightning."""
    environment = getattr(trainer.strategy, "cluster_environment", None)  # of one process: none
    return trainer.strategy.launcher is not None and not (environment and environment.creates_processes_externally)


def join(trainer: pl.Trainer) -> Any:
    """The strategy, in the process group of processes that a launcher has started."""
    _join_again(trainer.strategy)
    trainer.strategy.setup_environment()
    return trainer.strategy


def _join_again(strategy: Any) -> None:
    """Make the process group of processes that torchrun has started once more.

    All its attempts share one store (torch 2.14), in which they would find the addresses of processes that have ended.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or is_initialized():
        return
    if strategy.num_nodes > 1:  # whose agents count otherwise
        rank_zero_only(print)(
            "torchrun has started the processes again: if they do not find each other, export "
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it"
        )
        return
    from torch.distributed import PrefixStore, TCPStore, init_process_group

    environment = strategy.cluster_environment
    store = TCPStore(environment.main_address, environment.main_port, is_master=False)
    on_gpu = strategy.root_device.type == "cuda"
    init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore(f"attempt {attempt}", store),
        rank=environment.global_rank(),
        world_size=environment.world_size(),
        device_id=strategy.root_device if on_gpu else None,
    )


def make_trainer(config: Config, folder: Path | None, stop: Stop | None = None) -> pl.Trainer:
    """Lightning's Trainer with the config's `trainer` section as it stands; `folder=None` is for evaluation alone."""
    _quiet()
    known = inspect.signature(pl.Trainer.__init__).parameters
    ours = config["trainer"].get("_target_") == "pytorch_lightning.Trainer"
    if ours and (unknown := [key for key in config["trainer"] if key not in (*known, "_target_")]):
        raise InputError(f"trainer.{unknown[0]}: Lightning's Trainer has no such setting{suggest(unknown[0], known)}")
    if dropped := [key for key in OURS if key in config["trainer"]]:
        raise InputError(f"trainer.{dropped[0]}: every run has its own; {OURS[dropped[0]]}")
    every = Every.of(config["checkpoint"]["every"]) if "checkpoint" in config else Every()
    callbacks: list[Callback] = [Progress(), *([AtStop(stop)] if stop else [])]
    loggers: list[Any] = []
    if folder is not None:
        callbacks += [
            Best(folder / "checkpoints"),
            Checkpoints(folder / "checkpoints" / LAST, every=every, stop=stop),
            EpochLog(folder / "metrics.csv"),
            StepLog(folder / "metrics.csv"),
            Examples(count=config["examples"]),
            Settings(config, folder / "config.yaml"),
        ]
        if config["ema"]:
            callbacks.append(EMA(config["ema"]))
        if config["early_stopping"]:
            callbacks.append(EarlyStopping("val/score", patience=config["early_stopping"], mode="max"))
        callbacks += [_callback(name, node) for name, node in config["callbacks"].items() if node]
        loggers = make_loggers(config, folder)
    if config.get("early_stopping") and config["trainer"].get("limit_val_batches") == 0:
        raise InputError("early_stopping waits for val/score, but trainer.limit_val_batches=0; set it to null")
    try:
        trainer = instantiate(
            {**config["trainer"], **launched(config["trainer"])},
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


def launched(section: Mapping[str, Any]) -> dict[str, int]:
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
        ".*dataloader is not resumable.*",  # its order is (see `datamodule.LateLoader`)
        ".*callbacks used to create the checkpoint.*",  # one that is switched off
        ".*sync_dist=True.*",  # metrics are gathered before
    ):
        warnings.filterwarnings("ignore", what)
