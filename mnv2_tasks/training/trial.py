"""Training steps on a network of their own, before the training: what they take and what they do to the loss."""

import warnings
from collections.abc import Generator
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor

from mnv2_tasks.datasets.batches import Batch
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.sampling import TrainingOrder
from mnv2_tasks.training.module import MultiTask

LATE = 1 << 30  # an epoch by which every trunk that ever thaws has thawed


class Trial:
    """Steps as a run takes them: all heads' losses, its balance, optimizer, precision, clipping and device.

    The trunk has thawed, as for most of a run; the rate is the one that is given, without a schedule.

    Args:
        task: is used up: its weights move. Its optimizer was made with a rate of 1, so that the groups' rates are
            their factors (`optim.backbone_lr`).
        trainer: of the run, which tells precision, clipping and device.
    """

    def __init__(self, task: MultiTask, trainer: pl.Trainer) -> None:
        self.strategy = trainer.strategy
        self.precision = trainer.precision_plugin
        self.scaler: Any = getattr(self.precision, "scaler", None)  # of 16-mixed
        self.clip = trainer.gradient_clip_val or 0.0
        self.clipped_by = GradClipAlgorithmType(trainer.gradient_clip_algorithm or "norm")
        task.model.backbone.freezing.thaw(LATE)
        self.task = task.to(self.device).train()
        self.precision.convert_module(self.task)  # in its place
        self.optimizer: torch.optim.Optimizer = self.task.configure_optimizers()
        self.factors = [group["lr"] for group in self.optimizer.param_groups]
        self.steps = 0

    @property
    def device(self) -> torch.device:
        return self.strategy.root_device

    def step(self, batch: list[Batch], rate: float) -> float:
        """The loss before the step, whose rate is `rate` for the heads."""
        torch.manual_seed(self.steps)  # of dropout and the like
        self.steps += 1
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad()
        there = self.strategy.batch_to_device(batch, self.device)
        with warnings.catch_warnings(), self.precision.forward_context():
            warnings.filterwarnings("ignore", ".*self.log.*")  # there is nobody to log to
            loss: Tensor = self.task.training_step(there, 0)
        self.task.backward(loss if self.scaler is None else self.scaler.scale(loss))
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.precision.clip_gradients(self.optimizer, self.clip, self.clipped_by)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return float(loss.detach())


def training_batches(data: DataModule) -> Generator[list[Batch]]:
    """The batches of a training, one epoch after another without end."""
    loaders = data.loaders("train", training=True).values()
    epoch = 0
    while True:
        for loader in loaders:
            assert isinstance(loader.sampler, TrainingOrder)
            loader.sampler.set_epoch(epoch)
        yield from map(list, zip(*loaders, strict=True))
        epoch += 1
