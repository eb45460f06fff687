"""Pascal VOC's segmentation through data=voc_masks, and which classes an image of its boxes shows."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.datasets.formats.mask_folders import Masks
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.errors import InputError

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"
BOX = "<xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"


def devkit(root: Path) -> Path:
    """Three images with boxes, of which the last two have masks, too: a dog and a person with a border."""
    for folder in ("JPEGImages", "SegmentationClass", "Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for name in ("1", "2", "3"):
        Image.new("RGB", (32, 24)).save(root / "JPEGImages" / f"{name}.jpg")
        things = [OBJECT.format("dog", 0, BOX), OBJECT.format("dog", 1, BOX), OBJECT.format("person", 1, BOX)]
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{''.join(things)}</annotation>")
    for name in ("2", "3"):
        values = np.repeat(np.array([[0, 12, 255, 15]], np.uint8), 24, 0).repeat(8, 1)
        mask = Image.new("P", (32, 24))
        mask.putdata(values.ravel().tolist())
        mask.putpalette([0, 0, 0, 128, 0, 0] + [7] * 762)
        mask.save(root / "SegmentationClass" / f"{name}.png")
    for folder, train, val in (("Main", "1\n2\n", "3\n"), ("Segmentation", "2\n", "3\n")):
        (root / "ImageSets" / folder / "train.txt").write_text(train)
        (root / "ImageSets" / folder / "val.txt").write_text(val)
    return root


def masks(root: Path) -> Masks:
    with initialize_config_dir(str(CONFIGS / "data"), version_base="1.3"):
        config = compose("voc_masks", [f"data.voc_masks.root={root}"])
    settings = OmegaConf.to_container(config.data.voc_masks)
    assert isinstance(settings, dict) and settings.pop("_target_").endswith("mask_folders.Masks")
    return Masks(**settings)


def test_masks_of_the_segmentation_lists(tmp_path: Path) -> None:
    source = masks(devkit(tmp_path))
    (names,) = source.provides.values()
    assert len(names) == 21 and names[0] == "background" and names[12] == "dog" and names[15] == "person"
    assert list(names[1:]) == sorted(names[1:])
    train, val = source.split("train"), source.split("val")
    assert train is not None and val is not None and source.split("test") is None
    assert [train.path(0).stem, val.path(0).stem] == ["2", "3"] and len(train) == len(val) == 1
    assert train[0]["mask"][0, ::8].tolist() == [0, 12, 255, 15]
    assert train.pixel_counts().nonzero().ravel().tolist() == [0, 12, 15]


def test_a_list_without_masks_is_refused(tmp_path: Path) -> None:
    root = devkit(tmp_path)
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("1\n")
    with pytest.raises(
        InputError, match=r"Segmentation/train.txt: line 1: there is no mask 1.png in .*SegmentationClass"
    ):
        masks(root)


def test_presence_leaves_difficult_classes_unknown(tmp_path: Path) -> None:
    source = Voc(devkit(tmp_path), one_based=True)
    assert source.provides == {"detection": ("dog", "person"), "multilabel": ("dog", "person")}
    train = source.split("train")
    assert train is not None and len(train) == 2
    assert train[0]["presence"].tolist() == [1, -1] and "mask" not in train[0]
    assert train.label_counts().tolist() == [2, 0]
