"""A run that goes on with other settings: each acts, or is refused in one line that names it.

`python -m pytest tests/assembly/test_changes.py -s -k "acts or refused" | grep "^| "` prints the table of both.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from places import ROOT
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch.utils._pytree import tree_leaves

from mnv2_tasks import train
from mnv2_tasks.assembly.changes import describe, refuse_fixed
from mnv2_tasks.assembly.overrides import CONFIGS, expand
from mnv2_tasks.assembly.resume import resumed_config
from mnv2_tasks.assembly.settings import settle_training, training_settings
from mnv2_tasks.assembly.trainer import make_trainer
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_rows
from mnv2_tasks.training import loggers
from mnv2_tasks.training.callbacks import EMA, Examples
from mnv2_tasks.training.fitting import fit
from mnv2_tasks.training.run_folder import has_begun, open_folder

SMALL = (
    "size=64",
    "backbone.width=0.35",
    "loader.batch_size=4",
    "loader.workers=0",
    "examples=0",
    "trainer.max_epochs=2",
)
SCENES = ("data.train=12", "data.val=6")
TINY = (*SMALL, *SCENES)
TASKS = ("classifier", "ssdlite", "deeplabv3", "[classifier,deeplabv3]")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Classes of 6, 4 and 2 training images, and of 2 each to validate, wider than high."""
    root, random = tmp_path_factory.mktemp("data") / "images", np.random.default_rng(0)
    for side, counts in (("train", (6, 4, 2)), ("val", (2, 2, 2))):
        for name, count in zip("abc", counts, strict=True):
            (root / side / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 255, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / side / name / f"{i}.png")
    return root


class StopAfterOne(Callback):
    def on_train_epoch_end(self, trainer, module) -> None:
        trainer.should_stop = True


def one_epoch(*typed: str) -> Path:
    """The folder of a run of two epochs that was stopped after the first."""
    resolved, module, _, _ = train.prepare(composed(*SMALL, "name=a", "trainer.accelerator=cpu", *typed))
    settings, data = resolved.settings, resolved.data
    folder = open_folder(settings)
    trainer = make_trainer(settings, folder)
    trainer.callbacks.append(StopAfterOne())
    fit(trainer, module, data, None)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory, images) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("runs")
    own = {task: SCENES for task in TASKS} | {"classifier": ("data=imagefolder", f"data.root={images}")}
    return {task: one_epoch(f"task={task}", *own[task], f"runs={base}") for task in TASKS}


def composed(*typed: str) -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settle_training(compose("train", expand(list(typed))))


@cache
def defaults() -> dict:
    return composed()


def go_on(folder: Path, *typed: str) -> SimpleNamespace:
    """What `train.py resume=<folder> <typed>` works with where it would train, and the lines of what it `changed`."""
    settings = resumed_config(folder, expand(list(typed)), defaults())
    before = resumed_config(folder, [], defaults())
    changed = describe(refuse_fixed(before, settings, begun=has_begun(folder)))
    resolved, module, last, _ = train.prepare(settings, before)
    return SimpleNamespace(settings=resolved.settings, data=resolved.data, module=module, last=last, changed=changed)


class EnoughError(Exception):
    pass


class Look(Callback):
    """Keeps the first batch, and ends the run before its step."""

    def on_train_batch_start(self, trainer, module, batch, index) -> None:
        self.images, self.targets = batch[0]
        raise EnoughError


def first_step(folder: Path, *typed: str) -> SimpleNamespace:
    """`go_on`, and what the first step is about to do: its trainer, images and targets."""
    seen, look = go_on(folder, *typed), Look()
    with loggers.closing_wandb():
        seen.trainer = make_trainer(seen.settings, folder)
        seen.trainer.callbacks.append(look)
        if seen.trainer.strategy.launcher is None:  # it would start processes
            with pytest.raises(EnoughError):
                seen.trainer.fit(seen.module, datamodule=seen.data, ckpt_path=seen.last, weights_only=True)
            seen.images, seen.targets = look.images, look.targets
    seen.module.eval()
    return seen


