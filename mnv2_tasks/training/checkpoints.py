"""Checkpoints of a run: the best and the last two, whole at every moment, and from any step exact to go on from."""

import math
import os
import re
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from mnv2_tasks.errors import InputError, is_full, quote
from mnv2_tasks.files import replacing
from mnv2_tasks.processes import Stop
from mnv2_tasks.training.callbacks import callbacks_of
from mnv2_tasks.training.divergence import Divergence

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
DRAFT = ".part"  # at the end of a checkpoint's name while it is written


@dataclass(frozen=True)
class Every:
    """How often a checkpoint is written within an epoch: after so many steps, or seconds; never where both are None."""

    steps: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, setting: Any) -> "Every":
        """Of `checkpoint.every`: a number of steps, minutes such as "10min", or None. Raises InputError."""
        if setting is None:
            return cls()
        if isinstance(setting, int) and not isinstance(setting, bool) and setting > 0:
            return cls(steps=setting)
        minutes = re.fullmatch(r"(\d+(?:\.\d+)?) ?min", setting) if isinstance(setting, str) else None
        if minutes is None or not float(minutes[1]):
            raise InputError(
                f"checkpoint.every={quote(setting)}: give a number of steps, minutes such as 10min, or null"
            )
        return cls(seconds=60 * float(minutes[1]))


class Best(ModelCheckpoint):
    """`best.ckpt`: of equal scores the newest's, where Lightning's own keeps the first, epoch 0's of all 0."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="best", monitor="val/score", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Its base's, under which checkpoints have always had it."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The best score; its file is the one in this folder.

        The paths in a checkpoint may be of another folder, or a stranger's: Lightning would delete what they name.
        """
        best, score = str(Path(str(self.dirpath)) / BEST), state_dict.get("best_model_score")
        if isinstance(score, Tensor) and score.numel() == 1 and score.isfinite() and Path(best).is_file():
            self.best_model_path = self.kth_best_model_path = best
            self.best_model_score = self.kth_value = score
            self.best_k_models = {best: score}

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        best = self.best_k_models.get(self.kth_best_model_path)
        if current is not None and best is not None:  # every process decides the same
            return trainer.strategy.reduce_boolean_decision(bool(current >= best))
        return super().check_monitor_top_k(trainer, current)


class WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written beside their place and moved there: a kill or a full disk leaves the one before.

    Lightning's own are written where TMPDIR is, and copied from another file system. last.ckpt leaves the one before
    it as previous.ckpt. Where the disk is full, a line says so, and the training goes on.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path, Path(f"{path}{DRAFT}")) as draft:
                with draft.open("wb") as file:
                    torch.save(checkpoint, file)
                    file.flush()
                    os.fsync(file.fileno())
                if path.name == LAST and path.exists():
                    path.replace(path.with_name(PREVIOUS))
        except (OSError, RuntimeError) as error:  # what torch's writer raises has the cause in its context
            if not is_full(error):
                raise
            kept = "the one before stays" if path.exists() else "there is none yet"
            print(f"{path}: no space left on its disk: {kept}, and the training goes on", flush=True)


