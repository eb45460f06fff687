"""Folders of masks: layouts, lists, class tables, colours, Cityscapes, and one clear line for what can be wrong."""

import json
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from refusal import refused

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.datasets.formats.cityscapes import CLASSES, Cityscapes
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.reading.masked_split import MaskSplit

TWO = np.repeat(np.array([[0, 1, 255, 1]], np.uint8), 20, 0).repeat(6, 1)  # (20, 24)
COLOURS = {"sky": [0, 0, 200], "road": [90, 90, 90], "void": [0, 0, 0]}


def image(path: Path, size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)


def mask(path: Path, values: np.ndarray = TWO, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if mode == "P":
        picture = picture.convert("P")
        picture.putdata(values.ravel().tolist())
        picture.putpalette([*range(256)] * 3)
    picture.save(path)


def folder(root: Path, names: str = "abcde", values: np.ndarray = TWO) -> Path:
    for name in names:
        image(root / "images" / f"{name}.jpg")
        mask(root / "masks" / f"{name}.png", values)
    return root


def coloured(*names: str) -> np.ndarray:
    """(20, 24, 3): stripes of these colours."""
    row = np.array([COLOURS[name] for name in names], np.uint8).repeat(24 // len(names), 0)
    return np.broadcast_to(row, (20, 24, 3)).copy()


def load(source: Any, side: str = "train") -> MaskSplit:
    split = source.split(side)
    assert split is not None
    return split


def names_of(source: Any, side: str) -> list[str]:
    split = source.split(side)
    return [split.path(i).stem for i in range(len(split))] if split else []


# Samples


@pytest.mark.parametrize("mode", ["L", "P", "16 bits", "grey as RGB"])
def test_sample(tmp_path: Path, mode: str) -> None:
    root = folder(tmp_path)
    for name in "abcde":
        values = TWO.astype(np.uint16) if mode == "16 bits" else TWO
        mask(root / "masks" / f"{name}.png", np.stack([TWO] * 3, -1) if mode.startswith("grey") else values, mode)
    source = Masks(root, classes=["ground", "pet"])
    assert source.provides == {"segmentation": ("ground", "pet")} and source.split("test") is None
    train = load(source)
    sample = train[0]
    assert sample.keys() == {"image", "image_id", "size", "mask"}
    assert sample["mask"].dtype == torch.uint8 and sample["mask"].tolist() == TWO.tolist()
    assert sample["image"].shape == (3, 20, 24) and sample["size"] == (20, 24)
    assert train.pixel_counts().tolist() == [len(train) * 120, len(train) * 240]
    assert train.pixel_counts().dtype == torch.int64 and train.counted == len(train)
    again = pickle.loads(pickle.dumps(train))
    assert torch.equal(again[1]["mask"], train[1]["mask"]) and again.path(1) == train.path(1)
    kept = train.subset(np.arange(len(train)) == 1)
    assert len(kept) == 1 and kept.path(0) == train.path(1) and kept.pixel_counts().tolist() == [120, 240]
    with pytest.raises(IndexError):
        train[len(train)]


def test_black_and_white_counts_as_zero_and_one(tmp_path: Path) -> None:
    root = folder(tmp_path, values=(TWO == 1))
    assert load(Masks(root))[0]["mask"].tolist() == (TWO == 1).astype(int).tolist()


def test_mask_follows_a_reduced_turned_or_stretched_image(tmp_path: Path) -> None:
    root = folder(tmp_path, "ab")
    wide = np.zeros((8, 200), np.uint8)
    wide[:, 150:] = 1
    image(root / "images" / "a.jpg", (200, 8))
    mask(root / "masks" / "a.png", wide)
    picture, exif = Image.new("RGB", (20, 24)), Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn
    picture.save(root / "images" / "b.jpg", exif=exif)
    train = load(Masks(root, val_fraction=0, max_side=100))
    assert train[0]["image"].shape == (3, 16, 100) and train[0]["size"] == (8, 200)
    assert train[0]["mask"].shape == (16, 100) and train[0]["mask"].unique().tolist() == [0, 1]
    assert train[0]["mask"][:, 75:].all() and not train[0]["mask"][:, :75].any()
    assert train[1]["image"].shape == (3, 20, 24) and train[1]["mask"].tolist() == TWO.tolist()


# Layouts


def test_train_is_split_by_name_where_there_is_no_val(tmp_path: Path) -> None:
    source = Masks(folder(tmp_path, "abcdefghij"))
    val, train = names_of(source, "val"), names_of(source, "train")
    assert val and train and sorted(val + train) == list("abcdefghij")
    (tmp_path / "images" / f"{train[0]}.jpg").unlink()
    assert names_of(Masks(tmp_path), "val") == val
    assert Masks(tmp_path, val_fraction=0).split("val") is None


@pytest.mark.parametrize("layout", ["sub-folders", "patterns", "lists", "pairs", "one folder"])
def test_layouts(tmp_path: Path, layout: str) -> None:
    settings: dict[str, Any] = {}
    for side, name in (("train", "a"), ("val", "b c"), ("test", "d.x")):
        if layout == "sub-folders":  # pictures of a city or a class in folders of their own, Roboflow's spelling
            spelt = "valid" if side == "val" else side
            image(tmp_path / "images" / spelt / "deep" / f"{name}.jpg")
            mask(tmp_path / "masks" / spelt / "deep" / f"{name}.png")
        elif layout == "patterns":
            settings = {"images": "{split}", "masks": "{split}_labels", "mask_suffix": "_L"}
            image(tmp_path / side / f"{name}.png")
            mask(tmp_path / f"{side}_labels" / f"{name}_L.png")
        elif layout == "one folder":
            settings = {"images": ".", "masks": ".", "mask_suffix": "_mask", "lists": "my_{split}.txt"}
            image(tmp_path / f"{name}.jpg")
            mask(tmp_path / f"{name}_mask.png")
            (tmp_path / f"my_{side}.txt").write_text(f"{name}.jpg\n")
        else:
            folder(tmp_path, [name])  # type: ignore[arg-type]
            line = f"\ufeff{name}\n\n" if layout == "lists" else f"images/{name.replace(' ', '_')}.jpg masks/x.png\n"
            (tmp_path / f"{side}.txt").write_text(line)
            if layout == "pairs":
                image(tmp_path / "images" / f"{name.replace(' ', '_')}.jpg")
                mask(tmp_path / "masks" / "x.png")
    source = Masks(tmp_path, **settings)
    want = ["a", "b_c" if layout == "pairs" else "b c", "d.x"]
    assert [names_of(source, side) for side in ("train", "val", "test")] == [[name] for name in want]
    assert source.provides == {"segmentation": ("0", "1")}
    assert load(source, "test")[0]["mask"].tolist() == TWO.tolist()


def test_masks_below_the_images_folder_are_no_images(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg"), image(tmp_path / "b.jpg")
    mask(tmp_path / "masks" / "a.png"), mask(tmp_path / "masks" / "b.png")
    assert names_of(Masks(tmp_path, images=".", val_fraction=0), "train") == ["a", "b"]


# Classes and colours


@pytest.mark.parametrize("form", ["csv", "json list", "json", "setting"])
def test_class_tables(tmp_path: Path, form: str) -> None:
    root = folder(tmp_path)
    settings: dict[str, Any] = {}
    if form == "csv":
        rows = [f"{name}, {', '.join(map(str, rgb))}" for name, rgb in COLOURS.items()]
        (root / "class_dict.csv").write_text("\n".join(["name,r,g,b", *rows, ""]))
        settings = {"ignore": ["void"]}
    elif form == "setting":
        settings = {"colours": COLOURS, "ignore": ["void"]}
    else:
        names = ["sky", "road"]
        palette = {"0": COLOURS["sky"], "1": COLOURS["road"]}
        table = {"names": names, "palette": palette, "ignore_index": 9}
        (root / "classes.json").write_text(json.dumps(names if form == "json list" else table))
    if form in ("csv", "setting", "json"):
        for name in "abcde":
            values = coloured("sky", "road", "sky") if form == "json" else coloured("sky", "road", "void")
            mask(root / "masks" / f"{name}.png", values)
    if form == "json":  # values count in masks that are not RGB
        mask(root / "masks" / "e.png", np.where(TWO == 255, 9, TWO).astype(np.uint8))
    source = Masks(root, val_fraction=0, **settings)
    assert source.provides == {"segmentation": ("sky", "road")}
    found = load(source)
    row = {"json": [0, 1, 0], "json list": [0, 1, 255, 1]}.get(form, [0, 1, 255])
    assert found.mask(0)[0].tolist() == np.repeat(row, 24 // len(row)).tolist()
    if form == "json":
        assert found.mask(4).tolist() == TWO.tolist()


def test_colours_of_palette_masks(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for name in "abcde":
        picture = Image.fromarray(coloured("sky", "road")).quantize(4)
        picture.save(root / "masks" / f"{name}.png")
    assert load(Masks(root, colours=COLOURS))[0]["mask"].unique().tolist() == [0, 1]


def test_ignored_values_colours_and_classes(tmp_path: Path) -> None:
    root = folder(tmp_path, values=np.array([[0, 1, 2, 7]], np.uint8).repeat(20, 0).repeat(6, 1))
    source = Masks(root, classes=["a", "b", "c"], ignore=[7, "b"])
    assert source.provides == {"segmentation": ("a", "c")}
    assert load(source)[0]["mask"][0, ::6].tolist() == [0, 255, 1, 255]
    assert Masks(root, ignore=[7]).provides == {"segmentation": ("0", "1", "2")}
    for name in "abcde":
        mask(root / "masks" / f"{name}.png", coloured("sky", "road", "void"))
    known = {name: COLOURS[name] for name in ("sky", "road")}
    assert load(Masks(root, colours=known, ignore=[[0, 0, 0]]))[0]["mask"][0, ::8].tolist() == [0, 1, 255]


# Errors


def test_missing_masks_and_folders(tmp_path: Path) -> None:
    refused(lambda: Masks(tmp_path / "gone"), "gone", "data.root=")
    refused(lambda: Masks(tmp_path), "images", "data.images")
    root = folder(tmp_path)
    (root / "masks" / "b.png").unlink()
    refused(lambda: Masks(root), "b.jpg", "masks/b.png", "1 of 5 images", "remove the image")
    refused(lambda: Masks(root, masks="labels"), "labels", "no such folder of masks", "data.masks")
    refused(lambda: Masks(root, masks="images"), "data.mask_suffix")
    image(root / "images" / "a.png")
    refused(lambda: Masks(root), "a.png", "a.jpg", "same name")


def test_lists_are_checked(tmp_path: Path) -> None:
    root = folder(tmp_path)
    refused(lambda: Masks(root, lists="side_{split}.txt"), "side_train.txt", "data.lists")
    for text, parts in (
        ("a\nq\n", ["line 2", "q", "no image"]),
        ("\n", ["no images are listed"]),
        ("a\nb\na.jpg\n", ["a.jpg", "2 times"]),
        ("images/a.jpg masks/q.png\n", ["line 1", "masks/q.png"]),
    ):
        (root / "train.txt").write_text(text)
        refused(lambda: Masks(root), "train.txt", *parts)
    (root / "masks" / "a.png").unlink()
    (root / "train.txt").write_text("b\na\n")
    refused(lambda: Masks(root), "train.txt", "line 2", "no mask a.png")
    (root / "train.txt").write_bytes(b"\xff\xfe\xff")
    refused(lambda: Masks(root), "train.txt", "cannot be read as text")


def test_another_size_than_the_image(tmp_path: Path) -> None:
    root = folder(tmp_path)
    mask(root / "masks" / "b.png", TWO[:10])
    refused(lambda: load(Masks(root, classes=["a", "b"])), "b.png", "b.jpg", "24x10", "24x20", "(1 of 5 masks are)")


def test_unknown_values_and_colours(tmp_path: Path) -> None:
    root = folder(tmp_path)
    mask(root / "masks" / "b.png", np.where(TWO == 1, 2, TWO).astype(np.uint8))
    refused(lambda: load(Masks(root, classes=["a", "b"])), "b.png", "240 pixels", "value 2", "data.ignore=[2]")
    mask(root / "masks" / "b.png", np.full((20, 24), 300, np.uint16))
    refused(lambda: load(Masks(root, classes=["a", "b"])), "b.png", "value 300")
    mask(root / "masks" / "b.png", coloured("sky", "road"))
    told = "[0, 0, 200]"
    refused(lambda: load(Masks(root, classes=["a", "b"])), "b.png", f"colour {told}", f"data.ignore=[{told}]")
    refused(lambda: Masks(root), "b.png", f"colour {told}", "data.colours=")
    for name in "abcde":
        mask(root / "masks" / f"{name}.png", coloured("sky", "road", "void"))
    part = {"sky": COLOURS["sky"], "road": COLOURS["road"]}
    refused(lambda: load(Masks(root, colours=part)), "a.png", "160 pixels", "[0, 0, 0]", "data.colours")


def test_broken_masks(tmp_path: Path) -> None:
    root = folder(tmp_path)
    file = root / "masks" / "b.png"
    file.write_bytes(file.read_bytes()[:-30])
    refused(lambda: load(Masks(root, classes=["a", "b"])), "b.png", "truncated")
    file.write_bytes(b"")
    refused(lambda: Masks(root), "b.png", "cannot be read", "replace")


def test_masks_of_one_class_teach_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path, values=np.where(TWO == 1, 255, 0).astype(np.uint8))
    for classes in (None, ["a", "b"]):
        refused(lambda classes=classes: load(Masks(root, classes=classes)), "less than two classes", "data.colours=")
    source = Masks(root, colours={"background": [0, 0, 0], "object": [255, 255, 255]})
    assert load(source)[0]["mask"].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"classes": "cat"}, "data.classes"),
        ({"classes": ["a", "a"]}, "data.classes"),
        ({"classes": []}, "data.classes"),
        ({"names": ["a"], "colours": COLOURS}, "give one"),
        ({"classes": ["a"], "colours": COLOURS}, "data.classes: no class is called 'a'"),
        ({"colours": {"a": [1, 2, 300]}}, "data.colours.a"),
        ({"colours": {"a": [1, 2, 3], "b": [1, 2, 3]}}, "2 classes have the colour [1, 2, 3]"),
        ({"classes": ["a", "b"], "ignore": ["c"]}, "data.ignore: c"),
        ({"classes": ["a", "b"], "ignore": [300]}, "data.ignore: 300"),
        ({"classes": ["a", "b"], "ignore": [[1, 2]]}, "data.ignore"),
        ({"val_fraction": 1.5}, "data.val_fraction"),
    ],
)
def test_settings_are_checked(tmp_path: Path, settings: dict[str, Any], part: str) -> None:
    refused(lambda: Masks(folder(tmp_path), **settings), part)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("class_dict.csv", "name,r,g,b\nsky,1,2\n"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,x\n"),
        ("class_dict.csv", "name,r,g,b\nsky,1,2,3\nsky,1,2,4\n"),
        ("class_dict.csv", ""),
        ("classes.json", "{"),
        ("classes.json", '{"classes": []}'),
        ("classes.json", "3"),
        ("classes.json", '{"names": [1, 2]}'),
        ("classes.json", '{"names": ["a"], "palette": {"0": [1]}}'),
    ],
)
def test_class_tables_are_checked(tmp_path: Path, file: str, text: str) -> None:
    (folder(tmp_path) / file).write_text(text)
    refused(lambda: Masks(tmp_path), file)


