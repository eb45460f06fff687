"""The LightningModule that trains any dict of heads on one backbone."""

from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mnv2_tasks.model import Classes, Model

Source = tuple[Tensor, dict[str, dict[str, Tensor]]]  # images (B, C, H, W) uint8, {task: targets}


class MultiTask(pl.LightningModule):
    """Losses of all heads are summed; `val/score` is the mean of the heads' primary metrics.

    A batch is a list of sources, each (images, {task: targets}): tasks that share images share one forward of the
    backbone. Metrics are named task/stage/name.

    Args:
        model, classes: the network, and the class names of each task.
        config: the plain config; it travels in the checkpoint with the class names, so that nothing else is needed
            to rebuild the model.
        optimizer: parameter groups -> optimizer.
        schedule: (optimizer, steps=total optimizer steps) -> learning-rate scheduler, stepped once a batch.
        weights: of the tasks' losses; 1 where not given.
    """

    def __init__(
        self,
        model: Model,
        classes: Classes,
        *,
        config: Mapping[str, Any] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.classes, self.config = model, classes, config
        self.optimizer, self.schedule, self.weights = optimizer, schedule, dict(weights or {})
        self.metrics = nn.ModuleDict({task: head.metrics(classes[task]) for task, head in model.heads.items()})  # type: ignore[operator]
        self.split = "val"  # what the test loop calls its numbers

    def training_step(self, batch: list[Source], index: int) -> Tensor:
        return self._losses(batch, "train")[0]

    def validation_step(self, batch: list[Source], index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: list[Source], index: int) -> None:
        self._evaluate(batch, self.split)

    def _losses(self, batch: list[Source], stage: str) -> tuple[Tensor, list[dict[str, Any]]]:
        total, outputs = torch.zeros((), device=self.device), []
        for images, targets in batch:
            images = images.contiguous(memory_format=torch.channels_last)
            outputs.append(self.model(images, targets.keys()))
            for task, output in outputs[-1].items():
                losses = self.model.heads[task].loss(output, targets[task])  # type: ignore[operator]
                losses["loss"] = sum(losses.values())
                total = total + self.weights.get(task, 1.0) * losses["loss"]
                named = {f"{task}/{stage}/{name}": value.detach() for name, value in losses.items()}
                self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return total, outputs

    def _evaluate(self, batch: list[Source], stage: str) -> None:
        _, outputs = self._losses(batch, stage)
        for (_, targets), output in zip(batch, outputs, strict=True):
            for task, one in output.items():
                self.model.heads[task].update(self.metrics[task], one, targets[task])  # type: ignore[operator]

    def _start_metrics(self) -> None:
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator]

    on_validation_epoch_start = on_test_epoch_start = _start_metrics

    def _log_metrics(self, stage: str) -> None:
        scores = []
        for task, metric in self.metrics.items():
            values = metric.compute()  # type: ignore[operator]
            self.log_dict({f"{task}/{stage}/{name}": value for name, value in values.items()})
            scores.append(values[self.model.heads[task].primary])  # type: ignore[index]
        self.log(f"{stage}/score", torch.stack(scores).nan_to_num(0).mean(), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.split)

    def configure_optimizers(self) -> Any:
        assert self.optimizer is not None and self.schedule is not None, "made for evaluation only"
        optimizer = self.optimizer(parameter_groups(self.model))
        schedule = self.schedule(optimizer, steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        classes = {task: list(names) for task, names in self.classes.items()}
        checkpoint["mnv2_tasks"] = {"config": self.config, "classes": classes}


class SSDLiteTask(MultiTask):
    """A detector alone: `SSDLiteTask(model, ("cat", "dog"))` over a `Model` whose one head is "ssdlite"."""

    def __init__(self, model: Model, classes: tuple[str, ...], **training: Any) -> None:
        super().__init__(model, {"ssdlite": classes}, **training)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Weight decay for the weights of convolutions and linear layers, none for norms and biases."""
    learned = [p for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learned if p.ndim > 1]},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
