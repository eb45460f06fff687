"""Masks painted from COCO's outlines: every form of them, overlaps, crowds, damage; and which classes are present."""

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as peer
import pytest
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.reading.boxed_split import DetectionSplit
from mnv2_tasks.datasets.reading.outlines import pack, run_lengths

HEIGHT, WIDTH = 30, 40
SQUARE = [[4, 3, 14, 3, 14, 23, 4, 23]]  # x 4 to 14, y 3 to 23
Note = dict[str, Any]


def note(number: int, category: int, segmentation: Any, **more: Any) -> Note:
    told = {"id": number, "image_id": 1, "category_id": category, "bbox": [4, 3, 10, 20], "area": 200, **more}
    return told if segmentation is None else {**told, "segmentation": segmentation}


def coco(root: Path, *notes: Note, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in (1, 2)]
    categories = [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 9, "name": "cow"}]
    (root / "annotations").mkdir(exist_ok=True)
    contents = {"images": images, "annotations": list(notes), "categories": categories}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(contents))
    for i in (1, 2):
        Image.new("RGB", size).save(root / f"{i}.png")
    return root


def load(root: Path, **settings: Any) -> DetectionSplit:
    split = Coco(root, val_fraction=0, **settings).split("train")
    assert split is not None
    return split


def stripe(rows: slice, columns: slice) -> np.ndarray:
    inside = np.zeros((HEIGHT, WIDTH), np.uint8)
    inside[rows, columns] = 1
    return inside


def runs(inside: np.ndarray, *, compressed: bool) -> Note:
    if compressed:
        told = peer.encode(np.asfortranarray(inside))
        return {"size": told["size"], "counts": told["counts"].decode()}
    flat = inside.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, len(flat)]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


@pytest.mark.parametrize("form", ["polygon", "list of runs", "string of runs"])
def test_every_form(tmp_path: Path, form: str) -> None:
    want = stripe(slice(3, 23), slice(4, 14))
    told = SQUARE if form == "polygon" else runs(want, compressed=form.startswith("string"))
    source = Coco(coco(tmp_path, note(7, 5, told)), val_fraction=0)
    classes = ("cat", "dog", "cow")
    assert source.provides == {"detection": classes, "multilabel": classes, "segmentation": ("background", *classes)}
    train = source.split("train")
    assert train is not None
    sample = train[0]
    assert sample["mask"].tolist() == (want * 2).tolist()
    assert train[1]["mask"].tolist() == np.zeros((HEIGHT, WIDTH)).tolist()
    assert sample["boxes"].tolist() == [[4, 3, 14, 23]] and len(train.box_sizes()) == 1
    assert train.pixel_counts().tolist() == [2 * HEIGHT * WIDTH - 200, 0, 200, 0]
    again = pickle.loads(pickle.dumps(train.subset(np.array([True, False]))))
    assert len(again) == 1 and again[0]["mask"].tolist() == (want * 2).tolist()


def test_polygons_are_painted_as_pycocotools_does(tmp_path: Path) -> None:
    rng = random.Random(0)
    for digits in (1, 2, 9):  # hundredths are kept as such; what needs more, as it is
        sides = [rng.randint(3, 8) for _ in range(3)]
        polygons = [[round(rng.uniform(-2, 42), digits) for _ in range(2 * n)] for n in sides]
        want = peer.decode(peer.merge(peer.frPyObjects(polygons, HEIGHT, WIDTH)))
        found = load(coco(tmp_path, note(7, 3, polygons))).mask(0)
        assert found.tolist() == want.tolist()
        assert pack(polygons)[:1] == (b"Q" if digits == 9 else b"P")


def test_overlaps_crowds_and_objects_without_outline(tmp_path: Path) -> None:
    everything = runs(stripe(slice(0, 20), slice(0, 40)), compressed=True)
    large = runs(stripe(slice(0, 10), slice(0, 20)), compressed=False)
    small = runs(stripe(slice(5, 8), slice(15, 25)), compressed=True)
    root = coco(
        tmp_path,
        note(1, 3, small, area=30),
        note(2, 5, large, area=200),
        note(3, 9, everything, area=800, iscrowd=1),
        note(4, 9, [], bbox=[18, 0, 4, 30], area=120),
    )
    want = np.zeros((HEIGHT, WIDTH), np.uint8)
    want[:20] = 255  # the crowd lies below
    want[:, 18:22] = np.where(want[:, 18:22] == 0, 255, want[:, 18:22])  # a box hides what is in it
    want[:10, :20] = 2
    want[5:8, 15:25] = 1  # the smaller on top
    assert load(root).mask(0).tolist() == want.tolist()


def test_presence(tmp_path: Path) -> None:
    crowd = runs(stripe(slice(0, 4), slice(0, 4)), compressed=False)
    root = coco(tmp_path, note(1, 5, SQUARE), note(2, 5, crowd, iscrowd=1), note(3, 9, crowd, iscrowd=1))
    train = load(root)
    assert train[0]["presence"].tolist() == [0, 1, -1] and train[1]["presence"].tolist() == [0, 0, 0]
    assert train.label_counts().tolist() == [0, 1, 0]


