"""Sets by name, from files made here in their official layout: sides, samples, and what to do without a network."""

import gzip
import hashlib
import logging
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_object
from PIL import Image
from refusal import refused
from torchvision import datasets

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.datasets.formats.merged import MergedSplit
from mnv2_tasks.datasets.formats.pets import Pets
from mnv2_tasks.datasets.formats.torchvision_sets import cifar10, fashion_mnist, flowers102, imagenet, mnist

DIGEST = hashlib.md5


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", fail)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """100 training images in two batches, and 10 test images; the class of image i is i % 10, its pixels are i."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def put(name: str, contents: dict[str, Any]) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(contents))
        return [name, DIGEST((folder / name).read_bytes()).hexdigest()]

    def batch(first: int, count: int) -> dict[str, Any]:
        numbers = range(first, first + count)
        return {"data": np.array(numbers, np.uint8)[:, None].repeat(3072, 1), "labels": [i % 10 for i in numbers]}

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [put("data_batch_1", batch(0, 50)), put("b2", batch(50, 50))])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [put("test_batch", batch(100, 10))])
    names = [f"class {i}" for i in range(10)]
    name, digest = put("batches.meta", {"label_names": names})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return tmp_path


def test_cifar10(cifar: Path) -> None:
    source = cifar10(cifar)
    assert source.provides == {"classification": tuple(f"class {i}" for i in range(10))}
    train, val, test = (source.split(side) for side in ("train", "val", "test"))
    assert len(train) + len(val) == 100 and len(val) >= 1 and len(test) == 10
    assert train.label_counts().min() >= 1 and (train.label_counts() + val.label_counts()).tolist() == [10] * 10
    seen = {int(split[i]["image"][0, 0, 0]) for split in (train, val) for i in range(len(split))}
    assert seen == set(range(100))
    sample = test[3]
    assert sample["image"].shape == (3, 32, 32) and sample["image"].dtype == torch.uint8
    assert sample["image"].is_contiguous() and (sample["image"] == 103).all()
    assert sample["label"] == 3 and sample["label"].dtype == torch.int64 and test.label(3) == 3
    assert sample["image_id"] == 3 and sample["size"] == (32, 32)
    assert (cifar10(cifar).split("val").images == val.images).all()
    with pytest.raises(IndexError):
        test[10]


def test_val_fraction(cifar: Path) -> None:
    source = cifar10(cifar, val_fraction=0)
    assert len(source.split("train")) == 100 and len(source.split("val")) == 10 and source.split("test") is None
    refused(lambda: cifar10(cifar, val_fraction=1), "data.val_fraction=1")


def test_chosen_classes(cifar: Path, pets: Path) -> None:
    chosen = ("class 7", "class 2")
    whole, source = cifar10(cifar), cifar10(cifar, classes=list(chosen))
    assert source.provides == {"classification": chosen}
    for name in ("train", "val", "test"):
        every, split = whole.split(name), source.split(name)
        assert [split.label(i) for i in range(len(split))] == [int(k == 2) for k in every.targets if k in (2, 7)]
        assert split.notes[-1] == f"{len(every) - len(split)} images of other classes left out"
    refused(lambda: cifar10(cifar, classes=["clas 7", "class 2"]), "CIFAR10", "'clas 7' (did you mean class 7")
    refused(lambda: cifar10(cifar, classes=["class 7"]), "class 7 is the only class")
    swapped = Pets(pets, classes=["pug", "Abyssinian"])
    assert swapped.provides["classification"] == ("pug", "Abyssinian") and side(swapped, "train").label(0) == 0
    heads = Pets(pets, classes=["dog"])
    assert heads.provides["detection"] == ("dog",) and heads.provides["classification"] == ("Abyssinian", "pug")
    refused(lambda: Pets(pets, classes=["pugg", "Abyssinian"]), "'pugg' (did you mean pug")


