"""COCO and VOC data: samples, layouts, splits, and one clear line for everything that can be wrong."""

import json
import os
import pickle
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import SHARED
from pycocotools.mask import encode
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.reading.box_checks import check_boxes
from mnv2_tasks.datasets.reading.boxed_split import DetectionSplit
from mnv2_tasks.datasets.reading.file_split import held_out
from mnv2_tasks.errors import InputError

needs_bccd = pytest.mark.skipif(not (SHARED / "data" / "bccd").is_dir(), reason="needs the BCCD data set")
Table = dict[str, Any]


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def table(names: list[str]) -> Table:
    """COCO for images of 40x30: each has a cat at (4, 3)-(14, 23), and the first a crowd of dogs."""
    images = [{"id": 10 + i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    notes = [
        {"id": 100 + i, "image_id": 10 + i, "category_id": 7, "bbox": [4, 3, 10, 20], "area": 150.5}
        for i in range(len(names))
    ]
    notes.append({"id": 99, "image_id": 10, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1})
    return {"images": images, "annotations": notes, "categories": [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}]}


def write(file: Path, contents: Table) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(contents))


def coco(root: Path, *, change: Callable[[Table], Any] = lambda contents: None, val: bool = True) -> Path:
    """Two training images and, unless told otherwise, one for val; `change` edits the training file."""
    for side, names in (("train", ["a.jpg", "b.jpg"]), ("val", ["c.jpg"])):
        if side == "train" or val:
            contents = table(names)
            if side == "train":
                change(contents)
            write(root / "annotations" / f"instances_{side}.json", contents)
            for name in names:
                picture(root / "images" / name)
    return root


