"""YOLO's text files: every layout gives the samples of the same objects as COCO; what leaves a doubt is one line."""

import importlib.util
import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.yolo import Yolo
from mnv2_tasks.datasets.reading.boxed_split import DetectionSplit
from mnv2_tasks.datasets.reading.file_split import held_out
from mnv2_tasks.kinds import DETECTION

CLASSES = ("cat", "dog", "cow")
WIDTH, HEIGHT = 50, 40
SIDES = {"train": ("a", "b", "c"), "val": ("d", "e"), "test": ("f",)}
NAMES = {side: [f"{stem}.png" for stem in stems] for side, stems in SIDES.items()}
# image -> its objects: class, box x y width height or the corners of an outline, in pixels
OBJECTS: dict[str, list[tuple[int, list[float]]]] = {
    "a": [(0, [4, 3, 10, 20]), (2, [1.25, 2.5, 30.75, 12.3])],
    "b": [(1, [5, 5, 45, 5, 45, 35, 25, 20, 5, 35]), (0, [10, 8, 20.5, 8, 15, 30.25])],
    "c": [],
    "d": [(2, [0, 0, 50, 40]), (1, [30, 10, 40, 10, 40, 30, 30, 30])],
    "e": [(0, [7, 7, 3, 3])],
    "f": [(1, [12, 4, 22, 14, 12, 24, 2, 14])],
}
Files = dict[str, str]


def line(label: int, values: list[float], *, digits: int = 6) -> str:
    if len(values) == 4:
        x, y, width, height = values
        values = [x + width / 2, y + height / 2, width, height]
    numbers = [value / (HEIGHT if i % 2 else WIDTH) for i, value in enumerate(values)]
    return " ".join([str(label), *(f"{number:.{digits}f}" for number in numbers)])


def text(stem: str) -> str:
    return "".join(line(*entry) + "\n" for entry in OBJECTS[stem])


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = sum(path.stem.encode()) % 256
    Image.new("RGB", size, (colour, 40, 90)).save(path)


def build(root: Path, files: Files, *, images: str, labels: str) -> Path:
    """Images and labels by patterns with {side} and {stem}, and more text files; c has no label file."""
    for side, stems in SIDES.items():
        for stem in stems:
            picture(root / images.format(side=side, stem=stem))
            if OBJECTS[stem]:
                write(root, {labels.format(side=side, stem=stem): text(stem)})
    write(root, files)
    return root


def write(root: Path, files: Files) -> Path:
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents.encode())
    return root


def small(root: Path, lines: str = text("a"), *, yaml: str = "names: [cat, dog, cow]\n") -> Path:
    """images/a.png and images/b.png, of which the first has these lines, and the second a cat."""
    for stem in "ab":
        picture(root / "images" / f"{stem}.png")
    return write(root, {"labels/a.txt": lines, "labels/b.txt": line(0, [4, 3, 10, 20]), "data.yaml": yaml})


def coco(root: Path, side: str) -> DetectionSplit:
    """The same images and objects as COCO reads them."""
    images, notes = [], []
    for number, stem in enumerate(SIDES[side]):
        picture(root / f"{stem}.png")
        images.append({"id": number, "file_name": f"{stem}.png", "width": WIDTH, "height": HEIGHT})
        for label, values in OBJECTS[stem]:
            note: dict[str, Any] = {"id": len(notes), "image_id": number, "category_id": label, "bbox": values}
            if len(values) > 4:
                corners = np.array(values).reshape(-1, 2)
                low, high = corners.min(0), corners.max(0)
                x, y = corners.T
                area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
                note |= {"bbox": [*low.tolist(), *(high - low).tolist()], "segmentation": [values], "area": area}
            notes.append(note)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    write(root, {"train.json": json.dumps({"images": images, "annotations": notes, "categories": categories})})
    return load(Coco(root, val_fraction=0), "train")


def load(source: Any, side: str = "train") -> DetectionSplit:
    split = source.split(side)
    assert split is not None
    return split


def names_of(split: DetectionSplit | None) -> list[str]:
    return [os.path.basename(split.file_name(i)) for i in range(len(split))] if split else []


# Layouts

YAML = "train: images/train\nval: images/val\ntest: images/test\nnames:\n  0: cat\n  1: dog\n  2: cow\n"
DATA = "classes = 3\ntrain = data/train.txt\nvalid = data/val.txt\ntest = data/test.txt\nnames = data/obj.names\n"


def lists(pattern: str, place: str = "{side}.txt") -> Files:
    return {
        place.format(side=side): "\n".join(pattern.format(side=side, stem=stem) for stem in stems) + "\n"
        for side, stems in SIDES.items()
    }


