"""Boxes and the classes present, from Pascal VOC XML, one file an image; `Masks` reads VOC's segmentation."""

import math
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from mnv2_tasks.datasets.formats.voc_layout import Layout
from mnv2_tasks.datasets.reading import boxed_split
from mnv2_tasks.datasets.reading.boxed_split import Annotations, DetectionSplit, Objects
from mnv2_tasks.datasets.reading.classes import check_choice, choose_classes
from mnv2_tasks.datasets.reading.sides import no_train
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import read_bytes

MOST_BYTES = 2**24  # of one image's XML: 40,000 objects have less
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class VocObject(NamedTuple):
    """One <object> of an XML file."""

    name: str
    box: tuple[float, ...]  # in the order of CORNERS
    difficult: bool


class VocAnnotation(NamedTuple):
    """What one XML file says of its image."""

    file: Path
    names: tuple[str, ...]  # of its image: <filename> and <path>
    size: tuple[int, int]  # (H, W), 0 where not told
    objects: list[VocObject]


class Voc:
    """Pascal VOC: an XML file an image, of the same name, and text files that list the names on each side.

    Args:
        root: the data set's folder.
        annotations, images: folders below root; None looks in the usual places.
        lists: file below root, an image a line, with "{split}" for train, val, test; without it, one list for all,
            of which val is held out. None: the lists named for sides in ImageSets/Main or root, trainval.txt too, or
            else folders named so among those of the XML files.
        classes: names in the order of the class indices; objects of others are left out, while their images stay.
            None: every name found, sorted.
        one_based: pixels count from 1, as in the official VOC: xmin and ymin become one less.
        val_fraction: where there is no val list, the part of train held out by a hash of the file name.
        bad_boxes: "error" refuses boxes without area or out of their image, "fix" clips or drops them.
        max_side: an image whose long side is over this is reduced when it is read.

    A `difficult` object gets crowd=True: neither training nor the metric counts it, and it leaves unknown whether its
    class is present. Raises InputError for what is wrong: in lists and XML at once (with `classes` given, perhaps only
    train's XML), in images and boxes once that side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str | None = None,
        images: str | None = None,
        lists: str | None = None,
        classes: Sequence[str] | None = None,
        one_based: bool = False,
        val_fraction: float = 0.2,
        bad_boxes: str = "error",
        max_side: int | None = boxed_split.MAX_SIDE,
    ) -> None:
        self.root = boxed_split.check_settings(root, val_fraction=val_fraction, bad_boxes=bad_boxes)
        self.val_fraction = val_fraction
        self.bad_boxes = bad_boxes
        self.one_based = one_based
        self.max_side = max_side
        self.layout = Layout(self.root, annotations=annotations, images=images, lists=lists)
        self._sides = self.layout.sides
        choice = check_choice(classes)
        self._pages: dict[str, list[VocAnnotation]] = {}
        self._first = "train" if "train" in self._sides else next(iter(self._sides))
        names = _names(self._read(self._first))
        if choice is None or not names.issuperset(choice):
            names = names.union(*(_names(self._read(side)) for side in self._sides))
        if not names:
            raise InputError(
                f"{self.layout.folder}: its XML files hold no <object>: there is nothing to learn; add some, or export "
                "them as Pascal VOC"
            )
        choose_classes(self.layout.folder, sorted(names), None)
        if choice and self._first != "train":  # a side that is evaluated alone may lack a class that the model knows
            names |= set(choice)
        self._classes = choose_classes(self.layout.folder, sorted(names), choice)
        self.provides = {"detection": self._classes, "multilabel": self._classes}
        self._splits: dict[str, DetectionSplit | None] = {}

    def split(self, name: str) -> DetectionSplit | None:
        """The images of "train", "val" or "test", checked, with their boxes; None where there are none."""
        if name == "train" and "train" not in self._sides:
            raise no_train(
                self.layout.folder, self._sides, fix="name its folder train, or list its images in train.txt"
            )
        if name not in self._splits:
            if name in self._sides:
                self._splits[name] = self._make(name)
            if "train" in self._sides and "val" not in self._sides and name in ("train", "val"):
                train = self._splits.get("train") or self._make("train")
                self._splits["train"], self._splits["val"] = boxed_split.hold_out(train, self.val_fraction)
        return self._splits.get(name)

    def _read(self, side: str) -> list[VocAnnotation]:
        if side not in self._pages:
            annotations = [_read_page(self.layout.folder / file) for file in self._sides[side]]
            self._pages[side] = [annotation for annotation in annotations if annotation is not None]
            if others := len(annotations) - len(self._pages[side]):
                self.layout.left_out["XML of another kind"] += others
            if not self._pages[side]:
                raise InputError(
                    f"{self.layout.folder}: none of its {others} {side} XML files has a Pascal VOC <annotation>; "
                    "export them as Pascal VOC, a file an image"
                )
        return self._pages[side]

    def _make(self, side: str) -> DetectionSplit:
        annotations = self._read(side)
        del self._pages[side]
        present = choose_classes(self.layout.folder, sorted(_names(annotations).union(self._classes)), None)
        folder, names, notes = self.layout.find_images(side, annotations)
        split = boxed_split.make_split(
            _parsed(annotations, names, present, one_based=self.one_based),
            folder,
            class_names=present,
            bad_boxes=self.bad_boxes,
            max_side=self.max_side,
        ).only(self._classes)
        split.notes = notes
        if side == self._first:
            split.left_out = self.layout.left_out
            split.notes = [*self.layout.notes, *notes]
        return split


def _read_page(file: Path) -> VocAnnotation | None:
    """What an XML file says; None for one of another kind, such as a program's settings."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    content = read_bytes(file, fix="correct or remove the file", most=MOST_BYTES)
    try:
        top = fromstring(content)
    except ParseError as error:
        raise InputError(f"{file}: not XML: {error}; correct or remove the file") from error
    except DefusedXmlException as error:
        raise InputError(f"{file}: it declares XML entities, which are refused as unsafe; remove them") from error
    except (ValueError, LookupError) as error:
        raise InputError(f"{file}: cannot be read as XML: {error}; correct or remove the file") from error
    if top.tag.startswith("{"):  # a namespace
        for element in top.iter():
            element.tag = element.tag.rpartition("}")[2]
    if top.tag.lower() != "annotation":
        return None
    objects = []
    for number, entry in enumerate(top.findall("object"), 1):
        name = unicodedata.normalize("NFC", (entry.findtext("name") or "").strip())
        if not name:
            raise InputError(f"{file}: object {number} has no <name>; add it, or remove the object")
        texts = [entry.findtext(f"bndbox/{corner}") for corner in CORNERS]
        if texts == [None] * 4:
            texts = _around(entry.find("polygon"))
        try:
            box = tuple(float(text or "") for text in texts)
        except ValueError:
            values = ", ".join(f"{corner}={quote(text, 30)}" for corner, text in zip(CORNERS, texts, strict=True))
            raise InputError(
                f"{file}: object {number}: <bndbox> needs 4 numbers, but has {values}; correct or remove the object"
            ) from None
        objects.append(VocObject(name, box, _is_difficult(file, number, entry.findtext("difficult"))))
    height, width = (_pixels(file, side, top.findtext(f"size/{side}")) for side in ("height", "width"))
    size = (height, width) if height and width else (0, 0)
    names = tuple(text for key in ("filename", "path") if (text := (top.findtext(key) or "").strip()))
    return VocAnnotation(file, names, size, objects)