def thing(name: str, *box: object, more: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


CAT = thing("cat", 4, 3, 14, 23)


def page(*things: str, size: tuple[int, int] | None = (40, 30), head: str = "") -> str:
    told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"{head}<annotation><filename>stale.jpg</filename>{told}{''.join(things)}</annotation>"


def voc(root: Path, pages: dict[str, str] | None = None, *, lists: dict[str, str] | None = None) -> Path:
    crowd = thing("dog", 0, 0, 40, 30, more="<difficult>1</difficult><part><name>tail</name></part>")
    for stem, text in (pages or {"a": page(CAT, crowd), "b": page(CAT), "c": page(CAT)}).items():
        picture(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    for side, text in (lists if lists is not None else {"train": "a\nb 1\n\n", "val": "c"}).items():
        (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Main" / f"{side}.txt").write_text(text)
    return root


def load(source: Coco | Voc, name: str = "train") -> DetectionSplit:
    split = source.split(name)
    assert split is not None
    return split


def names_of(split: DetectionSplit | None) -> list[str]:
    return [split.file_name(i) for i in range(len(split))] if split else []


# Samples


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_sample(tmp_path: Path, kind: str) -> None:
    source = Coco(coco(tmp_path)) if kind == "coco" else Voc(voc(tmp_path))
    assert source.provides == dict.fromkeys(
        ("detection", "multilabel"), ("dog", "cat") if kind == "coco" else ("cat", "dog")
    )
    train = load(source)
    assert names_of(train) == ["a.jpg", "b.jpg"] and names_of(source.split("val")) == ["c.jpg"]
    assert source.split("test") is None and source.split("train") is train
    sample = train[0]
    assert sample["image"].shape == (3, 30, 40) and sample["image"].dtype == torch.uint8
    assert sample["image_id"] == 0 and sample["size"] == (30, 40)
    boxes = sample["boxes"]
    assert boxes.tolist() == [[4, 3, 14, 23], [0, 0, 40, 30]] and boxes.dtype == torch.float32
    assert boxes.canvas_size == (30, 40) and boxes.format.value == "XYXY"
    cat = source.provides["detection"].index("cat")
    assert sample["labels"].tolist() == [cat, 1 - cat] and sample["labels"].dtype == torch.int64
    assert sample["crowd"].tolist() == [False, True] and sample["crowd"].dtype == torch.bool
    assert sample["presence"][cat] == 1 and sample["presence"][1 - cat] == -1 and len(sample["presence"]) == 2
    assert load(source, "val")[0]["presence"].tolist().count(-1 if kind == "coco" else 0) == 1
    assert sample["area"].tolist() == [150.5 if kind == "coco" else 200, 1200] and sample["area"].dtype == torch.float32
    assert torch.allclose(train.box_sizes(), torch.tensor([[10 / 40, 20 / 30]] * 2))
    assert train.box_sizes().dtype == torch.float32
    assert pickle.loads(pickle.dumps(train))[1]["boxes"].tolist() == [[4, 3, 14, 23]]
    with pytest.raises(IndexError):
        train[2]


def test_boxes_follow_a_reduced_or_stretched_image(tmp_path: Path) -> None:
    root = coco(tmp_path, change=lambda c: c["images"][1].update(width=200, height=8))
    picture(root / "images" / "b.jpg", (200, 8))
    contents = json.loads((root / "annotations" / "instances_train.json").read_text())
    contents["annotations"][1]["bbox"] = [100, 2, 50, 4]
    write(root / "annotations" / "instances_train.json", contents)
    sample = load(Coco(root, max_side=100))[1]
    assert sample["image"].shape == (3, 16, 100) and sample["size"] == (8, 200)
    assert sample["boxes"].tolist() == [[50, 4, 75, 12]] and sample["boxes"].canvas_size == (16, 100)
    assert sample["area"].tolist() == [150.5]


def test_images_without_boxes_and_splits_without_any(tmp_path: Path) -> None:
    train = load(Coco(coco(tmp_path, change=lambda c: c["annotations"].clear())))
    sample = train[0]
    assert sample["boxes"].shape == (0, 4) and sample["labels"].shape == (0,)
    assert train.box_sizes().shape == (0, 2)


def test_missing_sizes_are_read_from_the_images(tmp_path: Path) -> None:
    def drop(contents: Table) -> None:
        del contents["images"][0]["width"]
        contents["images"][1]["height"] = None

    assert load(Coco(coco(tmp_path, change=drop)))[0]["size"] == (30, 40)
    root = voc(tmp_path, {"a": page(CAT, size=None), "b": page(CAT, size=(0, 0)), "c": page(CAT)})
    assert [load(Voc(root))[i]["size"] for i in range(2)] == [(30, 40)] * 2


# Splits by hash


def test_hash_split_depends_on_the_names_alone() -> None:
    names = [f"{i}.jpg" for i in range(1000)]
    val = {name for name, held in zip(names, held_out(names, 0.2), strict=True) if held}
    assert 150 < len(val) < 250
    assert [name for name in names[:20] if name in val] == ["19.jpg"]  # on every machine, in every version
    shuffled = random.Random(0).sample(names, 600)
    again = {name for name, held in zip(shuffled, held_out(shuffled, 0.2), strict=True) if held}
    assert again == val & set(shuffled)
    assert held_out(["x_jpg.rf.1.jpg", "x_jpg.rf.2.jpg"] * 5 + ["y.jpg"], 0.5)[:10].tolist() in (
        [True] * 10,
        [False] * 10,
    )
    for fraction in (0.001, 0.999):
        assert 0 < held_out(["a", "b", "c"], fraction).sum() < 3
    assert not held_out(["a"], 0.9).any() and not held_out(["a", "b"], 0).any()


@pytest.mark.parametrize("kind", ["coco", "one file", "voc"])
def test_train_is_split_where_there_is_no_val(tmp_path: Path, kind: str) -> None:
    names = [f"{i}.jpg" for i in range(20)]
    for name in names:
        picture(tmp_path / "images" / name)
    (tmp_path / "Annotations").mkdir()
    random.Random(1).shuffle(names)
    write(tmp_path / "labels.json", table(names))
    write(tmp_path / "train.json", table(names))
    for name in names:
        (tmp_path / "Annotations" / name.replace("jpg", "xml")).write_text(page(CAT))
    make: dict[str, Callable[..., Coco | Voc]] = {
        "coco": lambda **settings: Coco(tmp_path, **settings),
        "one file": lambda **settings: Coco(tmp_path, annotations="labels.json", **settings),
        "voc": lambda **settings: Voc(tmp_path, **settings),
    }
    source = make[kind]()
    val, train = names_of(source.split("val")), names_of(source.split("train"))
    held = held_out(sorted(names), 0.2)
    assert set(val) == set(np.array(sorted(names))[held]) and set(train) == set(names) - set(val)
    assert load(source, "val").notes == [f"held out of train, {len(val)} of 20 by name"]
    assert not any("held out" in note for note in load(source).notes)
    assert load(source, "val")[0]["boxes"][0].tolist() == [4, 3, 14, 23]
    assert source.split("test") is None
    alone = make[kind](val_fraction=0)
    assert alone.split("val") is None and len(load(alone)) == 20


# COCO layouts


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_{}.json", "images/{}"),
        ("annotations/instances_{}2017.json", "{}2017"),
        ("annotations/instances_{}2017.json", "images/{}2017"),
        ("annotations/{}.json", "images"),
        ("{}.json", "{}"),
        ("{}.json", "."),
    ],
)
def test_coco_layouts_are_found(tmp_path: Path, annotations: str, images: str) -> None:
    for side in ("train", "val", "test"):
        write(tmp_path / annotations.format(side), table([f"{side}.jpg"]))
        picture(tmp_path / images.format(side) / f"{side}.jpg")
    source = Coco(tmp_path)
    assert [names_of(source.split(side)) for side in ("train", "val", "test")] == [
        ["train.jpg"],
        ["val.jpg"],
        ["test.jpg"],
    ]
    assert load(source, "test")[0]["image"].shape == (3, 30, 40)


def test_given_patterns(tmp_path: Path) -> None:
    for side in ("train", "val"):
        write(tmp_path / "labels" / f"heads_{side}.json", table([f"sub/{side}.jpg"]))
        picture(tmp_path / "photos" / side / "sub" / f"{side}.jpg")
    source = Coco(str(tmp_path), annotations="labels/heads_{split}.json", images="photos/{split}")
    assert names_of(source.split("train")) == ["sub/train.jpg"] and names_of(source.split("val")) == ["sub/val.jpg"]
    assert load(source)[0]["size"] == (30, 40)


def roboflow(root: Path, *, used: str | None = None) -> Path:
    for side in ("train", "valid"):
        contents = table([f"{side}.jpg"])
        for category in contents["categories"]:
            category["supercategory"] = "animal"
        contents["categories"].append({"id": 0, "name": "animal", "supercategory": "none"})
        if side == used:
            contents["annotations"][0]["category_id"] = 0
        write(root / side / "_annotations.coco.json", contents)
        picture(root / side / f"{side}.jpg")
    return root


@pytest.mark.parametrize("used", [None, "train", "valid"])
def test_roboflow_layout_and_its_dummy_category(tmp_path: Path, used: str | None) -> None:
    source = Coco(roboflow(tmp_path, used=used))
    names = ("dog", "cat") if used is None else ("animal", "dog", "cat")
    assert source.provides["detection"] == names
    for side in ("train", "val"):
        first = names[load(source, side)[0]["labels"][0]]
        assert first == ("animal" if used and side.startswith(used[:3]) else "cat")


def test_own_supercategory_is_a_class(tmp_path: Path) -> None:
    def change(contents: Table) -> None:
        contents["categories"] = [{"id": 1, "name": "person", "supercategory": "person"}]
        contents["annotations"] = []

    assert Coco(coco(tmp_path, change=change, val=False)).provides["detection"] == ("person",)


# COCO errors


def test_settings_are_checked(tmp_path: Path) -> None:
    refused(lambda: Coco(tmp_path / "gone"), "gone", "does not exist", "data.root=")
    refused(lambda: Voc(tmp_path / "gone"), "gone", "does not exist", "data.root=")
    root = coco(tmp_path)
    refused(lambda: Coco(root / "annotations" / "instances_val.json"), "is a file", "data.root=")
    refused(lambda: Coco(root, val_fraction=1.0), "data.val_fraction=1.0")
    refused(lambda: Coco(root, bad_boxes="drop"), "data.bad_boxes=drop", "error or fix")


def test_no_annotation_file(tmp_path: Path) -> None:
    write(tmp_path / "labels.json", {})
    refused(lambda: Coco(tmp_path), "labels.json", 'no list of objects "images"')
    write(tmp_path / "others.json", {})
    refused(
        lambda: Coco(tmp_path), "annotations/instances_train.json", "train.json", "labels.json", "data.annotations="
    )
    refused(lambda: Coco(tmp_path, annotations="{split}/x.json"), "train/x.json", "data.annotations=")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('{"images": [\n  1,,\n]}', ["line 2, column 5", "not JSON"]),
        ("", ["line 1, column 1"]),
        ("[" * 100_000, ["cannot be read as JSON"]),
        ("[]", ['"images"', "COCO"]),
        ('{"images": [], "annotations": {}}', ['"annotations"', "COCO"]),
        ('{"images": [], "annotations": [], "categories": [3]}', ['"categories"', "COCO"]),
    ],
)
def test_malformed_json(tmp_path: Path, text: str, parts: list[str]) -> None:
    (tmp_path / "train.json").write_text(text)
    refused(lambda: Coco(tmp_path), str(tmp_path / "train.json"), *parts)


