"""One data set out of several: what is matched, which side an image is on, and what is told of it."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.merged import Merged, MergedSplit
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.samples import spread


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def boxes(file: Path, names: Sequence[str]) -> None:
    """COCO: the i-th image has a box of 10 + i by 20 pixels."""
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    notes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 3, 10 + i, 20]} for i in range(len(names))]
    file.write_text(json.dumps({"images": images, "annotations": notes, "categories": [{"id": 1, "name": "head"}]}))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders: 4 + 4 training and 2 val images. Boxes: of train/cat/0, 1 and 2 in train, of train/cat/3 in val."""
    for i in range(4):
        picture(tmp_path / "images" / "train" / "cat" / f"{i}.jpg")
        picture(tmp_path / "images" / "train" / "dog" / f"{i}.jpg")
    picture(tmp_path / "images" / "val" / "cat" / "0.jpg")
    picture(tmp_path / "images" / "val" / "dog" / "0.jpg")
    boxes(tmp_path / "train.json", [f"train/cat/{i}.jpg" for i in range(3)])
    boxes(tmp_path / "val.json", ["train/cat/3.jpg"])
    return tmp_path


def parts(root: Path) -> dict[str, Any]:
    return {"breed": ImageFolder(root / "images"), "heads": Coco(root, images="images")}


def load(source: Merged, side: str = "train") -> MergedSplit:
    split = source.split(side)
    assert split is not None
    return split


def known(split: MergedSplit) -> dict[str, set[str]]:
    """{path from the side's folder on: the labels that it has}."""
    found = {}
    for i in range(len(split)):
        fields = set(split[i]) & {"label", "boxes", "mask"}
        found["/".join(split.path(i).parts[-3:])] = fields
    return found


def test_sides_do_not_leak(root: Path) -> None:
    source = Merged(parts(root))
    assert source.provides["classification"] == ("cat", "dog") and source.provides["detection"] == ("head",)
    train, val = load(source), load(source, "val")
    assert train.notes == ["breed: 1 of 8 are on another part's val or test"] and not val.notes
    assert train.contents() == "7 in breed: 2 classes; 3 in heads: 1 class, 3 boxes"
    assert known(train) == {
        **{f"train/cat/{i}.jpg": {"label", "boxes"} for i in range(3)},
        **{f"train/dog/{i}.jpg": {"label"} for i in range(4)},
    }
    assert known(val) == {"val/cat/0.jpg": {"label"}, "val/dog/0.jpg": {"label"}, "train/cat/3.jpg": {"boxes"}}
    assert source.split("test") is None and source.split("train") is train


def test_pictures_of_a_task_are_of_images_that_have_its_labels(root: Path) -> None:
    val = load(Merged(parts(root)), "val")
    assert [set(val[i]) & {"label", "boxes"} for i in spread(val, 8, "detection")] == [{"boxes"}]
    assert [set(val[i]) & {"label", "boxes"} for i in spread(val, 8, "classification")] == [{"label"}] * 2
    assert spread(val, 8) == [0, 1, 2] == spread(list(val), 8, "detection")


def test_samples_and_what_is_told_in_advance(root: Path) -> None:
    source = Merged(parts(root))
    train, val = load(source), load(source, "val")
    sample = train[1]
    assert sample["image"].shape == (3, 30, 40) and sample["image_id"] == 1 and sample["size"] == (30, 40)
    assert sample["label"] == 0 and sample["boxes"].tolist() == [[4, 3, 15, 23]] and sample["labels"].tolist() == [0]
    assert [train.label(i) for i in range(7)] == [0] * 3 + [1] * 4 and val.label(2) == -1
    assert train.label_counts().tolist() == [3, 4] and val.label_counts().tolist() == [1, 1]
    assert torch.allclose(train.box_sizes(), torch.tensor([[w / 40, 20 / 30] for w in (10, 11, 12)]))
    refused(train.pixel_counts, "breed, heads", "segmentation")


def test_counts_are_those_of_the_images_that_stay(root: Path) -> None:
    boxes(root / "train.json", ["val/cat/0.jpg", "train/cat/1.jpg", "train/dog/1.jpg"])  # the first is breed's val
    train = load(Merged(parts(root)))
    assert torch.allclose(train.box_sizes(), torch.tensor([[w / 40, 20 / 30] for w in (11, 12)]))
    assert known(train)["train/dog/1.jpg"] == {"label", "boxes"} and "val/cat/0.jpg" not in known(train)


