"""Joint training: unknown labels change nothing elsewhere, frozen layers stay, learning rates go where they belong."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from builders import HEADS, joint
from refusal import refused
from torch.utils.data import DataLoader

from mnv2_tasks.assembly.network import load_model
from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.kinds import CLASSIFICATION, SEGMENTATION, Kind
from mnv2_tasks.model import Model
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.progress import Progress

CLASSES = ("circle", "square", "triangle")


def unknown(kind: Kind, targets: dict) -> dict:
    fields = dict(targets)
    if kind is CLASSIFICATION:
        fields["label"] = torch.full_like(fields["label"], -1)
    elif kind is SEGMENTATION:
        fields["mask"] = torch.full_like(fields["mask"], 255)
    else:
        fields["known"] = torch.zeros_like(fields["known"])
        fields["labels"] = torch.full_like(fields["labels"], -1)
    return fields


def gradients(task: MultiTask, images, targets) -> dict[str, torch.Tensor]:
    task.zero_grad()
    task.log_dict = lambda *a, **k: None
    task.train()
    losses, _ = task._losses([(images, targets)], "train")
    task.balance(losses).backward()
    return {name: p.grad.clone() for name, p in task.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("missing", HEADS)
def test_a_batch_without_labels_of_a_task_changes_nothing_in_the_others(missing):
    task, data = joint()
    images, targets = data.batch("scenes", "train", [0, 1, 2, 3])
    partly = {**targets, missing: unknown(HEADS[missing].kind, targets[missing])}
    alone = {name: fields for name, fields in targets.items() if name != missing}
    with_it, without = gradients(task, images, partly), gradients(task, images, alone)
    own = f"heads.{missing}."
    assert all(not grad.any() for name, grad in with_it.items() if name.startswith(own))
    assert any(name.startswith(own) for name in with_it)  # in the graph: several processes wait for it
    for name, grad in without.items():
        assert (grad - with_it[name]).norm() <= 1e-3 * grad.norm() + 1e-5, name  # sums in another order


def test_frozen_layers_keep_weights_and_norms_until_they_thaw(tmp_path):
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    for freeze, epochs, moves in ((True, 2, False), (1, 1, False), (1, 2, True)):
        task, data = joint({"classifier": Classifier}, freeze=freeze)
        before = {name: value.clone() for name, value in task.model.state_dict().items()}
        trainer = pl.Trainer(max_epochs=epochs, limit_val_batches=0, default_root_dir=tmp_path, **settings)
        trainer.fit(task, datamodule=data)
        changed = {n for n, v in task.model.state_dict().items() if not torch.equal(v, before[n])}
        assert any(name.startswith("backbone.") for name in changed) == moves
        assert "heads.classifier.linear.weight" in changed


def test_the_backbone_has_its_own_learning_rate_and_norms_no_decay(tmp_path):
    task, data = joint()
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=1, accelerator="cpu", limit_val_batches=0, default_root_dir=tmp_path, **settings)
    trainer.fit(task, datamodule=data)
    (optimizer,) = trainer.optimizers
    names = {id(p): name for name, p in task.named_parameters()}
    seen = set()
    for group in optimizer.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            seen.add(name)
            assert group["initial_lr"] == pytest.approx(0.05 if ".backbone." in name else 0.1), name
            assert (group["weight_decay"] > 0) == (p.ndim > 1), name
    assert seen == set(names.values())


BOX = {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}
OWN = {  # the targets of an image in somebody's own data set
    "classifier": torch.tensor(1),
    "ssdlite": BOX,
    "deeplabv3": torch.ones(64, 64, dtype=torch.int64),
}


def by_hand(name: str, *, config=None) -> tuple[MultiTask, Model]:
    torch.manual_seed(0)
    trunk = MobileNetV2(0.35)
    model = Model(trunk, {name: HEADS[name](trunk.taps, len(CLASSES))}, mean=[0.5] * 3, std=[0.5] * 3)
    classes = {name: CLASSES}
    return MultiTask(model, classes, optimizer=partial(torch.optim.SGD, lr=0.01), config=config), model


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "by task"])
@pytest.mark.parametrize("name", OWN)
def test_own_loader_and_plain_trainer(name, wrapped, tmp_path):
    images = (torch.arange(4 * 3 * 64 * 64) % 251).to(torch.uint8).view(4, 3, 64, 64)
    own = OWN[name]
    loader = DataLoader([(image, {name: own} if wrapped else own) for image in images], batch_size=2)
    task, _ = by_hand(name)
    settings = {"logger": False, "enable_progress_bar": False, "default_root_dir": tmp_path, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, **settings)
    trainer.fit(task, loader, loader)
    assert {"val/score", f"{name}/val/{HEADS[name].primary}"} <= set(trainer.callback_metrics)
    (scores,) = trainer.test(task, loader, verbose=False)
    assert scores["val/score"] == pytest.approx(float(trainer.callback_metrics["val/score"]))
    counted = task.metrics[name].confusion().sum()
    assert counted == {"classifier": 4, "deeplabv3": 4 * 64 * 64}.get(name, counted) and (
        counted >= 4 or name != "ssdlite"
    )

    trainer.save_checkpoint(tmp_path / "a.ckpt")
    refused(lambda: load_model(tmp_path / "a.ckpt"), "a.ckpt", "without config", "load_from_checkpoint")
    trained = {key: value.clone() for key, value in task.model.state_dict().items()}
    again, model = by_hand(name)
    settings = {"model": model, "classes": {name: CLASSES}, "map_location": "cpu"}
    loaded = MultiTask.load_from_checkpoint(tmp_path / "a.ckpt", **settings)
    assert all(torch.equal(value, trained[key]) for key, value in loaded.model.state_dict().items())
    config = {
        "backbone": {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.35, "mean": [0.5] * 3, "std": [0.5] * 3},
        "heads": {name: {"_target_": f"{HEADS[name].__module__}.{HEADS[name].__name__}", "_partial_": True}},
        "size": 64,
    }
    trainer.strategy.connect(by_hand(name, config=config)[0])
    trainer.save_checkpoint(tmp_path / "b.ckpt")
    assert load_model(tmp_path / "b.ckpt")[1]["classes"] == {name: CLASSES}


def test_own_batches_of_another_form_and_no_optimizer(tmp_path):
    task, model = by_hand("ssdlite")
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    refused(lambda: task.validation_step([images, torch.zeros(2, 5)], 0), "detection", "give boxes and labels")
    refused(lambda: task.validation_step([images, {"boxes": torch.zeros(2, 1, 4)}], 0), "boxes", "labels")
    both, _ = joint()
    refused(lambda: both.validation_step([images, torch.zeros(2)], 0), "classifier, ssdlite, deeplabv3")
    refused(MultiTask(model, {"ssdlite": CLASSES}).configure_optimizers, "optimizer=")


def test_progress_goes_to_stderr_and_in_a_log_a_line_an_epoch(tmp_path, capsys, monkeypatch):
    images = torch.zeros(4, 3, 64, 64, dtype=torch.uint8)
    loader = DataLoader([(image, torch.tensor(1)) for image in images], batch_size=2)
    logs = []
    for minute in (10**6, 0):
        monkeypatch.setattr("mnv2_tasks.training.progress.MINUTE", minute)
        task, _ = by_hand("classifier")
        settings = {"logger": False, "enable_checkpointing": False, "default_root_dir": tmp_path, "accelerator": "cpu"}
        trainer = pl.Trainer(max_epochs=2, callbacks=[Progress()], enable_model_summary=False, **settings)
        capsys.readouterr()
        trainer.fit(task, loader, loader)
        out, err = capsys.readouterr()
        assert "training on cpu: 2 epochs of 2 batches, 4 steps in all" in out and "\r" not in out + err
        logs.append([line for line in err.splitlines() if line.startswith(("epoch", "validation"))])
    seldom, often = logs
    assert [line.split(",")[0] for line in seldom] == ["epoch 0", "epoch 1"]
    assert all(word in line for line in seldom for word in ("loss ", "val/score ", "seconds "))
    assert any(line.startswith("epoch 0, batch 1 of 2, loss ") for line in often) and "validation, batch 1" in often
