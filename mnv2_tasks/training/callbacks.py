"""Lightning callbacks: averaged weights, metrics per epoch, settings, example pictures."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, WeightAveraging
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import is_full
from mnv2_tasks.files import read_rows, write_rows, write_settings
from mnv2_tasks.training.example_pictures import Example, task_examples
from mnv2_tasks.training.loggers import log_examples
from mnv2_tasks.training.module import MultiTask


def callbacks_of(trainer: Any) -> list[Callback]:
    """The callbacks of a trainer, an attribute that Lightning's types do not have."""
    return list(trainer.callbacks)


def warmed_average(decay: float) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """For `AveragedModel(multi_avg_fn=...)`: decays by min(decay, (1 + n) / (10 + n)) after n steps."""

    def average(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        n = float(count)
        keep = min(decay, (1 + n) / (10 + n))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - keep)
        else:  # counters
            torch._foreach_copy_(averaged, current)

    return average


class EMA(WeightAveraging):
    """Exponential moving average of weights and norm statistics, used for validation and kept in checkpoints.

    The decay warms up, so that short runs profit too.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(multi_avg_fn=warmed_average(decay))


class EpochLog(Callback):
    """`metrics.csv` in the run folder: one row an epoch, carried on when a run is resumed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = False
        self._began = 0.0  # by the monotonic clock, as the two below
        self._step_began = 0.0
        self._validation_began = 0.0
        self._steps: list[float] = []  # milliseconds of each in this epoch
        self._images = 0
        self._validating = 0.0  # seconds of this epoch
        self._validated = False
        self._unwritten: list[dict[str, Any]] = []  # rows for which the disk had no space
        self._before = (0.0, 0)  # seconds and images of this epoch, in the run that goes on

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": time.monotonic() - self._began, "images": self._images} if self._images else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = (state_dict.get("seconds", 0.0), state_dict.get("images", 0))

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seconds, self._images = self._before
        self._before = (0.0, 0)
        self._began = time.monotonic() - seconds
        self._validating = 0.0
        self._validated = False
        self.started = True
        self._steps = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        self._step_began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._images += sum(len(images) for images, _ in batch) * trainer.world_size
        self._steps.append(1000 * (time.perf_counter() - self._step_began))

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._validating = time.monotonic() - self._validation_began
        self._validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        seconds, images = time.monotonic() - self._began, self._images
        self._images = 0  # a checkpoint from here on has none of an epoch
        if not trainer.is_global_zero:
            return
        row = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": round(seconds, 2),
            "images_per_second": round(images / max(seconds - self._validating, 1e-9), 2),
            "step_ms": round(median(self._steps), 2) if self._steps else None,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
        }
        for logger in trainer.loggers:  # Lightning sends the others; the step is that of its rows
            logger.log_metrics(
                {name: value for name, value in row.items() if name != "step" and value is not None},
                trainer.global_step - 1,
            )
        values = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        if not self._validated:  # Lightning keeps the numbers of the last validation
            values = {name: value for name, value in values.items() if "val/" not in name}
        row |= values
        rows = [r for r in [*read_rows(self.path), *self._unwritten] if r["epoch"] < row["epoch"]]
        try:
            write_rows(self.path, [*rows, row])
            self._unwritten = []
        except OSError as error:
            if not is_full(error):
                raise
            self._unwritten.append(row)
            print(f"{self.path}: no space left on its disk: this epoch's row comes with the next one's", flush=True)


class Settings(Callback):
    """The settings of this command, not what a checkpoint remembers of earlier ones; `config.yaml` once they act.

    A checkpoint brings back the optimizer's rates and decays, the schedule's place in an epoch of then, and a patience.
    """

    def __init__(self, config: Mapping[str, Any], path: Path) -> None:
        self.config = config
        self.path = path
        self._steps: int | None = None  # of an epoch; of the checkpoint's, once it is read
        self._written = False

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps = state_dict.get("steps")

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        for callback in callbacks_of(trainer):
            if isinstance(callback, EarlyStopping) and (state := checkpoint["callbacks"].get(callback.state_key)):
                state["patience"] = callback.patience
        averages = any(isinstance(callback, WeightAveraging) for callback in callbacks_of(trainer))
        if "current_model_state" in checkpoint and not averages:  # ema=null from now on: state_dict is the average
            module.load_state_dict(checkpoint["current_model_state"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        if trainer.ckpt_path:
            self._renew(trainer, module, steps / (self._steps or steps))
        self._steps = steps

    def _renew(self, trainer: pl.Trainer, module: pl.LightningModule, longer: float) -> None:
        """Rates and decays as in a new run, at the place of the schedule that the epochs so far lead to."""
        if not trainer.lr_scheduler_configs:  # the rate stays as it is
            return
        fresh: Any = module.configure_optimizers()
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if not isinstance(schedule, LambdaLR):  # one of one's own keeps its state: `changes` refuses others for it
            return
        schedule.last_epoch = round(longer * schedule.last_epoch)
        schedule.base_lrs = fresh["lr_scheduler"]["scheduler"].base_lrs
        groups = zip(trainer.optimizers[0].param_groups, fresh["optimizer"].param_groups, strict=True)
        for (group, new), base, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group.update({key: value for key, value in new.items() if key != "params"})
            group["lr"] = base * factor(schedule.last_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """After every part has looked at what it works with: what is refused there leaves the file as it was."""
        if trainer.is_global_zero and not self._written:
            write_settings(self.path, self.config)
        self._written = True


class Examples(Callback):
    """The same few validation images after every epoch, with truth and prediction, to loggers that take pictures."""

    def __init__(self, *, count: int = 8) -> None:
        self.count = count

    def on_validation_epoch_end(self, trainer: Any, module: pl.LightningModule) -> None:
        data: DataModule | None = trainer.datamodule
        if trainer.sanity_checking or not trainer.is_global_zero or not self.count or data is None:
            return
        assert isinstance(module, MultiTask)

        def make(source: str) -> dict[str, list[Example]]:
            return task_examples(module, data, source, "val", self.count)

        for logger in trainer.loggers:
            log_examples(logger, module, data.sources, make, trainer.global_step - 1)
