"""Images with objects, whatever their format on disk: the split that yields samples, and what makes one."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2_tasks.datasets.reading.box_checks import Order, check_boxes
from mnv2_tasks.datasets.reading.classes import new_numbers
from mnv2_tasks.datasets.reading.file_split import MAX_SIDE, FileSplit, check_root, held_out, part
from mnv2_tasks.datasets.reading.images import all_sizes, check_images
from mnv2_tasks.datasets.reading.masked_split import count_pixels, to_canvas
from mnv2_tasks.datasets.reading.outlines import Shapes
from mnv2_tasks.errors import InputError, amount, without_any
from mnv2_tasks.samples import IGNORED, as_boxes


@dataclass(frozen=True)
class Objects:
    """The labelled boxes of many images as flat arrays, a row an object."""

    image: NDArray[np.int64]  # (N,) position of its image
    boxes: NDArray[np.floating[Any]]  # (N, 4) xyxy, pixels of the original image
    labels: NDArray[np.int64]  # (N,)
    crowd: NDArray[np.bool_]  # (N,)
    area: NDArray[np.floating[Any]]  # (N,) original square pixels
    shape: NDArray[np.int64] | None = None  # (N,) row of its outline, where there are outlines

    def take(self, rows: NDArray[Any]) -> "Objects":
        """A copy of the objects at these positions, or where this mask is true."""
        return Objects(
            image=self.image[rows],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            area=self.area[rows],
            shape=None if self.shape is None else self.shape[rows],
        )


class DetectionSplit(FileSplit):
    """Images of a folder and their boxes, kept as flat arrays, which loader processes share without copying.

    Args:
        folder, names: where the images are; `names` are relative to it.
        sizes: (I, 2) int, the (H, W) that the annotations declare for each image.
        objects: the boxes, in pixels of those sizes; -1 as a label is of a class that is left out, whose objects only
            cover others in masks.
        shapes: the outlines of the objects, for samples with a mask: 0 is the background, then come the classes.
        background: False makes 0 the first class, and ignores the pixels that no outline covers.
        max_side: a longer image is reduced when it is read, and its boxes with it.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        sizes: NDArray[np.int64],
        objects: Objects,
        class_names: tuple[str, ...],
        shapes: Shapes | None = None,
        background: bool = True,
        max_side: int | None = MAX_SIDE,
    ) -> None:
        super().__init__(max_side=max_side)
        self.folder = folder
        self.class_names = class_names
        self.shapes = shapes
        self.background = background
        # Bytes in one array: a list of strings would be copied page by page into every loader process.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self._sizes = sizes
        self._painted = objects.take(np.argsort(objects.image, kind="stable"))
        wanted = self._painted.labels >= 0
        self._objects = self._painted if wanted.all() else self._painted.take(wanted)
        self._starts = np.searchsorted(self._objects.image, np.arange(len(names) + 1))
        self._counts: Tensor | None = None

    def __len__(self) -> int:
        return len(self._names)

    def path(self, index: int) -> Path:
        return self.folder / self.file_name(index)

    def declared(self, index: int) -> tuple[int, int]:
        height, width = self._sizes[index].tolist()
        return height, width

    def contents(self) -> str:
        boxes, blank = amount(len(self._objects.image), "box", "boxes"), int((np.diff(self._starts) == 0).sum())
        others = len(self._painted.image) - len(self._objects.image)
        left_out = f"; {amount(others, 'box', 'boxes')} of other classes left out" if others else ""
        return f"{amount(len(self.class_names), 'class', 'classes')}, {boxes}{without_any(blank)}{left_out}"

    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        """Boxes in pixels of the canvas, "area" in those of the original; which classes are present; the mask."""
        here = self._objects_of(index)
        scale = np.array([canvas[1] / size[1], canvas[0] / size[0]] * 2, np.float32)
        boxes = torch.from_numpy(here.boxes * scale)  # (N, 4)
        return {
            "boxes": as_boxes(boxes, canvas),
            "labels": torch.from_numpy(here.labels),
            "crowd": torch.from_numpy(here.crowd),
            "area": torch.from_numpy(here.area),
            "presence": self._presence(here),
            **({} if self.shapes is None else {"mask": to_canvas(self.mask(index), canvas)}),
        }

    def _objects_of(self, index: int) -> Objects:
        return self._objects.take(np.arange(self._starts[index], self._starts[index + 1]))

    def _presence(self, here: Objects) -> Tensor:
        """(K,) float32: 1 for a class with an object; -1, unknown, for one with crowds or difficult objects alone."""
        presence = torch.zeros(len(self.class_names))
        presence[here.labels[here.crowd]] = -1
        presence[here.labels[~here.crowd]] = 1
        return presence

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) in pixels of the original, painted from the outlines: 0 background, class + 1, 255 ignored.

        Without a background 255 is where no outline is, and a class has its own number.

        A smaller object lies on top of a larger one. Crowds are ignored, and so is what is left of the box of an
        object that has no outline. Objects of classes that are left out count as not there, but cover what they cover.
        """
        assert self.shapes is not None
        first, last = np.searchsorted(self._painted.image, [index, index + 1])
        here, size = self._painted.take(np.arange(first, last)), self.declared(index)
        assert here.shape is not None
        empty = 0 if self.background else IGNORED
        columns, hidden = np.full(size[::-1], empty, np.uint8), []  # (W, H), as outlines go down the columns
        flat = columns.reshape(-1)
        for row in np.lexsort((-here.area, ~here.crowd)).tolist():  # crowds first, then large to small
            stretches = self.shapes.stretches(int(here.shape[row]), size)
            other = here.labels[row] < 0
            if stretches is None and not other:
                hidden.append(here.boxes[row].round().astype(int).tolist())
            value = empty if other else IGNORED if here.crowd[row] else here.labels[row] + self.background
            for start, stop in stretches or ():
                flat[start:stop] = value
        for x1, y1, x2, y2 in hidden:
            inside = columns[x1:x2, y1:y2]
            inside[inside == empty] = IGNORED
        return np.ascontiguousarray(columns.T)

    def pixel_counts(self) -> Tensor:
        """(1 + K,) int64: the pixels of the background and each class, in at most 5,000 masks, evenly spread.

        (K,) without a background.
        """
        if self._counts is None:
            _, rows = count_pixels(self.mask, len(self), classes=self.background + len(self.class_names))
            self._counts = torch.from_numpy(rows.sum(0))
        return self._counts

    def file_name(self, index: int) -> str:
        """The image's name relative to the folder, as in the annotations."""
        return os.fsdecode(self._names[index])

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: width and height of every box but the crowds', as fractions of its image."""
        single = self._objects.take(~self._objects.crowd)
        sides = (single.boxes[:, 2:] - single.boxes[:, :2]) / self._sizes[single.image][:, ::-1]
        return torch.from_numpy(sides.astype(np.float32))

    def box_labels(self) -> Tensor:
        """(N,) int64: the classes of the boxes of `box_sizes`."""
        return torch.from_numpy(self._objects.labels[~self._objects.crowd])

    def box_counts(self) -> Tensor:
        """(I,) int64: how many boxes each image has."""
        return torch.from_numpy(np.diff(self._starts))

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images have each class, not counting crowds."""
        single = self._objects.take(~self._objects.crowd)
        pairs = np.unique(np.stack([single.image, single.labels]), axis=1)
        return torch.from_numpy(np.bincount(pairs[1], minlength=len(self.class_names)))

    def subset(self, mask: NDArray[np.bool_]) -> "DetectionSplit":
        """The images where `mask` (I,) is true, in the same order."""
        objects = self._painted.take(mask[self._painted.image])
        position = np.cumsum(mask) - 1
        return self._with(replace(objects, image=position[objects.image]), self.class_names, mask)

    def joined(self, other: "DetectionSplit") -> "DetectionSplit":
        """These images, then the other's, of the same classes."""
        first, second = self._painted, other._painted
        second = replace(second, image=second.image + len(self))
        shapes = self.shapes
        if shapes is not None and other.shapes is not None and other.shapes is not shapes and second.shape is not None:
            second = replace(second, shape=second.shape + len(shapes.ids))
            shapes = shapes.joined(other.shapes)
        pair = [one for one in (first.shape, second.shape) if one is not None]
        shape = np.concatenate(pair) if len(pair) == 2 else None
        both = DetectionSplit(
            Path("/"),
            [os.path.abspath(split.path(i)) for split in (self, other) for i in range(len(split))],
            sizes=np.concatenate([self._sizes, other._sizes]),
            objects=Objects(
                image=np.concatenate([first.image, second.image]),
                boxes=np.concatenate([first.boxes, second.boxes]),
                labels=np.concatenate([first.labels, second.labels]),
                crowd=np.concatenate([first.crowd, second.crowd]),
                area=np.concatenate([first.area, second.area]),
                shape=shape,
            ),
            class_names=self.class_names,
            shapes=shapes,
            background=self.background,
            max_side=self.max_side,
        )
        both.left_out, both.notes = self.left_out, list(self.notes)
        return both

    def shown(self) -> NDArray[np.bool_]:
        """(I, K): which classes each image shows."""
        shown = np.zeros((len(self), len(self.class_names)), np.bool_)
        shown[self._objects.image, self._objects.labels] = True
        return shown

    def only(self, classes: tuple[str, ...]) -> "DetectionSplit":
        """All images, with the objects of these classes alone, in their numbers."""
        if classes == self.class_names:
            return self
        labels = np.append(new_numbers(self.class_names, classes), -1)[self._painted.labels]
        return self._with(replace(self._painted, labels=labels), classes, np.ones(len(self), np.bool_))

    def _with(self, objects: Objects, class_names: tuple[str, ...], mask: NDArray[np.bool_]) -> "DetectionSplit":
        return DetectionSplit(
            self.folder,
            [self.file_name(i) for i in np.flatnonzero(mask).tolist()],
            sizes=self._sizes[mask],
            objects=objects,
            class_names=class_names,
            shapes=self.shapes,
            background=self.background,
            max_side=self.max_side,
        )