def listed(yaml: str = "train: train.txt\nval: val.txt\ntest: test.txt\nnames: [cat, dog, cow]\n") -> Files:
    return {"data.yaml": yaml}


FOLDERS = ("images/{side}/{stem}.png", "labels/{side}/{stem}.txt")
ROBOFLOW = ("{side}/images/{stem}.png", "{side}/labels/{stem}.txt")
FLAT = ("images/{stem}.png", "labels/{stem}.txt")
TXT = {"classes.txt": "cat\ndog\ncow\n"}
LAYOUTS: dict[str, tuple[str, str, Files]] = {
    "ultralytics": (*FOLDERS, {"data.yaml": YAML}),
    "path of another machine": (*FOLDERS, {"coco8.yaml": f"path: /content/datasets/mine\n{YAML}"}),
    "path of Windows": (*FOLDERS, {"dataset.yml": f"path: C:\\Users\\me\\mine\n{YAML}".replace("images/", "images\\")}),
    "path beside": (*FOLDERS, {"data.yaml": f"path: ../datasets/mine  # as Ultralytics has it\n{YAML}"}),
    "absolute sides": (*FOLDERS, {"data.yaml": YAML.replace("images/", "/home/me/mine/images/")}),
    "roboflow": (
        *ROBOFLOW,
        {
            "data.yaml": "train: ../train/images\nval: ../val/images\ntest: ../test/images\n\nnc: 3\n"
            "names: ['cat', 'dog', 'cow']\nroboflow:\n  workspace: me\n  version: 1\n",
            "README.roboflow.txt": "x",
        },
    ),
    "the side's whole folder": (*ROBOFLOW, {"data.yaml": YAML.replace("images/", "./")}),
    "lists of folders": (*FOLDERS, {"data.yaml": YAML.replace("images/train", "[images/train]")}),
    "a list": (*FLAT, {**listed(), **lists("./images/{stem}.png")}),
    "a list of Windows": (*FLAT, {**listed(), **lists("D:\\mine\\images\\{stem}.PNG\r")}),
    "a list with its own folder": (*FLAT, {**listed(), **lists("/content/mine/images/{stem}.png")}),
    "cvat ultralytics": (*FOLDERS, {**listed(), **lists("data/images/{side}/{stem}.png")}),
    "darknet": (
        "obj_{side}_data/{stem}.png",
        "obj_{side}_data/{stem}.txt",
        {"obj.data": DATA, "obj.names": "cat\r\ndog\r\ncow\r\n", **lists("data/obj_{side}_data/{stem}.png")},
    ),
    "darknet's examples": (
        "data/obj/{stem}.png",
        "data/obj/{stem}.txt",
        {
            "data/obj.data": DATA,
            "data/obj.names": "cat\ndog\ncow",
            **lists("data/obj/{stem}.png", "data/{side}.txt"),
        },
    ),
    "roboflow darknet": ("{side}/{stem}.png", "{side}/{stem}.txt", {"train/_darknet.labels": "cat\ndog\ncow\n"}),
    "folders": (*FOLDERS, TXT),
    "folders the other way round": (*ROBOFLOW, TXT),
    "folders and names alone": (*FOLDERS, {"data.yaml": "nc: 3\nnames: [cat, dog, cow]\n"}),
    "labels below": ("{side}/{stem}.png", "labels/{side}/{stem}.txt", TXT),
    "words in names": ("{side}_images/{stem}.png", "{side}_labels/{stem}.txt", TXT),
    "capitals": ("Images/{side}/{stem}.png", "Labels/{side}/{stem}.txt", {"Labels/classes.txt": "cat\ndog\ncow\n"}),
    "lists alone": (*FLAT, {**TXT, **lists("images/{stem}.png")}),
    "jpegimages": (
        "JPEGImages/{stem}.png",
        "labels/{stem}.txt",
        {**TXT, **lists("JPEGImages/{stem}.png", "{side}2017.txt")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_what_coco_gives(tmp_path: Path, layout: str) -> None:
    images, labels, files = LAYOUTS[layout]
    source = Yolo(build(tmp_path / "mine", files, images=images, labels=labels))
    assert source.provides["detection"] == source.provides["multilabel"] == CLASSES
    assert source.provides["segmentation"] == ("background", *CLASSES)
    for side in SIDES:
        split, peer = load(source, side), coco(tmp_path / side, side)
        assert names_of(split) == NAMES[side]
        assert not split.left_out
        for i in range(len(split)):
            sample, same = split[i], peer[i]
            assert sample.keys() == same.keys() and sample["size"] == same["size"]
            assert torch.allclose(sample["boxes"], same["boxes"], atol=1e-3)
            assert torch.allclose(sample["area"], same["area"], rtol=1e-4)
            for key in ("image", "labels", "crowd", "presence", "mask"):
                assert torch.equal(sample[key], same[key])
    assert torch.equal(load(source).pixel_counts(), coco(tmp_path / "train", "train").pixel_counts())


# Sides


def test_the_layout_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images, labels, files = LAYOUTS["roboflow"]
    root = build(tmp_path, {**files, "train/labels/z.txt": "0 .5 .5 .1 .1"}, images=images, labels=labels)
    write(root, {"train/labels/e.txt": "", "train/images/notes.pdf": ""})
    picture(root / "more" / "x.png")
    write(root, {"train/labels/a.txt": text("a") + text("a")})
    DataModule({"yolo": Yolo(root)}, {"boxes": DETECTION}, sizes={"yolo": (32, 32)}).tell(["train", "val", "test"])
    train, val, test = capsys.readouterr().out.splitlines()[:3]
    assert train.split("; ") == [
        "yolo train: 3 images, 3 classes, 4 boxes (1 image without any)",
        "sides as data.yaml says",
        *(f"{side}: ../{side}/images is read as {side}/images" for side in SIDES),
        "2 lines that repeat another are left out",
        "no label file for 1 image",
        "4 files left out: 2 label file without an image, 1 .pdf, 1 on no side",
    ]
    assert (val, test) == ("yolo val: 2 images, 3 classes, 3 boxes", "yolo test: 1 image, 3 classes, 1 box")


@pytest.mark.parametrize("folder", ["images", "."])
@pytest.mark.parametrize("yaml", ["", "train: {}\nnames: [cat]\n", "train: {}\nval: \ntest: ~\nnames: [cat]\n"])
def test_val_is_held_out_where_there_is_none(tmp_path: Path, folder: str, yaml: str) -> None:
    stems = [f"{i}_jpg.rf.{copy}" for i in range(8) for copy in "xyz"]
    labels = "labels" if folder == "images" else folder
    for stem in stems:
        picture(tmp_path / folder / f"{stem}.jpg")
        write(tmp_path, {f"{labels}/{stem}.txt": "0 .5 .5 .2 .2"})
    write(tmp_path, {"data.yaml": yaml.format(folder)} if yaml else {"classes.txt": "cat"})
    source = Yolo(tmp_path, val_fraction=0.3)
    train, val = names_of(source.split("train")), names_of(source.split("val"))
    names = sorted(os.path.normpath(os.path.join(folder, f"{stem}.jpg")) for stem in stems)
    held = held_out(names, 0.3)
    assert val == [os.path.basename(name) for name, out in zip(names, held, strict=True) if out]
    assert sorted(train + val) == sorted(map(os.path.basename, names))
    assert not {name[0] for name in train} & {name[0] for name in val}
    assert source.split("test") is None and "held out" in load(source, "val").notes[0]
    assert Yolo(tmp_path, val_fraction=0).split("val") is None


def moved(root: Path, **sides: str) -> Path:
    """Images in images/{train,val,test}, and a data.yaml with these sides."""
    yaml = "".join(f"{key}: {value}\n" for key, value in sides.items()) + "names: [cat, dog, cow]\n"
    return build(root, {"data.yaml": yaml}, images=FOLDERS[0], labels=FOLDERS[1])


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        ({"train": "images/train", "val": "images/train"}, ["the same 3 images", "remove val:", "data.val_fraction"]),
        ({"train": "images/train", "val": "./images//train/"}, ["the same 3 images"]),
        ({"train": "images", "val": "images/val"}, ["images/val/d.png is on train and on val (2 images are)"]),
        ({"train": "images/train", "test": "images/train"}, ["train and test are the same"]),
        ({"train": "[images/train, images/train]"}, ["images/train/a.png is named 2 times"]),
        ({"train": "images/nothing"}, ["train: images/nothing is no folder or list", "correct it"]),
        ({"train": "images/train", "val": "../valid/images"}, ["val: ../valid/images is no folder", "remove the line"]),
        (
            {"train": "images/train", "val": "images/val", "valid": "images/val"},
            ["val and valid both are its val side"],
        ),
        ({"train": "labels/train"}, ["labels/train holds no images"]),
        ({"train": "/elsewhere/train/images"}, ["/elsewhere/train/images is no folder"]),  # images/ holds all sides
        ({"train": "/"}, ["train: / is no folder"]),
        ({"train": "x" * 5000}, ["is no folder"]),
        ({"train": "a\\0b"}, ["is no folder"]),
        ({"train": "{images: train}"}, ["train is not a folder"]),
    ],
)
def test_a_doubt_about_sides_is_refused(tmp_path: Path, sides: dict[str, str], words: list[str]) -> None:
    refused(lambda: Yolo(moved(tmp_path, **sides)), str(tmp_path / "data.yaml"), *words)


def test_a_test_side_that_is_not_there_is_said(tmp_path: Path) -> None:
    for test in ("../test/images", "images/val"):
        source = Yolo(moved(tmp_path, train="images/train", val="images/val", test=test))
        assert source.split("test") is None and "there is no test side" in load(source).notes[1]
    root = moved(tmp_path, train="images/train", val="images/val", test="images/test")
    (root / "labels" / "test" / "f.txt").unlink()
    source = Yolo(root)
    assert source.split("test") is None and "no label file for 1 image" in load(source).notes


def test_images_without_labels(tmp_path: Path) -> None:
    root = moved(tmp_path, train="images/train", val="images/val", test="images/test")
    (root / "labels" / "test" / "f.txt").unlink()
    source = Yolo(root)
    assert source.split("test") is None and load(source).left_out == {"test image without labels": 1}
    for name in ("a", "b"):
        (root / "labels" / "train" / f"{name}.txt").unlink()
    refused(lambda: Yolo(root), "none of the 3 train images", "there is no a.txt in", "labels/train or images/train")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.txt": "images/a.png\nimages/z.png\nq.png"}, ["line 2", "images/z.png", "2 of 3 are missing"]),
        ({"train.txt": "images/a.png\n./images/a.png"}, ["images/a.png is listed 2 times"]),
        ({"train.txt": "images/a.png", "val.txt": "images/a.png"}, ["train and val are the same 1 images"]),
        ({"train.txt": "images/a.png\nimages/b.png", "val.txt": "images\\a.png"}, ["is on train and on val"]),
        ({"train.txt": "images/a.png", "training.txt": "images/b.png"}, ["train and training both are its train side"]),
        ({"data.yaml": "train: train.txt", "train.txt": "# none\n"}, ["train.txt", "no images are listed"]),
    ],
)
def test_lists_are_checked(tmp_path: Path, files: Files, words: list[str]) -> None:
    root = small(tmp_path, yaml="names: [cat, dog, cow]")
    refused(lambda: Yolo(write(root, files)), str(tmp_path), *words)


