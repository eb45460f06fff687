"""Boxes, masks and the classes present, from COCO JSON with a folder of images."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tasks.datasets import detection
from mnv2_tasks.datasets.detection import DetectionSplit, Objects, Parsed
from mnv2_tasks.datasets.label_table import choose_classes
from mnv2_tasks.datasets.legend import MOST_CLASSES
from mnv2_tasks.datasets.names import FileNames, check_inside
from mnv2_tasks.datasets.shapes import Shapes, bad_outline, outline_box, pack
from mnv2_tasks.datasets.sides import BOTH, SPELLINGS, by_side, side_of
from mnv2_tasks.errors import InputError, quote, shorten
from mnv2_tasks.foreign import read_json

ANNOTATIONS = (
    "annotations/instances_{split}.json",
    "annotations/instances_{split}2017.json",
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",
    "{split}.json",
)
IMAGES = ("images/{split}", "images/{split}2017", "{split}2017", "{split}", "images", ".")
LARGEST = 1e12  # of numbers that are pixels, also square ones
OTHER_KINDS = ("person_keypoints", "captions", "panoptic", "stuff", "image_info")  # of COCO's own annotation files


class Coco:
    """COCO JSON: `images`, `categories`, and `annotations` with a `bbox` (x, y, width, height in pixels).

    Args:
        root: the data set's folder.
        annotations: file below root, with "{split}" for train, val, test; without it, one file for all. None
            looks in the usual places.
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
        val_fraction: float = 0.2,
        bad_boxes: str = "error",
        outlines: bool = True,
        outside: bool = False,
        max_side: int | None = detection.MAX_SIDE,
    ) -> None:
        self.root = detection.check_settings(root, val_fraction=val_fraction, bad_boxes=bad_boxes)
        self.images, self.val_fraction, self.outside = images, val_fraction, outside
        self.bad_boxes, self.max_side = bad_boxes, max_side
        self.files = _find_files(self.root, annotations)
        contents = _read(self.files["train"], outlines=outlines)
        self._classes = _class_names(self.files, contents)
        self.provides = {"detection": self._classes, "multilabel": self._classes}
        self._train: Parsed | None = _parse(self.files["train"], contents, self._classes)
        self.outlines = self._train.shapes is not None
        if self.outlines:
            self.provides["segmentation"] = ("background", *self._classes)
        self._splits: dict[str, DetectionSplit | None] = {}

    def split(self, name: str) -> DetectionSplit | None:
        """The images of "train", "val" or "test", checked, with their boxes; None where there are none."""
        if name not in self._splits:
            if name == "train" or (name == "val" and "val" not in self.files):
                self._make_train()
            elif name in self.files:
                contents = _read(self.files[name], outlines=self.outlines)
                _check_classes(self.files[name], contents, self.files["train"], self._classes)
                self._splits[name] = self._make(name, _parse(self.files[name], contents, self._classes))
        return self._splits.get(name)

    def _make_train(self) -> None:
        assert self._train is not None
        train = self._make("train", self._train)
        if "val" not in self.files:
            train, self._splits["val"] = detection.hold_out(train, self.val_fraction)
        self._splits["train"], self._train = train, None

    def _make(self, side: str, parsed: Parsed) -> DetectionSplit:
        folder = _find_images(self.root, self.images, side, parsed)
        if not self.outside:
            check_inside(parsed.names, folder, root=self.root, where=parsed.where)
        files = FileNames(folder)
        parsed = replace(parsed, names=[files.find(name) or name for name in parsed.names])
        return detection.make_split(
            parsed, folder, class_names=self._classes, bad_boxes=self.bad_boxes, max_side=self.max_side
        )


def _find_files(root: Path, given: str | None) -> dict[str, Path]:
    """The annotation file of each side that has one."""
    patterns = (given,) if given else ANNOTATIONS
    for pattern in patterns:
        found: dict[str, Path] = {}
        for side, spellings in (SPELLINGS if "{split}" in pattern else {"train": ("train",)}).items():
            files = (root / pattern.replace("{split}", spelling) for spelling in spellings)
            if file := next(filter(Path.is_file, files), None):
                found[side] = file
        if "train" in found:
            return found if given else {**_by_name(found["train"].parent, set(SPELLINGS) - set(found)), **found}
    if not given:
        for place in (root / "annotations", root):
            if "train" in (found := _by_name(place, set(SPELLINGS))):
                return found
    there = [str(file.relative_to(root)) for glob in ("*.json", "annotations/*.json") for file in root.glob(glob)]
    raise InputError(
        f"{root}: no training annotations: there is no {' or '.join(patterns).replace('{split}', 'train')}"
        f"{', but ' + ', '.join(sorted(there)[:5]) if there else ''}; name the file, below this folder, as "
        'data.annotations=<file>, with "{split}" where train, val or test stands'
    )


def _by_name(folder: Path, wanted: set[str]) -> dict[str, Path]:
    """The JSON files of a folder that are named for the `wanted` sides, in any words: "pets_validation.json"."""
    if not folder.is_dir():
        return {}
    files = {file.stem: file for file in folder.glob("*.json") if not file.name.startswith((".", *OTHER_KINDS))}
    stems = [stem for stem in files if side_of(stem, among_others=True) in (*wanted, BOTH)]
    sides = by_side(stems, folder, among_others=True, plainest=True)
    return {side: files[stem] for side, stem in sides.items() if side in wanted}