def test_images_are_matched_through_links(root: Path) -> None:
    (root / "linked").mkdir()
    for name in ("train", "val"):
        os.symlink(root / "images" / name, root / "linked" / name)
    heads = Coco(root, images="linked")
    train = load(Merged({"heads": heads, "breed": ImageFolder(root / "images")}))
    assert len(train) == 7 and known(train)["train/cat/0.jpg"] == {"label", "boxes"}


def test_labels_follow_the_smaller_canvas(root: Path) -> None:
    breed = ImageFolder(root / "images", max_side=20)
    train = load(Merged({"breed": breed, "heads": Coco(root, images="images")}))
    assert train[0]["image"].shape == (3, 16, 20) or train[0]["image"].shape == (3, 15, 20)
    height = train[0]["image"].shape[1]
    assert torch.allclose(train[0]["boxes"].as_subclass(torch.Tensor)[0, [0, 2]], torch.tensor([2.0, 7.0]))
    assert train[0]["boxes"].canvas_size == (height, 20) and train[0]["size"] == (30, 40)


def test_a_kind_from_two_parts_must_be_chosen(root: Path) -> None:
    two = {**parts(root), "more": ImageFolder(root / "images", classes=["dog", "cat"])}
    refused(lambda: Merged(two), "breed and more provide classification", "data.take.classification=<part>")
    train = load(Merged(two, take={"classification": "more"}))
    assert train[0]["label"] == 1 and train.label_counts().tolist() == [4, 3]
    refused(lambda: Merged(two, take={"classification": "heads"}), "data.take.classification=heads", "breed, more")
    refused(lambda: Merged(two, take={"segmentation": "heads"}), "data.take.segmentation=heads", "no part")


def test_faults(root: Path, tmp_path: Path) -> None:
    made = parts(root)
    refused(lambda: Merged({"breed": made["breed"]}), "data.parts", "two data sets or more")
    scenes = Merged({"heads": made["heads"], "drawn": Scenes(32, train=2, val=1)}, take={"detection": "heads"})
    refused(lambda: scenes.split("train"), "data.parts.drawn", "Scenes")
    for i in range(4):
        picture(tmp_path / "else" / ("ab"[i % 2]) / f"{i}.jpg")
    apart = Merged({"breed": ImageFolder(tmp_path / "else"), "heads": made["heads"]})
    refused(lambda: apart.split("val"), "data.parts.breed", "no other part", "data=[...]")
    boxes(root / "train.json", ["val/cat/0.jpg"])
    refused(lambda: Merged(parts(root)).split("train"), "data.parts.heads", "all of its 1 training images")


def test_by_config(root: Path) -> None:
    folder = {"_target_": "mnv2_tasks.datasets.formats.imagefolder.ImageFolder", "root": str(root / "images")}
    heads = {"_target_": "mnv2_tasks.datasets.formats.coco.Coco", "root": str(root), "images": "images"}
    config = {
        "_target_": "mnv2_tasks.datasets.formats.merged.Merged",
        "parts": {"breed": folder, "heads": heads},
        "take": {},
    }
    assert len(load(instantiate(config, _convert_="all"))) == 7


def test_pets3(shared: Path) -> None:
    root = shared / "data" / "pets3"
    masks = Masks(root, lists="seg_{split}.txt", classes=["background", "pet"])
    heads = Coco(root, annotations="annotations/heads_{split}.json", images="images")
    source = Merged({"breed": ImageFolder(root / "images"), "heads": heads, "masks": masks})
    train, val = load(source), load(source, "val")
    assert len(train) == 300 - 59 and len(val) == 298 + 59 and source.split("test") is None
    assert len(train.box_sizes()) + len(val.box_sizes()) == 297
    assert train.label_counts().sum() == 241 and val.label_counts().tolist() == [98, 100, 100]
    assert sum(train.rows["heads"] >= 0) == 237 and sum(val.rows["heads"] >= 0) == 59
    assert (train.rows["masks"] >= 0).all() and sum(val.rows["masks"] >= 0) == 298
    assert not (val.rows["heads"] >= 0)[val.rows["breed"] >= 0].any()
    assert set(train[0]) >= {"label", "boxes", "mask"} and "boxes" in val[356]
    assert not {"label", "mask"} & set(val[356])
