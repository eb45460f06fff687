"""The range test: its rate on a toy whose best one is known, groups in proportion, and what is left as it was."""

import math
from copy import deepcopy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from builders import joint

from mnv2_tasks.files import read_rows
from mnv2_tasks.training import rate_range as module
from mnv2_tasks.training.loss_balance import GradNorm
from mnv2_tasks.training.rate_range import HIGHEST, LOWEST, STEPS, find_rate, range_test
from mnv2_tasks.training.trial import Trial

SILENT = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}


def quadratic(steepest: float):
    """SGD on the mean of 0.5 k (w - x)^2 for curvatures up to `steepest` and noisy x: above 2 / k it diverges."""
    curvature = torch.logspace(-1, 0, 5) * steepest
    weight, random = torch.ones(5) * 3, torch.Generator().manual_seed(0)

    def step(rate: float) -> float:
        nonlocal weight
        apart = weight - torch.randn(5, generator=random)
        weight = weight - rate * curvature * apart
        return float(0.5 * (curvature * apart**2).sum())

    return step


@pytest.mark.parametrize("steepest", [1.0, 10.0, 1000.0])
def test_the_rate_is_below_what_diverges_and_not_far(steepest):
    found = range_test(quadratic(steepest))
    assert 0.02 / steepest <= found.chosen <= 1 / steepest
    assert found.rates[-1] < HIGHEST and len(found.rates) < STEPS  # it ended where it diverged
    assert found.clear and float(f"{found.chosen:.2g}") == found.chosen  # as one types it


def test_a_loss_that_is_no_number_ends_it():
    found = range_test(lambda rate: 1 / rate if rate < 0.1 else math.nan)
    assert found.rates[-1] < 0.1 and found.chosen == pytest.approx(0.01, rel=0.2)


def test_a_loss_that_only_scatters_gives_what_stays_below_its_rise():
    random = torch.Generator().manual_seed(0)
    found = range_test(lambda rate: 1 + 0.04 * float(torch.randn((), generator=random)) + (10 * rate) ** 2)
    assert not found.clear and 0.001 < found.chosen < 0.01


def trial() -> tuple[Trial, torch.nn.Module]:
    task, data = joint()
    task.optimizer = partial(torch.optim.SGD, lr=1.0, momentum=0.9)
    task.schedule = None
    task.balance = GradNorm(tuple(task.model.heads))
    return Trial(deepcopy(task), pl.Trainer(**SILENT, gradient_clip_val=5.0)), data


def test_heads_and_trunk_take_rates_in_their_proportion_and_the_same_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 8)
    monkeypatch.setattr(module, "STEPS", 8)
    one, data = trial()
    seen = set()

    def watched(batch, rate, step=one.step):
        loss = step(batch, rate)
        seen.update(round(group["lr"] / rate, 6) for group in one.optimizer.param_groups)
        return loss

    one.step = watched
    found = find_rate(one, data)
    assert seen == {0.5, 1.0}  # as `builders.joint` has it
    assert len(found.rates) <= 8 and found.rates[0] == LOWEST
    other, data = trial()
    assert find_rate(other, data).losses == found.losses
    found.write(tmp_path)
    assert len(read_rows(tmp_path / "lr_range.csv")) == len(found.rates)
    assert (tmp_path / "lr_range.png").stat().st_size > 5000
