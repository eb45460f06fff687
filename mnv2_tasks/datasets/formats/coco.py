"""Boxes, masks and the classes present, from COCO JSON with a folder of images."""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tasks.datasets.formats.coco_layout import Layout
from mnv2_tasks.datasets.reading import boxed_split
from mnv2_tasks.datasets.reading.boxed_split import Annotations, DetectionSplit, Objects
from mnv2_tasks.datasets.reading.classes import alike_form, check_choice, choose_classes
from mnv2_tasks.datasets.reading.legend import MOST_CLASSES
from mnv2_tasks.datasets.reading.outlines import Shapes, bad_outline, outline_box, pack
from mnv2_tasks.errors import InputError, amount, quote, shorten
from mnv2_tasks.files import read_json

LARGEST = 1e12  # of numbers that are pixels, also square ones


class Coco:
    """COCO JSON: `images`, `categories`, and `annotations` with a `bbox` (x, y, width, height in pixels).

    Args:
        root: the data set's folder.
        annotations: file below root, with "{split}" for train, val, test; without it, one file for all. None
            looks in the usual places.
        classes: names of categories in the order of the class indices; objects of others are left out, while their
            images stay. None: all.
        images: folder below root, "{split}" allowed. None: the first usual one that has the first image.
        val_fraction: where there is no val file, the part of train held out by a hash of the file name.
        bad_boxes: "error" refuses boxes without area or out of their image, "fix" clips or drops them.
        outlines: whether to read `segmentation` (polygons, run lengths), where there is any, and give masks. Boxes
            alone load faster without.
        outside: whether file names may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    Classes are the categories in the order of their ids; masks have "background" before them. An `iscrowd` object
    gets crowd=True, is 255 in the mask, and leaves unknown whether its class is present. Where `area` is missing it
    is the box's; a missing image size is read from the image. Raises InputError for what is wrong: in the training
    file at once; in images, boxes and other files once that side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotations: str | None = None,
        images: str | None = None,
        classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        bad_boxes: str = "error",
        outlines: bool = True,
        outside: bool = False,
        max_side: int | None = boxed_split.MAX_SIDE,
    ) -> None:
        self.root = boxed_split.check_settings(root, val_fraction=val_fraction, bad_boxes=bad_boxes)
        self.val_fraction = val_fraction
        self.bad_boxes = bad_boxes
        self.max_side = max_side
        self.layout = Layout(self.root, annotations=annotations, images=images, outside=outside)
        self.files = self.layout.sides
        self._first = "train" if "train" in self.files else next(iter(self.files))  # it names the classes
        choice = check_choice(classes)
        contents = _read(self.files[self._first], outlines=outlines)
        self._names = _class_names(self.files, self._first, contents)
        self._classes = choose_classes(self.files[self._first], self._names, choice)
        self.provides = {"detection": self._classes, "multilabel": self._classes}
        self._parsed: Annotations | None = self._parse(self._first, contents)
        self.outlines = self._parsed.shapes is not None
        if self.outlines:
            self.provides["segmentation"] = ("background", *self._classes)
        self._splits: dict[str, DetectionSplit | None] = {}

    def split(self, name: str) -> DetectionSplit | None:
        """The images of "train", "val" or "test", checked, with their boxes; None where there are none."""
        if name not in self._splits:
            if name == "train" and "train" not in self.files:
                files = [os.path.relpath(file, self.root) for file in self.files.values()]
                raise self.layout.no_train(others=files)
            held_out = name == "val" and "val" not in self.files and "train" in self.files
            if name == self._first or held_out:
                self._make_first()
            elif name in self.files:
                contents = _read(self.files[name], outlines=self.outlines)
                _check_classes(self.files[name], contents, self.files[self._first], self._names)
                self._splits[name] = self._make(name, self._parse(name, contents))
        return self._splits.get(name)

    def _parse(self, side: str, contents: dict[str, Any]) -> Annotations:
        return _parse(self.files[side], contents, self._names, masks=len(self._classes) < MOST_CLASSES)

    def _make_first(self) -> None:
        assert self._parsed is not None
        first = self._make(self._first, self._parsed)
        first.left_out = self.layout.left_out
        first.notes = [*self.layout.notes, *first.notes]
        if self._first == "train" and "val" not in self.files:
            first, self._splits["val"] = boxed_split.hold_out(first, self.val_fraction)
        self._splits[self._first] = first
        self._parsed = None

    def _make(self, side: str, parsed: Annotations) -> DetectionSplit:
        folder, names, notes = self.layout.find_images(side, parsed.names, parsed.where)
        split = boxed_split.make_split(
            replace(parsed, names=names),
            folder,
            class_names=self._names,
            bad_boxes=self.bad_boxes,
            max_side=self.max_side,
        ).only(self._classes)
        split.notes += [*parsed.notes, *notes]
        return split


def _read(file: Path, *, outlines: bool) -> dict[str, Any]:
    """A COCO file, its "images", "annotations" and "categories" sure to be lists of objects."""

    drawn = 0

    def packed(entry: dict[str, Any]) -> dict[str, Any]:
        nonlocal drawn
        entry.pop("packed", None)
        if "segmentation" in entry:  # most of a large file: packed or dropped while it is parsed
            outline = entry.pop("segmentation")
            box = entry.get("bbox")
            if "image_id" in entry and (not box or (type(box) is list and not any(box[2:]))):
                entry["bbox"] = outline_box(outline) or box
                drawn += entry["bbox"] is not box
            if outlines:
                try:
                    entry["packed"] = pack(outline)
                except (ValueError, OverflowError) as error:
                    raise bad_outline(file, quote(entry.get("id")), str(error)) from error
        return entry

    contents = read_json(file, fix="correct or export the file again", hook=packed)
    for table in ("images", "annotations", "categories"):
        entries = contents.get(table) if isinstance(contents, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f'{file}: it has no list of objects "{table}"; export it as COCO object detection')
    contents["notes"] = (
        [amount(drawn, "box is made of its outline", "boxes are made of their outlines")] if drawn else []
    )
    return contents


def _column(file: Path, contents: dict[str, Any], table: str, key: str, *kinds: type, default: Any = None) -> list[Any]:
    """contents[table][*][key]; every value must be of one of these types."""
    values = [default if (value := entry.get(key)) is None else value for entry in contents[table]]
    if not set(map(type, values)) <= set(kinds):
        row = next(row for row, value in enumerate(values) if type(value) not in kinds)
        problem = "is missing" if values[row] is None else f"is {quote(values[row])}"
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f'{file}: {table}[{row}]: "{key}" {problem}; correct it: it must be of type {wanted}')
    return values


def _numbers(
    file: Path, contents: dict[str, Any], table: str, key: str, *, default: float, whole: bool = False
) -> np.ndarray:
    """contents[table][*][key], (N,) float64, each from 0 to `LARGEST`, and with `whole` of pixels."""
    values = _column(file, contents, table, key, int, float, default=default)
    try:
        numbers = np.array(values, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        numbers = np.array([float(max(min(value, 2 * LARGEST), -2 * LARGEST)) for value in values])
    bad = ~((numbers >= 0) & (numbers <= LARGEST) & ((np.rint(numbers) == numbers) | (not whole)))
    if np.isnan(default):
        bad &= np.array([entry.get(key) is not None for entry in contents[table]], np.bool_)
    if bad.any():
        row = int(np.argmax(bad))
        wanted = "a whole number of pixels" if whole else "a number of pixels"
        raise InputError(f'{file}: {table}[{row}]: "{key}" is {quote(values[row])}; correct it to {wanted}')
    return numbers


def _floats(boxes: list[list[float]], describe: Callable[[int], str]) -> np.ndarray:
    try:
        return np.array(boxes, np.float64)
    except OverflowError:  # an integer of hundreds of digits
        row = next(row for row, box in enumerate(boxes) if any(abs(value) > LARGEST for value in box))
        raise InputError(f'{describe(row)}: "bbox" is {quote(boxes[row])}; correct it') from None


def _unique(file: Path, what: str, values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        value, count = Counter(values).most_common(1)[0]
        raise InputError(f"{file}: {count} {what} {quote(value)}; keep one of them, or rename the others")
    return values


def _categories(file: Path, contents: dict[str, Any]) -> tuple[dict[Any, str], str | None]:
    """{id: name} in the order of the ids, and the name of a dummy that Roboflow writes besides: it is of no object.

    The dummy has the id 0 and no annotation, and is a supercategory of others, or has a class's name.
    """
    ids = [_id(value) for value in _column(file, contents, "categories", "id", int, str)]
    _unique(file, "categories have the id", ids)
    names = _column(file, contents, "categories", "name", str)
    names = [unicodedata.normalize("NFC", name.strip()) for name in names]
    if "" in names:
        raise InputError(f'{file}: categories[{names.index("")}]: "name" is empty; give it a name')
    categories = dict(sorted(zip(ids, names, strict=True), key=lambda pair: (isinstance(pair[0], str), pair[0])))
    others = [entry for number, entry in zip(ids, contents["categories"], strict=True) if number != 0]
    parents = {str(entry[key]).strip() for entry in others for key in ("name", "supercategory") if entry.get(key)}
    dummy = categories[0] if categories.get(0) in parents else None
    if dummy and 0 not in map(_id, _column(file, contents, "annotations", "category_id", int, str)):
        del categories[0]
    else:
        dummy = None
    _unique(file, "categories are named", list(categories.values()))
    return categories, dummy


def _id(value: Any) -> Any:
    """An id as a number where it is one that stands in quotes."""
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 20 else value


def _class_names(files: dict[str, Path], first: str, contents: dict[str, Any]) -> tuple[str, ...]:
    train = files[first]
    named, dummy = _categories(train, contents)
    if dummy and dummy not in named.values():
        others = [_categories(file, _read(file, outlines=False))[0] for side, file in files.items() if side != first]
        if any(dummy in categories.values() for categories in others):
            named, dummy = {0: dummy, **named}, None
    if dummy:
        contents["notes"].append(f"category 0, {quote(dummy)}, has no object and is left out")
    if not named:
        raise InputError(f'{train}: "categories" names no class; list the classes of the boxes there')
    return choose_classes(train, list(named.values()), None)


def _check_classes(file: Path, contents: dict[str, Any], train: Path, classes: tuple[str, ...]) -> None:
    named, dummy = _categories(file, contents)
    names = {*named.values(), *(name for name in classes if name == dummy)}
    added, lacking = sorted(names - set(classes)), sorted(set(classes) - names)
    alike = {alike_form(name): name for name in lacking}
    if twin := next((name for name in added if alike_form(name) in alike), None):
        raise InputError(
            f"{file}: its category {quote(twin)} is {quote(alike[alike_form(twin)])} in {train}; make them one name"
        )
    for verb, odd in (("lacks", lacking), ("adds", added)):
        if odd:
            raise InputError(
                f"{file}: its categories differ from those of {train}: it {verb} {', '.join(odd)}; declare the "
                "same categories in both"
            )


def _parse(file: Path, contents: dict[str, Any], classes: tuple[str, ...], *, masks: bool) -> Annotations:
    ids = _unique(file, "images have the id", _column(file, contents, "images", "id", int, str))
    names = _unique(file, "images have the file_name", _column(file, contents, "images", "file_name", str))
    if not names:
        raise InputError(f'{file}: there are no images: "images" is empty; list them there, or remove the file')
    sizes = [_numbers(file, contents, "images", key, default=0, whole=True) for key in ("height", "width")]
    numbers = [entry.get("id") for entry in contents["annotations"]]

    def positions(key: str, table: str, known: dict[Any, int]) -> np.ndarray:
        values = _column(file, contents, "annotations", key, int, str)
        rows = [known.get(value, -1) for value in values]
        if -1 in rows:  # an id may stand in quotes in one of its places alone
            texts = {str(number): row for number, row in known.items()}
            rows = [texts.get(str(value), -1) for value in values]
        if -1 in rows:
            row = rows.index(-1)
            raise InputError(
                f'{file}: annotation {quote(numbers[row])}: {key} {quote(values[row])} is not declared in "{table}"; '
                "declare it there, or remove the annotation"
            )
        return np.array(rows, np.int64)

    def describe(row: int) -> str:
        return f"{file}: annotation {quote(numbers[row])} of image {shorten(names[image[row]], 150)}"

    image = positions("image_id", "images", {value: i for i, value in enumerate(ids)})
    labels = {name: label for label, name in enumerate(classes)}
    known = {number: labels[name] for number, name in _categories(file, contents)[0].items() if name in labels}
    boxes = _column(file, contents, "annotations", "bbox", list)
    if not set(map(len, boxes)) <= {4} or not {type(value) for box in boxes for value in box} <= {int, float}:
        row = next(i for i, box in enumerate(boxes) if [type(v) in (int, float) for v in box] != [True] * 4)
        raise InputError(
            f'{describe(row)}: "bbox" is {quote(boxes[row])}; correct it to 4 numbers, x, y, width, height, or '
            "remove the annotation"
        )
    corners = _floats(boxes, describe).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    crowd = _column(file, contents, "annotations", "iscrowd", int, bool, default=0)
    area = _numbers(file, contents, "annotations", "area", default=np.nan)
    notes = contents["notes"]
    if blank := np.count_nonzero(area == 0):
        area[area == 0] = np.nan
        notes.append(amount(int(blank), "area of 0 is read as its box's", "areas of 0 are read as their boxes'"))
    outlines = [entry.get("packed", b"") for entry in contents["annotations"]]
    has_outlines = any(outlines) and masks
    objects = Objects(
        image=image,
        boxes=corners,
        labels=positions("category_id", "categories", known),
        crowd=np.array(crowd, np.bool_),
        area=area,
        shape=np.arange(len(image)) if has_outlines else None,
    )
    shapes = Shapes.of(str(file), numbers, outlines) if has_outlines else None
    return Annotations(
        str(file), names, np.array(sizes).T.astype(np.int64), objects, describe, shapes, order="corner", notes=notes
    )
