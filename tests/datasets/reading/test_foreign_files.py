"""Files that others wrote: their encodings, and what is refused in one line before it can hang or mislead."""

import gzip
import io
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from refusal import refused

from mnv2_tasks.datasets.formats.coco import Coco
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.reading.images import check_image, image_size, read_image
from mnv2_tasks.datasets.reading.legend import class_table
from mnv2_tasks.files import read_json, read_text

PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS).save(path)
    return path


def coco(root: Path, change=lambda content: None) -> Path:
    """Three images with a box each, in root/images, and root/train.json as `change` leaves it."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 30, "height": 20} for i in range(3)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 2, 9, 9], "area": 81} for i in range(3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
    change(content)
    for i in range(3):
        picture(root / "images" / f"{i}.jpg")
    (root / "train.json").write_text(json.dumps(content))
    return root


def voc(root: Path, size: str = "<width>30</width><height>20</height>", thing: str = "") -> Path:
    """Two images with a box each."""
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for i in range(2):
        picture(root / "JPEGImages" / f"{i}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        text = f"<annotation><size>{size}</size><object><name>cat</name>{thing}{box}</object></annotation>"
        (root / "Annotations" / f"{i}.xml").write_text(text)
    return root


def table(root: Path, text: str) -> Path:
    for i in range(4):
        picture(root / f"{i}.jpg")
    (root / "labels.csv").write_bytes(text.encode())
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_by_its_mark(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes('{"name": "Größe"}'.encode(encoding))
    assert read_json(tmp_path / "a.json", fix="") == {"name": "Größe"}


def test_other_bytes_are_no_text(tmp_path):
    path = tmp_path / "a.txt"
    for content, words in (
        ("Größe".encode("latin-1"), ("byte 2 is no UTF-8", "save it as UTF-8, or mend it")),
        ("a".encode("utf-16") + b"x", ("no UTF-16-LE",)),
        (gzip.compress(b"a"), ("compressed; unpack it",)),
        (b"PK\x03\x04...", ("compressed; unpack it",)),
    ):
        path.write_bytes(content)
        refused(lambda: read_text(path, fix="mend it"), "a.txt", *words)


def test_json_of_two_meanings_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for content, words in (
        ('{"a": 1, "b": {"key": 1, "key": 2}}', ("'key' twice",)),
        ("[" * 100_000, ("nested too deep",)),
        ("1" * 5000, ("thousands of digits",)),
        ('{"a":\n1,}', ("line 2",)),
        ("", ("line 1", "not JSON")),
    ):
        path.write_text(content)
        refused(lambda: read_json(path, fix="mend it"), "a.json", *words)


def test_neither_a_folder_nor_a_pipe_is_waited_for(tmp_path):
    pipe, folder = tmp_path / "pipe.png", tmp_path / "folder.png"
    os.mkfifo(pipe)
    folder.mkdir()
    for path, word in ((pipe, "pipe"), (folder, "folder"), (Path("/dev/zero"), "device"), (tmp_path / "none", "such")):
        for read in (read_image, image_size, check_image, lambda path: read_text(path, fix="mend it")):
            refused(lambda read=read, path=path: read(path), str(path), word)


def test_pipes_among_the_files_of_a_data_set(tmp_path):
    def pipe(path: Path) -> None:
        path.unlink(missing_ok=True)
        os.mkfifo(path)

    root = coco(tmp_path / "coco")
    pipe(root / "images" / "1.jpg")
    refused(lambda: Coco(root).split("train"), "1.jpg")
    pipe(root / "train.json")
    refused(lambda: Coco(root), "train.json")
    root = voc(tmp_path / "voc")
    pipe(root / "Annotations" / "1.xml")
    assert Voc(root).layout.left_out["no regular file"] == 1
    root = table(tmp_path / "table", "")
    pipe(root / "labels.csv")
    refused(lambda: ImageFolder(root, labels="labels.csv"), "labels.csv")
    for i in range(2):
        picture(tmp_path / "masks" / "images" / f"{i}.png")
        picture(tmp_path / "masks" / "masks" / f"{i}.png")
    pipe(tmp_path / "masks" / "masks" / "1.png")
    refused(lambda: Masks(tmp_path / "masks", classes=["a"]).split("train"), "1.png")


@pytest.mark.parametrize("key", ["width", "height"])
@pytest.mark.parametrize("value", [-30, 30.5, 1e308, float("nan"), float("inf"), 10**24, 10**400, "30", True, [30]])
def test_sizes_of_coco_that_are_no_pixels_are_refused(tmp_path, key, value):
    root = coco(tmp_path, lambda content: content["images"][1].update({key: value}))
    refused(lambda: Coco(root), "train.json", f'images[1]: "{key}" is ')


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 10**400])
def test_areas_that_are_none_are_refused(tmp_path, value):
    root = coco(tmp_path, lambda content: content["annotations"][2].update(area=value))
    refused(lambda: Coco(root), "train.json", 'annotations[2]: "area" is ')


def test_other_numbers_of_coco(tmp_path):
    for number, change in enumerate((
        lambda c: c["annotations"][1].update(bbox=[10**400, 2, 9, 9]),
        lambda c: c["annotations"][1].update(image_id=1.0),
        lambda c: c["annotations"][1].update(image_id=10**30),
        lambda c: c["annotations"][1].update(segmentation=[[10**400, 1, 2, 3, 4, 5]]),
        lambda c: c["annotations"][1].update(segmentation={"size": [10**30, 5], "counts": "a"}),
        lambda c: c["categories"][0].update(id=True),
    )):  # fmt: skip
        root = coco(tmp_path / str(number), change)
        refused(lambda root=root: Coco(root).split("train"), "train.json")
    root = coco(tmp_path / "own", lambda c: c["annotations"][1].update(packed=5))
    assert len(Coco(root, val_fraction=0).split("train")) == 3  # a key of ours in somebody's file means nothing


@pytest.mark.parametrize("value", ["-30", "30.5", "1e308", "nan", "wide", "9" * 5000])
def test_sizes_of_voc_that_are_no_pixels_are_refused(tmp_path, value):
    root = voc(tmp_path, size=f"<width>{value}</width><height>20</height>")
    refused(lambda: Voc(root), "0.xml", "<width> is ")


def test_other_faults_of_voc(tmp_path):
    for word in ("maybe", "-1"):
        root = voc(tmp_path / word, thing=f"<difficult>{word}</difficult>")
        refused(lambda root=root: Voc(root), "0.xml", "<difficult>")
    root = voc(tmp_path / "untold", size="<width/><height>0</height>", thing="<difficult>True</difficult>")
    assert Voc(root, val_fraction=0).split("train")[0]["crowd"].all()
    (root / "Annotations" / "0.xml").write_text("<a>" * 6_000_000)
    refused(lambda: Voc(root), "0.xml", "18,000,000 bytes")
    (root / "Annotations" / "0.xml").write_text("<a>" * 100_000)
    refused(lambda: Voc(root), "0.xml", "not XML")


def test_tables_of_labels(tmp_path):
    head = "file,label\n0.jpg,a\n1.jpg,b\n"
    assert len(ImageFolder(table(tmp_path, head), labels="labels.csv", val_fraction=0).split("train")) == 2
    for text, words in (
        (head + '2.jpg,"a\n3.jpg,b\n', ("line", "CSV")),
        (head + "2.jpg,a,b\n", ("line 4", "more fields")),
        ("file,label,label\n0.jpg,a,b\n", ("two columns are called 'label'",)),
        ("file;label\n0.jpg;a\n", ("no column 'file'", "file;label", "commas")),
        (head + "2\0.jpg,a\n", ("no such image",)),
        (head + f"2.jpg,{'a' * 10**6}\n", ("field",)),
        (head + f"{'2' * 300}.jpg,a\n", ("no such image",)),
    ):
        root = table(tmp_path, text)
        refused(lambda root=root: ImageFolder(root, labels="labels.csv", val_fraction=0).split("train"), *words)


@pytest.mark.parametrize("content", [
    {"names": "road"}, {"names": {"0": "road"}}, {"names": [1]}, {"names": ["a"], "palette": {"-1": [1, 2, 3]}},
    {"names": ["a"], "palette": {"7": [1, 2, 3]}}, {"names": ["a"], "palette": {"0": [True, 2, 3]}}, 5, None,
    {"names": ["a"], "ignore_index": 300}, {"names": ["a"], "ignore_index": 1.5}, {"names": ["a"], "palette": [1]},
])  # fmt: skip
def test_classes_of_masks(tmp_path, content):
    (tmp_path / "classes.json").write_text(json.dumps(content))
    refused(lambda: class_table(tmp_path, None, None), "classes.json")


def test_classes_of_masks_in_csv(tmp_path):
    for text in ("name,r,g,b\na,1,2", "name,r,g,b\na,1,2," + "9" * 5000, 'name,r,g,b\n"a,1,2,3', "name,r,g,b\na,x,2,3"):
        (tmp_path / "class_dict.csv").write_text(text)
        refused(lambda: class_table(tmp_path, None, None), "class_dict.csv")


def test_pictures_that_unpack_to_gigabytes(tmp_path):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = (20_000).to_bytes(4, "big")
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size * 2 + b"\x08\x02\0\0\0") + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    )
    (tmp_path / "wide.png").write_bytes(png)
    for read in (read_image, image_size, check_image):
        refused(lambda read=read: read(tmp_path / "wide.png"), "wide.png", "268,435,456 pixels")
    notes = PngImagePlugin.PngInfo()
    notes.add_text("note", "a" * 2_000_000, zip=True)
    Image.fromarray(PIXELS).save(tmp_path / "note.png", pnginfo=notes)
    refused(lambda: read_image(tmp_path / "note.png"), "note.png", "too large")


def test_hurt_exif_counts_as_upright(tmp_path):
    memory = io.BytesIO()
    Image.fromarray(PIXELS).save(memory, "JPEG", exif=b"Exif\0\0MM\0*" + bytes(range(200)))
    (tmp_path / "a.jpg").write_bytes(memory.getvalue())
    assert read_image(tmp_path / "a.jpg").shape == (3, 20, 30)


def test_files_out_of_the_data_set_are_read_on_request_alone(tmp_path):
    far = picture(tmp_path / "far.png")

    def move(content: dict) -> None:
        content["images"][0]["file_name"] = "../../far.png"

    root = coco(tmp_path / "coco", move)
    refused(lambda: Coco(root).split("train"), "train.json", "'../../far.png' leads out of", "data.outside=true")
    assert len(Coco(root, val_fraction=0, outside=True).split("train")) == 3
    root = table(tmp_path / "table", f"file,label\n0.jpg,a\n{far},b\n")
    refused(lambda: ImageFolder(root, labels="labels.csv"), "line 3", "far.png' leads out of", "data.outside=true")
    assert len(ImageFolder(root, labels="labels.csv", val_fraction=0, outside=True).split("train")) == 2
    root = tmp_path / "masks"
    Image.fromarray(PIXELS[..., 0] % 2).save(picture(root / "m.png"))
    (root / "train.txt").write_text("../far.png m.png\n")
    refused(lambda: Masks(root, images=".", masks="."), "line 1", "far.png' leads out of", "data.outside=true")
    assert len(Masks(root, images=".", masks=".", val_fraction=0, outside=True).split("train")) == 1
