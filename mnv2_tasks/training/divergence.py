"""A training that diverges is ended soon, with a line that says where it began."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError, shorten

EVERY = 10  # steps from one look at the losses to the next: to look is to wait for the GPU
ROW = 3  # bad steps in a row that are no accident: in half precision a step is skipped now and then
GROWTH = 50.0  # a term of so many times its first value, or times 1 where that is less, has exploded
SMALLEST = 2.0**-14  # of a loss scaler, which starts at 2^16 and halves with each step that it skips
Term = tuple[str, str]  # a task, and a name among its losses


@dataclass
class Course:
    """How one term of a loss went."""

    first: float = 0.0  # the first value above 0
    growth: float = 0.0  # of the last step
    row: int = 0  # bad steps up to the last
    step: int = 0  # where the row began, and what was there
    rate: float = 0.0
    value: float = 0.0
    before: float = 0.0  # the growth of the step before it

    def add(self, step: int, rate: float, value: float) -> None:
        if not self.first and math.isfinite(value):
            self.first = value
        growth = value / max(1.0, self.first)
        if growth <= GROWTH:
            self.row = 0
        else:
            if not self.row:
                self.step = step
                self.rate = rate
                self.value = value
                self.before = self.growth
            self.row += 1
        self.growth = growth


class Divergence(Callback):
    """Ends a training whose losses explode or are no finite numbers, before such weights are validated or saved.

    The module tells the `terms` of its last step, as `MultiTask` does; they stay on the device until `EVERY` steps are
    read at once. All processes count the largest of theirs, so that they end together.

    Raises InputError in the first process, and SystemExit in the others.
    """

    def __init__(self) -> None:
        self._courses: dict[Term, Course] = {}
        self._unread: list[tuple[int, float, dict[Term, Tensor]]] = []  # step, learning rate, terms
        self._batches: deque[tuple[int, list[Tensor]]] = deque(maxlen=2 * EVERY)  # step, image_ids of each source
        self._good = 0  # the step when an epoch ended well

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        terms: Any = module.terms
        self._unread.append((trainer.global_step, _rate(trainer), terms))
        self._batches.append((trainer.global_step, _image_ids(trainer, batch)))
        # Not on_train_epoch_end, where the first process alone reads metrics, which are reduced over all.
        last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if last or len(self._unread) >= EVERY:
            self._look(trainer, module, saves=last)
        if last:
            self._good = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._good < trainer.global_step:
            self._look(trainer, module, saves=True)

    def check(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Before a checkpoint within an epoch is saved."""
        self._look(trainer, module, saves=True)
        self._good = trainer.global_step

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule, *, saves: bool = False) -> None:
        """End the training where it has diverged; what is saved next has to be good to the last step."""
        if self._unread:
            self._read(trainer)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        least = 1 if saves and scaler is None else ROW
        bad = [term for term, course in self._courses.items() if course.row >= least]
        if not bad and scaler is not None and scaler.get_scale() < SMALLEST:
            names = [n for n, p in module.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            where = f"the gradient of {_plain(names[0])}" if names else "a gradient"
            self._end(trainer, f"{where} overflows at every scale", trainer.global_step, _rate(trainer))
        name = _not_finite(trainer, module) if saves and not bad else None
        bad = bad or [term for term, course in self._courses.items() if name and course.row]
        if bad:
            self._end(trainer, *self._first(bad))
        if name:
            self._end(trainer, f"{_plain(name)} is no finite number", trainer.global_step, _rate(trainer))

    def _read(self, trainer: pl.Trainer) -> None:
        """The terms of the steps since the last look, as numbers."""
        terms = sorted({term for _, _, values in self._unread for term in values})
        none = torch.zeros_like(next(iter(self._unread[-1][2].values())))
        values = torch.stack([v.get(term, none).float() for _, _, v in self._unread for term in terms])
        values = values.abs().nan_to_num(nan=math.inf, posinf=math.inf)
        values = trainer.strategy.reduce(values, reduce_op="max").view(len(self._unread), -1)
        for (step, rate, _), row in zip(self._unread, values.tolist(), strict=True):
            for term, value in zip(terms, row, strict=True):
                self._courses.setdefault(term, Course()).add(step, rate, value)
        self._unread = []

    def _first(self, terms: list[Term]) -> tuple[str, int, float]:
        """What was bad first, or of several the one that had grown most; the step, and the learning rate there."""
        task, name = min(terms, key=lambda term: (self._courses[term].step, -self._courses[term].before))
        course = self._courses[task, name]
        grown = f"is {course.value:.3g} in place of {course.first:.3g}"
        how = grown if math.isfinite(course.value) else "is no finite number"
        return f"the {name} of {task} {how}", course.step, course.rate

    def _end(self, trainer: pl.Trainer, what: str, step: int, rate: float) -> None:
        if not trainer.is_global_zero:
            raise SystemExit(0)  # with another code, Lightning would kill the first process before it can tell
        advice = "lower optim.optimizer.lr"
        if str(trainer.precision).startswith("16"):
            advice += ", or take trainer.precision=bf16-mixed"
        folder = Path(trainer.default_root_dir)
        if 0 < self._good < step and (folder / "checkpoints" / "last.ckpt").exists():
            advice += f"; resume={folder} goes on from step {self._good}"
        ids = next((ids for at, ids in self._batches if at == step), [])
        images = _names(trainer, ids) if trainer.world_size == 1 else ""  # another process may have had them
        raise InputError(
            f"the training has diverged: {what} at step {step}, learning rate {rate:.3g}; {advice}{images}"
        )


def _image_ids(trainer: Any, batch: Any) -> list[Tensor]:
    """The places (B,) of a batch's images in each source, of a `DataModule`'s batch."""
    if not isinstance(trainer.datamodule, DataModule):
        return []
    return [next(iter(targets.values()))["image_id"] for _, targets in batch if isinstance(targets, Mapping)]


def _names(trainer: Any, ids: list[Tensor]) -> str:
    names = []
    for source, places in zip(trainer.datamodule.sources if ids else (), ids, strict=False):
        split = trainer.datamodule.split(source, "train")
        path = getattr(split, "path", None)  # drawn images have none
        names += [path(i).name if path else f"{source} {i}" for i in places.tolist()]
    return f"; the images of that step: {shorten(', '.join(names), 300)}" if names else ""


def _rate(trainer: pl.Trainer) -> float:
    """The highest learning rate of all weights."""
    return max(float(group["lr"]) for group in trainer.optimizers[0].param_groups)


def _not_finite(trainer: pl.Trainer, module: pl.LightningModule) -> str | None:
    """A weight that is no finite number in some process, or a norm's statistic: a skipped step changes those, too."""
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    tensors |= {n: b for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))}
    bad = torch.stack([~tensor.isfinite().all() for tensor in tensors.values()]).float()
    bad = trainer.strategy.reduce(bad, reduce_op="max")
    return next((name for name, one in zip(tensors, bad.tolist(), strict=True) if one), None)


def _plain(name: str) -> str:
    """A weight's name without the places that every one has: "model.heads.ssdlite.x" is "ssdlite.x"."""
    return name.removeprefix("model.").removeprefix("heads.")
