"""What a Python user does without Hydra: build, train with a plain Trainer, go on, predict, read back; and mistakes."""

import ast
import inspect
import json
import runpy
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from refusal import refused
from torch.utils.data import DataLoader

import mnv2_tasks
from mnv2_tasks import ClassifierTask, DataModule, DeepLabV3Task, JointTask, MobileNetV2, SSDLiteTask
from mnv2_tasks.assembly.network import load_model
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.suggestions import suggested
from mnv2_tasks.backbone import MobileNetV1
from mnv2_tasks.blocks import InvertedResidual
from mnv2_tasks.datasets.datamodule import USUAL
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.heads.classifier import Classifier, MultiLabel
from mnv2_tasks.heads.faster_rcnn import FasterRCNN
from mnv2_tasks.heads.smp_decoders import FPN, DeepLabV3Plus, Unet
from mnv2_tasks.training.parts import section
from mnv2_tasks.training.schedules import warmup_cosine

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TASKS = {"classifier": ClassifierTask, "ssdlite": SSDLiteTask, "deeplabv3": DeepLabV3Task}
DATA = {"classifier": "imagefolder", "ssdlite": "coco", "deeplabv3": "masks"}  # which suggests nothing
SECTIONS = ("heads", "backbone", "optim", "augment")
NAMES = ("circle", "square", "triangle")


def scenes(name: str, **settings) -> DataModule:
    return DataModule(
        {"scenes": Scenes(64, train=8, val=4)}, TASKS[name].tasks, sizes=64, batch_size=4, workers=0, **settings
    )


def plain_trainer(folder: Path, epochs: int = 1, **settings) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    settings = {"enable_checkpointing": False, **settings}
    return pl.Trainer(max_epochs=epochs, accelerator="cpu", default_root_dir=folder, **quiet, **settings)


def arguments(made) -> dict:
    """The settings of a part by their names: what a partial is given over its class's defaults."""
    own = {n: p.default for n, p in inspect.signature(made).parameters.items() if p.default is not p.empty}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in own.items()}


