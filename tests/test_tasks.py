"""Joint training: unknown labels change nothing elsewhere, frozen layers stay, learning rates go where they belong."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.scenes import Scenes
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.model import Model
from mnv2_tasks.schedules import warmup_cosine
from mnv2_tasks.tasks import MultiTask

HEADS = {"classifier": Classifier, "ssdlite": SSDLite, "deeplabv3": DeepLabV3}
CLASSES = ("circle", "square", "triangle")


def joint(heads=HEADS, **backbone) -> tuple[MultiTask, DataModule]:
    torch.manual_seed(0)
    trunk = MobileNetV2(0.35, **backbone)
    data = DataModule(
        {"scenes": Scenes(64, train=12, val=4)},
        {task: head.kind for task, head in heads.items()},
        sizes={"scenes": (64, 64)},
        batch_size=4,
        workers=0,
    )
    made = {task: head(trunk.taps, len(data.classes[task])) for task, head in heads.items()}
    for module in (module for head in made.values() for module in head.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its draws would depend on which heads run
    model = Model(trunk, made, mean=[0.5] * 3, std=[0.5] * 3)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
    settings = {"optimizer": optimizer, "schedule": partial(warmup_cosine, warmup=0.1)}
    return MultiTask(model, data.classes, backbone_lr=0.5, **settings), data


def unknown(kind: str, targets: dict) -> dict:
    fields = dict(targets)
    if kind == "classification":
        fields["label"] = torch.full_like(fields["label"], -1)
    elif kind == "segmentation":
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
