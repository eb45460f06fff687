"""Data that cannot be used: one clear line naming file and fix, exit code 2, and no half-written run."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SETTINGS = ("size=64", "backbone.width=0.35", "loader.batch_size=2", "loader.workers=0", "trainer.max_epochs=1")


def image(path: Path, size: tuple[int, int] = (60, 50)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def coco(tmp_path) -> Path:
    """Four training and two validation images with a cat and a dog each."""
    root = tmp_path / "set"
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    for split, count in (("train", 4), ("val", 2)):
        images, annotations = [], []
        for i in range(count):
            image(root / "images" / f"{split}{i}.jpg")
            images.append({"id": i, "file_name": f"{split}{i}.jpg", "width": 60, "height": 50})
            for n, category in enumerate((3, 7)):
                box = [5 + 20 * n, 5, 20, 30]
                about = {
                    "id": 10 * i + n,
                    "image_id": i,
                    "category_id": category,
                    "bbox": box,
                    "area": 600,
                    "iscrowd": 0,
                }
                annotations.append(about)
        path = root / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return root


def edit(root: Path, change) -> None:
    path = root / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def box(*values):
    return lambda content: content["annotations"][2].update(bbox=list(values))


def cut(root: Path) -> None:
    path = root / "images" / "train1.jpg"
    path.write_bytes(path.read_bytes()[:-400])


BAD = {
    "missing root": (lambda root: root.rename(root.parent / "elsewhere"), ("set", "data.root")),
    "malformed JSON": (
        lambda root: (root / "annotations" / "instances_train.json").write_text('{"images": [\n{"id": 1,, }'),
        ("instances_train.json", "line 2"),
    ),
    "missing image": (lambda root: (root / "images" / "train2.jpg").unlink(), ("train2.jpg",)),
    "truncated JPEG": (cut, ("train1.jpg",)),
    "box outside": (lambda root: edit(root, box(50, 5, 30, 30)), ("train1.jpg", "data.bad_boxes=fix")),
    "box inverted": (lambda root: edit(root, box(30, 5, -10, 30)), ("train1.jpg", "data.bad_boxes=fix")),
    "box of no area": (lambda root: edit(root, box(30, 5, 0, 30)), ("train1.jpg", "data.bad_boxes=fix")),
    "box NaN": (lambda root: edit(root, box(float("nan"), 5, 10, 30)), ("train1.jpg", "data.bad_boxes=fix")),
    "undeclared category": (
        lambda root: edit(root, lambda c: c["annotations"][0].update(category_id=99)),
        ("instances_train.json", "99"),
    ),
    "no training images": (
        lambda root: edit(root, lambda c: c.update(images=[], annotations=[])),
        ("instances_train.json",),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_refused(cli, coco, tmp_path, case):
    spoil, words = BAD[case]
    spoil(coco)
    runs = tmp_path / "runs"
    code, err = cli("train", *SETTINGS, "data=coco", f"data.root={coco}", f"runs={runs}", fails=True)
    assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not runs.exists()


@pytest.mark.slow
def test_boxes_are_mended_on_request(cli, coco, tmp_path):
    edit(coco, box(50, 5, 30, 30))
    cli("train", *SETTINGS, "data=coco", f"data.root={coco}", f"runs={tmp_path}", "name=a", "data.bad_boxes=fix")
    assert (tmp_path / "ssdlite" / "a" / "metrics.json").exists()


@pytest.mark.slow
def test_an_image_that_breaks_later_is_named_and_the_run_goes_on(cli, coco, tmp_path, monkeypatch):
    """With too many images to check beforehand, a broken one stops the run in one line, and resuming works."""
    import mnv2_tasks.datasets.reading.images as images

    run = (*SETTINGS, "data=coco", f"data.root={coco}", f"runs={tmp_path}", "name=a", "trainer.max_epochs=2")
    cut(coco)
    monkeypatch.setattr(images, "MAX_CHECKED", 0)
    for workers in ("loader.workers=0", "loader.workers=1"):
        code, err = cli("train", *run, workers, f"name={workers[-1]}", fails=True)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert code == 2 and len(lines) == 1 and "train1.jpg" in lines[0], err


@pytest.mark.slow
def test_another_class_list_than_the_checkpoints(cli, coco, tmp_path):
    data = ("data=coco", f"data.root={coco}")
    cli("train", *SETTINGS, *data, f"runs={tmp_path}", "name=a")
    for split in ("train", "val"):
        path = coco / "annotations" / f"instances_{split}.json"
        path.write_text(path.read_text().replace('"dog"', '"wolf"'))
    ckpt = tmp_path / "ssdlite" / "a" / "checkpoints" / "best.ckpt"
    code, err = cli("evaluate", f"ckpt={ckpt}", *data, f"runs={tmp_path}", fails=True)
    assert code == 2 and "dog" in err and "wolf" in err and len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_odd_images_train(cli, coco, tmp_path):
    folder = coco / "images"
    grey = Image.open(folder / "train0.jpg").convert("L")
    grey.save(folder / "train0.jpg")
    Image.open(folder / "train1.jpg").convert("CMYK").save(folder / "train1.jpg")
    rotated = Image.open(folder / "train2.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = rotated.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    rotated.save(folder / "train2.jpg", exif=exif)
    deep = np.random.default_rng(0).integers(0, 65535, (50, 1), dtype=np.uint16)
    Image.fromarray(deep).save(folder / "thin.png")

    def change(content):
        content["images"][3].update(file_name="thin.png", width=1, height=50)
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
        content["annotations"].append({"id": 99, "image_id": 3, "category_id": 3, "bbox": [0, 5, 1, 20], "iscrowd": 0})

    edit(coco, change)
    cli("train", *SETTINGS, "data=coco", f"data.root={coco}", f"runs={tmp_path}", "name=odd")
    assert (tmp_path / "ssdlite" / "odd" / "examples.png").exists()
