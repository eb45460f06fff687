"""A learning rate by a range test: Smith, arXiv 1506.01186, section 3.3, with rates that grow exponentially."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import write_rows
from mnv2_tasks.training.trial import Trial, training_batches

LOWEST, HIGHEST = 1e-5, 10.0
STEPS = 100
FEWEST = 25  # steps; a data set of few batches gets four passes, but no fewer than these
SMOOTH = 0.9  # of the mean over the losses
DIVERGED = 4.0  # times the least loss: the test ends there


@dataclass(frozen=True)
class RateRange:
    """rates, losses: of each step, raw; chosen: the rate to train with; clear: see `choose`."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    chosen: float
    clear: bool = True

    @property
    def least_at(self) -> float:
        """The rate at which the smoothed loss is least."""
        return self.rates[self.smoothed.index(min(self.smoothed))]

    @property
    def smoothed(self) -> list[float]:
        return smooth(self.losses)

    def write(self, folder: Path) -> None:
        """Write lr_range.csv and lr_range.png."""
        from mnv2_tasks.visual.rate_plot import plot_rates

        columns = zip(self.rates, self.losses, self.smoothed, strict=True)
        write_rows(folder / "lr_range.csv", [{"lr": r, "loss": raw, "smoothed": loss} for r, raw, loss in columns])
        plot_rates(self.rates, self.losses, self.smoothed, self.chosen, folder / "lr_range.png")


def range_test(step: Callable[[float], float], *, steps: int = STEPS) -> RateRange:
    """Take steps with growing rates, until the loss has diverged.

    Args:
        step: a rate -> the loss before the step that takes it.

    Raises InputError where there is no loss to begin with.
    """
    rates: list[float] = []
    losses: list[float] = []
    for i in range(steps):
        rate = LOWEST * (HIGHEST / LOWEST) ** (i / (steps - 1))
        loss = step(rate)
        if not math.isfinite(loss):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed = smooth(losses)
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    if not rates:
        raise InputError("optim.optimizer.lr=auto: the loss of the first step is no finite number; check the data")
    chosen, clear = choose(rates, losses)
    return RateRange(tuple(rates), tuple(losses), chosen, clear)


def choose(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, bool]:
    """(A tenth of the rate at which the smoothed loss is least, to two digits; whether the loss has told it clearly).

    Where it falls by less than it scatters from step to step, the least says nothing: then it is a tenth of the last
    rate before the loss rises.
    """
    smoothed, few = smooth(losses), max(2, len(losses) // 4)
    scatter = pstdev(loss - mean for loss, mean in zip(losses[: 2 * few], smoothed, strict=False))
    level = fmean(losses[:few])
    least = min(range(len(smoothed)), key=smoothed.__getitem__)
    clear = level - smoothed[least] > scatter
    if not clear:
        least = max((i for i, loss in enumerate(smoothed) if loss <= level + scatter), default=least)
    return float(f"{rates[least] / 10:.2g}"), clear


def smooth(losses: Sequence[float]) -> list[float]:
    """The exponential mean up to each loss, without the pull of its start."""
    mean, smoothed = 0.0, []
    for i, loss in enumerate(losses, 1):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        smoothed.append(mean / (1 - SMOOTH**i))
    return smoothed


def find_rate(trial: Trial, data: DataModule, *, averaged: Callable[[float], float] = float) -> RateRange:
    """`range_test` on training batches.

    Args:
        averaged: a loss -> its mean over the processes of a run, which all take the same steps.
    """
    an_epoch = min(len(loader) for loader in data.loaders("train", training=True).values())
    with closing(training_batches(data)) as batches:
        return range_test(
            lambda rate: averaged(trial.step(next(batches), rate)), steps=max(FEWEST, min(STEPS, 4 * an_epoch))
        )