@pytest.mark.parametrize("name", TASKS)
def test_defaults_are_those_of_the_command_line(name):
    OmegaConf.register_new_resolver("suggested", suggested, replace=True)
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        composed = compose("train", [f"task=[{name}]", f"data=[{DATA[name]}]"])
    config = {key: OmegaConf.to_container(composed[key], resolve=True) for key in SECTIONS}
    task = TASKS[name](NAMES)
    head = config["heads"][name]
    assert task.config["heads"][name] == {
        k: pytest.approx(v, abs=0.01) if k == "overlap" else v for k, v in head.items()
    }
    ours, theirs = task.config["backbone"], config["backbone"]
    own = {"block", "output_stride", "match", "match_to"}  # None, and what the command fills in
    assert {k: v for k, v in ours.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    optimizer = config["optim"]["optimizer"]
    assert f"torch.optim.{task.optimizer.func.__name__}" == optimizer.pop("_target_") and optimizer.pop("_partial_")
    assert task.optimizer.keywords == optimizer and task.backbone_lr == config["optim"]["backbone_lr"]
    schedule = {k: v for k, v in config["optim"]["schedule"].items() if not k.startswith("_")}
    assert arguments(task.schedule) == schedule and task.schedule is warmup_cosine
    kind = task.model.heads[name].kind.name
    for augment in (kind, "joint"):
        told = {k: v for k, v in config["augment"][augment].items() if not k.startswith("_")}
        assert arguments(USUAL[augment]) == told
    assert arguments(USUAL["multilabel"])["scale"] == [0.5, 1.0]


@pytest.mark.parametrize("name", TASKS)
def test_trained_stopped_resumed_and_read_back(name, tmp_path):
    """A run that goes on from a checkpoint is equal to the whole one, and `load` predicts as the Trainer does."""
    weights = {}
    for way in ("whole", "resumed"):
        pl.seed_everything(3)
        data = scenes(name)
        task = TASKS[name](data.classes[name], width=0.35)
        files = ModelCheckpoint(tmp_path / way, filename="{epoch}", save_top_k=-1)
        trainer = plain_trainer(tmp_path, 2, callbacks=[files], enable_checkpointing=True, num_sanity_val_steps=0)
        trainer.fit(task, data, ckpt_path=tmp_path / "whole" / "epoch=0.ckpt" if way == "resumed" else None)
        weights[way] = task.model.state_dict()
    assert all(torch.equal(value, weights["whole"][key]) for key, value in weights["resumed"].items())

    path = tmp_path / "resumed" / "epoch=1.ckpt"
    loaded = TASKS[name].load_from_checkpoint(path)
    data = scenes(name)
    data.tested = "val"
    trainer = plain_trainer(tmp_path)
    (scores,) = trainer.validate(loaded, data, verbose=False)
    assert scores["val/score"] == pytest.approx(scores[f"{name}/val/{loaded.model.heads[name].primary}"])
    rows = [row for batch in trainer.predict(loaded, data) for row in batch]
    model = mnv2_tasks.load(path)
    assert model.size == (64, 64) and model.classes == data.classes
    for row, other in zip(rows, model.predict([sample["image"] for sample in scenes_of(data)]), strict=True):
        assert row.keys() == other.keys() == {name}
        for key, value in row[name].items():
            assert value.float() == pytest.approx(other[name][key].float(), abs=1e-4)


def scenes_of(data: DataModule) -> list:
    split = data.split("scenes", "val")
    return [split[index] for index in range(len(split))]


def pictures(*, labels: int = 2, scale: float = 1.0) -> list:
    """The samples of somebody's own data set: floats in 0..1 and a whole number."""
    return [(torch.full((3, 64, 96), scale * index / 4), index % labels) for index in range(4)]


def test_an_own_loader_tells_the_size_and_pictures_of_any_kind_are_predicted(tmp_path):
    task, loader = ClassifierTask(2, width=0.35), DataLoader(pictures(), batch_size=2)
    trainer = plain_trainer(tmp_path)
    trainer.fit(task, loader, loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    batches = trainer.predict(task, DataLoader([image for image, _ in pictures()], batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2] and batches[0][0]["classifier"]["scores"].shape == (2,)
    model = mnv2_tasks.load(tmp_path / "a.ckpt")
    assert model.size == (64, 96) and model.classes == {"classifier": ("0", "1")}
    array = np.full((50, 70, 3), 200, np.uint8)
    array[:20] = 30
    Image.fromarray(array).save(tmp_path / "a.png")
    inputs = (array, torch.from_numpy(array).permute(2, 0, 1), Image.fromarray(array), str(tmp_path / "a.png"))
    scores = [row["classifier"]["scores"] for picture in inputs for row in model.predict(picture)]
    assert len(scores) == 4 and all(torch.equal(one, scores[0]) for one in scores)


NONLINEAR = partial(InvertedResidual, linear=False, kernel_size=5)


@pytest.mark.parametrize(
    ("heads", "settings"),
    [
        ({"fpn": FPN, "unet": partial(Unet, loss={"cross_entropy": 1.0, "dice": 0.5})}, {"weights": "trunk.pth"}),
        ({"labels": MultiLabel}, {"backbone": partial(MobileNetV1, 0.35, in_channels=1), "mean": [0.5], "std": [0.5]}),
        (
            {"boxes": FasterRCNN},
            {"backbone": partial(MobileNetV2, 0.35, block=partial(InvertedResidual, linear=False))},
        ),
    ],
)
def test_any_heads_trunk_and_block_are_built_again_from_the_checkpoint(heads, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(MobileNetV2(0.35).state_dict(), "trunk.pth")
    task = JointTask(heads, dict.fromkeys(heads, NAMES), **{"backbone": partial(MobileNetV2, width=0.35), **settings})
    images = torch.zeros(2, 1 if "labels" in heads else 3, 64, 64, dtype=torch.uint8)
    if "fpn" in heads:  # an own loader of several tasks
        mask = torch.zeros(64, 64, dtype=torch.uint8)
        loader = DataLoader([(image, {"fpn": mask, "unet": mask}) for image in images], batch_size=2)
        trainer = plain_trainer(tmp_path)
        trainer.fit(task, loader)
        trainer.save_checkpoint("a.ckpt")
    else:
        task.config |= {"size": [64, 64]}
        checkpoint = {"state_dict": task.state_dict()}
        task.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, "a.ckpt")
    model, about = load_model("a.ckpt")
    state = task.model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert about["config"]["size"] == [64, 64] and set(model.predict(images)) == set(heads)


def test_mistakes_are_told_in_a_line(tmp_path):
    trainer = plain_trainer(tmp_path, num_sanity_val_steps=0)
    data = scenes("classifier")
    other = ClassifierTask(("cat", "dog"), width=0.35)
    refused(lambda: trainer.fit(other, data), "classifier", "2 classes (cat, dog)", "3 (circle, square, triangle)")
    refused(lambda: trainer.validate(SSDLiteTask(2, width=0.35), data), "classifier", "ssdlite")
    grey = scenes("classifier", channels=1)
    refused(lambda: trainer.fit(ClassifierTask(NAMES, width=0.35), grey), "1 channels", "takes 3")
    trainer = plain_trainer(tmp_path, num_sanity_val_steps=0)  # which has seen no DataModule
    loader = DataLoader(pictures(labels=3), batch_size=4)
    refused(lambda: trainer.fit(other, loader), "label has a class 2", "0 (cat) to 1 (dog)")
    loader = DataLoader(pictures(scale=2.0), batch_size=4)
    refused(lambda: trainer.fit(other, loader), "images go from 0 to 1.5", "0..1", "normalises")
    refused(lambda: trainer.fit(SSDLiteTask(2, width=0.35), loader), "ssdlite", "DataModule", "boxes='original'")
    refused(lambda: trainer.fit(other, DataLoader([image for image, _ in pictures()])), "images alone")
    refused(lambda: ClassifierTask("cat"), "classes='cat'", "('cat', 'dog')")
    refused(lambda: scenes_sized({"photos": 64}), "photos", "scenes")
    refused(lambda: JointTask({"a": Classifier}, {"b": NAMES}), "classes are of b", "heads a")
    apart = {"fine": DeepLabV3Plus, "coarse": FPN}
    refused(lambda: JointTask(apart, dict.fromkeys(apart, NAMES)), "fine works with 16", "coarse works with 32")
    refused(lambda: section(partial(MobileNetV2, block=torch.zeros(1))), "block=tensor", "partials")


def scenes_sized(sizes) -> DataModule:
    return DataModule({"scenes": Scenes(64)}, ClassifierTask.tasks, sizes=sizes)


BAD = {  # task: (targets of two images of 8 x 8, words of what is said)
    "classifier": (torch.zeros(2, 1, dtype=torch.int64), ("label", "(2, 1)", "give (2)")),
    "ssdlite": ({"boxes": torch.zeros(2, 1, 4), "labels": torch.full((2, 1), 3)}, ("labels", "class 3", "triangle")),
    "deeplabv3": (torch.zeros(2, 4, 4, dtype=torch.int64), ("mask", "(2, 4, 4)", "give (2, 8, 8)")),
}


@pytest.mark.parametrize("name", BAD)
def test_targets_that_cannot_be_are_told(name):
    targets, words = BAD[name]
    kind = TASKS[name].tasks[name]
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    refused(lambda: kind.check(kind.complete(targets, images, ids=torch.arange(2)), images, NAMES), *words)


def test_commands_take_such_a_checkpoint(cli, tmp_path):
    pl.seed_everything(0)
    data = scenes("ssdlite")
    task = SSDLiteTask(data.classes["ssdlite"], width=0.35)
    trainer = plain_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.fit(task, data)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    own = ("data=scenes", "data.val=4", "loader.workers=0", "data.size=64")
    _, out = cli("evaluate", f"ckpt={tmp_path / 'a.ckpt'}", f"runs={tmp_path / 'runs'}", *own)
    assert "ssdlite/map" in out and "at 64x64" in out


def run_example(name: str, *arguments: str, monkeypatch, capsys) -> str:
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


SMALL = ("--size", "64", "--width", "0.35", "--epochs", "1")


def test_example_of_an_own_folder(tmp_path, monkeypatch, capsys):
    for number in range(12):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 50, 3), 20 * number, np.uint8)).save(path)
    more = ("--batch-size", "4", "--workers", "0", "--out", str(tmp_path / "out"))
    out = run_example(
        "train_own_folder", str(tmp_path / "photos"), *SMALL, *more, monkeypatch=monkeypatch, capsys=capsys
    )
    assert "2 classes" in out and f"checkpoint: {tmp_path / 'out' / 'best.ckpt'}" in out
    assert (tmp_path / "out" / "last.ckpt").is_file()