def test_json_with_a_byte_order_mark_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    root = coco(tmp_path)
    file = root / "annotations" / "instances_train.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(load(Coco(root))) == 2
    file.write_bytes(b"\xff\xfe\x00")
    refused(lambda: Coco(root), "instances_train.json", "cannot be read as text")


COCO_FAULTS: dict[str, tuple[Callable[[Table], Any], list[str]]] = {
    "no images": (lambda c: c["images"].clear(), ["no images", '"images" is empty']),
    "no categories": (lambda c: [c["categories"].clear(), c["annotations"].clear()], ['"categories" names no class']),
    "undeclared category": (lambda c: c["annotations"][1].update(category_id=5), ["annotation 101", "category_id 5"]),
    "undeclared image": (lambda c: c["annotations"][1].update(image_id=5), ["annotation 101", "image_id 5"]),
    "key missing": (lambda c: c["annotations"][1].pop("bbox"), ["annotations[1]", '"bbox" is missing']),
    "no file name": (lambda c: c["images"][1].pop("file_name"), ["images[1]", '"file_name" is missing']),
    "type": (lambda c: c["images"][1].update(id=[3]), ["images[1]", '"id" is [3]', "int or str"]),
    "category name twice": (lambda c: c["categories"][0].update(name="dog"), ["2 categories", "'dog'"]),
    "category id twice": (lambda c: c["categories"][0].update(id=2), ["2 categories", "id 2"]),
    "image name twice": (lambda c: c["images"][0].update(file_name="b.jpg"), ["2 images", "'b.jpg'"]),
    "image id twice": (lambda c: c["images"][0].update(id=11), ["2 images", "id 11"]),
    "3 numbers": (lambda c: c["annotations"][1].update(bbox=[1, 2, 3]), ["annotation 101", "b.jpg", "[1, 2, 3]"]),
    "words": (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, "4"]), ["annotation 101", "4 numbers"]),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_coco_faults_are_named(tmp_path: Path, fault: str) -> None:
    change, parts = COCO_FAULTS[fault]
    root = coco(tmp_path, change=change)
    refused(lambda: Coco(root), str(root / "annotations" / "instances_train.json"), *parts)


