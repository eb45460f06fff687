"""COCO and VOC as other programs and people leave them: what is read, what is said of it, and what is refused."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.kinds import DETECTION

CAT = {"id": 1, "name": "cat"}
SQUARE = [[4, 3, 14, 3, 14, 23, 4, 23]]


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.radial_gradient("L").resize((40, 30)).convert("RGB").save(root / name)


def table(file: Path, names: list[str], notes: list[dict[str, Any]] | None = None, categories: Any = (CAT,)) -> None:
    """COCO of these images, 40x30, each with a cat."""
    images = [{"id": i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(names)]
    rows = [{"bbox": [4, 3, 10, 20]}] * len(names) if notes is None else notes
    rows = [{"id": i, "image_id": i % max(len(names), 1), "category_id": 1, **row} for i, row in enumerate(rows)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def lines(capsys: Any, source: Coco | Voc) -> list[str]:
    """What a run prints of a data set at its start."""
    DataModule({"x": source}, {"ssdlite": DETECTION}, sizes={"x": (32, 32)}).tell(("train", "val", "test"))
    return capsys.readouterr().out.splitlines()


# COCO's annotation files


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("Train/_annotations.coco.json", "Valid/_annotations.coco.json"),
        ("train/labels.json", "validation/labels.json"),
        ("annotations/train/instances.json", "annotations/dev/instances.json"),
        ("annotations/instances_Train.json", "val.json"),
        ("TRN.JSON", "pets_val.json"),
        ("annotations/instances_train2014.json", "annotations/instances_val2014.json"),
        ("trainval.json", "test.json"),
    ],
)
def test_annotation_files_are_found_by_their_words(tmp_path: Path, train: str, val: str) -> None:
    pictures(tmp_path / "images", "a.jpg", "b.jpg")
    table(tmp_path / train, ["a.jpg"])
    table(tmp_path / val, ["b.jpg"])
    source = Coco(tmp_path, val_fraction=0)
    sides = [source.split(side) for side in ("train", "val", "test")]
    assert [len(split) for split in sides if split is not None] == [1, 1] and sides[0] is not None


def test_one_annotation_file_is_for_all_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "images", *(f"{i}.jpg" for i in range(8)))
    table(tmp_path / "annotations" / "instances_default.json", [f"{i}.jpg" for i in range(8)])
    assert lines(capsys, Coco(tmp_path)) == [
        "x train: 7 images, 1 class, 7 boxes; annotations/instances_default.json is for all sides",
        "x val: 1 image, 1 class, 1 box; held out of train, 1 of 8 by name",
    ]


def test_folders_of_sides_that_one_file_passes_over_are_refused(tmp_path: Path) -> None:
    names = ["train/a.jpg", "val/b.jpg"]
    pictures(tmp_path, *names)
    table(tmp_path / "labels.json", names)
    source = Coco(tmp_path)
    refused(lambda: source.split("train"), "train/a.jpg and val/b.jpg", "data.annotations=labels.json")
    assert load_count(Coco(tmp_path, annotations="labels.json", val_fraction=0)) == 2
    voc(tmp_path / "voc", "train_a", "val_b")
    for side, stem in (("Training", "train_a"), ("valid", "val_b")):
        (tmp_path / "voc" / "JPEGImages" / side).mkdir()
        (tmp_path / "voc" / "JPEGImages" / f"{stem}.jpg").rename(tmp_path / "voc" / "JPEGImages" / side / f"{stem}.jpg")
    other = Voc(tmp_path / "voc")
    refused(lambda: other.split("train"), "Training/train_a.jpg and valid/val_b.jpg", "ImageSets/Main")
    lists(tmp_path / "voc", all="train_a val_b")
    assert load_count(Voc(tmp_path / "voc", lists="all.txt", val_fraction=0)) == 2


def test_lists_of_sides_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path / "labels.json", ["a.jpg", "b.jpg"])
    lists(tmp_path, train="a", val="b")
    refused(lambda: Coco(tmp_path), "train.txt and val.txt seem to list sides", "data.annotations=labels.json")
    assert "not read: train.txt, val.txt" in lines(capsys, Coco(tmp_path, annotations="labels.json"))[0]
    voc(tmp_path / "voc", "a", "b")
    (tmp_path / "voc" / "train_labels.csv").touch()
    assert "not read: train_labels.csv" in lines(capsys, Voc(tmp_path / "voc"))[0]


def load_count(source: Coco | Voc) -> int:
    split = source.split("train")
    assert split is not None
    return len(split)


@pytest.mark.parametrize("other", ["train.json", "annotations/train (1).json", "Training/labels.json"])
def test_two_annotation_files_of_a_side_are_refused(tmp_path: Path, other: str) -> None:
    table(tmp_path / "annotations" / "instances_train.json", ["a.jpg"])
    table(tmp_path / other, ["a.jpg"])
    refused(lambda: Coco(tmp_path), "annotations/instances_train.json", other, "its train side", "data.annotations=")


def test_files_that_are_not_read_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", ".b.jpg", "d.jpg")
    (tmp_path / "images" / "e.heic").touch()
    (tmp_path / "images" / "d.json").write_text("{}")  # LabelMe's
    for name in ("instances_train", "captions_train", "person_keypoints_val", "instances_minival"):
        table(tmp_path / "annotations" / f"{name}.json", ["a.jpg", "b.jpg"])
    said = (
        "x train: 2 images, 1 class, 2 boxes; not read: annotations/captions_train.json, "
        "annotations/instances_minival.json, annotations/person_keypoints_val.json; "
        "5 files left out: 2 images in no annotation file, 1 .heic, 1 JSON of one image, 1 hidden"
    )
    assert lines(capsys, Coco(tmp_path, val_fraction=0)) == [said]
    table(tmp_path / "val.json", ["c.jpg"])
    assert lines(capsys, Coco(tmp_path, val_fraction=0))[0] == said.replace("5 files", "4 files").replace(
        "2 images in", "1 image in"
    ).replace("left out: 1 image in no annotation file, 1 .heic,", "left out: 1 .heic,").replace(
        "1 hidden", "1 hidden, 1 image in no annotation file"
    )
    one = Coco(tmp_path, annotations="val.json", val_fraction=0)
    assert "not read: annotations/captions_train.json" in lines(capsys, one)[0]


def test_test_files_alone_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "annotations" / "instances_val.json", ["a.jpg"])
    told = ("no training annotations", "but annotations/instances_val.json", "data.annotations=")
    refused(lambda: Coco(tmp_path).split("train"), *told)


# Names of images


@pytest.mark.parametrize(
    "written",
    [
        r"..\..\label-studio\data\media\images\a b.jpg",
        r"C:\Users\me\images\a b.jpg",
        "/home/me/data/images/a b.jpg",
        "/a b.jpg",
        "/data/local-files/?d=images/a%20b.jpg",
        "/data/local-files/?d=x%5Cimages%5Ca%20b.jpg&x=1",
        "file:///home/me/a%20b.jpg",
        "s3://bucket/images/a b.jpg",
        "http://localhost:8081/a%20b.jpg?key=5",
        "/data/upload/1/3a4b5c6d-a b.jpg",
        "../images/a b.jpg",
    ],
)
def test_names_of_elsewhere_find_their_images(tmp_path: Path, written: str) -> None:
    pictures(tmp_path / "images", "a b.jpg", "c.jpg")
    pictures(tmp_path, "other/images2/b.jpg")
    table(tmp_path / "train.json", [written, "c.jpg"])
    split = Coco(tmp_path, val_fraction=0).split("train")
    assert split is not None and split.path(0).resolve() == (tmp_path / "images" / "a b.jpg").resolve()
    moved = any("a b.jpg" in note and "is read as images/a b.jpg" in note for note in split.notes)
    assert moved != written.startswith("../images")


def test_images_may_lie_in_other_folders_but_not_in_two(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "x/a.jpg", "y/b.jpg")
    table(tmp_path / "all.json", ["a.jpg", "b.jpg"])
    split = Coco(tmp_path, val_fraction=0).split("train")
    assert split is not None and "a.jpg is read as images/x/a.jpg, and 1 more so" in split.notes
    pictures(tmp_path / "images", "y/a.jpg")
    refused(lambda: Coco(tmp_path).split("train"), "a.jpg may be images/x/a.jpg or images/y/a.jpg", "data.images")


def test_an_image_of_another_side_is_not_taken_for_its_namesake(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "train/0.jpg", "train/1.jpg", "val/2.jpg")
    table(tmp_path / "train.json", ["1.jpg"])
    table(tmp_path / "val.json", ["0.jpg", "2.jpg"])
    refused(lambda: Coco(tmp_path).split("val"), "images/val/0.jpg", "no such image", "1 of 2")
    table(tmp_path / "val.json", ["0.jpg"])  # nothing of it is in images/val: they lie with train's
    split = Coco(tmp_path).split("val")
    assert split is not None and split.notes == ["0.jpg is read as images/train/0.jpg"]


def test_two_names_of_one_image_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "images", "a.jpg", "b.jpg")
    for second in ("./a.jpg", "/x/a.jpg", "a.JPG"):
        table(tmp_path / "train.json", ["a.jpg", "b.jpg", second])
        refused(lambda: Coco(tmp_path).split("train"), f"a.jpg and {second} are one image")


# Classes and ids


def test_classes_are_one_across_sides(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    pairs = [("cat ", "cat"), (unicodedata.normalize("NFD", "Löwe"), "Löwe")]
    for one, other in pairs:
        table(tmp_path / "train.json", ["a.jpg"], None, [{"id": 1, "name": one}])
        table(tmp_path / "val.json", ["b.jpg"], None, [{"id": 1, "name": other}])
        source = Coco(tmp_path)
        assert source.split("val") is not None and source.provides["detection"] == (other,)
    table(tmp_path / "val.json", ["b.jpg"], None, [{"id": 1, "name": "LÖWE"}])
    refused(lambda: Coco(tmp_path).split("val"), "val.json", "'LÖWE' is 'Löwe' in", "train.json", "one name")
    table(tmp_path / "train.json", ["a.jpg"], None, [{"id": 1, "name": " "}])
    refused(lambda: Coco(tmp_path), 'categories[0]: "name" is empty')


def test_roboflows_dummy_is_known_by_its_id_and_use(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    dummy, cat, dog = ({"id": i, "name": n, "supercategory": "pets"} for i, n in enumerate(("pets", "cat", "dog")))
    table(tmp_path / "train.json", ["a.jpg", "b.jpg"], None, [dummy | {"supercategory": "none"}, cat, dog])
    source = Coco(tmp_path, val_fraction=0)
    assert source.provides["detection"] == ("cat", "dog")
    assert source.split("train").notes == ["category 0, 'pets', has no object and is left out"]
    table(tmp_path / "train.json", ["a.jpg"], None, [dummy | {"id": 7}, cat, dog])  # a class that is not there yet
    assert Coco(tmp_path).provides["detection"] == ("cat", "dog", "pets")
    table(tmp_path / "train.json", ["a.jpg"], [{"bbox": [1, 1, 5, 5], "category_id": 0}], [dummy, cat, dog])
    assert Coco(tmp_path).provides["detection"] == ("pets", "cat", "dog")


def test_ids_may_stand_in_quotes(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    categories = [{"id": "10", "name": "dog"}, {"id": "2", "name": "cat"}]
    notes = [
        {"bbox": [1, 1, 5, 5], "category_id": number, "image_id": image} for number, image in ((10, "0"), ("2", 1))
    ]
    table(tmp_path / "train.json", ["a.jpg", "b.jpg"], notes, categories)
    source = Coco(tmp_path, val_fraction=0)
    assert source.provides["detection"] == ("cat", "dog")
    split = source.split("train")
    assert split is not None and [split[i]["labels"].tolist() for i in range(2)] == [[1], [0]]


# Values


BOXES = {  # as x, y, width, height in images of 40x30 -> what is said
    "fractions": ([[0.1, 0.2, 0.3, 0.4]] * 5 + [[-0.01, 0, 1, 1]], ("all of its 6 boxes lie within 0..1", "multiply")),
    "mostly fractions": ([[0.1, 0.2, 0.3, 0.4]] * 5 + [[4, 3, 9, 9]], ("5 of its 6 boxes lie within 0..1",)),
    "corners": ([[20, 10, 35, 28]] * 30 + [[20, 10, 200, 20]], ("nearly all do as x1, y1, x2, y2", "in place of")),
    "centres": ([[20, 15, 38, 28], [30, 20, 18, 18], [10, 10, 18, 18], [32, 22, 14, 14]], ("as their centre",)),
    "y before x": ([[20, 30, 8, 9], [10, 25, 18, 12], [10, 28, 18, 10]], ("with x and y changed",)),
    "other pixels": ([[100, 90, 80, 60]] * 4, ("reaches to 180x150 in an image of 40x30", "other pixels")),
}


@pytest.mark.parametrize("kind", BOXES)
@pytest.mark.parametrize("bad_boxes", ["error", "fix"])
def test_boxes_that_cannot_be_meant(tmp_path: Path, kind: str, bad_boxes: str) -> None:
    boxes, words = BOXES[kind]
    pictures(tmp_path, "a.jpg")
    table(tmp_path / "train.json", ["a.jpg"], [{"bbox": box} for box in boxes])
    refused(lambda: Coco(tmp_path, bad_boxes=bad_boxes).split("train"), "train.json", *words)


def test_a_few_bad_boxes_stay_bad_for_themselves(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    boxes = [[20, 15, 38, 28], [1, 2, 3, 5], [10, 10, 18, 18], [32, 22, 4, 4]]
    table(tmp_path / "train.json", ["a.jpg"], [{"bbox": box} for box in boxes])
    refused(lambda: Coco(tmp_path).split("train"), "annotation 0", "sticks out", "data.bad_boxes=fix")


def test_boxes_and_outlines_that_lack_something(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    notes: list[dict[str, Any]] = [
        {"segmentation": SQUARE},
        {"segmentation": SQUARE, "bbox": [4, 3, 0, 0]},
        *({"segmentation": none, "bbox": [4, 3, 10, 20], "area": 0} for none in ([], {}, None, [[]])),
    ]
    table(tmp_path / "train.json", ["a.jpg"], notes)
    split = Coco(tmp_path, val_fraction=0).split("train")
    assert split is not None and split[0]["boxes"].tolist() == [[4, 3, 14, 23]] * 6
    assert split[0]["area"].tolist() == [200] * 6
    assert split.notes == ["2 boxes are made of their outlines", "4 areas of 0 are read as their boxes'"]
    fractions = [{"bbox": [4, 3, 10, 20], "segmentation": [[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]}]
    table(tmp_path / "train.json", ["a.jpg"], fractions)
    refused(lambda: Coco(tmp_path).split("train"), 'its "segmentation" lies within 0..1', "data.outlines=false")
    assert Coco(tmp_path, outlines=False, val_fraction=0).split("train") is not None


# Pascal VOC


def thing(name: str = "cat", *box: float, more: str = "") -> str:
    pairs = zip(("xmin", "ymin", "xmax", "ymax"), box or (4, 3, 14, 23), strict=True)
    return f"<object><name>{name}</name>{more}<bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in pairs)}</bndbox></object>"


def page(file: Path, *things: str, name: str = "stale.jpg", head: str = "<annotation>") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head}<filename>{name}</filename>{''.join(things or [thing()])}</annotation>")


def voc(root: Path, *stems: str, xml: str = "Annotations", images: str = "JPEGImages", suffix: str = ".xml") -> None:
    for stem in stems:
        pictures(root / images, f"{stem}.jpg")
        page(root / xml / f"{stem}{suffix}")


def lists(root: Path, **sides: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for side, stems in sides.items():
        (root / f"{side}.txt").write_text("".join(f"{stem}\n" for stem in stems.split()))


@pytest.mark.parametrize("folder", ["ImageSets/Main", ".", "ImageSets", "splits", "VOC2012/ImageSets/Main"])
def test_lists_are_found_wherever_they_are(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path, "a", "b", "c", "d")
    lists(tmp_path / folder, Training="a b", valid="c")
    lists(tmp_path / "ImageSets" / "Layout", train="a")
    said = lines(capsys, Voc(tmp_path))
    assert [line.split(",")[0] for line in said] == ["x train: 2 images", "x val: 1 image"]
    assert said[0].endswith("not read: ImageSets/Layout/train.txt; 1 file left out: 1 XML on no list")


def test_lists_that_leave_a_doubt_are_refused_or_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path, "a", "b", "c", "d")
    lists(tmp_path / "ImageSets" / "Main", cat_train="a b", cat_val="c")
    refused(lambda: Voc(tmp_path), "named for a side: cat_train.txt, cat_val.txt", "data.lists=")
    assert len(Voc(tmp_path, lists="ImageSets/Main/cat_{split}.txt").split("val")) == 1
    lists(tmp_path / "ImageSets" / "Main", train="a b", trainval="a b c")
    lists(tmp_path, test="d")
    assert "not read: ImageSets/Main/trainval.txt, test.txt" in lines(capsys, Voc(tmp_path, val_fraction=0))[0]
    for year in ("VOC2007", "VOC2012"):
        voc(tmp_path / "kit" / year, f"{year}_a", f"{year}_b")
        lists(tmp_path / "kit" / year / "ImageSets" / "Main", train=f"{year}_a", val=f"{year}_b")
    refused(lambda: Voc(tmp_path / "kit"), "VOC2007/ImageSets/Main and VOC2012/ImageSets/Main", "data.root")
    voc(tmp_path / "official", "a", "b")
    lists(tmp_path / "official", train="a", val="b", test="c d")
    assert "no test side: no image of test.txt has an XML file" in lines(capsys, Voc(tmp_path / "official"))[0]


def test_names_in_lists_are_compared_in_one_form(tmp_path: Path) -> None:
    voc(tmp_path, "a b", unicodedata.normalize("NFD", "é"), "c%20d", "c d", "e.F")
    lists(tmp_path, train="a%20b.JPG é /x/y/c%20d e.F")
    (tmp_path / "val.txt").write_text("c d\n")
    source = Voc(tmp_path)
    assert load_count(source) == 4 and len(source.split("val") or ()) == 1


def test_images_of_xml_files(tmp_path: Path) -> None:
    """By the stem, at the same place; else as the XML file says; never one image for two files."""
    pictures(tmp_path / "JPEGImages", "x/a.jpg", "y/a.jpg", "b c.JPG", "d.jpg", "e.jpg", "f.jpg", "f.png")
    for stem in ("x/a", "y/a", "b%20c"):
        page(tmp_path / "Annotations" / f"{stem}.xml")
    page(tmp_path / "Annotations" / "frame_0.xml", name=r"C:\x\d.jpg")
    page(tmp_path / "Annotations" / "frame_1.xml", "<path>/home/me/e.jpg</path>", thing(), name="")
    page(tmp_path / "Annotations" / "f.xml", name="f.png")
    split = Voc(tmp_path, val_fraction=0).split("train")
    assert split is not None and split.notes == ["2 images have the name that the XML file says"]
    names = [split.file_name(i) for i in range(len(split))]
    assert names == ["b c.JPG", "f.png", "d.jpg", "e.jpg", "x/a.jpg", "y/a.jpg"]
    page(tmp_path / "Annotations" / "z" / "d.xml")
    refused(lambda: Voc(tmp_path).split("train"), "z/d.xml", "its image is", "d.jpg, as that of", "frame_0.xml")


def test_what_voc_leaves_out_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    voc(tmp_path, "a", "b")
    voc(tmp_path / "old", "a")
    pictures(tmp_path / "JPEGImages", "c.jpg", ".d.jpg")
    (tmp_path / "Annotations" / "settings.xml").write_text("<project/>")
    (tmp_path / "JPEGImages" / "e.heic").touch()
    (line,) = lines(capsys, Voc(tmp_path, val_fraction=0))
    assert line.endswith(
        "5 files left out: 1 .heic, 1 XML in another folder, 1 XML of another kind, 1 hidden, 1 image without XML"
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "annotations.xml").write_text("<annotations><image/></annotations>")
    refused(lambda: Voc(tmp_path / "b"), "none of its 1 train XML files has a Pascal VOC <annotation>")


def test_xml_of_other_programs(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    page(tmp_path / "a.xml", head='<annotation xmlns="http://x.y">')
    corners = ((4, 3), (14, 3), (14, 23))
    flat = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate(corners, 1))
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in corners)
    for stem, polygon in (("b", flat), ("c", points)):
        page(tmp_path / f"{stem}.xml", f"<object><name>cat</name><polygon>{polygon}</polygon></object>")
    split = Voc(tmp_path, val_fraction=0).split("train")
    assert split is not None and [split[i]["boxes"].tolist() for i in range(3)] == [[[4, 3, 14, 23]]] * 3
    page(tmp_path / "d.xml", thing("LÖWE"), thing(unicodedata.normalize("NFD", "Löwe")))
    refused(lambda: Voc(tmp_path), "'LÖWE' and 'Löwe' are duplicate names of one class")


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        ([(0.1, 0.2, 0.5, 0.6)] * 3, ("within 0..1",)),
        ([(20, 10, 12, 18), (30, 20, 8, 8), (5, 5, 20, 20)], ("as x, y, width, height; write x + width",)),
        ([(20, 20, 5, 5)] * 3, ("or with the smaller corner second",)),
        ([(3, 30, 13, 39)] * 3, ("with x and y changed",)),
    ],
)
def test_boxes_of_voc_that_cannot_be_meant(tmp_path: Path, boxes: list, words: tuple[str, ...]) -> None:
    pictures(tmp_path, "a.jpg")
    page(tmp_path / "a.xml", *(thing("cat", *box) for box in boxes))
    for bad_boxes in ("error", "fix"):
        refused(lambda bad_boxes=bad_boxes: Voc(tmp_path, bad_boxes=bad_boxes).split("train"), str(tmp_path), *words)


def test_a_size_that_is_turned_is_said_to_be(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    for stem in "ab":
        page(tmp_path / f"{stem}.xml", "<size><width>30</width><height>40</height></size>", thing())
    refused(lambda: Voc(tmp_path).split("train"), "40x30", "30x40", "changed places", "2 of 2 images are bad")