# Cityscapes


@pytest.mark.parametrize("labels", ["labelIds", "labelTrainIds"])
def test_cityscapes(tmp_path: Path, labels: str) -> None:
    for side, name in (("train", "ulm_1"), ("train", "bonn_1"), ("val", "jena_1"), ("test", "mainz_1")):
        city = name.split("_")[0]
        image(tmp_path / "leftImg8bit" / side / city / f"{name}_leftImg8bit.png")
        row = [7, 33, 0, 29] if labels == "labelIds" else [0, 18, 255, 255]
        values = np.array([row if side != "test" else [3] * 4], np.uint8).repeat(20, 0).repeat(6, 1)
        mask(tmp_path / "gtFine" / side / city / f"{name}_gtFine_{labels}.png", values)
    source = Cityscapes(tmp_path)
    assert source.provides == {"segmentation": tuple(CLASSES)} and len(CLASSES) == 19
    train = load(source)
    assert names_of(source, "train") == ["bonn_1_leftImg8bit", "ulm_1_leftImg8bit"]
    assert train[0]["mask"][0, ::6].tolist() == [0, 18, 255, 255]
    assert train.pixel_counts()[[0, 18]].tolist() == [240, 240] and train.pixel_counts().sum() == 480
    assert len(load(source, "val")) == 1
    assert (source.split("test") is None) == (labels == "labelIds")  # only blank masks
    (tmp_path / "gtFine" / "train" / "ulm" / f"ulm_1_gtFine_{labels}.png").unlink()
    refused(lambda: Cityscapes(tmp_path).split("train"), "ulm_1_leftImg8bit.png", "labelIds.png")
    refused(lambda: Cityscapes(tmp_path / "gtFine"), "leftImg8bit", "data.root")


