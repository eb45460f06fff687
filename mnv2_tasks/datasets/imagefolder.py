"""Classification data: a folder of images for each class, or a table of files and their labels."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2_tasks.datasets.class_folders import label_tables, read_folders
from mnv2_tasks.datasets.classes import check_choice, new_numbers
from mnv2_tasks.datasets.files import MAX_SIDE, FileSplit, check_root, held_out, part
from mnv2_tasks.datasets.images import MAX_CHECKED, check_images
from mnv2_tasks.datasets.label_table import read_table
from mnv2_tasks.datasets.listing import amount, without_any
from mnv2_tasks.datasets.sides import no_train
from mnv2_tasks.errors import InputError


class LabelledImages(FileSplit):
    """Images of a folder, each of one class or, for multi-label data, of any number.

    Args:
        folder, names: where the images are; `names` are relative to it.
        targets: (I,) int64, the class of each image; or (I, K) bool, the classes that each shows.
        class_names: K of them.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        targets: NDArray[Any],
        class_names: tuple[str, ...],
        max_side: int | None = MAX_SIDE,
    ) -> None:
        super().__init__(max_side=max_side)
        self.folder, self.class_names, self.targets = folder, class_names, targets
        # Bytes in one array: a list of strings would be copied page by page into every loader process.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.folder / self.file_name(index)

    def file_name(self, index: int) -> str:
        """The image's name relative to the folder."""
        return os.fsdecode(self._names[index])

    def contents(self) -> str:
        return label_contents(self.targets, len(self.class_names))

    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        if self.targets.ndim == 1:
            return {"label": torch.tensor(self.label(index))}
        return {"presence": torch.from_numpy(self.targets[index].astype(np.float32))}  # (K,)

    def label(self, index: int) -> int:
        """The image's class, without reading the image; -1 for unknown, as in all multi-label data."""
        return int(self.targets[index]) if self.targets.ndim == 1 else -1

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images show each class."""
        if self.targets.ndim == 2:
            return torch.from_numpy(self.targets.sum(0, dtype=np.int64))
        return torch.from_numpy(np.bincount(self.targets, minlength=len(self.class_names)))

    def subset(self, mask: NDArray[np.bool_]) -> "LabelledImages":
        """The images where `mask` (I,) is true, in the same order."""
        return LabelledImages(
            self.folder,
            [self.file_name(i) for i in np.flatnonzero(mask).tolist()],
            targets=self.targets[mask],
            class_names=self.class_names,
            max_side=self.max_side,
        )

    def only(self, classes: tuple[str, ...]) -> "LabelledImages":
        """The images of these classes alone, in their numbers; of multi-label data all images."""
        return only_classes(self, classes)


def only_classes(split: Any, classes: tuple[str, ...]) -> Any:
    """What `only` of a split with `targets` gives, and a note of what it leaves out."""
    if classes == split.class_names:
        return split
    numbers = new_numbers(split.class_names, classes)
    if split.targets.ndim == 2:
        targets = np.zeros((len(split), len(classes)), np.bool_)
        targets[:, numbers[numbers >= 0]] = split.targets[:, numbers >= 0]
        wanted = np.ones(len(split), np.bool_)
    else:
        targets = numbers[split.targets]
        wanted = targets >= 0
    less = split.subset(wanted)
    less.targets, less.class_names = targets[wanted], classes
    less.left_out, less.notes = split.left_out, list(split.notes)
    if others := int((~wanted).sum()):
        less.notes.append(f"{amount(others, 'image')} of other classes left out")
    return less


def label_contents(targets: NDArray[Any], classes: int) -> str:
    """ "3 classes"; of multi-label targets (I, K) also "1,203 labels (12 images without any)"."""
    text = amount(classes, "class", "classes")
    if targets.ndim == 1:
        return text
    return f"{text}, {amount(int(targets.sum()), 'label')}{without_any(int((~targets.any(1)).sum()))}"


class ImageFolder:
    """root/{train,val,test}/<class>/ with images at any depth, or root/<class>/ alone.

    Args:
        root: the data set's folder. Its sides may be spelled in other ways, as Training or my_valid_set, and lie in a
            folder more.
        labels: a CSV file below root to read instead: columns "file" (relative to root), "label" and, if there is
            one, "split" (train, val or test, in any spelling).
        separator: between the labels of a file that has several, such as "|": the data is multi-label then, and a
            file without labels shows no class.
        classes: names in the order of the class indices, all others being left out; None: every class of train, sorted.
        val_fraction: where there is no val side, the part of train's images held out, class by class, by a hash of
            their names. With 0, the test side, where there is one, serves as val.
        outside: whether file names may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    A test folder without class folders, such as an unlabelled competition's, counts as none. Raises InputError for
    what is wrong: in folders and tables at once, in images once their side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | None = None,
        separator: str | None = None,
        classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        outside: bool = False,
        max_side: int | None = MAX_SIDE,
    ) -> None:
        self.root = check_root(root, val_fraction=val_fraction)
        classes = check_choice(classes)
        if separator is not None and (labels is None or not separator):
            raise InputError(f"data.separator={separator!r} parts the labels in a table: name it as data.labels=<file>")
        if labels is None:
            names, found = read_folders(self.root, classes)
        else:
            names, found = read_table(self.root / labels, separator, classes, root=self.root, outside=outside)
        if separator is None and len(names) < 2:
            table = next(iter(label_tables(self.root) if labels is None else ()), None)
            fix = f"; or name the labels' table as data.labels={table}" if table else ""
            raise InputError(f"{self.root}: {names[0]} is the only class: give two or more to tell apart{fix}")
        self.provides = {"classification" if separator is None else "multilabel": names}
        self._sides: dict[str, LabelledImages] = {}
        for side, one in found.items():
            split = LabelledImages(self.root, one.files, targets=one.targets, class_names=names, max_side=max_side)
            split.left_out, split.notes = one.left_out, one.notes
            self._sides[side] = split
        if "train" in self._sides and "val" not in self._sides:
            self._hold_out(val_fraction)
        self._labels, self._checked = labels, set[str]()

    def split(self, name: str) -> LabelledImages | None:
        """The images of "train", "val" or "test", checked; None where there are none."""
        if name == "train" and name not in self._sides:
            place = self.root / self._labels if self._labels else self.root
            raise no_train(
                place, self._sides, fix="list training images" if self._labels else "add it, as train/<class>/"
            )
        split = self._sides.get(name)
        # Above the limit only existence is checked, which the listing of folders has just seen.
        if split is not None and name not in self._checked and not (self._labels is None and len(split) > MAX_CHECKED):
            check_images([split.path(i) for i in range(len(split))])
            self._checked.add(name)
        return split

    def _hold_out(self, fraction: float) -> None:
        train = self._sides["train"]
        mask = held_out_by_class([train.file_name(i) for i in range(len(train))], train.targets, fraction)
        train, val = part(train, mask)
        if val is not None:
            self._sides |= {"train": train, "val": val}
        elif "test" in self._sides:
            val = self._sides["val"] = self._sides.pop("test")
            val.notes = [*val.notes, "the test images serve as val"]


def held_out_by_class(names: Sequence[str], targets: NDArray[Any], fraction: float) -> NDArray[np.bool_]:
    """`held_out` within each class of `targets` (I,), so that train and val know every class with two images or more.

    For multi-label targets (I, K) over all images at once.
    """
    if targets.ndim == 2:
        return held_out(names, fraction)
    mask = np.zeros(len(targets), np.bool_)
    for label in np.unique(targets).tolist():
        rows = np.flatnonzero(targets == label).tolist()
        mask[rows] = held_out([names[row] for row in rows], fraction)
    return mask