@pytest.mark.parametrize(
    ("train", "val", "line"),
    [
        ("autosplit_train.txt", "autosplit_val.txt", "./images/{}.png"),  # Ultralytics' own
        ("splits/trn.txt", "splits/dev.txt", "images/{}.png"),
        ("ImageSets/Main/train.txt", "ImageSets/Main/val.txt", "{}"),
        ("train.txt", "val.txt", "labels/{}.txt"),
    ],
)
def test_lists_are_found_wherever_they_are(tmp_path: Path, train: str, val: str, line: str) -> None:
    root = small(tmp_path, yaml="names: [cat, dog, cow]")
    write(root, {train: line.format("a"), val: line.format("b"), "labels/train.txt": "0 .5 .5 .1 .1"})
    source = Yolo(root)
    assert names_of(load(source)) == ["a.png"] and names_of(source.split("val")) == ["b.png"]
    assert load(source).notes == [f"sides as listed in {train}, {val}"] and not load(source).left_out
    picture(root / "images" / "c.png"), write(root, {"labels/c.txt": text("a")})
    assert load(Yolo(root)).left_out == {"on no side": 1}


def test_lists_that_leave_a_doubt_are_refused(tmp_path: Path) -> None:
    root = small(tmp_path, yaml="names: [cat, dog, cow]")
    write(root, {"one/train.txt": "a", "two/train.txt": "b"})
    refused(lambda: Yolo(root), "one and two all hold lists", "in a data.yaml")
    write(root, {"train.txt": "a\nq"})
    refused(lambda: Yolo(root), "train.txt: line 2: there is no image q")


