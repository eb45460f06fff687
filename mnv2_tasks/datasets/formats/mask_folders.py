"""Segmentation data as a folder of images and a folder of masks, whose pixels are class indices or colours."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.formats.mask_layout import read_layout
from mnv2_tasks.datasets.formats.mask_values import number_of_classes
from mnv2_tasks.datasets.reading.classes import check_choice
from mnv2_tasks.datasets.reading.file_split import check_root, held_out, part
from mnv2_tasks.datasets.reading.legend import ClassTable, choose, class_table, make_legend
from mnv2_tasks.datasets.reading.masked_split import MaskSplit, make_split
from mnv2_tasks.datasets.reading.sides import no_train
from mnv2_tasks.errors import InputError


class Masks:
    """Image and mask files of the same names; a mask's values are class indices, with 255 for ignored pixels.

    Args:
        root: the data set's folder.
        images, masks: folders below root, "{split}" allowed. A name is a path in there without its suffix.
        mask_suffix: what follows an image's name in its mask's, as "_mask" in a_mask.png for a.jpg.
        lists: file below root, with "{split}" for train, val, test; without it, one list for all, of which val is
            held out. A line is an image's name, or an image and a mask with their paths below root. None: {split}.txt
            where there is one; otherwise the sides are sub-folders of `images` and `masks`, or hold such folders
            themselves, or without those are split by a hash of the names. Sides may be spelled in other ways.
        names: of the classes in the order of the indices. None: of `colours`, of class_dict.csv (name, r, g, b) or
            classes.json (names, and perhaps a palette) in root; without any, `classes`, or numbers up to the
            largest in train, where the values look like class indices (of the first side, where there is no train).
        colours: {class: [r, g, b]}, for masks that are told by colour.
        classes: those to learn, in the order of the class indices; the pixels of the others are "background", which
            comes first unless it is named. None: all. Where nothing else names the values, the names of all.
        ignore: more that is to count as 255: values, colours [r, g, b], or names of classes, which are left out.
        val_fraction: the part of train held out where there is no val side.
        outside: whether file names may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    Masks of 16-bit, palette and black-and-white files count by their values, RGB masks by colour. Raises InputError
    for what is wrong: in folders, lists and names at once, in the files once their side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        lists: str | None = None,
        names: Sequence[str] | None = None,
        classes: Sequence[str] | None = None,
        colours: Mapping[str, Sequence[int]] | None = None,
        ignore: Sequence[int | str | Sequence[int]] = (),
        val_fraction: float = 0.2,
        outside: bool = False,
        max_side: int | None = None,
    ) -> None:
        self.root = check_root(root, val_fraction=val_fraction)
        self.val_fraction = val_fraction
        self.max_side = max_side
        self._sides = read_layout(self.root, images, masks, suffix=mask_suffix, lists=lists, outside=outside)
        choice = check_choice(classes)
        table = class_table(self.root, names, colours)
        if not table.where and choice is not None:
            table, choice = ClassTable("data.classes", choice), None
        if not table.where:
            values = [one for one in ignore if isinstance(one, int)]
            first = next(iter(self._sides))  # train, where there is one
            pairs = self._sides[first].pairs
            count, notes = number_of_classes([mask for _, mask in pairs], ignore=values)
            self._sides[first].notes = [*self._sides[first].notes, *notes]
            table = ClassTable(
                f"the {'training' if first == 'train' else first} masks", [str(number) for number in range(count)]
            )
        present, legend = make_legend(table, ignore)
        self.classes, self.legend, notes = choose(present, legend, choice, where=str(self.root))
        for side in self._sides.values():
            side.notes = [*side.notes, *notes]
        self.provides = {"segmentation": self.classes}
        self._splits: dict[str, MaskSplit | None] = {}

    def split(self, name: str) -> MaskSplit | None:
        """The pairs of "train", "val" or "test", checked; None where there are none."""
        if name == "train" and "train" not in self._sides:
            fix = "put its images and masks into folders called train, or list them in train.txt"
            raise no_train(self.root, self._sides, fix=fix)
        if name not in self._splits:
            if name in self._sides:
                self._splits[name] = self._make(name)
            if "train" in self._sides and "val" not in self._sides and name in ("train", "val"):
                self._hold_out(self._splits.get("train") or self._make("train"))
        return self._splits.get(name)

    def _make(self, side: str) -> MaskSplit:
        files = self._sides[side]
        images, masks = zip(*files.pairs, strict=True)
        split = make_split(images, masks, legend=self.legend, class_names=self.classes, max_side=self.max_side)
        split.left_out, split.notes = files.left_out, files.notes
        if side == "train" and np.count_nonzero(split.pixel_counts()) < 2:
            raise InputError(
                f"{masks[0].parent}: the training masks hold less than two classes, besides 255 for ignored; if black "
                "and white stand for classes give data.colours={background: [0,0,0], object: [255,255,255]}"
            )
        return split

    def _hold_out(self, train: MaskSplit) -> None:
        mask = held_out([self._name(train.path(i)) for i in range(len(train))], self.val_fraction)
        self._splits["train"], self._splits["val"] = part(train, mask)

    def _name(self, image: Path) -> str:
        """What its side is chosen by, where val is held out."""
        return Path(os.path.relpath(image, self.root)).with_suffix("").as_posix()