@dataclass(frozen=True)
class Annotations:
    """What annotations say, before anything is checked against the images."""

    where: str  # the annotation file or folder
    names: list[str]  # of the images
    sizes: NDArray[np.int64]  # (I, 2): (H, W), 0 where not told
    objects: Objects  # area NaN where not told
    describe: Callable[[int], str]  # row of `objects` -> the file and annotation that it comes from
    shapes: Shapes | None = None
    order: Order = "corners"  # how the boxes were written, as `check_meaning` has it
    notes: Sequence[str] = ()  # what was decided


def make_split(
    parsed: Annotations,
    folder: Path,
    *,
    class_names: tuple[str, ...],
    bad_boxes: str,
    background: bool = True,
    max_side: int | None,
) -> DetectionSplit:
    """Check images and boxes, and fill in what was not told: sizes from the images, areas from the boxes."""
    sizes, objects = parsed.sizes.copy(), parsed.objects
    paths = [os.path.join(folder, name) for name in parsed.names]  # much faster than Paths
    check_images(paths, declared=[(h, w) if h > 0 and w > 0 else None for h, w in sizes.tolist()])
    untold = np.flatnonzero((sizes <= 0).any(1))
    sizes[untold] = all_sizes([paths[index] for index in untold])
    boxes, keep = check_boxes(
        objects.boxes,
        sizes[objects.image],
        bad_boxes=bad_boxes,
        where=parsed.where,
        order=parsed.order,
        describe=parsed.describe,
    )
    sides = boxes[:, 2:] - boxes[:, :2]
    area = np.where(np.isfinite(objects.area), objects.area, sides.prod(1)).astype(np.float32)
    objects = replace(objects, boxes=boxes, area=area).take(keep)
    if parsed.shapes is not None and objects.shape is not None:
        parsed.shapes.check_sizes(objects.shape, sizes[objects.image])
        parsed.shapes.check_pixels()
    return DetectionSplit(
        folder,
        parsed.names,
        sizes=sizes,
        objects=objects,
        class_names=class_names,
        shapes=parsed.shapes,
        background=background,
        max_side=max_side,
    )


def check_settings(root: str | Path, *, val_fraction: float, bad_boxes: str) -> Path:
    """`check_root`, and what formats with boxes have besides."""
    folder = check_root(root, val_fraction=val_fraction)
    if bad_boxes not in ("error", "fix"):
        raise InputError(f"data.bad_boxes={bad_boxes}: give error or fix")
    return folder


def hold_out(train: DetectionSplit, fraction: float) -> tuple[DetectionSplit, DetectionSplit | None]:
    """Train without the images that their names hold out, and these as val (None for none)."""
    return part(train, held_out([train.file_name(i) for i in range(len(train))], fraction))
