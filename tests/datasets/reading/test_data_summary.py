"""What is said of the data at the start: a line a side, and no image on two sides."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.datasets.reading.data_summary import check_labels, check_samples, check_sides, describe
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages
from mnv2_tasks.kinds import CLASSIFICATION, MULTILABEL, SEGMENTATION, Kind
from mnv2_tasks.training.checkpoints import Best


def picture(path: Path, colour: str = "teal") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (40, 30), colour)
    image.paste("white", (0, 0, 10, 10))
    image.save(path)
    return path


def folders(root: Path, *names: str) -> Path:
    for name in names:
        picture(root / name)
    return root


def images(root: Path, *names: str) -> LabelledImages:
    return LabelledImages(root, names, targets=np.zeros(len(names), np.int64), class_names=("a", "b"))


def lines(capsys: Any, sources: dict[str, Any], tasks: dict[str, Kind], **settings: Any) -> list[str]:
    data = DataModule(sources, tasks, sizes=dict.fromkeys(sources, (32, 32)), **settings)
    data.tell(("train", "val", "test"))
    return capsys.readouterr().out.splitlines()


def test_a_line_a_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path, *(f"{name}/{i}.jpg" for name in "ab" for i in range(4)))
    assert lines(capsys, {"imagefolder": ImageFolder(tmp_path)}, {"classifier": CLASSIFICATION}) == [
        "imagefolder train: 5 images, 2 classes",
        "imagefolder val: 3 images, 2 classes; held out of train, 3 of 8 by name",
    ]
    assert describe("scenes", "train", Scenes(32, train=1200, val=1).split("train")) == (
        "scenes train: 1,200 images, 3 classes"
    )
    split = images(tmp_path, "a/0.jpg")
    split.left_out.update({"hidden": 2, ".heic": 1})
    assert describe("x", "train", split) == "x train: 1 image, 2 classes; 3 files left out: 2 hidden, 1 .heic"
    split = LabelledImages(
        tmp_path, ["a"] * 3, targets=np.array([[1, 1], [0, 0], [1, 0]], bool), class_names=("a", "b")
    )
    assert describe("x", "val", split) == "x val: 3 images, 2 classes, 3 labels (1 image without any)"


def test_masks_say_how_much_is_labelled(tmp_path: Path) -> None:
    for i, values in enumerate(([0, 1], [255, 0], [255, 255], [1, 1])):
        picture(tmp_path / "images" / f"{i}.jpg")
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.array([values], np.uint8).repeat(30, 0).repeat(20, 1)).save(tmp_path / "masks" / f"{i}.png")
    source = Masks(tmp_path, val_fraction=0)
    split = source.split("train")
    assert split is not None
    assert split.contents() == "2 classes, 62.5% of the pixels labelled (1 mask without any)"
    some = split.subset(np.array([True, False, True, False]))
    assert some.counted == 2 and some.contents() == "2 classes, 50.0% of the pixels labelled (1 mask without any)"


@pytest.mark.parametrize("kind", ["name", "link", "hard link"])
def test_an_image_on_two_sides_is_refused(tmp_path: Path, kind: str) -> None:
    folders(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    second = "c.jpg" if kind == "name" else "copy.jpg"
    if kind == "link":
        os.symlink(tmp_path / "c.jpg", tmp_path / second)
    elif kind == "hard link":
        os.link(tmp_path / "c.jpg", tmp_path / second)
    train, val = images(tmp_path, "a.jpg", "b.jpg", "c.jpg"), images(tmp_path, "d.jpg", second)
    such = "c.jpg;" if kind == "name" else "copy.jpg;"
    refused(
        lambda: check_sides({("x", "train"): train, ("x", "val"): val}), "data=x: 1 image is on both train and", such
    )
    assert check_sides({("x", "val"): train, ("y", "val"): val}) == []
    (line,) = check_sides({("x", "train"): train, ("y", "test"): val})
    assert line.startswith("warning: 1 image is on train of x and on test of y, such as ") and "c.jpg" in line
    assert check_sides({("x", "train"): images(tmp_path, "a.jpg"), ("x", "val"): images(tmp_path, "b.jpg")}) == []


def test_classes_without_labels_are_named(tmp_path: Path) -> None:
    folders(tmp_path, "a.jpg")
    names = tuple("abcdefgh")
    kinds = {"x": {CLASSIFICATION: names}}
    split = LabelledImages(tmp_path, ["a.jpg"] * 2, targets=np.array([0, 7]), class_names=names)
    assert check_labels({("x", "val"): split}, kinds) == [
        "warning: x val: no image of 'b', 'c', 'd', 'e', 'f' and 1 more (6 of 8 classes)"
    ]
    whole = LabelledImages(tmp_path, ["a.jpg"] * 8, targets=np.arange(8), class_names=names)
    assert check_labels({("x", "train"): whole}, kinds) == []


def test_val_without_objects_is_said(tmp_path: Path) -> None:
    folders(tmp_path, "a.jpg")
    none = LabelledImages(tmp_path, ["a.jpg"], targets=np.zeros((1, 2), bool), class_names=("a", "b"))
    kinds = {"x": {MULTILABEL: ("a", "b")}}
    (line,) = check_labels({("x", "val"): none}, kinds)
    assert (
        line
        == "warning: x val: no label at all: it tells no checkpoint from another, and the newest counts as the best"
    )


def test_images_of_one_colour_and_masks_without_labels_are_said(tmp_path: Path) -> None:
    for i in range(30):
        Image.new("RGB", (20, 20), (i, 0, 9)).save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(30)]
    kinds = {"x": {CLASSIFICATION: ("a", "b"), SEGMENTATION: ("a", "b")}}
    (line,) = check_samples({("x", "train"): images(tmp_path, *names)}, kinds)
    assert line.startswith("warning: x train: of a single colour each, the 20 images looked at")
    picture(tmp_path / "29.png")
    assert (
        check_samples({("x", "train"): images(tmp_path, *names), ("x", "val"): images(tmp_path, "0.png")}, kinds) == []
    )
    sample = {"image": torch.arange(12).view(3, 2, 2), "mask": torch.full((2, 2), 255)}
    (line,) = check_samples({("x", "train"): [sample] * 3}, kinds)
    assert line == "warning: x train: no labelled pixel in the 3 masks looked at: there is nothing to learn"
    assert check_samples({("x", "train"): [sample, {**sample, "mask": torch.zeros(2, 2)}]}, kinds) == []


def test_of_equal_scores_the_newest_is_the_best(tmp_path: Path) -> None:
    best = Best(tmp_path)
    trainer: Any = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=bool))
    assert not best.check_monitor_top_k(trainer, None) and best.check_monitor_top_k(trainer, torch.tensor(0.0))
    best.best_k_models, best.kth_best_model_path = {"best.ckpt": torch.tensor(0.5)}, "best.ckpt"
    assert [best.check_monitor_top_k(trainer, torch.tensor(score)) for score in (0.4, 0.5, 0.6)] == [False, True, True]
    before = ModelCheckpoint(tmp_path, filename="best", monitor="val/score", mode="max", enable_version_counter=False)
    assert best.state_key == before.state_key  # runs begun with it go on