def _find_images(root: Path, given: str | None, side: str, parsed: Parsed) -> Path:
    patterns = (given,) if given else IMAGES
    folders = [root / pattern.replace("{split}", s) for pattern in patterns for s in SPELLINGS[side]]
    files = {folder: FileNames(folder) for folder in folders if folder.is_dir()}
    for name in parsed.names[:10]:  # one missing image must not hide the folder
        for folder, there in files.items():
            if there.find(name):
                return folder
    raise InputError(
        f"{parsed.where}: its images are missing: {shorten(parsed.names[0], 150)} (the first of {len(parsed.names)}) "
        f"is not in {' or '.join(map(str, dict.fromkeys(folders)))}; put them there, or name their folder, below "
        "data.root, as data.images"
    )


def _read(file: Path, *, outlines: bool) -> dict[str, Any]:
    """A COCO file, its "images", "annotations" and "categories" sure to be lists of objects."""

    def packed(entry: dict[str, Any]) -> dict[str, Any]:
        entry.pop("packed", None)
        if "segmentation" in entry:  # most of a large file: packed or dropped while it is parsed
            outline = entry.pop("segmentation")
            if "image_id" in entry and entry.get("bbox") in (None, [], [0, 0, 0, 0]):
                entry["bbox"] = outline_box(outline)
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


def _categories(file: Path, contents: dict[str, Any]) -> dict[int, str]:
    """{id: name} in the order of the ids, without a dummy that Roboflow writes."""
    ids = _unique(file, "categories have the id", _column(file, contents, "categories", "id", int))
    names, dummies = _column(file, contents, "categories", "name", str), _dummies(file, contents)
    pairs = [(number, name) for number, name in zip(ids, names, strict=True) if number not in dummies]
    _unique(file, "categories are named", [name for _, name in pairs])
    return dict(sorted(pairs))


def _dummies(file: Path, contents: dict[str, Any]) -> dict[int, str]:
    """{id: name} of the categories without annotations that are another's supercategory."""
    ids, names = (_column(file, contents, "categories", key, kind) for key, kind in (("id", int), ("name", str)))
    parents = [entry.get("supercategory") for entry in contents["categories"]]
    used = set(_column(file, contents, "annotations", "category_id", int))
    return {
        number: name
        for number, name in zip(ids, names, strict=True)
        if number not in used and any(p == name and other != number for other, p in zip(ids, parents, strict=True))
    }


def _class_names(files: dict[str, Path], contents: dict[str, Any]) -> tuple[str, ...]:
    train = files["train"]
    named, dummies = _categories(train, contents), _dummies(train, contents)
    for side, file in files.items():
        if side != "train" and dummies:  # a rare case, so that one file is read mostly
            own = set(_categories(file, _read(file, outlines=False)).values())
            missing = {number: name for number, name in dummies.items() if name in own and name not in named.values()}
            named = dict(sorted({**named, **missing}.items()))
    if not named:
        raise InputError(f'{train}: "categories" names no class; list the classes of the boxes there')
    return choose_classes(train, list(named.values()), None)


def _check_classes(file: Path, contents: dict[str, Any], train: Path, classes: tuple[str, ...]) -> None:
    dummies = set(_dummies(file, contents).values())  # what is one here may be a class by another file
    names = set(_categories(file, contents).values()) | dummies.intersection(classes)
    added = sorted(names - set(classes))
    for verb, odd in (("lacks", sorted(set(classes) - names)), ("adds", added)):
        if odd:
            raise InputError(
                f"{file}: its categories differ from those of {train}: it {verb} {', '.join(odd)}; declare the "
                "same categories in both"
            )


def _parse(file: Path, contents: dict[str, Any], classes: tuple[str, ...]) -> Parsed:
    ids = _unique(file, "images have the id", _column(file, contents, "images", "id", int, str))
    names = _unique(file, "images have the file_name", _column(file, contents, "images", "file_name", str))
    if not names:
        raise InputError(f'{file}: there are no images: "images" is empty; list them there')
    sizes = [_numbers(file, contents, "images", key, default=0, whole=True) for key in ("height", "width")]
    numbers = [entry.get("id") for entry in contents["annotations"]]

    def positions(key: str, table: str, known: dict[Any, int]) -> np.ndarray:
        values = _column(file, contents, "annotations", key, int, str)
        found = [known.get(value, -1) for value in values]
        if -1 in found:
            row = found.index(-1)
            raise InputError(
                f'{file}: annotation {quote(numbers[row])}: {key} {quote(values[row])} is not declared in "{table}"; '
                "declare it there, or remove the annotation"
            )
        return np.array(found, np.int64)

    def describe(row: int) -> str:
        return f"{file}: annotation {quote(numbers[row])} of image {shorten(names[image[row]], 150)}"

    image = positions("image_id", "images", {value: i for i, value in enumerate(ids)})
    labels = {name: label for label, name in enumerate(classes)}
    known = {number: labels[name] for number, name in _categories(file, contents).items() if name in labels}
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
    outlines = [entry.get("packed", b"") for entry in contents["annotations"]]
    has_outlines = any(outlines) and len(classes) < MOST_CLASSES
    objects = Objects(
        image=image,
        boxes=corners,
        labels=positions("category_id", "categories", known),
        crowd=np.array(crowd, np.bool_),
        area=area,
        shape=np.arange(len(image)) if has_outlines else None,
    )
    shapes = Shapes.of(str(file), numbers, outlines) if has_outlines else None
    return Parsed(str(file), names, np.array(sizes).T.astype(np.int64), objects, describe, shapes, xywh=True)