# Real data, as the configs read it


def configured(*overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS / "data"), version_base="1.3"):
        (section,) = compose(overrides[0], list(overrides[1:])).data.values()
    return instantiate(section, _convert_="all")


def test_camvid(shared: Path) -> None:
    source = configured("camvid", f"data.camvid.root={shared}/data/camvid")
    table = json.loads((shared / "data" / "camvid" / "classes.json").read_text())
    assert source.classes == tuple(table["names"])
    for side, length in (("train", 367), ("val", 101), ("test", 233)):
        split = load(source, side)
        assert len(split) == length
        assert split.pixel_counts().tolist() == [table["pixel_counts"][side][name] for name in source.classes]


def test_camvid_in_the_folders_of_segnet(tmp_path: Path) -> None:
    for side in ("train", "val", "test"):
        image(tmp_path / side / f"{side}.png")
        mask(tmp_path / f"{side}annot" / f"{side}.png", np.where(TWO == 255, 11, TWO).astype(np.uint8))
        (tmp_path / f"{side}.txt").write_text(f"/SegNet/CamVid/{side}/{side}.png /SegNet/CamVid/{side}annot/{side}.png")
    where = ('data.camvid.images="{split}"', 'data.camvid.masks="{split}annot"', "data.camvid.lists=null")
    source = configured("camvid", f"data.camvid.root={tmp_path}", *where)
    assert [names_of(source, side) for side in ("train", "val", "test")] == [["train"], ["val"], ["test"]]
    assert load(source)[0]["mask"].tolist() == TWO.tolist()