def test_sides_must_agree_on_the_classes(tmp_path: Path) -> None:
    root = coco(tmp_path, change=lambda c: c["categories"].append({"id": 3, "name": "cow"}))
    refused(lambda: Coco(root).split("val"), "instances_val.json", "instances_train.json", "lacks cow")
    root = coco(tmp_path, change=lambda c: [c["categories"].pop(), c["annotations"].pop()])
    refused(lambda: Coco(root).split("val"), "instances_val.json", "adds dog")


def test_coco_classes_are_matched_by_name(tmp_path: Path) -> None:
    root = coco(tmp_path)
    contents = table(["c.jpg"])
    contents["categories"] = [{"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}]
    write(root / "annotations" / "instances_val.json", contents)
    source = Coco(root)
    assert load(source, "val")[0]["labels"].tolist() == [0, 1] and load(source)[0]["labels"].tolist() == [1, 0]


@pytest.mark.parametrize("gone", [["a.jpg"], ["b.jpg"], ["a.jpg", "b.jpg"]])
def test_coco_missing_images(tmp_path: Path, gone: list[str]) -> None:
    root = coco(tmp_path)
    for name in gone:
        (root / "images" / name).unlink()
    parts = [f"({len(gone)} of 2 images are missing)"] if len(gone) == 1 else ["images/train", "data.images"]
    refused(lambda: Coco(root).split("train"), gone[0], *parts)


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_truncated_image_is_refused_before_training(tmp_path: Path, kind: str) -> None:
    root = coco(tmp_path) if kind == "coco" else voc(tmp_path)
    image = root / ("images" if kind == "coco" else "JPEGImages") / "b.jpg"
    image.write_bytes(image.read_bytes()[:-50])
    refused(lambda: (Coco(root) if kind == "coco" else Voc(root)).split("train"), str(image), "truncated", "replace it")


@pytest.mark.parametrize("kind", ["coco", "voc"])
def test_wrong_declared_size_is_refused_before_training(tmp_path: Path, kind: str) -> None:
    root = coco(tmp_path) if kind == "coco" else voc(tmp_path)
    picture(root / ("images" if kind == "coco" else "JPEGImages") / "b.jpg", (50, 20))
    refused(lambda: (Coco(root) if kind == "coco" else Voc(root)).split("train"), "b.jpg", "50x20", "40x30", "correct")


# Bad boxes

BAD = {  # xyxy in an image of 40x30 -> the problem, and what fixing leaves of it
    "outside": ((50, 5, 60, 10), "lies outside its image", None),
    "sticks out": ((30, 5, 60, 10), "sticks out of its image", (30, 5, 40, 10)),
    "below zero": ((-5, -5, 60, 40), "sticks out of its image", (0, 0, 40, 30)),
    "inverted": ((20, 5, 10, 10), "is inverted", None),
    "zero": ((20, 5, 20, 10), "has no area", None),
    "zero at the edge": ((40.2, 5, 40.8, 10), "has no area", None),
    "nan": ((20, float("nan"), 30, 10), "is not finite", None),
    "infinite": ((20, 5, float("inf"), 10), "is not finite", None),
}


@pytest.mark.parametrize("kind", ["coco", "voc"])
@pytest.mark.parametrize("fault", BAD)
def test_bad_boxes(tmp_path: Path, fault: str, kind: str) -> None:
    (x1, y1, x2, y2), problem, fixed = BAD[fault]
    if kind == "coco":
        root = coco(tmp_path, change=lambda c: c["annotations"][1].update(bbox=[x1, y1, x2 - x1, y2 - y1]))
        who = ["instances_train.json", "annotation 101", "b.jpg"]
    else:
        root = voc(tmp_path, {"a": page(CAT), "b": page(thing("cat", x1, y1, x2, y2)), "c": page(CAT)})
        who = ["b.xml", "object 1"]
    source = Coco if kind == "coco" else Voc
    refused(lambda: source(root).split("train"), *who, f"({x1:g}, {y1:g}, ", problem, "40x30", "data.bad_boxes=fix")
    with pytest.warns(UserWarning) as caught:
        train = load(source(root, bad_boxes="fix"))
    (warning,) = caught.list
    assert f"clipped {int(fixed is not None)} " in str(warning.message)
    assert f"dropped {int(fixed is None)} " in str(warning.message)
    assert train[1]["boxes"].tolist() == ([list(fixed)] if fixed else [])
    assert train[0]["boxes"][0].tolist() == [4, 3, 14, 23]


def test_rounding_is_clipped_in_silence() -> None:
    boxes, sizes = np.array([[-1, -0.5, 41, 31], [0, 0, 40, 30]]), np.array([[30, 40]] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clipped, keep = check_boxes(boxes, sizes, bad_boxes="error", where="x", describe=str)
    assert clipped.tolist() == [[0, 0, 40, 30]] * 2 and keep.all() and clipped.dtype == np.float32


def test_bad_boxes_are_counted() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 5, 5, 9], [0, 0, 99, 9], [0, 0, 9, -3]], float)
    sizes = np.array([[30, 40]] * 4)
    with pytest.raises(InputError, match="row 1: the box .*2 more boxes are bad"):
        check_boxes(boxes, sizes, bad_boxes="error", where="x", describe=lambda row: f"row {row}")
    with pytest.warns(UserWarning, match="x: of 4 boxes, clipped 1 .* dropped 2 "):
        clipped, keep = check_boxes(boxes, sizes, bad_boxes="fix", where="x", describe=str)
    assert keep.tolist() == [True, False, True, False] and clipped[2].tolist() == [0, 0, 40, 9]


