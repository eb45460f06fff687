"""A training that diverges is ended within fifty steps, and says where it began."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from builders import HEADS, joint

from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.training.divergence import ROW, Course


def train(task: Any, data: Any, folder: Path, **settings: Any) -> pl.Trainer:
    silent = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=20, default_root_dir=folder, enable_checkpointing=False, **silent, **settings
    )
    trainer.fit(task, datamodule=data)
    return trainer


@pytest.mark.parametrize("names", [["classifier"], ["ssdlite"], ["deeplabv3"], list(HEADS)], ids="+".join)
def test_a_rate_far_too_high_ends_every_head(tmp_path: Path, names: list[str]) -> None:
    task, data = joint({name: HEADS[name] for name in names})
    task.optimizer = partial(torch.optim.SGD, lr=1e6, momentum=0.9)
    with pytest.raises(InputError, match=f"diverged: the .* of ({'|'.join(names)}) is .* at step .*, learning rate"):
        train(task, data, tmp_path)
    assert task.trainer.global_step <= 50


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loss_that_is_no_number_ends_before_it_is_validated(
    tmp_path: Path, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, data = joint()  # three steps an epoch
    loss, calls = Classifier.loss, []

    def broken(self: Any, outputs: Any, targets: Any) -> dict[str, torch.Tensor]:
        calls.append(self.training)
        bad = self.training and sum(calls) == 5
        return {"cross_entropy": loss(self, outputs, targets)["cross_entropy"] * (math.nan if bad else 1)}

    monkeypatch.setattr(Classifier, "loss", broken)
    with pytest.raises(InputError, match="the cross_entropy of classifier is no finite number at step 5"):
        train(task, data, tmp_path, precision=precision, num_sanity_val_steps=0)
    assert calls == [True] * 3 + [False] + [True] * 3  # the second epoch is not validated


def test_single_bad_steps_are_none() -> None:
    course = Course()
    for step, value in enumerate((0.0, 2.0, math.inf, 3.0, 1e3, 1e3, 2.0)):
        course.add(step, 0.1, value)
        assert course.row < ROW and (course.row > 0) == (value > 100)
    for step in range(ROW):
        course.add(step, 0.1, 1e4)
    assert course.row == ROW and course.step == 0 and course.first == 2


def test_statistics_of_norms_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, data = joint({"classifier": Classifier})
    norm = next(module for module in task.model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    norm.running_var.fill_(math.inf)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="running_var is no finite number"):
        train(task, data, tmp_path)