def test_a_description_is_found_in_a_folder_below(tmp_path: Path) -> None:
    build(tmp_path / "archive", {"data.yaml": YAML}, images=FOLDERS[0], labels=FOLDERS[1])
    source = Yolo(tmp_path)
    assert [len(source.split(side) or ()) for side in SIDES] == [3, 2, 1] and source.provides["detection"] == CLASSES
    assert load(source).notes[0] == "sides as archive/data.yaml says"
    write(tmp_path, {"two/data.yaml": YAML})
    refused(lambda: Yolo(tmp_path), "archive/data.yaml and two/data.yaml", "data.file=")


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(0.6, 0.6, 0.9, 0.95), (0.5, 0.1, 0.95, 0.4), (0.7, 0.7, 0.95, 0.9)], "nearly all do as x1, y1, x2, y2"),
        (
            [(0.1, 0.5, 0.8, 0.3), (0.05, 0.9, 0.9, 0.05), (0, 0.6, 0.5, 0.3)],
            "nearly all do with x, y as their corner",
        ),
        ([(0.0, 0.0, 0.0, 0.0)] * 2, "has no area"),
    ],
)
def test_boxes_of_another_order(tmp_path: Path, boxes: list, words: str) -> None:
    root = small(tmp_path, "".join(f"0 {' '.join(map(str, box))}\n" for box in boxes * 3 + boxes))
    write(root, {"labels/b.txt": ""})
    refused(lambda: Yolo(root, val_fraction=0).split("train"), words)