# VOC


def test_voc_one_based_pixels(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": page(thing("cat", 1, 1, 40, 30)), "b": page(CAT), "c": page(CAT)})
    train = load(Voc(root, one_based=True))
    assert train[0]["boxes"].tolist() == [[0, 0, 40, 30]] and train[1]["boxes"].tolist() == [[3, 2, 14, 23]]


def test_voc_given_folders_lists_and_classes(tmp_path: Path) -> None:
    for i, stem in enumerate(["one two", "x.y", "z"]):
        picture(tmp_path / "photos" / f"{stem}.PNG", (40, 30))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / "labels" / f"{stem}.xml").write_text(page(CAT if i else page()))
    (tmp_path / "train.txt").write_text("\ufeffone two\nphotos/x.y.PNG\n")
    (tmp_path / "other_test.txt").write_text("z\n")
    (tmp_path / "other_train.txt").write_text("z\n")
    where = {"annotations": "labels", "images": "photos"}
    refused(
        lambda: Voc(tmp_path, **where, classes=["dog", "cat"]), "labels", "data.classes", "'dog'", "classes are cat"
    )
    source = Voc(tmp_path, **where, classes=["cat"], val_fraction=0)
    assert source.provides["detection"] == ("cat",) and source.split("test") is None
    train = load(source)
    assert names_of(train) == ["one two.PNG", "x.y.PNG"]
    assert train[0]["labels"].tolist() == [] and train[1]["labels"].tolist() == [0]
    mine = Voc(tmp_path, **where, lists="other_{split}.txt", val_fraction=0)
    assert mine.provides["detection"] == ("cat",)
    assert [names_of(mine.split(side)) for side in ("train", "val", "test")] == [["z.PNG"], [], ["z.PNG"]]