def test_pets(shared: Path) -> None:
    where = ('data.masks.lists="seg_{split}.txt"', "data.masks.classes=[background,pet]")
    source = configured("masks", f"data.masks.root={shared}/data/pets3", *where)
    assert source.provides == {"segmentation": ("background", "pet")}
    assert [len(load(source, side)) for side in ("train", "val")] == [300, 298] and source.split("test") is None
    assert load(source).path(0).name == "Abyssinian_1.jpg"


# Other people's layouts


def pair(root: Path, image_name: str, mask_name: str, values: np.ndarray = TWO) -> None:
    image(root / image_name), mask(root / mask_name, values)


@pytest.mark.parametrize("layout", ["sub-folders", "flat masks", "side first", "a folder more", "patterns", "trainval"])
def test_sides_in_any_spelling(tmp_path: Path, layout: str) -> None:
    settings: dict[str, Any] = {}
    for i, (side, other) in enumerate((("training", "Train"), ("Validation", "val"), ("Test", "testing"))):
        if layout == "sub-folders":
            pair(tmp_path, f"images/{side}/{i}.jpg", f"masks/{other}/{i}.png")
        elif layout == "flat masks":
            pair(tmp_path, f"images/{side}/{i}.jpg", f"masks/{i}.png")
        elif layout == "side first":
            pair(tmp_path, f"my_{side}/images/{i}.jpg", f"my_{side}/masks/{i}.png")
        elif layout == "a folder more":
            pair(tmp_path, f"data/set/images/{side}/{i}.jpg", f"data/set/masks/{side}/{i}.png")
        elif layout == "patterns":
            settings = {"images": "{split}", "masks": "{split}_labels"}
            pair(tmp_path, f"{side}/{i}.jpg", f"{other}_labels/{i}.png")
        else:
            pair(tmp_path, f"images/{i}.jpg", f"masks/{i}.png")
            (tmp_path / f"{('trainval', 'dev', 'Test')[i]}.txt").write_text(f"{i}\n")
    source = Masks(tmp_path, **settings)
    assert [names_of(source, side) for side in ("train", "val", "test")] == [["0"], ["1"], ["2"]]
    assert (load(source).notes[:1] == ["all in data/set/"]) == (layout == "a folder more")