def idx(file: Path, values: np.ndarray, *, zipped: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    file.with_name(file.name + ".gz" * zipped).write_bytes(gzip.compress(content, mtime=0) if zipped else content)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
@pytest.mark.parametrize("zipped", [False, True])  # by whomever: the official checksums are not theirs
def test_grey_sets(tmp_path: Path, name: str, zipped: bool) -> None:
    raw = tmp_path / name / "raw"
    for side, count in (("train", 40), ("t10k", 10)):
        images = np.arange(count, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
        idx(raw / f"{side}-images-idx3-ubyte", images, zipped=zipped)
        idx(raw / f"{side}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 10, zipped=zipped)
    source = (mnist if name == "MNIST" else fashion_mnist)(tmp_path)
    names = source.provides["classification"]
    assert len(names) == 10 and names[0] == ("0" if name == "MNIST" else "T-shirt or top")
    sample = source.split("test")[4]
    assert sample["image"].shape == (3, 28, 28) and (sample["image"] == 4).all() and sample["size"] == (28, 28)
    assert sample["label"] == 4 and len(source.split("train")) + len(source.split("val")) == 40


def test_an_archive_cut_short_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte.gz"
    idx(archive.with_suffix(""), np.zeros((4, 28, 28), np.uint8), zipped=True)
    archive.write_bytes(archive.read_bytes()[:-9])
    refused(lambda: fashion_mnist(tmp_path, download=False), archive.name, "copy it again")
    assert not archive.with_suffix("").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (cifar10, ("cifar-10-python.tar.gz", "put it into")),
        (mnist, ("train-images-idx3-ubyte.gz", "MNIST/raw")),
        (fashion_mnist, ("t10k-labels-idx1-ubyte.gz", "FashionMNIST/raw")),
        (Pets, ("pets/data/images.tar.gz", "oxford-iiit-pet")),
    ],
)
@pytest.mark.parametrize("download", [True, False])
def test_without_a_network(tmp_path: Path, make: Callable[..., Any], words: tuple[str, ...], download: bool) -> None:
    refused(lambda: make(tmp_path, download=download), str(tmp_path), "cannot be downloaded", "data.root", *words)


def test_flowers102(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(1, 7):
        picture(tmp_path / "flowers-102" / "jpg" / f"image_{i:05d}.jpg")
    lists = {"trnid": np.array([2, 1]), "valid": np.array([3]), "tstid": np.array([4, 5, 6])}
    tables = {"setid.mat": lists, "imagelabels.mat": {"labels": np.array([1, 102, 7, 7, 7, 7])}}
    for name in tables:
        (tmp_path / "flowers-102" / name).touch()
    scipy, reader = ModuleType("scipy"), ModuleType("scipy.io")  # stands in: only its loadmat is used
    vars(reader)["loadmat"] = lambda file, **_: tables[Path(file).name]
    vars(scipy)["io"] = reader
    monkeypatch.setitem(sys.modules, "scipy", scipy)
    monkeypatch.setitem(sys.modules, "scipy.io", reader)
    refused(lambda: flowers102(tmp_path), "setid.mat", "flowers-102")  # the sums are not the official ones
    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    source = flowers102(tmp_path)
    assert len(source.provides["classification"]) == 102
    train, test = source.split("train"), source.split("test")
    assert [train.label(i) for i in range(2)] == [101, 0] and len(source.split("val")) == 1 and len(test) == 3
    assert train.path(0).name == "image_00002.jpg" and train[0]["image"].shape == (3, 30, 40)


def test_imagenet(tmp_path: Path) -> None:
    for side in ("train", "val"):
        for wnid in ("n02", "n01"):
            picture(tmp_path / side / wnid / "1.JPEG")
    source = imagenet(tmp_path)
    assert source.provides == {"classification": ("n01", "n02")}
    assert len(source.split("val")) == 2 and source.split("test") is None
    refused(lambda: imagenet(tmp_path / "gone"), "ILSVRC2012", "put them into", "data.root")


def test_all_of_imagenet_has_names(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / "train" / f"n{number:08d}"
        folder.mkdir(parents=True)
        (folder / "0.JPEG").touch()
    (tmp_path / "val").symlink_to(tmp_path / "train")
    names = imagenet(tmp_path).provides["classification"]
    assert len(set(names)) == 1000 and names[0] == "tench" and names[134] == "crane bird"


# Pets


def head(corners: tuple[int, int, int, int]) -> str:
    inner = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    size = "<size><width>40</width><height>30</height></size>"
    return f"<annotation>{size}<object><name>dog</name><bndbox>{inner}</bndbox></object></annotation>"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Two breeds with 10 trainval and 2 test images each; pug images with an even number have a head box."""
    root = tmp_path / "oxford-iiit-pet"
    lines: dict[str, list[str]] = {"trainval": ["# name, class, species, breed"], "test": []}
    (root / "annotations" / "xmls").mkdir(parents=True)
    (root / "annotations" / "trimaps").mkdir()
    trimap = np.full((30, 40), 2, np.uint8)
    trimap[10:20, 10:30] = 3
    trimap[12:18, 12:28] = 1
    for number, breed in ((27, "pug"), (1, "Abyssinian")):
        for i in range(12):
            name = f"{breed}_{i}"
            picture(root / "images" / f"{name}.jpg")
            lines["trainval" if i < 10 else "test"].append(f"{name} {number} {2 if breed == 'pug' else 1} 1")
            Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
            if breed == "pug" and i < 10 and i % 2 == 0:
                (root / "annotations" / "xmls" / f"{name}.xml").write_text(head((5, 4, 15 + i, 24)))
    for side, text in lines.items():
        (root / "annotations" / f"{side}.txt").write_text("\n".join(text) + "\n")
    return tmp_path


def side(source: Pets, name: str) -> MergedSplit:
    split = source.split(name)
    assert split is not None
    return split


def test_pets(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = Pets(pets)
    assert source.provides == {
        "classification": ("Abyssinian", "pug"),
        "detection": ("cat", "dog"),
        "segmentation": ("background", "pet"),
    }
    train, val, test = (side(source, name) for name in ("train", "val", "test"))
    assert val.notes == [f"held out of trainval, {len(val)} of 20 by name"] and not train.notes + test.notes
    assert len(train) + len(val) == 20 and len(test) == 4 and len(val) >= 2
    assert (train.label_counts() + val.label_counts()).tolist() == [10, 10] and train.label_counts().min() >= 1
    assert len(train.box_sizes()) + len(val.box_sizes()) == 5
    assert "boxes" not in test[0] and "mask" in test[0]
    everything = side(Pets(pets, val_fraction=0), "train")
    assert len(everything) == 20 and len(side(Pets(pets / "oxford-iiit-pet", val_fraction=0), "val")) == 4
    names = [everything.path(i).name for i in range(20)]
    with_head, without = everything[names.index("pug_4.jpg")], everything[names.index("pug_5.jpg")]
    assert with_head["boxes"].tolist() == [[4, 3, 19, 24]] and with_head["labels"].tolist() == [1]
    assert with_head["label"] == 1 and with_head["size"] == (30, 40) and "boxes" not in without
    mask = without["mask"]
    assert mask.shape == (30, 40) and mask.dtype == torch.uint8 and mask.unique().tolist() == [0, 1, 255]
    assert (mask == 1).sum() == 6 * 16 and (mask == 0).sum() == 1200 - 200
    assert everything.pixel_counts().tolist() == [20 * 1000, 20 * 96]
    widths = sorted((everything.box_sizes()[:, 0] * 40).round().int().tolist())
    assert widths == [11 + i for i in range(0, 10, 2)]


def test_pets_labels_follow_a_reduced_image(pets: Path) -> None:
    train = side(Pets(pets, val_fraction=0, max_side=20), "train")
    sample = next(train[i] for i in range(20) if train.path(i).name == "pug_0.jpg")
    height = sample["image"].shape[1]
    assert sample["mask"].shape == (height, 20) and sample["boxes"][0, [0, 2]].tolist() == [2, 7.5]


def test_pets_faults(pets: Path) -> None:
    folder = pets / "oxford-iiit-pet" / "annotations"
    trimap = folder / "trimaps" / "pug_0.png"

    def train() -> MergedSplit:
        return side(Pets(pets, val_fraction=0), "train")

    at = next(i for i in range(20) if train().path(i).name == "pug_0.jpg")
    Image.new("L", (40, 30), 4).save(trimap)
    refused(lambda: train()[at], "pug_0.png", "value 4", "trimap")
    Image.new("L", (30, 40), 1).save(trimap)
    refused(train, "pug_0.png", "30x40", "40x30")
    trimap.unlink()
    assert "mask" not in train()[at] and "label" in train()[at]
    (folder / "test.txt").write_text("beagle_1 5 2 3\n")
    refused(lambda: Pets(pets), "beagle_1", "trainval.txt")
    (folder / "test.txt").write_text("pug\n")
    refused(lambda: Pets(pets), "test.txt", "line 1", "pug")
    (folder / "test.txt").write_text("pug_10 27 2 1\npug_77 27 2 1\n")
    refused(lambda: Pets(pets).split("test"), "pug_77.jpg", "no such image")


NAMED = ("imagefolder", "cifar10", "mnist", "fashion_mnist", "imagenet", "flowers102", "pets", "merged")


@pytest.mark.parametrize("name", NAMED)
def test_configs_name_settings_that_there_are(name: str) -> None:
    config = yaml.safe_load((CONFIGS / "data" / f"{name}.yaml").read_text())
    section = dict(config["data"][name])
    made = get_object(section.pop("_target_"))
    code = (made.__init__ if isinstance(made, type) else made).__code__
    settings = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    assert set(section) <= set(settings)
    if name in ("mnist", "fashion_mnist"):
        assert (
            config["backbone"]["in_channels"] == len(config["backbone"]["mean"]) == len(config["backbone"]["std"]) == 1
        )