def rates(seen: SimpleNamespace) -> list[float]:
    """The learning rates, without the schedule's factor."""
    schedule = seen.trainer.lr_scheduler_configs[0].scheduler
    factor = schedule.lr_lambdas[0](schedule.last_epoch)
    return sorted({round(group["lr"] / factor, 9) for group in seen.trainer.optimizers[0].param_groups})


def loss(seen: SimpleNamespace) -> float:
    with torch.no_grad():
        outputs = seen.module.model(seen.images, seen.targets.keys())
    heads = seen.module.model.heads
    return sum(float(v) for task, out in outputs.items() for v in heads[task].loss(out, seen.targets[task]).values())


def predictions(seen: SimpleNamespace) -> float:
    with torch.no_grad():
        outputs = tree_leaves(seen.module.model.infer(seen.images))
    return sum(float(v.double().sum()) for v in outputs if isinstance(v, torch.Tensor))


def images_of(side: str) -> Callable[[SimpleNamespace], list]:
    return lambda seen: seen.data.batch(next(iter(seen.data.sources)), side, [0, 1])[0].tolist()


def precision(seen: SimpleNamespace) -> torch.dtype:
    with torch.no_grad(), seen.trainer.precision_plugin.forward_context():
        return tree_leaves(seen.module.model(seen.images))[0].dtype


def kinds(things: list) -> list[str]:
    return [type(thing).__name__ for thing in things]


def strides(seen: SimpleNamespace) -> dict[str, int]:
    return {name: tap.stride for name, tap in seen.module.model.backbone.taps.items()}


def average(seen: SimpleNamespace) -> float | None:
    """What is left, after very many steps, of an average of 0 once ones come in."""
    for callback in seen.trainer.callbacks:
        if isinstance(callback, EMA):
            averaged = torch.zeros(1)
            callback._average_model.multi_avg_fn([averaged], [torch.ones(1)], 10**6)
            return round(float(averaged), 6)
    return None