def test_voc_images_beside_the_xml_and_two_with_one_stem(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "stale.jpg")
    picture(tmp_path / "stale.png")
    for stem in ("a", "stale"):
        (tmp_path / f"{stem}.xml").write_text(page(CAT))
    split = load(Voc(tmp_path, val_fraction=0))
    assert names_of(split) == ["a.jpg", "stale.jpg"] and split.left_out == {"image without XML": 1}


def test_voc_classes_come_from_all_sides(tmp_path: Path) -> None:
    root = voc(tmp_path, {"a": page(CAT), "b": page(CAT), "c": page(thing(" ant ", 1, 2, 3, 4))})
    assert Voc(root).provides["detection"] == ("ant", "cat")
    source = Voc(root, classes=["cat"])
    assert len(load(source)) == 2
    assert load(source, "val").contents() == "1 class, 0 boxes (1 image without any); 1 box of other classes left out"
    assert Voc(root, classes=["cat", "ant"]).provides["detection"] == ("cat", "ant")
    refused(lambda: Voc(root, classes=["cta"]), "data.classes", "'cta'", "did you mean cat", "classes are ant, cat")
    for classes in ("cat", [], ["cat", "cat"]):
        refused(lambda classes=classes: Voc(root, classes=classes), "data.classes=", "list")


