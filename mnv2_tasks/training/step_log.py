"""What single steps show, for the loggers: metrics.csv has the epochs alone."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.files import read_rows
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.wandb_artifacts import use_data
from mnv2_tasks.training.wandb_logger import WandbLogger


class StepLog(Callback):
    """Every `log_every_n_steps` steps, to every logger: the loss and its terms, the rate, the gradient's norm, speed.

    `step/loss` is the balanced one and `step/<task>/<term>` its parts, of the first process alone; `step/gradient_norm`
    is that before clipping; `step/images_per_second` counts the time for loading too, `step/ms` does not.

    Args:
        path: metrics.csv, of which W&B is sent what it lacks when a run is resumed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._norm: Tensor | None = None  # of this step's gradient, where the step is one to log
        self._batch_began = 0.0  # by the performance counter, as the next
        self._row_began = 0.0
        self._images = 0  # since then

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, MultiTask)
        heads = module.model.heads
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                headlines = [f"{task}/val/{head.primary}" for task, head in heads.items()]
                logger.keep_best(highest=["val/score", *headlines], lowest=[f"{task}/val/loss" for task in heads])
                logger.send_history(read_rows(self.path), trainer.global_step)
                logger.watch_model(module.model)
                if isinstance(data := getattr(trainer, "datamodule", None), DataModule):
                    use_data(logger, data, (module.config or {}).get("data") or {})

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._row_began = time.perf_counter()
        self._images = 0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, index: int) -> None:
        self._batch_began = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer) -> None:
        every = trainer.log_every_n_steps  # 0: never
        if every and (trainer.global_step + 1) % every == 0 and trainer.loggers and trainer.is_global_zero:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self._images += sum(len(images) for images, _ in batch) * trainer.world_size
        if self._norm is None:
            return
        norm, self._norm = float(self._norm), None
        loss = outputs["loss"] * trainer.accumulate_grad_batches  # Lightning has divided it
        now = time.perf_counter()
        row = {
            "step/loss": float(loss),
            **{f"step/{task}/{term}": float(value) for (task, term), value in module.terms.items()},
            "step/lr": trainer.optimizers[0].param_groups[0]["lr"],
            "step/gradient_norm": norm,
            "step/ms": round(1000 * (now - self._batch_began), 2),
            "step/images_per_second": round(self._images / max(now - self._row_began, 1e-9), 2),
        }
        for logger in trainer.loggers:
            logger.log_metrics(row, trainer.global_step - 1)  # the step of Lightning's own rows
        self._row_began = now
        self._images = 0