OTHER = object()  # any value but that of the run without a change
BATCH = (lambda seen: seen.images.tolist(), OTHER)
LOSS, PREDICTIONS = (loss, OTHER), (predictions, OTHER)
ACT: dict[str, dict[str, tuple[Callable[[SimpleNamespace], Any], Any]]] = {  # a change -> where it is seen, as what
    "classifier": {
        "optim.optimizer.lr=0.01": (rates, [0.01]),
        "optim.optimizer.weight_decay=0": (
            lambda seen: {group["weight_decay"] for group in seen.trainer.optimizers[0].param_groups},
            {0},
        ),
        "optim.backbone_lr=0.5": (rates, [0.001, 0.002]),
        "trainer.max_epochs=9": (lambda seen: seen.trainer.estimated_stepping_batches, 27),
        "trainer.precision=bf16-mixed": (precision, torch.bfloat16),
        "trainer.gradient_clip_val=1": (lambda seen: seen.trainer.gradient_clip_val, 1),
        "trainer.devices=2": (lambda seen: seen.trainer.num_devices, 2),
        "trainer.strategy=ddp": (lambda seen: type(seen.trainer.strategy).__name__, "DDPStrategy"),
        "loader.batch_size=3": (lambda seen: len(seen.images), 3),
        "loader.mixup=0.5": (lambda seen: seen.data.mixing, (0.5, 0.0)),
        "loader.mixup=1": BATCH,
        "loader.cutmix=0.5": (lambda seen: seen.data.mixing, (0.0, 0.5)),
        "loader.cutmix=1": BATCH,
        "loader.balanced=true": (
            lambda seen: seen.data.loaders("train", training=True)["imagefolder"].sampler.weights is None,
            False,
        ),
        "head.label_smoothing=0.1": LOSS,
        "augment.classification.flip=1": BATCH,
        "fit=pad": (images_of("val"), OTHER),
        "fit=crop": (images_of("val"), OTHER),
        "size=96": (lambda seen: seen.images.shape[-2:], (96, 96)),
        "size=[48,64]": (lambda seen: seen.images.shape[-2:], (48, 64)),
        "early_stopping=3": (
            lambda seen: [c.patience for c in seen.trainer.callbacks if isinstance(c, EarlyStopping)],
            [3],
        ),
        "ema=0.9": (average, 0.1),
        "ema=null": (average, None),
        "examples=2": (lambda seen: [c.count for c in seen.trainer.callbacks if isinstance(c, Examples)], [2]),
        "callbacks=summary": (lambda seen: "ModelSummary" in kinds(seen.trainer.callbacks), True),
        "+callbacks.mine._target_=pytorch_lightning.callbacks.Timer": (
            lambda seen: "Timer" in kinds(seen.trainer.callbacks),
            True,
        ),
        "logger=wandb": (lambda seen: kinds(seen.trainer.loggers), ["WandbLogger"]),
        "logger=[csv,wandb]": (lambda seen: kinds(seen.trainer.loggers), ["WandbLogger"]),
        "backbone.output_stride=16": (lambda seen: strides(seen)["c5"], 16),
        "backbone.stem_stride=1": (lambda seen: strides(seen)["c5"], 16),
        "backbone.freeze=5": (
            lambda seen: any(p.requires_grad for p in seen.module.model.backbone.parameters()),
            False,
        ),
    },
    "ssdlite": {
        "data.val=5": (lambda seen: len(seen.data.split("scenes", "val")), 5),
        "head.least=1": LOSS,
        "augment.detection.zoom_out=0.3": (
            lambda seen: seen.data.augment["detection"].keywords["zoom_out"],
            0.3,
        ),
        "augment.detection.zoom_out=1": BATCH,
    },
    "deeplabv3": {
        "head.loss={cross_entropy: 1, dice: 0.5}": LOSS,
        "head.flip=true": PREDICTIONS,
        "head.scales=[0.75,1]": PREDICTIONS,
        "head.window=[48,48]": PREDICTIONS,
        "augment.segmentation.flip=1": BATCH,
    },
    "[classifier,deeplabv3]": {
        "augment.joint.flip=1": BATCH,
        "balance.weights.deeplabv3=2": (lambda seen: seen.module.balance.weights()["deeplabv3"], 2),
    },
}
REFUSED = {
    "classifier": (
        *(
            "backbone.width=0.5",
            "block=plain",
            "block=separable",
            "backbone.block.linear=false",
            "backbone.expansion=4",
        ),
        *("backbone.block.shortcut=none", "backbone.match=madds", "backbone=mobilenet_v1", "backbone.in_channels=1"),
        *("backbone.weights=imagenet", "seed=1", "name=b", "runs=/elsewhere", "optim=rmsprop", "optim=sgd"),
        *("task=ssdlite", "task=[classifier,ssdlite]", "balance=uncertainty", "study=width"),
        "search=default",
        *("backbone.freeze_to=c2", "backbone.freeze_norm=true", "backbone.zero_init_residual=true"),
        *("backbone=mobilenet_v2_tf", "backbone.freeze=true", "block=classic", "head.class_weights=balanced"),
        *("augment.joint.flip=1", "augment.detection.flip=1"),
        *("backbone.widht=1", "trainer.max_epoch=3", "+trainer.callbacks=[]", "trainer.max_epochs=many"),
        *("backbone.divisor=1", "data.classes=[b,a]"),
        *("photos=here", "+photos=here", "+optim.optimizer.lrr=1", "+optim.schedule.foo=2"),
        "+callbacks.mine._target_=pytorch_lightning.callbacks.Timr",
    ),
    "ssdlite": (
        *("head.sources=[c3x,c4x,c5x]", "head.first_level=6", "head.loss=focal", "head.boxes=original"),
        *("optim=adamw", "loader.balanced=true", "loader.mixup=0.5"),  # these images cannot
    ),
    "deeplabv3": ("head.aspp=full", "head.aspp=separable", "head.auxiliary=0.4", "head.skips=[c3]"),
}


def pairs(table: dict[str, Any]) -> list[tuple[str, str]]:
    return [(task, change) for task, changes in table.items() for change in changes]


def test_the_tables_have_every_usual_setting_of_the_docs():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = page.partition("| setting |")[2].partition("\n\n")[0].splitlines()[2:]
    names = {span.partition("=")[0] for row in rows for span in re.findall("`([^`]+=[^`]*)`", row.split(" | ")[0])}
    tried = {change.partition("=")[0].lstrip("+") for _, change in pairs(ACT) + pairs(REFUSED)}
    assert len(names) > 40
    assert names - tried == set()