def test_one_list_is_trains(tmp_path: Path) -> None:
    folder(tmp_path, "abcdefgh")
    (tmp_path / "all.txt").write_text("\n".join("abcdef"))
    source = Masks(tmp_path, lists="all.txt")
    assert sorted(names_of(source, "train") + names_of(source, "val")) == list("abcdef") and names_of(source, "val")
    assert load(source).left_out == {"on no list": 2}
    (tmp_path / "val.txt").write_text("a\n")
    refused(lambda: Masks(tmp_path).split("train"), "there is val, but no train side", "train.txt")


def test_names_as_others_write_them(tmp_path: Path) -> None:
    folder(tmp_path, ["a b", unicodedata.normalize("NFD", "é"), "c"])  # type: ignore[arg-type]
    for old, new in (("a b", "a%20b"), (unicodedata.normalize("NFD", "é"), "é")):
        (tmp_path / "masks" / f"{old}.png").rename(tmp_path / "masks" / f"{new}.PNG")
    assert len(load(Masks(tmp_path, val_fraction=0))) == 3
    (tmp_path / "train.txt").write_text("images\\a%20b.JPG\né\nimages\\c.jpg,masks\\c.png\n", encoding="utf-8")
    split = load(Masks(tmp_path, val_fraction=0))
    assert [unicodedata.normalize("NFC", split.path(i).stem) for i in range(3)] == ["a b", "é", "c"]
    assert split.mask_path(0).name == "a%20b.PNG"


