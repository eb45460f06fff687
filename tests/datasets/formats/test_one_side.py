"""A data set with a val or a test side alone: it is evaluated, and refused once something shall learn from it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.formats.yolo import Yolo

XML = "<annotation><object><name>{}</name><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
STEMS = "abc"


def pictures(folder: Path, mode: str = "RGB") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, stem in enumerate(STEMS):
        values = np.full((32, 32, 3), 40 * number, np.uint8)
        values[:16] = 200
        Image.fromarray(values if mode == "RGB" else (values[..., 0] == 200).astype(np.uint8)).save(
            folder / f"{stem}.png"
        )


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco(root: Path, side: str) -> Coco:
    pictures(root / side)
    images = [{"id": i, "file_name": f"{s}.png", "width": 32, "height": 32} for i, s in enumerate(STEMS)]
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [4, 4, 16, 16]} for i in range(3)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    contents = {"images": images, "annotations": boxes, "categories": categories}
    text(root / "annotations" / f"instances_{side}.json", json.dumps(contents))
    return Coco(root)


def voc(root: Path, side: str) -> Voc:
    pictures(root / "JPEGImages")
    for stem, name in zip(STEMS, ("cat", "dog", "cat"), strict=True):
        text(root / "Annotations" / f"{stem}.xml", XML.format(name) + "</object></annotation>")
    text(root / "ImageSets" / "Main" / f"{side}.txt", "\n".join(STEMS))
    return Voc(root)


def voc_folders(root: Path, side: str) -> Voc:
    pictures(root / side)
    for stem, name in zip(STEMS, ("cat", "dog", "cat"), strict=True):
        text(root / side / f"{stem}.xml", XML.format(name) + "</object></annotation>")
    return Voc(root)


def yolo(root: Path, side: str) -> Yolo:
    pictures(root / "images" / side)
    for number, stem in enumerate(STEMS):
        text(root / "labels" / side / f"{stem}.txt", f"{number % 2} .5 .5 .4 .4\n")
    return Yolo(root)


def yolo_described(root: Path, side: str) -> Yolo:
    """As a data.yaml says whose training images were not fetched."""
    text(root / "data.yaml", f"train: images/train\n{side}: images/{side}\nnames: [cat, dog]\n")
    return yolo(root, side)


def yolo_lists(root: Path, side: str) -> Yolo:
    yolo(root, "all")
    text(root / f"{side}.txt", "".join(f"images/all/{stem}.png\n" for stem in STEMS))
    return Yolo(root)


def masks(root: Path, side: str) -> Masks:
    pictures(root / "images" / side)
    pictures(root / "masks" / side, "L")
    return Masks(root)


def masks_apart(root: Path, side: str) -> Masks:
    pictures(root / side / "images")
    pictures(root / side / "masks", "L")
    return Masks(root)


def masks_lists(root: Path, side: str) -> Masks:
    pictures(root / "images")
    pictures(root / "masks", "L")
    text(root / f"{side}.txt", "\n".join(STEMS))
    return Masks(root)


def masks_spelt(root: Path, side: str) -> Masks:
    masks(root, side)
    return Masks(root, images="images/{split}", masks="masks/{split}")


def folders(root: Path, side: str) -> ImageFolder:
    for name in ("cat", "dog"):
        pictures(root / side / name)
    return ImageFolder(root)


def one_class(root: Path, side: str) -> ImageFolder:
    """Which the model's classes complete."""
    pictures(root / side / "dog")
    return ImageFolder(root, classes=["cat", "dog"])


def table(root: Path, side: str) -> ImageFolder:
    pictures(root / "photos")
    rows = [f"photos/{stem}.png,{name},{side}" for stem, name in zip(STEMS, ("cat", "dog", "cat"), strict=True)]
    text(root / "labels.csv", "\n".join(["file,label,split", *rows]))
    return ImageFolder(root, labels="labels.csv")


LAYOUTS = (coco, voc, voc_folders, yolo, yolo_described, yolo_lists, masks, masks_apart, masks_lists, masks_spelt)
CLASSIFIED = (folders, one_class, table)


@pytest.mark.parametrize("side", ["val", "test"])
@pytest.mark.parametrize("make", [*LAYOUTS, *CLASSIFIED])
def test_one_side_is_enough(tmp_path: Path, make: Callable[[Path, str], Any], side: str) -> None:
    source = make(tmp_path, side)
    split = source.split(side)
    assert len(split) == (6 if make is folders else 3) and split[0]["image"].shape == (3, 32, 32)
    other = {"val": "test", "test": "val"}[side]
    assert source.split(other) is None
    assert {len(names) for names in source.provides.values()} == {2}
    refused(lambda: source.split("train"), str(tmp_path), "train")


@pytest.mark.slow
def test_evaluate_on_one_side_and_on_every_training_image(cli, tmp_path: Path) -> None:
    for side, names in {"train": ("cat", "dog"), "val": ("cat", "dog")}.items():
        for name in names:
            pictures(tmp_path / "whole" / side / name)
    common = ["data=imagefolder", f"runs={tmp_path}", "loader.workers=0", "size=32", "examples=0"]
    small = ["task=classifier", "backbone.width=0.35", "loader.batch_size=4", "trainer.max_epochs=1", "name=a"]
    said = cli("train", *common, *small, f"data.root={tmp_path / 'whole'}")[1]
    assert (
        "task: classifier (2 classes: cat, dog) on imagefolder" in said
        and "M multiply-adds" in said
        and "1 epoch of 1 batch, 1 step in all" in said
    )
    ckpt = f"ckpt={tmp_path / 'classifier' / 'a' / 'checkpoints' / 'best.ckpt'}"
    cli("evaluate", ckpt, *common, f"data.root={tmp_path / 'whole'}", "split=train", "name=all")
    with (tmp_path / "evaluate" / "all" / "confusion.csv").open() as file:
        assert sum(int(n) for line in file.readlines()[1:] for n in line.strip().split(",")[1:]) == 6
    folders(tmp_path / "only", "val")
    cli("evaluate", ckpt, *common, f"data.root={tmp_path / 'only'}", "split=val", "name=only")
    said = cli("train", *common, *small[:-1], f"data.root={tmp_path / 'only'}", fails=True)[1]
    assert said.startswith("error: ") and "there is val, but no train side" in said and said.count("\n") == 1