@pytest.fixture
def folder(folders, task, tmp_path) -> Path:
    """A copy of the task's run."""
    return Path(shutil.copytree(folders[task], tmp_path / "a"))


@pytest.fixture(scope="module")
def unchanged(folders, tmp_path_factory) -> Callable[[str], SimpleNamespace]:
    """A task's run as it goes on without a change."""
    return cache(lambda task: first_step(Path(shutil.copytree(folders[task], tmp_path_factory.mktemp("a") / "a"))))


@pytest.mark.slow
@pytest.mark.parametrize(("task", "change"), pairs(ACT))
def test_a_change_acts(folder, unchanged, monkeypatch, task, change):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    seen, (look, value) = first_step(folder, change), ACT[task][change]
    assert look(seen) == value if value is not OTHER else look(seen) != look(unchanged(task))
    assert look(unchanged(task)) != look(seen)
    (line,) = seen.changed  # and nothing else changes
    print(f"\n| {task} | `{change}` | acts: {line} |")
    if seen.trainer.strategy.launcher is None:
        assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == seen.settings
    name, _, value = change.lstrip("+").partition("=")
    if name.partition(".")[0] not in ("logger", "callbacks"):  # groups
        assert line.startswith(name.replace("head.", f"heads.{task}.").replace("data.", "data.scenes."))
        assert (
            line.replace("'", "")
            .lower()
            .endswith(f" -> {yaml.safe_load(value)}".replace("'", "").lower().replace("none", "null"))
        )


@pytest.mark.parametrize(("task", "change"), pairs(REFUSED))
def test_a_change_that_cannot_act_is_refused(folders, task, change):
    before = (folders[task] / "config.yaml").read_bytes()
    with pytest.raises(InputError) as raised:
        go_on(folders[task], change)
    setting = change.partition("=")[0].lstrip("+").replace("head.", f"heads.{task}.")
    assert "\n" not in str(raised.value)
    print(f"\n| {task} | `{change}` | {str(raised.value).replace(str(folders[task]), '<run>')} |")
    assert setting.split(".")[-1] in str(raised.value) or setting in ("task", "optim", "block")  # groups
    assert (folders[task] / "config.yaml").read_bytes() == before


def test_no_change_is_none(folders):
    for folder in folders.values():
        assert go_on(folder).changed == []


@pytest.mark.slow
def test_a_run_without_a_schedule_goes_on(images, tmp_path):
    folder = one_epoch(
        "task=classifier", "data=imagefolder", f"data.root={images}", "optim.schedule=null", f"runs={tmp_path}"
    )
    with pytest.raises(InputError, match="which no schedule of this package sets"):
        go_on(folder, "optim.optimizer.lr=0.01")
    seen = first_step(folder)
    assert {group["lr"] for group in seen.trainer.optimizers[0].param_groups} == {0.002}


def test_moved_data_is_read_where_it_is(folders, images, tmp_path):
    moved = shutil.copytree(images, tmp_path / "moved")
    data = go_on(folders["classifier"], f"data.root={moved}").data
    assert moved in data.split("imagefolder", "train").path(0).parents


def shortened(folders, tmp_path, task: str = "classifier") -> Path:
    """A copy of a task's run whose only epoch is done."""
    folder = Path(shutil.copytree(folders[task], tmp_path / "ended"))
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["trainer"]["max_epochs"] = 1
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def test_a_run_that_has_ended_takes_what_acts_at_its_end(folders, tmp_path):
    folder = shortened(folders, tmp_path)
    for change in ("optim.optimizer.lr=0.01", "ema=0.9", "loader.mixup=1", "augment.classification.flip=1", "fit=pad"):
        with pytest.raises(InputError) as raised:
            go_on(folder, change, "examples=3")
        assert f"no epoch is left for {change.partition('=')[0]} to act on" in str(raised.value)
        assert "trainer.max_epochs=<more> goes on" in str(raised.value)
    with pytest.raises(InputError, match="has ended already, after 1 epochs"):
        go_on(folder, "trainer.max_epochs=0")
    assert len(go_on(folder, "optim.optimizer.lr=0.01", "trainer.max_epochs=2").changed) == 2
    assert len(go_on(folder, "examples=3", "loader.batch_size=2").changed) == 2
    assert len(go_on(folders["classifier"], "trainer.max_epochs=1").changed) == 1  # it ends by that