def test_what_lies_beside_masks_is_counted(tmp_path: Path) -> None:
    folder(tmp_path)
    mask(tmp_path / "masks" / "z.png"), mask(tmp_path / "masks" / ".ipynb_checkpoints" / "a.png")
    image(tmp_path / "images" / "@eaDir" / "a.jpg"), (tmp_path / "images" / "b.heic").touch()
    left = load(Masks(tmp_path)).left_out
    assert left == {"hidden": 2, ".heic": 1, "mask without an image": 1}
    image(tmp_path / "images" / "q.jpg"), image(tmp_path / "masks" / "q.jpg")
    refused(lambda: Masks(tmp_path), "q.jpg", "its mask q.jpg is a JPEG", "PNG", "1 of 6")


def test_images_beside_the_sides_and_without_masks(tmp_path: Path) -> None:
    pair(tmp_path, "images/train/a.jpg", "masks/train/a.png"), pair(tmp_path, "images/val/b.jpg", "masks/val/b.png")
    image(tmp_path / "images" / "test" / "c.jpg"), image(tmp_path / "images" / "cover.jpg")
    source = Masks(tmp_path)
    assert source.split("test") is None and load(source).left_out == {"on no side": 1}
    assert load(source).notes[0] == "there is no test side: no mask for its 1 image"


# Values that nobody named


def levels(*values: int) -> np.ndarray:
    """(24, 24) in stripes."""
    return np.array(values, np.uint8).repeat(24 // len(values))[None].repeat(24, 0)


@pytest.mark.parametrize("values", [(0, 127, 255), (0, 50, 100, 150), (0, 128), (10, 245)])
def test_grey_levels_are_no_indices(tmp_path: Path, values: tuple[int, ...]) -> None:
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg", (24, 24)), mask(tmp_path / "masks" / f"{name}.png", levels(*values))
    first, last = (f"class{i}: [{values[i]},{values[i]},{values[i]}]" for i in (0, len(values) - 1))
    refused(
        lambda: Masks(tmp_path), str(tmp_path / "masks"), ", ".join(map(str, values)), "data.colours={", first, last
    )
    colours = {f"class{i}": [value] * 3 for i, value in enumerate(values)}
    assert load(Masks(tmp_path, colours=colours, val_fraction=0)).pixel_counts().min() > 0


def test_values_that_jpeg_made_are_no_classes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 90, (24, 24)).astype(np.uint8)
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg", (24, 24)), mask(tmp_path / "masks" / f"{name}.png", noise)
    refused(lambda: Masks(tmp_path), "no classes but what JPEG", "PNG")