BOMB = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>'
VOC_FAULTS = {
    "bomb": (page(thing("&c;", 1, 2, 3, 4), head=BOMB), ["entities", "remove"]),
    "file": (page(CAT, head='<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), ["entities"]),
    "cut": (page(CAT)[:-20], ["not XML", "line 1"]),
    "empty": ("", ["not XML"]),
    "encoding": (page(CAT, head='<?xml version="1.0" encoding="klingon"?>'), ["a.xml", "XML"]),
    "no name": (page(CAT, thing("", 1, 2, 3, 4)), ["object 2", "<name>"]),
    "no corner": (page(thing("cat", 1, 2, 3)), ["object 1", "<bndbox>", "ymax=None"]),
    "word": (page(thing("cat", 1, 2, 3, "4\nx")), ["object 1", "4 numbers", "x"]),
}


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_voc_faults_are_named(tmp_path: Path, fault: str) -> None:
    text, parts = VOC_FAULTS[fault]
    root = voc(tmp_path, {"a": text, "b": page(CAT), "c": page(CAT)})
    refused(lambda: Voc(root), str(root / "Annotations" / "a.xml"), *parts)


def test_voc_lists_and_folders_are_checked(tmp_path: Path) -> None:
    refused(lambda: Voc(tmp_path), str(tmp_path), "Annotations", "data.annotations")
    root = voc(tmp_path, lists={"train": "a\nq 1\n"})
    refused(lambda: Voc(root), "train.txt", "line 2", "q.xml")
    refused(lambda: Voc(root, lists="x/{split}.txt"), "x/train.txt", "data.lists")
    refused(lambda: Voc(voc(tmp_path, lists={"train": "\n"})), "train.txt", "no images")
    refused(lambda: Voc(voc(tmp_path, lists={"train": "a\nb\na\n"})), "train.txt", "a is listed 2 times")
    refused(lambda: Voc(voc(tmp_path, {s: page() for s in "abc"})), "no <object>")


def test_voc_missing_images(tmp_path: Path) -> None:
    root = voc(tmp_path)
    (root / "JPEGImages" / "b.jpg").unlink()
    (root / "JPEGImages" / "b.heic").touch()
    refused(lambda: Voc(root).split("train"), "b.xml", "b.*", "1 of 2 images are missing) (1 file left out: 1 .heic)")
    (root / "JPEGImages" / "a.jpg").unlink()
    refused(lambda: Voc(root).split("train"), "a.xml", "JPEGImages", "data.images")


# Real data


@needs_bccd
def test_coco_and_voc_of_bccd_agree() -> None:
    root = SHARED / "data" / "bccd"
    a = Coco(root)
    b = Voc(root, annotations="xml_original", classes=a.provides["detection"], bad_boxes="fix")
    dropped = 0
    for side, images, count in (("train", 205, 2804), ("val", 87, 1137), ("test", 72, 945)):
        left = load(a, side)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            right = load(b, side)
        dropped += len(caught)
        assert names_of(left) == names_of(right) and len(left) == images
        assert left.box_sizes().shape == (count, 2) and torch.equal(left.box_sizes(), right.box_sizes())
        for i in range(0, images, 10):
            x, y = left[i], right[i]
            assert x.keys() == y.keys()
            assert all(torch.equal(x[key], y[key]) for key in ("image", "boxes", "labels", "crowd", "area"))
    assert dropped == 2  # one degenerate box in train and one in val, which the COCO files leave out


@pytest.mark.skipif(not (SHARED / "data" / "pets3").is_dir(), reason="needs the pets data set")
def test_pets_heads() -> None:
    source = Coco(SHARED / "data" / "pets3", annotations="annotations/heads_{split}.json")
    assert source.provides["detection"] == ("Abyssinian", "american_bulldog", "Bengal")
    assert [len(load(source, side)) for side in ("train", "val")] == [237, 59]
    assert load(source)[0]["size"] == (333, 500)


@pytest.mark.skipif(not (SHARED / "data" / "pennfudan").is_dir(), reason="needs the Penn-Fudan data set")
def test_pennfudan() -> None:
    source = Coco(SHARED / "data" / "pennfudan")
    assert [len(load(source, side).box_sizes()) for side in ("train", "val")] == [333, 90]


# Other programs' files


def coco_file(path: Path, images: list[str], annotations: list[dict], categories: list[dict] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(images)]
    annotations = [{"id": i, "category_id": 1, "image_id": i % len(images), **a} for i, a in enumerate(annotations)]
    contents = {"images": rows, "annotations": annotations, "categories": categories or [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(contents))


@pytest.mark.parametrize("written", [r"in\a b.jpg", "in/a%20b.JPG", "./in/a b.jpg"])
def test_coco_names_find_their_files(tmp_path: Path, written: str) -> None:
    picture(tmp_path / "images" / "in" / "a b.jpg", (40, 30))
    coco_file(tmp_path / "all.json", [written], [{"bbox": [1, 2, 10, 10]}])
    split = Coco(tmp_path, annotations="all.json", val_fraction=0).split("train")
    assert split is not None and os.path.samefile(split.path(0), tmp_path / "images" / "in" / "a b.jpg")


def test_coco_takes_the_box_of_an_outline_without_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (40, 30))
    mask = np.zeros((30, 40), np.uint8, order="F")
    mask[5:9, 10:20] = 1
    runs = {"size": [30, 40], "counts": encode(mask)["counts"].decode()}
    polygon = [[3, 4, 13, 4, 13, 24, 3, 24]]
    outlines = [
        {"segmentation": polygon},
        {"segmentation": runs, "bbox": []},
        {"segmentation": polygon, "bbox": [0] * 4},
    ]
    coco_file(tmp_path / "train.json", ["a.png"], outlines)
    boxes = Coco(tmp_path, val_fraction=0).split("train")[0]["boxes"].tolist()
    assert boxes == [[3, 4, 13, 24], [10, 5, 20, 9], [3, 4, 13, 24]]


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([[0.1, 0.2, 0.5, 0.6], [0, 0, 1, 1]], ("within 0..1", "multiply")),
        ([[10, 10, 39, 29], [20, 5, 38, 28], [5, 20, 9, 30]], ("x1, y1, x2, y2", "write width and height")),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused_as_a_whole(tmp_path: Path, boxes: list, words: tuple) -> None:
    picture(tmp_path / "a.png", (40, 30))
    coco_file(tmp_path / "train.json", ["a.png"], [{"bbox": box} for box in boxes])
    for bad_boxes in ("error", "fix"):
        refused(lambda bad_boxes=bad_boxes: Coco(tmp_path, bad_boxes=bad_boxes).split("train"), "train.json", *words)


def test_roboflows_dummy_of_its_classs_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (40, 30))
    categories = [
        {"id": 0, "name": "cat", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "cat"},
    ]
    coco_file(tmp_path / "train.json", ["a.png"], [{"bbox": [1, 1, 5, 5]}], categories)
    assert Coco(tmp_path).provides["detection"] == ("cat",)
    both = [{"bbox": [1, 1, 5, 5], "category_id": i} for i in (0, 1)]
    coco_file(tmp_path / "train.json", ["a.png"], both, categories)
    refused(lambda: Coco(tmp_path), "2 categories are named 'cat'")
    alike = [{"id": 1, "name": "cat"}, {"id": 2, "name": "Cat "}]
    coco_file(tmp_path / "train.json", ["a.png"], [], alike)
    refused(lambda: Coco(tmp_path), "duplicate names of one class")


@pytest.mark.parametrize("names", [("training", "validation"), ("pets_train", "pets_dev"), ("train", "my_val")])
def test_coco_files_are_sides_in_any_spelling(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, image in zip((*names, "captions_train"), "abc", strict=True):
        picture(tmp_path / f"{image}.png", (40, 30))
        coco_file(tmp_path / "annotations" / f"{name}.json", [f"{image}.png"], [{"bbox": [1, 1, 5, 5]}])
    source = Coco(tmp_path)
    assert [names_of(source.split(side)) for side in ("train", "val")] == [["a.png"], ["b.png"]]


def voc_files(root: Path, names: list[str], suffix: str = ".xml", beside: bool = False) -> None:
    for name in names:
        picture((root if beside else root / "JPEGImages") / f"{name}.jpg", (40, 30))
        path = (root if beside else root / "Annotations") / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(CAT))


def test_voc_lists_that_exist_are_obeyed(tmp_path: Path) -> None:
    voc_files(tmp_path, list("abcdef"))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("e\n")
    refused(lambda: Voc(tmp_path).split("train"), "there is test, but no train side", "train.txt")
    (lists / "trainval.txt").write_text("a\nb\nc\nd\n")
    (lists / "cat_train.txt").write_text("f 1\n")
    source = Voc(tmp_path, val_fraction=0.5)
    train, val, test = (names_of(source.split(side)) for side in ("train", "val", "test"))
    assert sorted(train + val) == [f"{name}.jpg" for name in "abcd"] and train and val and test == ["e.jpg"]
    assert str(source.split("train").left_out) == "1 file left out: 1 XML on no list"
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    source = Voc(tmp_path)
    assert [names_of(source.split(side)) for side in ("train", "val")] == [["a.jpg"], ["b.jpg"]]
    one = Voc(tmp_path, lists="ImageSets/Main/trainval.txt", val_fraction=0.5)
    assert one.split("test") is None and not set(names_of(one.split("train"))) & set(names_of(one.split("val")))


@pytest.mark.parametrize("beside", [False, True])
def test_voc_in_sub_folders(tmp_path: Path, beside: bool) -> None:
    """XML at any depth with any suffix; folders named for sides are sides, as Roboflow writes them."""
    voc_files(tmp_path, ["train/a", "train/in/b", "valid/a"], ".XML", beside)
    source = Voc(tmp_path)
    assert [len(source.split(side)) for side in ("train", "val")] == [2, 1]
    assert source.split("val").path(0).parent.name == "valid"


def test_voc_classes_alike_are_one_line(tmp_path: Path) -> None:
    voc_files(tmp_path, ["a", "b"])
    (tmp_path / "Annotations" / "b.xml").write_text(page(CAT.replace("cat", "Cat")))
    refused(lambda: Voc(tmp_path), "'Cat' and 'cat' are duplicate names of one class")
