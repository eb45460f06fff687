"""Boxes, outlines and the classes present, from YOLO's text files, one an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.formats.yolo_labels import (
    Line,
    class_names,
    label_files,
    label_folders,
    read_labels,
    stray_labels,
)
from mnv2_tasks.datasets.formats.yolo_layout import read_layout
from mnv2_tasks.datasets.reading import boxed_split
from mnv2_tasks.datasets.reading.boxed_split import Annotations, DetectionSplit, Objects
from mnv2_tasks.datasets.reading.classes import check_choice, choose_classes
from mnv2_tasks.datasets.reading.images import all_sizes, check_images
from mnv2_tasks.datasets.reading.legend import MOST_CLASSES
from mnv2_tasks.datasets.reading.outlines import Shapes, pack
from mnv2_tasks.datasets.reading.sides import no_train
from mnv2_tasks.errors import InputError, amount


@dataclass(frozen=True)
class SideLabels:
    """The images of one side and the lines of their label files."""

    images: list[str]  # relative to the root
    files: list[str | None]  # their label files
    lines: list[list[Line]]
    notes: list[str]


class Yolo:
    """YOLO: a text file an image, a line an object: its class, and a box or an outline in fractions of the image.

    Args:
        root: the data set's folder.
        file: the data.yaml, or darknet's .data file, below root. None: the one that is there; without one the sides
            are train.txt and val.txt, or folders such as images/train or train/images.
        classes: names in the order of the class indices; objects of others are left out, while their images stay.
            None: all.
        val_fraction: where there is no val side, the part of train held out by a hash of the file name.
        bad_boxes: "error" refuses boxes without area or out of their image, "fix" clips or drops them.
        outlines: whether to give masks where there are outlines.
        background: whether what no outline covers is a class of its own; False leaves it out of training and metrics,
            for scenes that are labelled throughout.
        outside: whether data.yaml and lists may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    Labels are for the upright image, its EXIF rotation applied. A line of 9 numbers, an oriented box, is an outline of
    4 corners; keypoints are left alone. An image without a label file, or with an empty one, has no objects. Numbers
    come to hundredths of a pixel, as COCO's files hold them, which undoes their rounding. Raises InputError for what is
    wrong: in sides, names and train's labels at once; in images and the other sides' labels once these are asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        file: str | None = None,
        classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        bad_boxes: str = "error",
        outlines: bool = True,
        background: bool = True,
        outside: bool = False,
        max_side: int | None = boxed_split.MAX_SIDE,
    ) -> None:
        self.root = boxed_split.check_settings(root, val_fraction=val_fraction, bad_boxes=bad_boxes)
        self.val_fraction = val_fraction
        self.bad_boxes = bad_boxes
        self.background = background
        self.max_side = max_side
        choice = check_choice(classes)
        self.layout = read_layout(self.root, file, outside=outside)
        self._files = {side: label_files(names, self.layout.names) for side, names in self.layout.sides.items()}
        self._check_files()
        self._first = "train" if "train" in self.layout.sides else next(iter(self.layout.sides))
        labels = [file for files in self._files.values() for file in files.values()]
        if stray := stray_labels(labels, self.layout):
            self.layout.left_out["label file without an image"] = stray
        self._names: tuple[str, ...] = class_names(self.layout, labels)
        self._names = self._names or self._numbers()
        self._classes = names = choose_classes(self.layout.where, self._names, choice)
        self.provides = {"detection": names, "multilabel": names}
        self._labelled: SideLabels | None = self._read(self._first)
        drawn = any(line.outline for lines in self._labelled.lines for line in lines)
        self.outlines = outlines and drawn and len(names) < MOST_CLASSES
        if self.outlines:
            self.provides["segmentation"] = ("background", *names) if background else names
        self._splits: dict[str, DetectionSplit | None] = {}

    def split(self, name: str) -> DetectionSplit | None:
        """The images of "train", "val" or "test", checked, with their objects; None where there are none."""
        if name not in self._splits:
            if name == "train" != self._first:
                fix = "name its folder, or its list of images, as train: <folder> in a data.yaml, or call it train"
                raise self.layout.no_train or no_train(self.layout.where, self.layout.sides, fix=fix)
            if name == self._first or (name == "val" not in self.layout.sides and self._first == "train"):
                assert self._labelled is not None
                first = self._make(self._labelled)
                first.left_out = self.layout.left_out
                first.notes = [*self.layout.notes, *first.notes]
                if self._first == "train" and "val" not in self.layout.sides:
                    first, self._splits["val"] = boxed_split.hold_out(first, self.val_fraction)
                self._splits[self._first] = first
                self._labelled = None
            elif name in self.layout.sides:
                self._splits[name] = self._make(self._read(name))
        return self._splits.get(name)

    def _check_files(self) -> None:
        """Every side has labels; a test side without is left out."""
        for side, files in self._files.items():
            if not files and (side != "test" or len(self._files) == 1):
                first = self.layout.sides[side][0]
                folder = Path(first).parent
                places = label_folders("" if str(folder) == "." else str(folder), self.layout.names)
                raise InputError(
                    f"{self.root}: none of the {len(self.layout.sides[side]):,} {side} images has a label file: for "
                    f"{first} there is no {Path(first).stem}.txt in {' or '.join(place or '.' for place in places)}; "
                    "put them into labels/ where the images' path has images/, or beside the images"
                )
        if "test" in self._files and not self._files["test"]:
            count = len(self.layout.sides.pop("test"))
            self.layout.left_out["test image without labels"] += count
            del self._files["test"]

    def _numbers(self) -> tuple[str, ...]:
        """Numbers as class names: as many as data.yaml says, or as the labels of all sides use."""
        description = self.layout.description
        if description and description.count is not None:
            count, who = description.count, f"{description.file.name} says how many"
        else:
            sides = [self._read(side) for side in self.layout.sides]
            count = 1 + max((line.label for side in sides for lines in side.lines for line in lines), default=-1)
            who = "as many as the labels use"
        if not count:
            raise InputError(f"{self.layout.where}: no class is named, and no label file has an object; add some")
        self.layout.notes.append(f"no file names the classes: they are 0 to {count - 1}, {who}")
        return tuple(map(str, range(count)))

    def _read(self, side: str) -> SideLabels:
        description = self.layout.description
        images, files = self.layout.sides[side], self._files[side]
        lines: list[list[Line]] = []
        repeats = 0
        for image in images:
            image_lines: list[Line] = []
            again = 0
            if image in files:
                image_lines, again = read_labels(
                    self.root / files[image], names=self._names, keypoints=description.keypoints if description else 0
                )
            lines.append(image_lines)
            repeats += again
        notes = [f"{repeats:,} lines that repeat another are left out"] if repeats > 1 else []
        notes += ["1 line that repeats another is left out"] if repeats == 1 else []
        if without := len(images) - len(files):
            notes.append(f"no label file for {amount(without, 'image')}")
        if side == self._first and description and description.keypoints:
            notes.append("keypoints are left alone")
        return SideLabels(images, [files.get(image) for image in images], lines, notes)

    def _make(self, side: SideLabels) -> DetectionSplit:
        paths = [self.root / name for name in side.images]
        check_images(paths)
        split = boxed_split.make_split(
            self._parsed(side, all_sizes(paths)),
            self.root,
            class_names=self._names,
            bad_boxes=self.bad_boxes,
            background=self.background,
            max_side=self.max_side,
        ).only(self._classes)
        split.notes = side.notes
        return split

    def _parsed(self, side: SideLabels, sizes: np.ndarray) -> Annotations:
        rows = [(i, line) for i, lines in enumerate(side.lines) for line in lines]
        image = np.array([i for i, _ in rows], np.int64)
        scale = np.tile(sizes[image][:, ::-1], 2)  # (N, 4): W, H, W, H
        boxes = np.rint(np.array([line.box for _, line in rows]).reshape(-1, 4) * scale * 100) / 100
        boxed = np.array([not line.outline for _, line in rows], np.bool_)
        _check_meaning(self.layout.where, boxes[boxed], scale[boxed])
        outlines, areas = [], []
        for (_, line), (width, height) in zip(rows, scale[:, :2].tolist(), strict=True):
            corners = np.rint(np.array(line.outline).reshape(-1, 2) * (width, height) * 100) / 100
            outlines.append(pack([corners.ravel().tolist()]) if self.outlines and line.outline else b"")
            areas.append(_area(corners) if line.outline else np.nan)

        def describe(row: int) -> str:
            i, line = rows[row]
            return f"{self.root / str(side.files[i])}: line {line.number}"

        objects = Objects(
            image=image,
            boxes=boxes,
            labels=np.array([line.label for _, line in rows], np.int64),
            crowd=np.zeros(len(rows), np.bool_),
            area=np.array(areas, np.float64),
            shape=np.arange(len(rows)) if self.outlines else None,
        )
        shapes = Shapes.of(str(self.root), [line.number for _, line in rows], outlines) if self.outlines else None
        return Annotations(str(self.layout.where), side.images, sizes, objects, describe, shapes, order="centre")


def _check_meaning(where: Path, boxes: np.ndarray, edges: np.ndarray) -> None:
    """Refuse boxes (N, 4) of a side, in images of `edges` (N, 4), W, H, W, H, that were divided twice."""
    if len(boxes) and (boxes != 0).any() and (abs(boxes) < 1).all() and (edges > 2).all():
        raise InputError(
            f"{where}: all {len(boxes):,} boxes lie within a pixel of the upper left corner, as if divided by the "
            "image's size twice; correct the labels"
        )


def _area(corners: np.ndarray) -> float:
    """Of a polygon (C, 2), by the shoelace formula."""
    x, y = corners.T
    return abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
