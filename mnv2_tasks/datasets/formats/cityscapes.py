"""Cityscapes: street scenes of 2048x1024 pixels with the 19 classes of its benchmark (arXiv 1604.01685)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.reading.classes import check_choice
from mnv2_tasks.datasets.reading.file_split import check_root
from mnv2_tasks.datasets.reading.legend import Legend, choose, index_legend
from mnv2_tasks.datasets.reading.listing import LeftOut, walk
from mnv2_tasks.datasets.reading.masked_split import MaskSplit, make_split
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.samples import IGNORED

# The benchmark's classes in the order of their train ids, and the ids of the label files, as in the official scripts.
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
IMAGE = "_leftImg8bit.png"
LABELS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")


class Cityscapes:
    """`leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png`, and `gtFine/` with a `*_gtFine_labelIds.png` for each.

    Args:
        root: the folder with leftImg8bit and gtFine.
        classes: those to learn, in the order of the class indices; the pixels of the others are "background", which
            comes first unless it is named. None: all 19.
        max_side: an image whose long side is over this is reduced when it is read.

    Ids outside of the benchmark's 19 classes are ignored. A side without labelIds files is read from labelTrainIds.
    Raises InputError for what is wrong once a side is asked for.
    """

    def __init__(self, root: str | Path, *, classes: Sequence[str] | None = None, max_side: int | None = None) -> None:
        self.root = check_root(root, val_fraction=0)
        self.max_side = max_side
        for folder in ("leftImg8bit", "gtFine"):
            if not any((self.root / folder / side).is_dir() for side in SIDES):
                raise InputError(
                    f"{self.root / folder / 'train'}: there is no such folder; unpack leftImg8bit_trainvaltest.zip "
                    "and gtFine_trainvaltest.zip into data.root"
                )
        self._choice = check_choice(classes)
        self.provides = {"segmentation": self._choose(LABELS[0])[0]}
        self._splits: dict[str, MaskSplit | None] = {}

    def split(self, name: str) -> MaskSplit | None:
        """The images of "train", "val" or "test"; None where there are none, or (test) only with blank masks."""
        if name not in self._splits:
            self._splits[name] = self._make(name)
        return self._splits[name]

    def _make(self, side: str) -> MaskSplit | None:
        folder = self.root / "leftImg8bit" / side
        files, left = walk(folder, (".png",)) if folder.is_dir() else ([], LeftOut())
        images = [folder / file for file in files if file.endswith(IMAGE) and file.count("/") == 1]
        if others := len(files) - len(images):
            left[f"not <city>/*{IMAGE}"] += others
        if not images and side != "train":
            return None
        if not images:
            raise InputError(f"{folder}: there are no <city>/*{IMAGE} in it; put them there")
        labels, masks = self._masks(side, images)
        classes, legend, notes = self._choose(labels)
        split = make_split(
            images,
            masks,
            legend=legend,
            class_names=classes,
            max_side=self.max_side,
            read=False,  # no value is refused, and they are large
        )
        split.left_out, split.notes = left, notes
        if side == "test" and (split.mask(0) == IGNORED).all():
            if train := self.split("train"):
                train.notes.append(f"test/ is no side: the masks of its {amount(len(split), 'image')} are blank")
            return None
        return split

    def _choose(self, labels: str) -> tuple[tuple[str, ...], Legend, list[str]]:
        return choose(tuple(CLASSES), _legend(labels), self._choice, where="Cityscapes")

    def _masks(self, side: str, images: list[Path]) -> tuple[str, list[Path]]:
        """The kind of label files that there are, and the one of each image."""
        folder = self.root / "gtFine" / side
        for labels in LABELS:
            masks = [folder / path.parent.name / path.name.replace(IMAGE, labels) for path in images]
            missing = [image for image, mask in zip(images, masks, strict=True) if not mask.is_file()]
            if not missing:
                return labels, masks
            if len(missing) < len(images):
                break
        mask = folder / missing[0].parent.name / missing[0].name.replace(IMAGE, LABELS[0])
        raise InputError(
            f"{missing[0]}: it has no mask {mask} "
            f"({len(missing)} of {len(images)} images have none); put it there, or remove the image"
        )


def _legend(labels: str) -> Legend:
    if labels == LABELS[1]:
        indices = index_legend(len(CLASSES)).indices
    else:
        indices = np.full(256, -1, np.int16)
        indices[list(CLASSES.values())] = np.arange(len(CLASSES))
    return Legend(np.where(indices < 0, IGNORED, indices).astype(np.int16), {})