def test_a_label_beside_an_image_named_train_is_no_list(tmp_path: Path) -> None:
    for stem in ("train", "val"):
        picture(tmp_path / f"{stem}.png")
        write(tmp_path, {f"{stem}.txt": "0 .5 .5 .1 .1\n"})
    assert names_of(Yolo(tmp_path, val_fraction=0).split("train")) == ["train.png", "val.png"]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["train/images/x", "images/train/y"], ["images/train and train both are its train side"]),
        (["mine/images/train/x", "mine/images/val/y"], ["mine/images/train", "data.root={root}/mine"]),
        (["mine/train/images/x", "mine/valid/images/y"], ["mine/train", "data.root={root}/mine"]),
        ([], ["no images in this folder"]),
    ],
)
def test_folders_that_leave_a_doubt_are_refused(tmp_path: Path, places: list[str], words: list[str]) -> None:
    for place in places:
        picture(tmp_path / f"{place}.png")
    refused(lambda: Yolo(tmp_path), *(word.format(root=tmp_path) for word in words))


def test_several_descriptions(tmp_path: Path) -> None:
    root = moved(tmp_path, train="images/train", val="images/val")
    write(root, {"hyp.yaml": "lr0: 0.01\n", "args.yaml": "data: [\n"})
    assert len(load(Yolo(root))) == 3
    write(root, {"other.yaml": "train: images/test\nnames: [cat, dog, cow]\n"})
    refused(lambda: Yolo(root), "data.yaml and other.yaml", "data.file=<file>")
    assert names_of(Yolo(root, file="other.yaml", val_fraction=0).split("train")) == ["f.png"]
    refused(lambda: Yolo(root, file="gone.yaml"), "gone.yaml", "data.file")


def test_what_lies_outside_is_read_on_request_alone(tmp_path: Path) -> None:
    other = build(tmp_path / "other", {}, images=FOLDERS[0], labels=FOLDERS[1])
    root = write(tmp_path / "mine", {"data.yaml": YAML.replace("images/", f"{other}/images/")})
    refused(lambda: Yolo(root), "no images")
    source = Yolo(root, outside=True)
    assert [names_of(source.split(side)) for side in SIDES] == list(NAMES.values())
    picture(root / "train" / "a.png")
    write(root, {"train/a.txt": text("a")})
    refused(lambda: Yolo(root), "val: ", "is no folder")
    source = Yolo(root, outside=True)
    assert load(source).path(0) == other / "images" / "train" / "a.png"


def test_links_and_folders_of_systems(tmp_path: Path) -> None:
    root = moved(tmp_path, train="images/train", val="images/val")
    for name in ("images/train/.ipynb_checkpoints/a.png", "images/train/@eaDir/a.png", "images/val/._d.png"):
        picture(root / name)
    (root / "images" / "train" / "again").symlink_to(root / "images")
    source = Yolo(root)
    assert names_of(source.split("train")) == NAMES["train"] and names_of(source.split("val")) == NAMES["val"]
    assert load(source).left_out == {"hidden": 3, "linked back": 1, "on no side": 1}


# Names and numbers of classes


