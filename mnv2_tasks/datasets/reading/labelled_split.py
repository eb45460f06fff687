"""Images with a class each, or any number of them: the split that yields samples."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2_tasks.datasets.reading.classes import new_numbers
from mnv2_tasks.datasets.reading.file_split import MAX_SIDE, FileSplit, held_out
from mnv2_tasks.errors import amount, without_any


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
        self.folder = folder
        self.class_names = class_names
        self.targets = targets
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

    def joined(self, other: "LabelledImages") -> "LabelledImages":
        """These images, then the other's, of the same classes."""
        both = LabelledImages(
            Path("/"),
            [os.path.abspath(split.path(i)) for split in (self, other) for i in range(len(split))],
            targets=np.concatenate([self.targets, other.targets]),
            class_names=self.class_names,
            max_side=self.max_side,
        )
        both.left_out, both.notes = self.left_out, list(self.notes)
        return both

    def shown(self) -> NDArray[np.bool_]:
        """(I, K): which classes each image shows."""
        return shown_of(self.targets, len(self.class_names))

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


def shown_of(targets: NDArray[Any], classes: int) -> NDArray[np.bool_]:
    """(I, K) of the class of each image (I,), or as it is (I, K)."""
    return targets if targets.ndim == 2 else targets[:, None] == np.arange(classes)


def label_contents(targets: NDArray[Any], classes: int) -> str:
    """ "3 classes"; of multi-label targets (I, K) also "1,203 labels (12 images without any)"."""
    text = amount(classes, "class", "classes")
    if targets.ndim == 1:
        return text
    return f"{text}, {amount(int(targets.sum()), 'label')}{without_any(int((~targets.any(1)).sum()))}"


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