class AtStop(Callback):
    """Ends an evaluation after the batch in which a signal came; `Checkpoints` ends the training."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_validation_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if self.stop.number is not None:
            if (launcher := trainer.strategy.launcher) is not None:  # of processes that the signal may not have reached
                launcher.kill(signal.SIGTERM)
            raise SystemExit(128 + self.stop.number)

    def on_test_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        self.on_validation_batch_end(trainer)


class Checkpoints(Checkpoint):
    """`last.ckpt` after every epoch, every so often within one, and at the step at which a signal came.

    Within an epoch, what has been done of it is in the checkpoint: the place in the order of the images, which is a
    function of (seed, pass, index), and the sums of its training losses. So a run goes on from any step as if it had
    not stopped. A checkpoint is of a step whose gradients were applied and that no validation follows, for Lightning
    would skip that. With another number of processes or images a batch, the epoch goes on at the same image.

    Args:
        path: of last.ckpt.
        every: how often, within an epoch.
        stop: the wish to end the run; it raises SystemExit once the checkpoint is written.
    """

    def __init__(self, path: Path, *, every: Every = Every(), stop: Stop | None = None) -> None:
        self.path = path
        self.every = every
        self.stop = stop
        self._saved_at = time.monotonic()
        self._saved_step = 0
        self._place: dict[str, Any] = {}  # of the epoch that a checkpoint was written in, to be saved or taken up
        self._cut_at = 0  # the step at which this epoch ends before its time, of which last.ckpt is

    def state_dict(self) -> dict[str, Any]:
        return dict(self._place)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._place = dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        if self.stop is not None:  # Lightning's would end the run before its checkpoint
            self.stop.take_again()
        if self._place:
            self._find_place(trainer)
            for callback in callbacks_of(trainer):  # Lightning starts no epoch that goes on
                callback.on_train_epoch_start(trainer, module)
            module.on_train_epoch_start()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._cut_at = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        self._take_up_sums(trainer)
        applied = (index + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        validates = trainer.is_last_batch or (index + 1) % (trainer.val_check_batch or math.inf) == 0
        signalled, due = self._agreed(trainer)
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps  # within the epoch
        if applied and not validates and (signalled or due or (ends and not self._cut_at)):
            self._save_within(trainer, module)
            self._cut_at = trainer.global_step if ends else 0
        if signalled and (applied or validates):
            if self.stop is not None:
                self.stop.number = signalled  # of another process, perhaps
            raise SystemExit(128 + signalled)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._cut_at != trainer.global_step:
            self._save(trainer)
        elif trainer.is_global_zero:
            where = shlex.quote(f"resume={self.path.parents[1]}")
            print(
                f"the epoch ends before its time, at step {trainer.global_step}: python train.py {where} with a higher "
                "limit goes on there",
                flush=True,
            )

    def _save_within(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        for callback in callbacks_of(trainer):
            if isinstance(callback, Divergence):  # a checkpoint is a place to go back to
                callback.check(trainer, module)
        self._place = {"images": self._images(trainer), "sums": _sums(trainer)}
        self._save(trainer)
        self._place = {}

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step
        if self.stop is not None:
            self.stop.saved = trainer.global_step

    def _agreed(self, trainer: pl.Trainer) -> tuple[int, bool]:
        """The number of a signal that came to any process, 0 for none; whether it is time for a checkpoint."""
        number = (self.stop.number if self.stop is not None else None) or 0
        seconds, steps = time.monotonic() - self._saved_at, trainer.global_step - self._saved_step
        due = seconds >= (self.every.seconds or math.inf) or steps >= (self.every.steps or math.inf)
        if trainer.world_size > 1:
            answers = torch.tensor([float(number), float(due)], device=trainer.strategy.root_device)
            number, late = map(int, trainer.strategy.reduce(answers, reduce_op="max").tolist())
            due = bool(late)
        return number, due

    def _images(self, trainer: pl.Trainer) -> int:
        """How many images all processes take a step, times the steps of this epoch."""
        return trainer.fit_loop.epoch_loop.batch_progress.current.ready * _images_a_step(trainer)

    def _find_place(self, trainer: pl.Trainer) -> None:
        """Lightning counts batches: where they are of another size now, as many as have the same images."""
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        batches = min(self._place["images"] // _images_a_step(trainer), int(trainer.num_training_batches) - 1)
        progress.current.ready = progress.current.started = progress.current.processed = batches
        progress.current.completed = batches - 1  # as within on_train_batch_end, where it was saved

    def _take_up_sums(self, trainer: pl.Trainer) -> None:
        """Add the sums of the epoch's losses up to the checkpoint to those since; each process its own, if they are as
        many."""
        sums: dict[str, list[list[float]]] = self._place.get("sums", {})
        results: Any = trainer.fit_loop.epoch_loop._results
        for name in [name for name in sums if name in results]:
            rows = sums.pop(name)
            if len(rows) == trainer.world_size:
                value, count = rows[trainer.global_rank]
            else:
                value, count = map(sum, zip(*rows, strict=True)) if trainer.is_global_zero else (0.0, 0)
            metric = results[name]
            metric.value = metric.value + value
            metric.cumulated_batch_size = metric.cumulated_batch_size + int(count)
        if not sums:
            self._place = {}


def _sums(trainer: pl.Trainer) -> dict[str, list[list[float]]]:
    """{name: [[sum, images] of each process]} of what is averaged over the epoch so far."""
    results: Mapping[str, Any] = trainer.fit_loop.epoch_loop._results
    averaged = {name: metric for name, metric in sorted(results.items()) if metric.meta.is_mean_reduction}
    averaged = {name: metric for name, metric in averaged.items() if metric.meta.on_epoch and not metric.has_reset}
    if not averaged:
        return {}
    rows = [[metric.value.double(), metric.cumulated_batch_size.double()] for metric in averaged.values()]
    table = torch.stack([torch.stack(row) for row in rows])  # (names, 2)
    every = trainer.strategy.all_gather(table).view(-1, *table.shape)  # (processes, names, 2)
    return {name: every[:, place].tolist() for place, name in enumerate(averaged)}


def _images_a_step(trainer: pl.Trainer) -> int:
    """Of all processes."""
    loaders: Any = trainer.train_dataloader
    return sum(one.batch_size for one in loaders) * trainer.world_size