def test_mask_follows_a_reduced_image(tmp_path: Path) -> None:
    root = coco(tmp_path, note(1, 5, [[0, 0, 40, 0, 40, 60, 0, 60]]), size=(80, 60))
    sample = load(root, max_side=40)[0]
    assert sample["image"].shape == (3, 30, 40) and sample["size"] == (60, 80)
    assert sample["mask"].shape == (30, 40)
    assert (sample["mask"][:, :20] == 2).all() and not sample["mask"][:, 20:].any()


def test_segmentation_is_provided_only_where_there_are_outlines(tmp_path: Path) -> None:
    for segmentation in (None, []):
        source = Coco(coco(tmp_path, note(1, 5, segmentation)), val_fraction=0)
        assert "segmentation" not in source.provides
        train = source.split("train")
        assert train is not None and "mask" not in train[0]
    without = Coco(coco(tmp_path, note(1, 5, SQUARE)), outlines=False, val_fraction=0)
    assert set(without.provides) == {"detection", "multilabel"}


def test_dropped_boxes_take_their_outline_along(tmp_path: Path) -> None:
    root = coco(tmp_path, note(1, 5, SQUARE, bbox=[4, 3, 0, 20]), note(2, 3, SQUARE, bbox=[4, 3, 10, 20]))
    with pytest.warns(UserWarning, match="dropped 1"):
        train = load(root, bad_boxes="fix")
    assert np.unique(train.mask(0)).tolist() == [0, 1]


HALF = runs(stripe(slice(0, 30), slice(0, 20)), compressed=True)
FAULTS: dict[str, tuple[Any, str]] = {
    "flat": ([1, 2, 3, 4, 5, 6], "neither a list of polygons nor"),
    "word": ("polygon", "neither a list of polygons nor"),
    "two corners": ([[1, 2, 3, 4]], "a polygon of 4 numbers"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "a polygon of 7 numbers"),
    "text": ([[1, 2, 3, 4, 5, "6"]], "other things than numbers"),
    "nan": ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
    "far": ([[1, 2, 3, 4, 5, 1e12]], "far outside"),
    "no size": ({"counts": [1200]}, '"size" None'),
    "bad size": ({"size": [30, 4.5], "counts": [1200]}, '"size" [30, 4.5]'),
    "short runs": ({"size": [30, 40], "counts": [10, 20]}, "do not add up to its 30 x 40 pixels"),
    "negative runs": ({"size": [30, 40], "counts": [-10, 1210]}, "do not add up"),
    "no counts": ({"size": [30, 40]}, "without counts"),
    "another size": ({"size": [40, 30], "counts": HALF["counts"]}, "30x40, but its image is 40x30"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_malformed_outlines_are_named(tmp_path: Path, fault: str) -> None:
    segmentation, problem = FAULTS[fault]
    root = coco(tmp_path, note(6, 3, SQUARE), note(71, 5, segmentation))
    who = (str(root / "annotations" / "instances_train.json"), "annotation 71:", problem, "data.outlines=false")
    refused(lambda: load(root), *who)
    assert len(load(root, outlines=False).box_sizes()) == 2


@pytest.mark.parametrize("counts", ["", "1", "zzzz", "ooo", "oooooooooooooooooooo", HALF["counts"][:-1]])
def test_damaged_strings_of_runs_are_named(tmp_path: Path, counts: str) -> None:
    root = coco(tmp_path, note(71, 5, {"size": [30, 40], "counts": counts}))
    refused(lambda: load(root)[0], "annotation 71:", "damaged")


def test_run_lengths_are_read_as_pycocotools_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        inside = np.asfortranarray(rng.random((300, 400)) < rng.choice([0.0, 0.001, 0.5, 0.999, 1.0]), np.uint8)
        lengths = run_lengths(peer.encode(inside)["counts"])
        turns = np.repeat(np.arange(len(lengths)) % 2, lengths)
        assert np.array_equal(turns, inside.ravel(order="F"))


# Real data


def test_pennfudan_equals_its_mask_files(shared: Path) -> None:
    root = shared / "data" / "pennfudan"
    source = Coco(root)
    for side in ("train", "val"):
        split = source.split(side)
        assert split is not None
        for i in range(len(split)):
            with Image.open((root / "masks" / split.file_name(i)).with_suffix(".png")) as mask:
                assert np.array_equal(split.mask(i), np.asarray(mask))


def test_pets_equal_their_mask_files_but_for_the_border(shared: Path) -> None:
    root = shared / "data" / "pets3"
    split = Coco(root).split("val")
    assert split is not None and len(split) == 298
    for i in range(0, len(split), 5):
        with Image.open((root / "masks_breed" / split.file_name(i)).with_suffix(".png")) as mask:
            want = np.asarray(mask)
        found = split.mask(i)
        assert np.array_equal(found[want != 255], want[want != 255])  # COCO's outlines hold the ignored border, too
        assert (found[want == 255] > 0).all()