@pytest.mark.parametrize(
    ("yaml", "words"),
    [
        ("nc: 2\nnames: [cat, dog, cow]", ["nc is 2, but names are 3"]),
        ("names: {0: cat, 2: dog, 3: cow}", ["the numbers 0, 2, 3", "from 0 to 2"]),
        ("names: {cat: 0, dog: 1}", ["names", "'cat' is no number"]),
        ("names: cat", ["names is 'cat'", "names: [cat, dog]"]),
        ("names: [[cat], dog]", ["names is not a list of names"]),
        ("names: [cat, dog, cow]\nnames: [dog, cat, cow]", ["line 2", "'names' is there twice"]),
        ("nc: many", ["nc: 'many' is no number"]),
        ("nc: 99999999999999999999", ["nc: '99999999999999999999' is no number"]),
        ("names: [cat, dog]", ["labels/a.txt: line 2: class 2: the 2 classes have 0 to 1"]),
        ("names: [cat, dog, cow, Cat ]", ["'cat' and 'Cat'"]),
        ("names: [cat, dog, cat]", ["2 classes are named 'cat'"]),
        ("names: [cat, dog, cow]\nkpt_shape: [17]", ["kpt_shape is [17]"]),
        ("names: [cat", ["data.yaml: not YAML", "line 1"]),
        ("names: *x", ["not YAML"]),
        ("\tnames: [cat]", ["not YAML"]),
        ("[" * 5000, ["not YAML"]),
        ("names: !!python/object/apply:os.system [touch /tmp/x]", ["data.yaml"]),
    ],
)
def test_data_yaml_is_checked(tmp_path: Path, yaml: str, words: list[str]) -> None:
    refused(lambda: Yolo(small(tmp_path, yaml=yaml)), str(tmp_path), *words)


