"""The data doctor: planted faults are named, what is well is not, and its command line composes."""

import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import make, settled
from PIL import Image, ImageEnhance, ImageOps
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.reading.problems import heard
from mnv2_tasks.doctor.boxes import Reach, choose, reach
from mnv2_tasks.doctor.duplicates import Looks, hashes_of, windows
from mnv2_tasks.doctor.looking import OBJECT, look, sides_of
from mnv2_tasks.doctor.marks import look_at_marks
from mnv2_tasks.doctor.quality import look_at_quality
from mnv2_tasks.kinds import DETECTION


def drawn(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Patches of grey and colour, coarse and fine."""
    generator = np.random.default_rng(seed)
    picture = Image.new("RGB", size)
    for cells in (6, 12, 40):
        noise = Image.fromarray(generator.integers(0, 255, (cells, cells, 3), np.uint8)).resize(size, Image.BICUBIC)
        picture = Image.blend(picture, noise, 0.5)
    return picture


def coco(root: Path, sides: dict[str, dict[str, Image.Image]], boxes: dict[str, list[list[float]]]) -> Path:
    """COCO files of images, and [x, y, width, height, class] of each."""
    (root / "annotations").mkdir(parents=True)
    for side, pictures in sides.items():
        (root / "images" / side).mkdir(parents=True)
        images, annotations = [], []
        for i, (name, picture) in enumerate(pictures.items()):
            picture.save(root / "images" / side / name, quality=95)
            images.append({"id": i, "file_name": name, "width": picture.width, "height": picture.height})
            for *box, label in boxes.get(name, [[20, 20, 50, 60, 0]]):
                annotations.append({"id": len(annotations), "image_id": i, "category_id": label, "bbox": box})
        names = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
        content = {"images": images, "annotations": annotations, "categories": names}
        (root / "annotations" / f"instances_{side}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def jpeg(picture: Image.Image) -> Image.Image:
    picture.save(content := io.BytesIO(), "JPEG", quality=30)
    return Image.open(content)


def test_hashes_are_those_of_imagehash() -> None:
    imagehash = pytest.importorskip("imagehash")
    grey = drawn(0, (200, 200)).convert("L")
    packed, mirrored = hashes_of(grey, windows()[:3])
    for box, bits in zip(windows()[:3], packed, strict=True):
        edges = tuple(round(side * 200) for side in box)
        assert (imagehash.phash(grey.crop(edges)).hash.ravel() == np.unpackbits(bits)).mean() > 0.95
    assert (imagehash.phash(grey).hash.ravel() == np.unpackbits(packed[0])).all()
    assert (imagehash.phash(ImageOps.mirror(grey)).hash.ravel() == np.unpackbits(mirrored)).all()


def test_near_duplicates_are_found_and_others_are_not() -> None:
    pictures = [drawn(seed) for seed in range(12)]
    planted = [
        jpeg(pictures[0]),
        ImageOps.mirror(pictures[1]),
        pictures[2].crop((10, 20, 130, 110)),
        ImageEnhance.Brightness(pictures[3]).enhance(1.5),
        ImageOps.mirror(pictures[4].crop((30, 10, 150, 100))),
    ]
    looks = Looks(len(pictures) + len(planted) + 2)
    blank = [Image.new("RGB", (50, 40), "white")] * 2  # of no structure: like nothing
    for row, picture in enumerate([*pictures, *planted, *blank]):
        looks.add(row, picture)
    pairs = looks.pairs()
    assert sorted((pair.first, pair.second) for pair in pairs) == [(i, 12 + i) for i in range(5)]
    assert {pair.first for pair in pairs if pair.mirrored} == {1, 4}
    assert {pair.first for pair in pairs if pair.cut} == {2, 4}


def test_default_boxes_reach_what_a_finer_tap_or_size_lets_them() -> None:
    objects = np.zeros(40, OBJECT)
    corners = np.random.default_rng(0).random((40, 2)).astype(np.float32) * 0.9
    objects["row"], objects["box"] = np.arange(40) // 2, np.concatenate([corners, corners + 0.06], 1)
    coarse, large = (reach(objects, make("ssdlite"), "ssdlite", size) for size in ((64, 64), (256, 256)))
    tiled = reach(objects, make("ssdlite"), "ssdlite", (64, 64), tiles=2)
    assert coarse.share < tiled.share < large.share and coarse.madds < tiled.madds == 4 * coarse.madds < large.madds
    assert (large.taught >= 1).all() and large.sources == ("c4x", "c5x")


def test_the_cheapest_that_is_enough_is_chosen() -> None:
    def one(share: float, madds: int) -> Reach:
        best = np.linspace(0, 1, 100, dtype=np.float32) < share
        return Reach((96, 96), ("c4x",), 1, best.astype(np.float32), np.ones(100, np.int64), 0.5, madds)

    now, better, dear = one(0.5, 10), one(0.92, 20), one(0.99, 40)
    assert choose([now, dear, better]) is better
    assert choose([now, one(0.52, 11)]) is now
    assert choose([now, one(0.7, 30), one(0.8, 20)]).madds == 20


def test_slips_in_boxes_and_odd_images(tmp_path: Path) -> None:
    blurred = drawn(2).resize((8, 6)).resize((160, 120), Image.BICUBIC)
    pictures = {
        "twice.png": drawn(0),
        "both.png": drawn(1),
        "blurred.png": blurred,
        "empty.png": Image.new("RGB", (160, 120), "teal"),
        "dark.png": ImageEnhance.Brightness(drawn(3)).enhance(0.25),
        "long.png": drawn(4, (400, 90)),
        **{f"{i}.png": drawn(10 + i) for i in range(6)},
    }
    boxes = {
        "twice.png": [[20, 20, 50, 60, 0], [20, 20, 50, 61, 0]],
        "both.png": [[20, 20, 50, 60, 0], [20, 20, 50, 61, 1], [5, 5, 2, 9, 0]],
        "empty.png": [],
    }
    source = Coco(coco(tmp_path, {"train": pictures}, boxes), val_fraction=0)
    split = source.split("train")
    sides = sides_of({("coco", "train"): split}, {"coco": {DETECTION: source.provides["detection"]}})
    look(sides, Looks(len(split)), SimpleNamespace(update=lambda n: None))
    found = {f.name: [Path(case.places[0].name).name for case in f.cases] for f in look_at_marks(sides)}
    found |= {f.name: [Path(case.places[0].name).name for case in f.cases] for f in look_at_quality(sides)[0]}
    assert found == {
        "doubled": ["twice.png"],
        "contrary": ["both.png"],
        "tiny": ["both.png"],
        "bare": ["empty.png"],
        "empty": ["empty.png"],
        "dark": ["dark.png"],
        "blurred": ["blurred.png"],
        "long": ["long.png"],
    }


def test_the_checks_of_training_are_gathered(tmp_path: Path) -> None:
    pictures = {f"{i}.png": drawn(i) for i in range(4)}
    boxes = {"1.png": [[20, 20, 500, 60, 0]], "2.png": [[20, 20, 50, 0, 0]]}
    root = coco(tmp_path, {"train": pictures}, boxes)
    (root / "images" / "train" / "3.png").write_bytes(b"")
    (root / "images" / "train" / "0.png").unlink()
    refused(lambda: Coco(root, val_fraction=0).split("train"), "0.png", "1 of 4 images are missing")
    with heard() as problems:
        split = Coco(root, val_fraction=0).split("train")
    assert [Path(line.partition(":")[0]).name for line in problems[:2]] == ["0.png", "3.png"]
    assert ["sticks out" in problems[2], "no area" in problems[3], len(problems)] == [True, True, 4]
    assert split[1]["boxes"].tolist() == [[20, 20, 160, 80]] and len(split[2]["boxes"]) == 0


@pytest.mark.slow
def test_the_page_of_a_data_set_with_a_leak(cli, tmp_path: Path) -> None:
    train = {f"{i}.png": drawn(i) for i in range(6)}
    val = {"a.png": drawn(20), "b.jpg": ImageOps.mirror(train["3.png"])}
    root = coco(
        tmp_path / "a set", {"train": train, "val": val}, {"b.jpg": [[20, 20, 50, 60, 0], [20, 20, 500, 60, 0]]}
    )
    said = cli(
        "doctor", "data=coco", f"data.root={root}", "task=ssdlite", "size=64", "backbone.width=0.35",
        "loader.batch_size=2", f"runs={tmp_path / 'runs'}", "name=one",
    )[1]  # fmt: skip
    folder = tmp_path / "runs" / "doctor" / "one"
    told = json.loads((folder / "doctor.json").read_text(encoding="utf-8"))
    first, second = told["findings"][:2]
    assert (first["name"], first["weight"]) == ("refused", "stops") and "sticks out" in first["text"]
    assert {"leaks", "reach"} <= {finding["name"] for finding in told["findings"]} and second["weight"] == "wrong"
    (leak,) = next(f["cases"] for f in told["findings"] if f["name"] == "leaks")
    assert [Path(place["name"]).name for place in leak["places"]] == ["3.png", "b.jpg"] and "mirrored" in leak["words"]
    page = (folder / "doctor.html").read_text(encoding="utf-8")
    assert "data:image/webp;base64" in page and (folder / "pictures" / "leaks.png").is_file()
    line = told["command"]
    assert line in said and line.startswith("mnv2 train data=coco ")
    words = [word for word in shlex.split(line)[2:] if not word.startswith("data.")]
    settings = settled(*(word.replace("head.", "heads.ssdlite.") for word in words))
    assert settings["size"] == 64 or torch.tensor(settings["size"]).min() >= 64