def test_before_the_first_epoch_a_run_takes_what_is_for_the_beginning(folders, tmp_path):
    folder = tmp_path / "begun"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copy(folders["classifier"] / "config.yaml", folder)
    seen = go_on(folder, "seed=1", "backbone.width=0.5", "optim=sgd", "head.dropout=0.1")
    assert seen.settings["seed"] == 1 and seen.last is None
    assert len(seen.module.model.backbone.stem[0].weight) == 16
    with pytest.raises(InputError, match="the folder is of a run with the heads that it has"):
        go_on(folder, "task=ssdlite")


def test_an_experiments_own_settings_end_in_what_reads_them(tmp_path):
    settings = composed("task=classifier", "experiment=pets3", "photos=/photos")
    assert "photos" not in settings and settings["data"]["merged"]["parts"]["breeds"]["root"] == "/photos/images"
    for own in ({}, {"photos": "/photos"}):  # as runs once kept it
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | own), encoding="utf-8")
        again = resumed_config(tmp_path, expand(["trainer.max_epochs=30"]), defaults())
        assert again["trainer"]["max_epochs"] == 30 and "photos" not in again
        assert {**again, "trainer": None, "resume": None} == {**settings, "trainer": None}
        moved = resumed_config(tmp_path, expand(["experiment=pets3", "photos=/moved"]), defaults())
        assert moved["data"]["merged"]["parts"]["breeds"]["root"] == "/moved/images"
    with pytest.raises(InputError, match="photoz: no such setting"):
        composed("+photoz=1")


def test_the_settings_of_training_are_those_of_its_configs():
    assert training_settings() - set(composed()) == {"auto", "study", "search", "matched"}
    assert set(composed()) <= training_settings()


@pytest.mark.slow
def test_another_rate_and_length_act_and_config_says_so(cli, tmp_path):
    cli("train", "task=classifier", *TINY, f"runs={tmp_path}", "name=a")
    folder = tmp_path / "classifier" / "a"
    _, out = cli("train", f"resume={folder}", "trainer.max_epochs=3", "optim.optimizer.lr=0.0001")
    assert "from now on: optim.optimizer.lr 0.002 -> 0.0001" in out
    rates = [row["lr"] for row in read_rows(folder / "metrics.csv")]
    assert len(rates) == 3 and 0 <= rates[2] <= 0.0001
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert settings["optim"]["optimizer"]["lr"] == 0.0001 and settings["trainer"]["max_epochs"] == 3

    own = (folder / "config.yaml").read_bytes()  # now it has ended
    timed = ("trainer.max_epochs=9", "trainer.max_time=00:00:00:00", "ema=0.9")  # ended by the clock
    for late in (("optim.optimizer.lr=1",), timed):
        _, err = cli("train", f"resume={folder}", *late, fails=True)
        assert f"no epoch is left for {late[-1].partition('=')[0]} to act on" in err
        assert (folder / "config.yaml").read_bytes() == own
    _, out = cli("train", f"resume={folder}", "examples=2", f"baselines.classifier={folder}")
    assert "from now on: examples 0 -> 2" in out and (folder / "examples.png").exists()
    assert "joint" in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    settings |= {"examples": 2, "baselines": {"classifier": str(folder)}}
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == settings


@pytest.mark.slow
@pytest.mark.parametrize(
    "short", ["+trainer.limit_val_batches=0", "trainer.max_steps=1", "trainer.check_val_every_n_epoch=5"]
)
def test_a_run_without_validation_ends_well(cli, tmp_path, short):
    _, out = cli("train", "task=classifier", *TINY, f"runs={tmp_path}", "name=a", short)
    assert "last.ckpt" in out and (tmp_path / "classifier" / "a" / "metrics.json").exists()