def test_names_that_yaml_takes_for_other_things(tmp_path: Path) -> None:
    yaml = "names: [no, 1.0, ~]\nnc: 3\ndownload: |\n  import os; os.remove('data.yaml')\n"
    assert Yolo(small(tmp_path, yaml=yaml)).provides["detection"] == ("no", "1.0", "~")
    bomb = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [*{b}, *{b}, *{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert Yolo(small(tmp_path, yaml=f"{bomb}names: [cat, dog, cow]")).provides["detection"] == CLASSES
    refused(lambda: Yolo(small(tmp_path, yaml=f"{bomb}names: *i")), "names is not a list")


def test_names_from_beside_the_labels_or_numbers(tmp_path: Path) -> None:
    root = small(tmp_path)
    (root / "data.yaml").unlink()
    source = Yolo(root, val_fraction=0)
    assert source.provides["detection"] == ("0", "1", "2")
    assert load(source).notes == ["no file names the classes: they are 0 to 2, as many as the labels use"]
    write(root, {"data.yaml": "nc: 5"})
    assert len(Yolo(root).provides["detection"]) == 5
    (root / "data.yaml").unlink()
    write(root, {"labels/classes.txt": "cat\ndog\ncow\n\n"})
    source = Yolo(root, val_fraction=0)
    assert source.provides["detection"] == CLASSES and not load(source).left_out
    write(root, {"classes.txt": "dog\ncat\ncow"})
    refused(lambda: Yolo(root), "labels/classes.txt", "class names are not those of", "in one order")
    write(root, {"classes.txt": "cat\n\ncow"})
    refused(lambda: Yolo(root), "classes.txt: line 2 is empty")
    write(root, {"labels/a.txt": "", "labels/b.txt": ""})
    for name in ("classes.txt", "labels/classes.txt"):
        (root / name).unlink()
    refused(lambda: Yolo(root), "no class is named")


# Lines

LINES: dict[str, tuple[str, list[str]]] = {
    "commas": ("0,0.5,0.5,0.1,0.1", ["numbers with blanks between"]),
    "decimal commas": ("0 0,5 0,5 0,1 0,1", ["numbers with blanks between"]),
    "a name": ("cat 0.5 0.5 0.1 0.1", ["'cat 0.5", "numbers with blanks between"]),
    "too few": ("0 0.5 0.5 0.1", ["4 numbers"]),
    "confidence": ("0 0.5 0.5 0.1 0.1 0.93", ["6 numbers", "confidence"]),
    "keypoints": ("0 0.5 0.5 0.1 0.1 0.4 0.4 2", ["8 numbers", "kpt_shape"]),
    "nan": ("0 nan 0.5 0.1 0.1", ["not finite"]),
    "digits": (f"0 {'9' * 5000} 0.5 0.1 0.1", ["not finite"]),
    "class": ("3 0.5 0.5 0.1 0.1", ["class 3: the 3 classes have 0 to 2"]),
    "negative class": ("-1 0.5 0.5 0.1 0.1", ["class -1"]),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", ["class 0.5"]),
    "pixels": ("0 25 20 10 10", ["25 is no fraction", "divide x"]),
    "an outline in pixels": ("0 4 3 30 3 30 20", ["30 is no fraction"]),
}


@pytest.mark.parametrize("fault", LINES)
def test_bad_lines_are_named(tmp_path: Path, fault: str) -> None:
    wrong, words = LINES[fault]
    root = small(tmp_path, f"{line(0, [4, 3, 10, 20])}\n\n{wrong}\n")
    refused(lambda: Yolo(root, bad_boxes="fix"), str(root / "labels" / "a.txt"), "line 3", *words)


BAD = {  # class x y width height in fractions -> the problem, and the box that "fix" leaves
    "out": ("0 0.9 0.5 0.4 0.5", "sticks out", (35, 10, 50, 30)),
    "flat": ("0 0.5 0.5 0 0.2", "has no area", None),
    "inverted": ("0 0.5 0.5 -0.2 0.2", "is inverted", None),
    "away": ("0 1.5 0.5 0.2 0.2", "lies outside", None),
    "outline": ("0 0.5 0.5 1.2 0.5 0.5 0.75", "sticks out", (25, 20, 50, 30)),
    "outline on a line": ("0 0.5 0.5 0.6 0.5 0.9 0.5", "has no area", None),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_boxes(tmp_path: Path, fault: str) -> None:
    wrong, problem, fixed = BAD[fault]
    root = small(tmp_path, wrong)
    refused(lambda: Yolo(root, val_fraction=0).split("train"), "labels/a.txt: line 1", problem, "data.bad_boxes=fix")
    with pytest.warns(UserWarning, match=f"clipped {int(fixed is not None)} .* dropped {int(fixed is None)} "):
        train = load(Yolo(root, val_fraction=0, bad_boxes="fix"))
    assert train[0]["boxes"].tolist() == ([list(fixed)] if fixed else []) and len(train[1]["boxes"]) == 1


def test_boxes_that_cannot_be_meant(tmp_path: Path) -> None:
    corners, twice = "0 .1 .1 .3 .8\n0 .5 .5 .9 .9", "0 .01 .01 .01 .01"
    for lines, words in ((corners, ["1 of its 3 boxes", "x1, y1, x2, y2"]), (twice, ["all 2 boxes", "twice"])):
        root = write(small(tmp_path, lines), {"labels/b.txt": lines.splitlines()[-1]})
        refused(lambda root=root: Yolo(root, val_fraction=0, bad_boxes="fix").split("train"), str(root), *words)


def test_what_lines_may_be(tmp_path: Path) -> None:
    box = line(0, [4, 3, 10, 20])
    root = small(tmp_path, f"\ufeff{box}\r\n  {box.replace('0 ', '0.0 ', 1)}\t\r{line(1, [4, 3, 14, 3, 14, 23])}")
    sample = load(Yolo(root, val_fraction=0))[0]
    assert sample["boxes"].tolist() == [[4, 3, 14, 23]] * 2 and sample["labels"].tolist() == [0, 1]
    assert sample["area"].tolist() == [200, 100]
    # What is left of the box without an outline is unknown.
    assert sample["mask"][3:23, 4:14].unique().tolist() == [2, 255]
    assert load(Yolo(root, val_fraction=0, outlines=False))[0].keys() == sample.keys() - {"mask"}


def test_keypoints_are_left_alone(tmp_path: Path) -> None:
    points = " 0.1 0.1 2 0.2 0.2 0 9 9 9"
    root = small(tmp_path, line(0, [4, 3, 10, 20]) + points, yaml="names: [cat]\nkpt_shape: [3, 3]")
    train = load(source := Yolo(root, val_fraction=0))
    assert train[0]["boxes"].tolist() == [[4, 3, 14, 23]] and train.notes == ["keypoints are left alone"]
    assert "segmentation" not in source.provides
    small(tmp_path, "0 .5 .5 .1 .1 .2 .2", yaml="names: [cat]\nkpt_shape: [3, 3]")
    refused(lambda: Yolo(root), "line 1: 7 numbers", "asks for 5 + 9")


def test_an_oriented_box_is_an_outline(tmp_path: Path) -> None:
    root = small(tmp_path, line(0, [12, 4, 22, 14, 12, 24, 2, 14]))
    sample = load(Yolo(root, val_fraction=0))[0]
    assert sample["boxes"].tolist() == [[2, 4, 22, 24]] and sample["area"].tolist() == [200]
    assert 190 < (sample["mask"] == 1).sum() < 230


def test_without_a_background_the_rest_is_ignored(tmp_path: Path) -> None:
    root = small(tmp_path, line(1, [4, 3, 14, 3, 14, 23, 4, 23]))
    source = Yolo(root, val_fraction=0, background=False)
    assert source.provides["segmentation"] == CLASSES
    train = load(source)
    mask = train[0]["mask"]
    assert (mask == 1).sum() == 200 and (mask == 255).sum() == WIDTH * HEIGHT - 200
    assert train.pixel_counts().tolist() == [0, 200, 0]
    held = load(Yolo(root, val_fraction=0.5, background=False), "val")
    assert held.pixel_counts().sum() in (0, 200)


def example() -> Any:
    """examples/to_yolo.py"""
    spec = importlib.util.spec_from_file_location("to_yolo", ROOT / "examples" / "to_yolo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_masks_become_outlines_and_are_painted_back_exactly(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(6):  # noise, with holes, islands in them, and pixels that touch at corners
        mask = rng.choice([0, 1, 2, 255], (37 + number, 53), p=[0.5, 0.3, 0.15, 0.05]).astype(np.uint8)
        mask[5:25, 5:40] = np.where(rng.random((20, 35)) < 0.9, 1, mask[5:25, 5:40])
        for folder, pixels in (("images", np.zeros((*mask.shape, 3), np.uint8)), ("masks", mask)):
            (tmp_path / "own" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "own" / folder / f"{number}.png")
    masks = Masks(tmp_path / "own", classes=["sky", "tree", "car"], val_fraction=0.5)
    settings = example().convert(masks, tmp_path / "yolo", None)
    assert settings.endswith("data.background=false")
    source = Yolo(tmp_path / "yolo", background=False)
    assert source.provides["segmentation"] == ("sky", "tree", "car")
    for side in ("train", "val"):
        split, own = load(source, side), masks.split(side)
        assert own is not None and names_of(split) == [own.path(i).name for i in range(len(own))]
        for i in range(len(own)):
            assert np.array_equal(split.mask(i), own.mask(i))


def test_boxes_of_another_format_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Coco((coco(tmp_path / "coco", "train"), tmp_path / "coco")[1], val_fraction=0.3)
    settings = ["data=coco", f"data.root={tmp_path / 'coco'}", "data.val_fraction=0.3"]
    monkeypatch.setattr("sys.argv", ["to_yolo.py", str(tmp_path / "yolo"), *settings])
    example().main()
    source = Yolo(tmp_path / "yolo")
    assert source.provides == {"detection": CLASSES, "multilabel": CLASSES}
    for side in ("train", "val"):
        for one, same in zip(load(source, side), load(peer, side), strict=True):  # type: ignore[arg-type]
            assert torch.equal(one["boxes"], same["boxes"]) and torch.equal(one["image"], same["image"])


def test_labels_are_of_the_upright_image(tmp_path: Path) -> None:
    root = small(tmp_path, "0 0.5 0.25 0.2 0.1")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / "a.png", exif=exif)
    sample = load(Yolo(root, val_fraction=0))[0]
    assert sample["size"] == (WIDTH, HEIGHT) and sample["image"].shape == (3, WIDTH, HEIGHT)
    assert torch.allclose(sample["boxes"], torch.tensor([[16.0, 10, 24, 15]]), atol=0.01)


def test_names_of_files_in_their_forms(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Größe 1")
    picture(tmp_path / "images" / f"{name}.PNG")
    picture(tmp_path / "images" / "b.jpeg")
    box = line(0, [4, 3, 10, 20])
    write(tmp_path, {f"labels/{unicodedata.normalize('NFC', name)}.TXT": box, "labels/b.txt": box})
    write(tmp_path, {"train.txt": "images\\Größe%201.png\nimages/b.jpeg\n", "classes.txt": "cat"})
    assert [len(load(Yolo(tmp_path, val_fraction=0))[i]["boxes"]) for i in range(2)] == [1, 1]
    picture(tmp_path / "images" / "b.jpg")
    write(tmp_path, {"train.txt": "images/b.jpeg\nimages/b.jpg\n"})
    refused(lambda: Yolo(tmp_path), "labels/b.txt", "b.jpeg and b.jpg both have these labels")


def test_hurt_images_and_pipes(tmp_path: Path) -> None:
    root = small(tmp_path)
    (root / "images" / "a.png").write_bytes(b"nothing")
    refused(lambda: Yolo(root, val_fraction=0).split("train"), "a.png", "no image of a known format")
    (root / "labels" / "b.txt").unlink()
    os.mkfifo(root / "labels" / "b.txt")
    refused(lambda: Yolo(root), "labels/b.txt", "no regular file")
    (root / "labels" / "a.txt").write_bytes(b"0 \xff .5 .5 .5")
    refused(lambda: Yolo(root), "a.txt", "UTF-8")