def test_example_of_the_trunk_alone(tmp_path, monkeypatch, capsys):
    torch.save(MobileNetV2(0.35).state_dict(), tmp_path / "trunk.pth")
    more = ("--images", "32", "--weights", str(tmp_path / "trunk.pth"))
    out = run_example("trunk_in_own_module", *SMALL, *more, monkeypatch=monkeypatch, capsys=capsys)
    assert "trunk.pth" in out and "c5: 112 channels, a cell every 16 pixels" in out and "epoch 0: off by" in out


def test_example_of_a_joint_module(tmp_path, monkeypatch, capsys):
    more = ("--images", "16", "--workers", "0", "--out", str(tmp_path))
    out = run_example("joint_from_python", *SMALL, *more, monkeypatch=monkeypatch, capsys=capsys)
    assert "mask: (64, 64)" in out and "default boxes fitted" in out and (tmp_path / "best.ckpt").is_file()


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.ipynb"))])
def test_notebooks_run_as_they_stand_and_hold_no_outputs(name, tmp_path, monkeypatch):
    """Their cells, one after the other in this process: a kernel of its own would start for as long again."""
    book = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "__main__"}
    shown: Any = None
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"] and cell["execution_count"] is None
            *body, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(body, type_ignores=[]), name, "exec"), space)
            mode = "eval" if isinstance(last, ast.Expr) else "exec"  # a notebook shows the value of a last expression
            code: Any = (
                ast.Expression(last.value) if isinstance(last, ast.Expr) else ast.Module([last], type_ignores=[])
            )
            shown = eval(compile(code, name, mode), space)
    if name == "own_detector":
        assert isinstance(shown, Image.Image) and (tmp_path / "runs/own_detector/best.ckpt").is_file()
    else:
        assert tuple(shown) == (1, 1, 192, 192)
