"""A run that goes on with other settings: each acts, or is refused in one line that names it."""

from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import train
from mnv2_tasks import run
from mnv2_tasks.callbacks import Settings, read_rows
from mnv2_tasks.changes import refuse_fixed
from mnv2_tasks.cli import CONFIGS, expand, settle
from mnv2_tasks.errors import InputError

TINY = ("size=64", "backbone.width=0.35", "data.train=12", "data.val=6", "loader.batch_size=4", "loader.workers=0")
RUN = (*TINY, "trainer.max_epochs=2", "examples=0", "backbone.weights=null")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """{task: the folder of a run with its settings and a checkpoint}, as after an epoch."""
    base, made = tmp_path_factory.mktemp("runs"), {}
    for task in ("classifier", "ssdlite", "deeplabv3"):
        settings = composed(f"task={task}", *RUN, f"runs={base}", "name=a")
        _, module, _, trainer = train.prepare(settings)
        folder = made[task] = run.open_folder(settings)
        Settings(settings, folder / "config.yaml").on_train_epoch_start(trainer, module)
        about = {"config": settings, "classes": {k: list(v) for k, v in module.classes.items()}}
        state = {f"model.{name}": value for name, value in module.model.state_dict().items()}
        torch.save({"state_dict": state, "mnv2_tasks": about, "epoch": 0}, folder / "checkpoints" / "last.ckpt")
    return made


def composed(*typed: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settle(compose("train", expand(list(typed))))


def go_on(folder: Path, *typed: str) -> list[str]:
    """What `train.py resume=<folder> <typed>` says it changes, up to where it would train."""
    defaults = composed()
    settings = run.resumed_config(folder, expand(list(typed)), defaults)
    before = run.resumed_config(folder, [], defaults)
    changed = refuse_fixed(before, settings)
    train.prepare(settings, before)
    return changed


ACT = {  # what README's table of settings has, and what stands beside it in the configs
    "classifier": (
        *("optim.optimizer.lr=0.01", "optim.optimizer.weight_decay=0", "optim.backbone_lr=0.5"),
        *("trainer.max_epochs=9", "trainer.precision=bf16-mixed", "trainer.gradient_clip_val=1"),
        *("loader.batch_size=3", "loader.mixup=0.5", "loader.cutmix=0.5"),
        *("head.label_smoothing=0.1", "fit=pad", "fit=crop"),
        *("early_stopping=3", "ema=0.9", "ema=null", "examples=2", "size=96", "callbacks=summary"),
        *("backbone.output_stride=16", "logger=wandb", "logger=[csv,wandb]", "data.val=5"),
    ),
    "ssdlite": ("head.least=1", "augment.detection.zoom_out=0.3"),
    "deeplabv3": ("head.loss={cross_entropy: 1, dice: 0.5}", "head.flip=true", "head.scales=[0.75,1]"),
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
        *("backbone.freeze_to=c2", "backbone.freeze_norm=true", "backbone.zero_init_residual=false"),
        *("loader.balanced=true", "head.class_weights=balanced"),  # these images cannot
        *("backbone.widht=1", "trainer.max_epoch=3", "+trainer.callbacks=[]", "trainer.max_epochs=many"),
    ),
    "ssdlite": ("head.sources=[c3x,c4x,c5x]", "head.first_level=6", "head.loss=focal"),
    "deeplabv3": ("head.aspp=full", "head.auxiliary=0.4", "head.skips=[c3]"),
}


def pairs(table: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(task, change) for task, changes in table.items() for change in changes]


@pytest.mark.parametrize(("task", "change"), pairs(ACT))
def test_a_change_acts(folders, task, change):
    (line,) = go_on(folders[task], change)  # and nothing else changes
    name, _, value = change.partition("=")
    if name not in ("logger", "callbacks"):  # groups
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
    assert setting.split(".")[-1] in str(raised.value) or setting in ("task", "optim", "block")  # groups
    assert (folders[task] / "config.yaml").read_bytes() == before


def test_no_change_is_none(folders):
    for folder in folders.values():
        assert go_on(folder) == []


@pytest.mark.slow
def test_another_rate_and_length_act_and_config_says_so(cli, tmp_path):
    cli("train", "task=classifier", *RUN, f"runs={tmp_path}", "name=a")
    folder = tmp_path / "classifier" / "a"
    _, out = cli("train", f"resume={folder}", "trainer.max_epochs=3", "optim.optimizer.lr=0.0001")
    assert "from now on: optim.optimizer.lr 0.002 -> 0.0001" in out
    rates = [row["lr"] for row in read_rows(folder / "metrics.csv")]
    assert len(rates) == 3 and 0 <= rates[2] <= 0.0001
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert settings["optim"]["optimizer"]["lr"] == 0.0001 and settings["trainer"]["max_epochs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "short", ["+trainer.limit_val_batches=0", "+trainer.max_steps=1", "trainer.check_val_every_n_epoch=5"]
)
def test_a_run_without_validation_ends_well(cli, tmp_path, short):
    _, out = cli("train", "task=classifier", *RUN, f"runs={tmp_path}", "name=a", short)
    assert "last.ckpt" in out and (tmp_path / "classifier" / "a" / "metrics.json").exists()
