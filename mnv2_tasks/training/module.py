"""The LightningModule that trains any dict of heads on one backbone."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import Prediction
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.training.divergence import Divergence
from mnv2_tasks.training.loss_balance import Balance, Fixed
from mnv2_tasks.version import __version__

LOGGED = 50  # with more classes, only metrics.json tells them one by one
Source = tuple[Tensor, dict[str, dict[str, Tensor]]]  # images (B, C, H, W) uint8, {task: targets}


class MultiTask(pl.LightningModule):
    """The heads' losses are balanced into one; `val/score` is the mean of the heads' primary metrics.

    A batch is a list of sources, each (images, {task: targets}), or None once a source has no more: tasks that share
    images share one forward of the backbone. A plain DataLoader's batch is one source: (images, targets), with the
    targets of a lone head as `Kind.complete` takes them; it is checked, as a `DataModule`'s needs not be. Metrics are
    named task/stage/name.

    Args:
        model, classes: the network, and the class names of each task.
        config: the plain config; it travels in the checkpoint with the class names, so that nothing else is needed
            to rebuild the model.
        optimizer: parameter groups -> optimizer.
        schedule: (optimizer, steps=total optimizer steps) -> learning-rate scheduler, stepped once a batch; None keeps
            the rate.
        balance: {task: loss} -> the loss to minimise; None sums them.
        backbone_lr: learning rate of the backbone over that of the heads.
    """

    def __init__(
        self,
        model: Model,
        classes: Classes,
        *,
        config: Mapping[str, Any] | None = None,
        optimizer: Callable[..., torch.optim.Optimizer] | None = None,
        schedule: Callable[..., torch.optim.lr_scheduler.LRScheduler] | None = None,
        balance: Balance | None = None,
        backbone_lr: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = classes
        self.config = config
        self.optimizer = optimizer
        self.schedule = schedule
        self.backbone_lr = backbone_lr
        self.balance = Fixed(tuple(model.heads)) if balance is None else balance
        self._step_losses: dict[str, Tensor] = {}
        self.terms: dict[tuple[str, str], Tensor] = {}  # of the last training step: {(task, term of its loss): value}
        self.metrics = nn.ModuleDict({task: head.metrics(classes[task]) for task, head in model.heads.items()})
        self.split = "val"  # what the test loop calls its numbers
        self.results: dict[str, float] = {}  # of the last evaluation, in float64: {"task/stage/name": value}
        self._measured: dict[str, None] = {}  # the tasks that this evaluation had batches of, in their order
        self._is_prepared = False  # whether batches are a `DataModule`'s
        self._images = 0  # that this process has seen in it

    def setup(self, stage: str) -> None:
        self._is_prepared = isinstance(getattr(self.trainer, "datamodule", None), DataModule)
        freezing = self.model.backbone.freezing
        if self.trainer.world_size > 1 and freezing.thaws:
            raise InputError(
                f"backbone.freeze={freezing.whole}: layers cannot join in later on several processes; use true, false, "
                "or one"
            )

    def on_train_epoch_start(self) -> None:
        self.model.backbone.freezing.thaw(self.current_epoch)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Dropout and the like depend on the step alone, so that a resumed run does as the whole one would."""
        if self.config and "seed" in self.config:
            place = [self.config["seed"], self.global_step, self.global_rank]
            torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1)[0]))

    def configure_callbacks(self) -> list[Any]:
        return [Divergence()] if self.trainer.state.fn == "fit" else []

    def training_step(self, batch: list[Source] | Source, index: int) -> Tensor:
        self.terms = {}
        self._step_losses, _ = self._losses(batch, "train")
        return self.balance(self._step_losses)

    def backward(self, loss: Tensor) -> None:
        shared = [p for p in self.model.backbone.parameters() if p.requires_grad]
        self.balance.backward(loss, self._step_losses, shared=shared)
        self._step_losses = {}

    def on_train_batch_end(self, outputs: Any, batch: Any, index: int) -> None:
        if self.trainer.is_last_batch and not isinstance(self.balance, Fixed):
            weights = {f"balance/{task}": weight for task, weight in self.balance.weights().items()}
            self.log_dict(weights, on_step=False, on_epoch=True, batch_size=1)

    def validation_step(self, batch: list[Source | None] | Source, index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: list[Source | None] | Source, index: int) -> None:
        self._evaluate(batch, self.split)

    def _losses(self, batch: Any, stage: str) -> tuple[dict[str, Tensor], dict[str, tuple[Any, Any]]]:
        """{task: loss} and {task: (outputs, targets)} of one batch."""
        losses, outputs = {}, {}
        for images, targets in self._sources(batch):
            images = images.contiguous(memory_format=torch.channels_last)
            run = self.model if stage == "train" else self.model.infer
            for task, output in run(images, targets.keys()).items():
                outputs[task] = output, targets[task]
                parts = self.model.heads[task].loss(output, targets[task])
                losses[task] = torch.stack(list(parts.values())).sum()
                named = {f"{task}/{stage}/{name}": value.detach() for name, value in parts.items()}
                if stage == "train":
                    self.terms |= {(task, name): value.detach() for name, value in parts.items()}
                named[f"{task}/{stage}/loss"] = losses[task].detach()
                self.log_dict(named, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return losses, outputs

    def predict_step(self, batch: Any, index: int, dataloader_idx: int = 0) -> list[dict[str, Prediction]]:
        """{task: prediction} of each image, in its own pixels; a plain DataLoader's may come without targets."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        targets = {} if isinstance(batch, Tensor) or len(batch) < 2 else batch[1]
        ours = isinstance(targets, Mapping) and targets.keys() and targets.keys() <= set(self.model.heads)
        whole = torch.tensor(images.shape[-2:]).expand(len(images), 2)  # as a plain DataLoader's are
        rows: list[dict[str, Prediction]] = [{} for _ in range(len(images))]
        for task, predictions in self.model.predict(images, targets.keys() if ours else None).items():
            fields = targets[task] if ours and isinstance(targets[task], Mapping) else {}
            seen, size = (fields.get(name, whole).tolist() for name in ("seen", "size"))
            for i, prediction in enumerate(predictions):
                rows[i][task] = self.model.heads[task].kind.restore(prediction, tuple(seen[i]), tuple(size[i]))
        return rows

    def _named(self, batch: Any) -> Iterator[tuple[Tensor, Mapping[str, Any]]]:
        """The images of a batch's sources, and their targets by task. Raises InputError for those of another form."""
        heads = self.model.heads
        if isinstance(batch, Tensor) or len(batch) == 1 and isinstance(batch[0], Tensor):
            raise InputError("a batch has images alone: give (images, targets)")
        for source in [batch] if len(batch) == 2 and isinstance(batch[0], Tensor) else batch:
            if source is None:
                continue
            images, targets = source
            if not isinstance(targets, Mapping) or not set(targets) <= set(heads):
                if len(heads) > 1:
                    raise InputError(f"a batch is (images, {{task: targets}}), of {', '.join(heads)}")
                targets = {next(iter(heads)): targets}
            yield images, targets

    def _sources(self, batch: Any) -> list[Source]:
        """The sources of a batch that have images, with all fields of their targets.

        Raises InputError for what of a plain DataLoader's batch cannot be learned from or counted.
        """
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        whole = []
        for images, targets in self._named(batch):
            ids = (self._images + torch.arange(len(images), device=images.device)) * world + self.global_rank
            kinds = {task: self.model.heads[task].kind for task in targets}
            fields = {task: kinds[task].complete(own, images, ids=ids) for task, own in targets.items()}
            if not self._is_prepared:
                check_images(images)
                for task, kind in kinds.items():
                    kind.check(fields[task], images, self.classes[task])
            whole.append((images, fields))
            self._images += len(images)
        return whole

    def _evaluate(self, batch: Any, stage: str) -> None:
        _, outputs = self._losses(batch, stage)
        self._measured |= dict.fromkeys(outputs)
        for task, (output, targets) in outputs.items():
            self.model.heads[task].update(self.metrics[task], output, targets)

    def _start_metrics(self) -> None:
        self.results = {}
        self._measured = {}
        self._images = 0
        for metric in self.metrics.values():
            cast(Metric, metric).reset()

    on_validation_epoch_start = on_test_epoch_start = _start_metrics

    def _log_metrics(self, stage: str) -> None:
        scores = []
        for task in self._measured:
            values = cast(Metric, self.metrics[task]).compute()
            few = len(self.classes[task]) <= LOGGED  # "iou/cat" and the like: a curve a class
            logged = {name: value.float() for name, value in values.items() if few or "/" not in name}
            self.log_dict({f"{task}/{stage}/{name}": value for name, value in logged.items()})
            self.results |= {f"{task}/{stage}/{name}": float(value) for name, value in values.items()}
            scores.append(values[self.model.heads[task].primary].float())
        self.log(f"{stage}/score", torch.stack(scores).nan_to_num(0).mean(), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics(self.split)

    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's: of the trunk, the heads and the balance, each with and without weight decay."""
        groups = parameter_groups(self.model.backbone.freezing.learning(), [*self.model.heads.parameters()])
        groups.append({"params": list(self.balance.parameters()), "weight_decay": 0.0})
        return [group for group in groups if group["params"]]

    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            raise InputError(
                f"{type(self).__name__} was made for evaluation: to train it, give optimizer=<parameter groups -> "
                "optimizer>, such as functools.partial(torch.optim.SGD, lr=0.05)"
            )
        optimizer = self.optimizer(self.groups())
        backbone = {id(p) for p in self.model.backbone.parameters()}
        for group in optimizer.param_groups:
            if id(group["params"][0]) in backbone:
                group["lr"] *= self.backbone_lr
        if self.schedule is None:
            return optimizer
        schedule = self.schedule(optimizer, steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        classes = {task: list(names) for task, names in self.classes.items()}
        checkpoint["mnv2_tasks"] = {"version": __version__, "config": self.config, "classes": classes}
        if self._trainer is not None:  # the public `trainer` raises an error where there is none
            progress: Any = self._trainer.fit_loop.epoch_progress
            checkpoint["mnv2_tasks"]["epochs"] = progress.current.processed  # done


def check_images(images: Tensor) -> None:
    """Raises InputError for images of another scale than the model takes, such as normalised ones."""
    if not images.is_floating_point():
        return
    low, high = (float(bound) for bound in images.aminmax())
    if not 0 <= low <= high <= 1:
        raise InputError(
            f"a batch's images go from {low:.3g} to {high:.3g}: give uint8, or floats in 0..1; the model normalises "
            "them by itself"
        )


def parameter_groups(*parts: Any) -> list[dict[str, Any]]:
    """Two groups of each part: weight decay for the weights of convolutions and linear layers, none for the rest."""
    groups: list[dict[str, Any]] = []
    for part in parts:
        parameters = list(part)
        groups += [
            {"params": [p for p in parameters if p.ndim > 1]},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
    return groups