def _around(polygon: Element | None) -> list[str | None]:
    """The corners of the box around an outline: x1, y1, x2, ... or pt of x and y; None where there is none."""
    elements = [] if polygon is None else list(polygon.iter())
    xs, ys = ([e.text or "" for e in elements if re.fullmatch(rf"{axis}\d*", e.tag)] for axis in "xy")
    try:
        low, high = ([min(texts, key=float), max(texts, key=float)] for texts in (xs, ys))
    except ValueError:  # none, or no number
        return [None] * 4
    return [low[0], high[0], low[1], high[1]]


def _pixels(file: Path, side: str, text: str | None) -> int:
    """A size's side in pixels; 0 where it is not told."""
    try:
        number = float(text or 0)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1e6 or number != int(number):
        raise InputError(f"{file}: <size>: <{side}> is {quote(text)}; correct it to a number of pixels, or remove it")
    return int(number)


def _is_difficult(file: Path, number: int, text: str | None) -> bool:
    word = (text or "").strip().lower()
    if word not in _DIFFICULT:
        raise InputError(f"{file}: object {number}: <difficult> is {quote(text)}; write 0 or 1")
    return _DIFFICULT[word]


def _names(annotations: Sequence[VocAnnotation]) -> set[str]:
    return {item.name for annotation in annotations for item in annotation.objects}


def _parsed(
    annotations: Sequence[VocAnnotation], names: list[str], classes: tuple[str, ...], *, one_based: bool
) -> Annotations:
    origins = [(i, number) for i, annotation in enumerate(annotations) for number in range(len(annotation.objects))]
    items = [item for annotation in annotations for item in annotation.objects]
    labels = {name: label for label, name in enumerate(classes)}
    boxes = np.array([item.box for item in items], np.float64).reshape(-1, 4)
    boxes[:, :2] -= one_based
    objects = Objects(
        image=np.array([i for i, _ in origins], np.int64),
        boxes=boxes,
        labels=np.array([labels[item.name] for item in items], np.int64),
        crowd=np.array([item.difficult for item in items], np.bool_),
        area=np.full(len(items), np.nan),
    )
    return Annotations(
        where=str(annotations[0].file.parent),
        names=names,
        sizes=np.array([annotation.size for annotation in annotations], np.int64),
        objects=objects,
        describe=lambda row: f"{annotations[origins[row][0]].file}: object {origins[row][1] + 1}",
    )
