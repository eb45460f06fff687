"""Samples from image files: every format on disk says where an image is and what is known of it."""

import hashlib
import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mnv2_tasks.datasets.reading.images import find_depth, image_size, read_image
from mnv2_tasks.datasets.reading.listing import LeftOut
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_bytes

MAX_SIDE = 1333  # of an image as it is read: detail enough for the input sizes used here, and big photos load fast


@dataclass(frozen=True)
class Original:
    """An image as it is stored: its file's name and bytes, (H, W), whether that was declared, labels in its pixels."""

    name: str
    content: bytes
    size: tuple[int, int]
    declared: bool
    labels: dict[str, Any]


class EncodedSplit(Dataset[dict[str, Any]]):
    """One side of a data set whose images are encoded files, alone or in shards.

    Args:
        max_side: an image with a longer side is reduced when it is read, and its labels with it.

    Attributes:
        depth: the bits that the values of 16-bit files use.
        left_out: the files that are there but not used; of one folder for all sides, train has them all.
        notes: what else is to be said of this side at the start.
    """

    def __init__(self, *, max_side: int | None = None) -> None:
        self.max_side = max_side
        self.depth = 16
        self.left_out = LeftOut()
        self.notes: list[str] = []

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def find_depth(self) -> int | None:
        """The bits that the values of 16-bit files use; None where there are no such files."""

    @abstractmethod
    def original(self, index: int) -> Original:
        """The image and its labels, as another data set can store them. Raises InputError."""


class FileSplit(EncodedSplit):
    """One side of a data set of image files; a format fills in where they are and their labels."""

    @abstractmethod
    def path(self, index: int) -> Path:
        """The image's file."""

    def some_paths(self, most: int = 1000) -> list[Path]:
        """At most so many of the images' files, evenly spread."""
        return [self.path(i) for i in np.linspace(0, len(self) - 1, min(len(self), most)).astype(int).tolist()]

    def find_depth(self) -> int | None:
        return find_depth(self.some_paths())

    def original(self, index: int) -> Original:
        path, declared = self.path(index), self.declared(index)
        content = read_bytes(path, fix="put it there, or remove it from the data")
        size = declared or image_size(path)
        return Original(path.name, content, size, declared is not None, self.labels(index, size=size, canvas=size))

    def contents(self) -> str:
        """What the side holds besides images, for the line at the start: "3 classes, 12 boxes"."""
        return ""

    @abstractmethod
    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        """The fields of one image, for an original of `size` (H, W) that was read as one of `canvas` (H, W)."""

    def declared(self, index: int) -> tuple[int, int] | None:
        """The (H, W) that the annotations give for the image; None where they give none."""
        return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample in the one format: "image", "image_id", "size" (H, W) of the original, and its labels."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a split of {len(self)} images")
        path, declared = self.path(index), self.declared(index)
        image = read_image(path, declared=declared, max_side=self.max_side, depth=self.depth)
        size = declared or image_size(path)
        labels = self.labels(index, size=size, canvas=(image.shape[-2], image.shape[-1]))
        return {"image": image, "image_id": index, "size": size, **labels}


def check_root(root: str | Path, *, val_fraction: float) -> Path:
    """The data set's folder, once it exists and the part to hold out makes sense."""
    folder = Path(root).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"{folder}: this data set folder {problem}; give the right one as data.root=<folder>")
    if not isinstance(val_fraction, (int, float)) or not 0 <= val_fraction < 1:
        raise InputError(f"data.val_fraction={val_fraction}: give the part to hold out, from 0 to below 1")
    return folder


def held_out(names: Sequence[str], fraction: float) -> NDArray[np.bool_]:
    """Which images are for validation: a mask (I,) that depends on each image's name, not on the order.

    An image keeps its side when others come or go. The copies that Roboflow makes of an image, named
    "x_jpg.rf.<hash>.jpg", stay together, or val would hold what was trained on. Of two images or more, each side
    gets one.
    """
    digests = [hashlib.sha256(os.fsencode(name.split(".rf.")[0])).digest() for name in names]
    score = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    mask = score < fraction
    if fraction and not mask.any():
        mask = score == score.min()
    if fraction and mask.all():
        mask = score < score.max()
    return mask


def part(train: Any, mask: NDArray[np.bool_]) -> tuple[Any, Any]:
    """Train without the images where `mask` (I,) is true, and these as val (None for none)."""
    if not mask.any():
        return train, None
    rest, val = train.subset(~mask), train.subset(mask)
    rest.left_out, rest.notes = train.left_out, train.notes
    val.notes = [f"held out of train, {mask.sum():,} of {len(mask):,} by name"]
    return rest, val
