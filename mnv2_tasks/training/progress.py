"""The bar of an epoch, and lines in its place where no one watches."""

import sys
import time
from contextlib import redirect_stdout
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.callbacks.progress.tqdm_progress import Tqdm
from torch import Tensor

from mnv2_tasks.errors import amount

MINUTE = 60  # seconds between two lines of a log, at least


class Progress(TQDMProgressBar):
    """The bar of an epoch, with the mean loss so far and the time left to the end of the whole run, on stderr.

    Where no one watches, as in a log file, a line an epoch, and one a minute within it.
    """

    def __init__(self) -> None:
        super().__init__(refresh_rate=1)
        # Without a thread of its own: one that starts while loader workers are forked can hold a lock of CPython 3.11's
        # at that moment, for which a worker then waits for ever.
        Tqdm.monitor_interval = 0
        self._start: tuple[float, int] | None = None
        self._loss: Tensor | None = None  # summed over the batches of this epoch
        self._batches = 0
        self._before: dict[str, Any] = {}  # of an epoch that goes on, the two
        self._validated = False
        self._lines = not sys.stderr.isatty()
        self._last_line = time.monotonic()
        if self._lines:
            self.disable()

    def init_sanity_tqdm(self) -> Tqdm:
        with redirect_stdout(sys.stderr):  # Lightning's bars are on stdout
            return super().init_sanity_tqdm()

    def init_train_tqdm(self) -> Tqdm:
        with redirect_stdout(sys.stderr):
            return super().init_train_tqdm()

    def init_validation_tqdm(self) -> Tqdm:
        with redirect_stdout(sys.stderr):
            return super().init_validation_tqdm()

    def init_test_tqdm(self) -> Tqdm:
        with redirect_stdout(sys.stderr):
            return super().init_test_tqdm()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._loss is None else {"loss": float(self._loss), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._before = dict(state_dict)

    def on_train_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_start(trainer, *args)
        if trainer.is_global_zero:
            processes = f" in {trainer.world_size} processes" if trainer.world_size > 1 else ""
            begun = f", from epoch {trainer.current_epoch}, step {trainer.global_step}" if trainer.global_step else ""
            most = trainer.max_epochs or -1
            epochs = f"{amount(most, 'epoch')} of " if most > 0 else ""
            batches = amount(trainer.num_training_batches, "batch", "batches")
            steps = amount(trainer.estimated_stepping_batches, "step")
            device = trainer.strategy.root_device
            print(f"training on {device}{processes}: {epochs}{batches}, {steps} in all{begun}", flush=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        before = self._before.get("loss")
        self._loss = None if before is None else torch.tensor(before, device=trainer.strategy.root_device)
        self._batches = self._before.get("batches", 0)
        self._before = {}
        self._validated = False
        self._epoch_began = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_batch_start(trainer, *args)
        if self._start is None and trainer.global_step > 0:  # the first step is slower than the others
            self._start = time.monotonic(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided it
        self._loss = loss if self._loss is None else self._loss + loss
        self._batches += 1
        super().on_train_batch_end(trainer, module, outputs, batch, index)
        where = f"epoch {trainer.current_epoch}, batch {index + 1} of {self.total_train_batches}"
        self._line_a_minute(trainer, where, module)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_validation_batch_end(trainer, *args)
        self._line_a_minute(trainer, f"validation, batch {args[3] + 1}")

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_validation_end(trainer, module)
        self._validated = not trainer.sanity_checking

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_test_batch_end(trainer, *args)
        self._line_a_minute(trainer, f"evaluation, batch {args[3] + 1}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        super().on_train_epoch_end(trainer, module)
        if self._lines and trainer.is_global_zero:
            items = self.get_metrics(trainer, module)
            if not self._validated:  # Lightning keeps the numbers of the last validation
                items.pop("val/score", None)
            items["seconds"] = f"{time.monotonic() - self._epoch_began:.1f}"
            self._print_line(f"epoch {trainer.current_epoch}", items)
        self._loss = None  # a checkpoint from here on has none of an epoch

    def get_metrics(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, module)
        items.pop("v_num", None)
        if self._loss is not None:
            items = {"loss": f"{float(self._loss) / self._batches:.4g}", **items}
        if self._start and trainer.global_step > self._start[1]:
            began, first = self._start
            left = trainer.estimated_stepping_batches - trainer.global_step
            seconds = int((time.monotonic() - began) / (trainer.global_step - first) * left)
            items["run ends in"] = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        return items

    def _line_a_minute(self, trainer: pl.Trainer, where: str, module: pl.LightningModule | None = None) -> None:
        if self._lines and trainer.is_global_zero and time.monotonic() - self._last_line >= MINUTE:
            self._print_line(where, self.get_metrics(trainer, module) if module else {})

    def _print_line(self, where: str, items: dict[str, Any]) -> None:
        values = [
            f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}" for name, value in items.items()
        ]
        print(", ".join([where, *values]), file=sys.stderr, flush=True)
        self._last_line = time.monotonic()
