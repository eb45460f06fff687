"""`data.classes`: every format learns the classes named, in their order, and says what it leaves out."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusal import refused

from mnv2_tasks.assembly.restore import take_classes
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.cityscapes import CLASSES, Cityscapes
from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.formats.yolo import Yolo
from mnv2_tasks.datasets.reading.renumbered import Renumbered
from mnv2_tasks.kinds import DETECTION
from mnv2_tasks.weights.whole_models import fill_model

NAMES = ("person", "car", "bus")
BOXES = {"a": [0, 1], "b": [2], "c": [1, 1], "d": []}  # classes of the objects in each image
AT = ((2, 2, 12, 12), (16, 16, 28, 28))  # x1, y1, x2, y2


def picture(path: Path, number: int = 0, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((*size[::-1], 3), 40 * number, np.uint8)
    values[: size[1] // 2] = 200
    Image.fromarray(values).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def coco(root: Path, *, outlines: bool = False, **settings: Any) -> Coco:
    images, notes = [], []
    for number, (stem, labels) in enumerate(BOXES.items()):
        picture(root / "images" / f"{stem}.png", number)
        images.append({"id": number, "file_name": f"{stem}.png", "width": 32, "height": 32})
        for label, (x1, y1, x2, y2) in zip(labels, AT, strict=False):
            note = {"id": len(notes), "image_id": number, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            notes.append(note | ({"segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]} if outlines else {}))
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    contents = {"images": images, "annotations": notes, "categories": categories}
    text(root / "annotations" / "instances_train.json", json.dumps(contents))
    return Coco(root, val_fraction=0, **settings)


def yolo(root: Path, **settings: Any) -> Yolo:
    for number, (stem, labels) in enumerate(BOXES.items()):
        picture(root / "images" / f"{stem}.png", number)
        lines = [
            f"{label} {(x1 + x2) / 64} {(y1 + y2) / 64} {(x2 - x1) / 32} {(y2 - y1) / 32}"
            for label, (x1, y1, x2, y2) in zip(labels, AT, strict=False)
        ]
        text(root / "labels" / f"{stem}.txt", "\n".join(lines))
    text(root / "data.yaml", f"names: [{', '.join(NAMES)}]\n")
    return Yolo(root, val_fraction=0, **settings)


def voc(root: Path, **settings: Any) -> Voc:
    for number, (stem, labels) in enumerate(BOXES.items()):
        picture(root / "JPEGImages" / f"{stem}.png", number)
        things = ""
        for label, corners in zip(labels, AT, strict=False):
            box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
            things += f"<object><name>{NAMES[label]}</name><bndbox>{box}</bndbox></object>"
        text(root / "Annotations" / f"{stem}.xml", f"<annotation>{things}</annotation>")
    return Voc(root, val_fraction=0, **settings)


@pytest.mark.parametrize("make", [coco, yolo, voc])
def test_boxes_of_chosen_classes(tmp_path: Path, make: Callable[..., Any]) -> None:
    source = make(tmp_path, classes=["bus", "person"])
    assert source.provides["detection"] == source.provides["multilabel"] == ("bus", "person")
    split = source.split("train")
    assert [split.file_name(i)[-5] for i in range(4)] == list("abcd")  # images of other classes are backgrounds
    assert [split[i]["labels"].tolist() for i in range(4)] == [[1], [0], [], []]
    assert split[0]["boxes"].round().int().tolist() == [list(AT[0])]
    assert [split[i]["presence"].tolist() for i in range(4)] == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert split.label_counts().tolist() == [1, 1] and len(split.box_sizes()) == 2
    assert split.contents() == "2 classes, 2 boxes (2 images without any); 3 boxes of other classes left out"
    half = split.subset(np.array([True, False, True, False]))
    assert half.contents() == "2 classes, 1 box (1 image without any); 3 boxes of other classes left out"
    one = make(tmp_path, classes=["car"])
    assert one.provides["detection"] == ("car",) and one.split("train")[2]["labels"].tolist() == [0, 0]
    known = "did you mean person", "the classes are"
    refused(lambda: make(tmp_path, classes=["persn"]), "data.classes: no class is called 'persn'", *known)
    refused(lambda: make(tmp_path, classes="person"), "data.classes=person", "data.classes=[person]")
    refused(lambda: make(tmp_path, classes=["car", "car"]), "different names", "data.classes=[car]")


def test_objects_of_other_classes_cover_what_they_cover(tmp_path: Path) -> None:
    def pixels(**settings: Any) -> np.ndarray:
        return coco(tmp_path, outlines=True, **settings).split("train").mask(0)

    source = coco(tmp_path, outlines=True, classes=["car"])
    assert source.provides["segmentation"] == ("background", "car")
    everything = pixels()
    assert (pixels(classes=["car"]) == (everything == 2)).all() and (everything == 1).any()
    contents = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    contents["annotations"][1] |= {"bbox": [0, 0, 32, 32], "segmentation": [[0, 0, 32, 0, 32, 32, 0, 32]]}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(contents))
    split = Coco(tmp_path, val_fraction=0, classes=["car"]).split("train")
    assert split is not None
    inside = np.zeros((32, 32), bool)
    inside[2:12, 2:12] = True  # the person before the car
    assert (split.mask(0) == ~inside).all()


def test_many_categories_have_masks_of_a_few(tmp_path: Path) -> None:
    coco(tmp_path, outlines=True)
    contents = json.loads((tmp_path / "annotations" / "instances_train.json").read_text())
    contents["categories"] += [{"id": i, "name": f"n{i}"} for i in range(3, 400)]
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(contents))
    assert "segmentation" not in Coco(tmp_path).provides
    assert Coco(tmp_path, classes=["car"]).provides["segmentation"] == ("background", "car")


TABLE = ("sky", "road", "car", "void")
VALUES = np.repeat(np.array([[0, 1, 2, 3]], np.uint8), 20, 0).repeat(6, 1)  # (20, 24)


def masks(root: Path, values: np.ndarray = VALUES, **settings: Any) -> Masks:
    for number, stem in enumerate("abc"):
        picture(root / "images" / f"{stem}.png", number, (24, 20))
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / "masks" / f"{stem}.png")
    return Masks(root, val_fraction=0, **settings)


def named(root: Path, **settings: Any) -> Masks:
    return masks(root, names=TABLE, **settings)


def by_json(root: Path, **settings: Any) -> Masks:
    text(root / "classes.json", json.dumps(TABLE))
    return masks(root, **settings)


def by_colours(root: Path, **settings: Any) -> Masks:
    colours = {name: [10 * i, 7, 7] for i, name in enumerate(TABLE)}
    values = np.array(list(colours.values()), np.uint8)[VALUES]
    return masks(root, values, colours=colours, **settings)


@pytest.mark.parametrize("make", [named, by_json, by_colours])
def test_masks_of_chosen_classes(tmp_path: Path, make: Callable[..., Masks]) -> None:
    def values(source: Masks) -> list[int]:
        split = source.split("train")
        assert split is not None
        return split[0]["mask"][0, ::6].tolist()

    one = make(tmp_path, classes=["car"], ignore=["void"])
    assert one.classes == ("background", "car") and values(one) == [0, 0, 1, 255]
    split = one.split("train")
    assert split is not None and "pixels of 2 other classes are background" in split.notes
    two = make(tmp_path, classes=["car", "background", "sky"])
    assert two.classes == ("car", "background", "sky") and values(two) == [2, 1, 0, 1]
    every = make(tmp_path, classes=["void", "car", "road", "sky"])
    assert every.classes == ("void", "car", "road", "sky") and values(every) == [3, 2, 1, 0]
    refused(lambda: make(tmp_path, classes=["rod"]), "no class is called 'rod'", "did you mean road", "sky, road, car")


def test_masks_of_unnamed_values_are_named_by_classes(tmp_path: Path) -> None:
    assert masks(tmp_path, classes=TABLE).classes == TABLE


def test_cityscapes_of_chosen_classes(tmp_path: Path) -> None:
    place = tmp_path / "leftImg8bit" / "train" / "ulm"
    picture(place / "a_leftImg8bit.png", 0, (24, 20))
    values = np.array([0, CLASSES["road"], CLASSES["car"], CLASSES["sky"]], np.uint8)[VALUES]
    labels = tmp_path / "gtFine" / "train" / "ulm" / "a_gtFine_labelIds.png"
    labels.parent.mkdir(parents=True)
    Image.fromarray(values).save(labels)
    source = Cityscapes(tmp_path, classes=["car", "road"])
    assert source.provides == {"segmentation": ("background", "car", "road")}
    split = source.split("train")
    assert split is not None
    assert split[0]["mask"][0, ::6].tolist() == [255, 2, 1, 0]
    assert split.notes == ["pixels of 17 other classes are background"]
    refused(lambda: Cityscapes(tmp_path, classes=["cars"]), "no class is called 'cars' (did you mean car?)")


@pytest.mark.parametrize("table", [False, True])
def test_images_of_chosen_classes(tmp_path: Path, table: bool) -> None:
    rows = ["file,label,split"]
    for name in NAMES:
        for side in ("train", "val"):
            for number in range(2):
                picture(tmp_path / side / name / f"{number}.png", number)
                rows.append(f"{side}/{name}/{number}.png,{name},{side}")
    text(tmp_path / "labels.csv", "\n".join(rows))
    settings = {"labels": "labels.csv"} if table else {}
    source = ImageFolder(tmp_path, classes=["bus", "person"], **settings)
    assert source.provides == {"classification": ("bus", "person")}
    train, val = source.split("train"), source.split("val")
    assert train is not None and val is not None
    assert sorted((train.file_name(i).split("/")[1], train.label(i)) for i in range(len(train))) == [
        ("bus", 0), ("bus", 0), ("person", 1), ("person", 1),
    ]  # fmt: skip
    assert len(val) == 2 * 2 and "of other classes" in str(train.left_out)
    refused(lambda: ImageFolder(tmp_path, classes=["bus", "kar"], **settings), "'kar' (did you mean car?)")


def test_a_model_of_more_classes_is_measured_on_data_of_fewer(tmp_path: Path) -> None:
    known = ("lorry", "bus", "person", "car")
    source = Renumbered(coco(tmp_path, outlines=True), "detection", known)
    assert source.provides["detection"] == source.provides["multilabel"] == known
    assert source.provides["segmentation"] == ("background", *known)
    split = source.split("train")
    assert [split[i]["labels"].tolist() for i in range(4)] == [[2, 3], [1], [3, 3], []]
    assert split[1]["presence"].tolist() == [0, 1, 0, 0]
    assert source.split("test") is None
    painted = Renumbered(coco(tmp_path, outlines=True), "segmentation", ("background", *known))
    assert painted.split("train").mask(1).max() == 2
    scene = Renumbered(by_json(tmp_path / "m"), "segmentation", ("car", "tree", "void", "sky", "road")).split("train")
    assert scene[0]["mask"][0, ::6].tolist() == [3, 4, 0, 2]
    assert scene.pixel_counts().tolist() == [360, 0, 360, 360, 360] and scene.class_names[0] == "car"
    for name in NAMES:
        picture(tmp_path / "f" / name / "0.png")
    images = Renumbered(ImageFolder(tmp_path / "f", val_fraction=0), "classification", known).split("train")
    assert {images.path(i).parent.name: images.label(i) for i in range(3)} == {"bus": 1, "person": 2, "car": 3}


def test_weights_for_other_numbers_of_classes_are_told(tmp_path: Path) -> None:
    from mnv2_tasks.assembly.network import build_model

    heads = {
        "classifier": {"_target_": "mnv2_tasks.heads.classifier.Classifier", "_partial_": True},
        "ssdlite": {"_target_": "mnv2_tasks.heads.ssdlite.SSDLite", "_partial_": True},
    }
    backbone = {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.35, "mean": [0.5], "std": [0.5]}

    def build(head: str, count: int) -> tuple[Any, dict[str, tuple[str, ...]], Any]:
        config = {"backbone": backbone, "heads": {head: heads[head]}}
        classes = {head: tuple(f"c{i}" for i in range(count))}
        return build_model(config, classes), classes, lambda its: build_model(config, its)

    def load(head: str, count: int, file: str) -> None:
        model, classes, rebuild = build(head, count)
        fill_model(model, tmp_path / file, classes=classes, build=rebuild)

    for head in heads:
        torch.save(build(head, 1)[0].state_dict(), tmp_path / "one.pth")
        torch.save(build(head, 80)[0].state_dict(), tmp_path / "all.pth")
        load(head, 80, "all.pth")
        told = "one.pth: weights for 1 class, and the data of", "has 80 classes", "data.classes=[c0]"
        refused(partial(load, head, 80, "one.pth"), *told)
        refused(partial(load, head, 1, "all.pth"), "weights for 80 classes", "has 1 class; give data")


def test_the_data_takes_the_classes_of_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def data(**settings: Any) -> DataModule:
        return DataModule({"coco": coco(tmp_path, **settings)}, {"ssdlite": DETECTION}, sizes={"coco": (32, 32)})

    more = data()
    fix = "data.classes=[bus] takes those that it knows"
    refused(lambda: take_classes("a.ckpt", more, {"ssdlite": ("bus",)}), "a.ckpt: ssdlite is for 1 class (bus)", fix)
    fewer = data(classes=["bus"])
    take_classes("a.ckpt", fewer, {"ssdlite": NAMES})
    assert fewer.classes == {"ssdlite": NAMES} and "coco: it has 1 of the model's 3 classes" in capsys.readouterr().out
    assert fewer.split("coco", "train")[1]["labels"].tolist() == [2]
    refused(
        lambda: take_classes("a.ckpt", data(), {"ssdlite": ("cat", "bus")}), "such as person, car; evaluate on data"
    )
    take_classes("a.ckpt", more, {"ssdlite": NAMES})
    assert isinstance(more.sources["coco"], Coco)