def test_indices_with_gaps_are_indices(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / "images" / f"{name}.jpg", (24, 24)), mask(tmp_path / "masks" / f"{name}.png", levels(0, 3, 11))
    assert len(Masks(tmp_path).classes) == 12


def test_ignored_pixels_are_said(tmp_path: Path) -> None:
    thin, wide = levels(0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1), levels(0, 255)
    thin[:, 4:6] = 255
    for values, words in (
        (thin, "255, on 8.3% of the pixels, is ignored"),
        (wide | thin, "it fills whole regions"),
    ):
        for name in "ab":
            image(tmp_path / "images" / f"{name}.jpg", (24, 24)), mask(tmp_path / "masks" / f"{name}.png", values)
        (note,) = load(Masks(tmp_path)).notes
        assert words in note and ("regions" in note) == (values is not thin)


@pytest.mark.parametrize("place", ["ImageSets/Segmentation", "splits", "."])
def test_lists_are_found_wherever_they_are(tmp_path: Path, place: str) -> None:
    folder(tmp_path, "abcd")
    for name, text in ((f"{place}/Training.txt", "./a\n/home/me/set/images/b.PNG\n"), (f"{place}/valid.txt", "c.jpg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("d")
    source = Masks(tmp_path)
    assert names_of(source, "train") == ["a", "b"] and names_of(source, "val") == ["c"]
    assert load(source).notes[:1] == ["not read: ImageSets/Main/train.txt"]


def test_lists_in_two_places_and_sides_that_nothing_tells(tmp_path: Path) -> None:
    folder(tmp_path, "abcd")
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "train.txt").write_text("a\nb\n")
    refused(lambda: Masks(tmp_path), "one and two all hold lists", "data.lists=")
    for side in ("train", "val"):
        pair(tmp_path / "other", f"images/day/{side}/a.jpg", f"masks/day/{side}/a.png")
    refused(lambda: Masks(tmp_path / "other"), "images/day/train/a.jpg and images/day/val/a.jpg", "images/train")


def test_a_pattern_finds_sides_in_any_spelling(tmp_path: Path) -> None:
    for side, i in (("train2017", 0), ("valid_2", 1)):
        pair(tmp_path, f"frames/{side}/{i}.jpg", f"labels/{side}/{i}.png")
    source = Masks(tmp_path, images="frames/{split}", masks="labels/{split}")
    assert [names_of(source, side) for side in ("train", "val")] == [["0"], ["1"]]
    refused(lambda: Masks(tmp_path, images="x/{split}", masks="labels/{split}"), "x/train", "data.images")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.JPG", "its mask a.JPG is a JPEG"),
        ("a.webp", "is .webp, which may not keep values"),
        ("a.npy", "its mask a.npy is of a kind that is not read"),
        ("a_mask.png", "but a_mask.png is there: perhaps data.mask_suffix=_mask"),
        ("a1.png", "masks/a.png (1 of 1"),
    ],
)
def test_masks_of_other_names_and_kinds_are_said(tmp_path: Path, name: str, words: str) -> None:
    image(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / name).touch()
    refused(lambda: Masks(tmp_path), "images/a.jpg", words)


def test_masks_may_be_of_any_kind_that_keeps_values(tmp_path: Path) -> None:
    for i, suffix in enumerate((".tga", ".pgm", ".bmp", ".TIF", ".qoi")):
        image(tmp_path / "images" / f"{i}.jpg")
        mask(tmp_path / "masks" / f"{i}{suffix}", TWO if suffix != ".qoi" else TWO[..., None].repeat(3, 2))
    split = load(Masks(tmp_path, val_fraction=0))
    assert [split.mask(i).tolist() for i in range(5)] == [TWO.tolist()] * 5
