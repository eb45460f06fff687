"""Boxes and the classes present, from Pascal VOC XML, one file an image; `Masks` reads VOC's segmentation."""

import math
import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

import numpy as np

from mnv2_tasks.datasets import detection
from mnv2_tasks.datasets.detection import DetectionSplit, Objects, Parsed
from mnv2_tasks.datasets.images import SUFFIXES
from mnv2_tasks.datasets.label_table import choose_classes
from mnv2_tasks.datasets.listing import LeftOut, walk
from mnv2_tasks.datasets.sides import SPELLINGS, by_side
from mnv2_tasks.errors import InputError, quote, shorten
from mnv2_tasks.foreign import read_bytes, read_text

ANNOTATIONS = ("Annotations", "annotations", "annotations/xmls", "xml", ".")
IMAGES = ("JPEGImages", "images", ".")
LISTS = ("ImageSets/Main", ".")  # folders of lists named for sides
MOST_BYTES = 2**24  # of one image's XML: 40,000 objects have less
_DIFFICULT = {"": False, "0": False, "false": False, "unspecified": False, "1": True, "true": True}
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Thing(NamedTuple):
    """One <object>."""

    name: str
    box: tuple[float, ...]  # in the order of CORNERS
    difficult: bool


class Page(NamedTuple):
    """One XML file."""

    file: Path
    image: str  # its <filename>
    size: tuple[int, int]  # (H, W), 0 where not told
    things: list[Thing]


class Voc:
    """Pascal VOC: an XML file an image, of the same name, and text files that list the names on each side.

    Args:
        root: the data set's folder.
        annotations, images: folders below root; None looks in the usual places.
        lists: file below root, an image a line, with "{split}" for train, val, test; without it, one list for all,
            of which val is held out. None: the lists named for sides in ImageSets/Main or root, trainval.txt too, or
            else folders named so among those of the XML files.
        classes: names in the order of the class indices; None: every name found, sorted.
        one_based: pixels count from 1, as in the official VOC: xmin and ymin become one less.
        val_fraction: where there is no val list, the part of train held out by a hash of the file name.
        bad_boxes: "error" refuses boxes without area or out of their image, "fix" clips or drops them.
        max_side: an image whose long side is over this is reduced when it is read.

    A `difficult` object gets crowd=True: neither training nor the metric counts it, and it leaves unknown whether its
    class is present. Raises InputError for what is wrong: in lists and XML at once (with `classes` given, only train's
    XML), in images and boxes once that side is asked for.
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
        max_side: int | None = detection.MAX_SIDE,
    ) -> None:
        self.root = detection.check_settings(root, val_fraction=val_fraction, bad_boxes=bad_boxes)
        self.images, self.val_fraction, self.bad_boxes = images, val_fraction, bad_boxes
        self.one_based, self.max_side = one_based, max_side
        self.annotations, files, self.left_out = _find_annotations(self.root, annotations)
        self._sides = _find_sides(self.root, files, lists)
        listed = {file for its in self._sides.values() for file in its}
        if unlisted := len(files) - len(listed):
            self.left_out["XML on no list"] = unlisted
        if isinstance(classes, str) or (classes is not None and len(set(classes)) < max(len(classes), 1)):
            raise InputError(f"data.classes={classes}: give a list of different names, as in data.classes=[car,bus]")
        self._pages: dict[str, list[Page]] = {}
        if classes is None:
            pages = [page for side in self._sides for page in self._read(side)]
            there = sorted({thing.name for page in pages for thing in page.things})
            classes = choose_classes(self.annotations, there, None)
        if not classes:
            raise InputError(f"{self.annotations}: its XML files hold no <object>: there is nothing to learn; add some")
        self._classes = tuple(classes)
        self.provides = {"detection": self._classes, "multilabel": self._classes}
        _check_names(self._read("train"), self._classes)
        self._splits: dict[str, DetectionSplit | None] = {}

    def split(self, name: str) -> DetectionSplit | None:
        """The images of "train", "val" or "test", checked, with their boxes; None where there are none."""
        if name not in self._splits:
            if name in self._sides:
                self._splits[name] = self._make(name)
            if "val" not in self._sides and name in ("train", "val"):
                train = self._splits.get("train") or self._make("train")
                self._splits["train"], self._splits["val"] = detection.hold_out(train, self.val_fraction)
        return self._splits.get(name)

    def _read(self, side: str) -> list[Page]:
        if side not in self._pages:
            self._pages[side] = [_read_page(self.annotations / file) for file in self._sides[side]]
        return self._pages[side]

    def _make(self, side: str) -> DetectionSplit:
        pages = self._read(side)
        del self._pages[side]
        _check_names(pages, self._classes)
        folder, names = _find_images(self.root, self.images, self.annotations, pages)
        split = detection.make_split(
            _parsed(pages, names, self._classes, one_based=self.one_based),
            folder,
            class_names=self._classes,
            bad_boxes=self.bad_boxes,
            max_side=self.max_side,
        )
        if side == "train":
            split.left_out = self.left_out
        return split


def _find_annotations(root: Path, given: str | None) -> tuple[Path, list[str], LeftOut]:
    """The folder of the XML files, their names in it, at any depth, and what else is there."""
    places = (given,) if given else ANNOTATIONS
    for place in places:
        if (root / place).is_dir():
            names, left = walk(root / place, (".xml",), beside=(*SUFFIXES, ".txt", ".json", ".yaml", ".md"))
            if names:
                return root / place, names, left
    raise InputError(
        f"{root}: no XML files in {' or '.join(places)}; name their folder, below this one, as data.annotations"
    )


def _find_sides(root: Path, files: Sequence[str], given: str | None) -> dict[str, list[str]]:
    """The XML files of each side: of lists, of folders named for sides, or all of them train's.

    A list that is given without "{split}", or the only one of a data set, is train's alone.
    """
    lists = _find_lists(root, given)
    if lists:
        names = _by_stem(files)
        return {side: _read_list(file, names) for side, file in lists.items()}
    if given:
        raise InputError(
            f"{root}: there is no list {given.replace('{split}', 'train')}; name the lists as "
            "data.lists=<file>, with {split} where train, val or test stands"
        )
    folders = {part for file in files for part in Path(file).parts[:-1]}
    sides = by_side(folders, root)
    if not sides:
        return {"train": list(files)}
    if "train" not in sides:
        raise InputError(f"{root}: {', '.join(sides.values())} but no train folder holds XML files; name it train")
    found = {side: [f for f in files if folder in Path(f).parts[:-1]] for side, folder in sides.items()}
    if rest := [file for file in files if not any(file in its for its in found.values())]:
        raise InputError(
            f"{root / rest[0]}: it lies beside the folders {', '.join(sides.values())}, on no side ({len(rest)} files "
            "do); move it into one of them"
        )
    return found


def _find_lists(root: Path, given: str | None) -> dict[str, Path]:
    """The list of each side that has one. Raises InputError for lists that leave train without one."""
    if given:
        spelt = SPELLINGS if "{split}" in given else {"train": ("train",)}
        files = {
            side: next((f for word in words if (f := root / given.replace("{split}", word)).is_file()), None)
            for side, words in spelt.items()
        }
        found = {side: file for side, file in files.items() if file}
        return found if "train" in found else {}
    for place in LISTS:
        stems = {file.stem: file for file in sorted((root / place).glob("*.[tT][xX][tT]"))}
        sides = {side: stems[stem] for side, stem in by_side(stems, root / place, plainest=True).items()}
        if not sides and place != "." and len(stems) == 1:  # CVAT's default.txt
            return {"train": next(iter(stems.values()))}
        if "train" in sides:
            return sides
        if sides:
            names = ", ".join(str(file) for file in sides.values())
            raise InputError(f"{names}: there is no list of the training images beside it; add train.txt there")
    return {}


def _by_stem(files: Sequence[str]) -> dict[str, str | None]:
    """{what a list may call an XML file, by its path or its name alone: the file, None where several are so called}."""
    names: dict[str, str | None] = {}
    for file in files:
        stem = unicodedata.normalize("NFC", os.path.splitext(file)[0])
        for name in dict.fromkeys((stem, stem.rpartition("/")[2])):
            names[name] = file if name not in names else None
    return names


def _read_list(file: Path, names: Mapping[str, str | None]) -> list[str]:
    """The XML files of a list: the first word of each line, as some lists go on with labels."""
    lines = read_text(file, fix="give a list of image names, one a line").splitlines()
    found = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if line:
            word = line.split()[0]
            forms = [unicodedata.normalize("NFC", form.replace("\\", "/")) for form in (line, word)]
            forms += [os.path.splitext(form)[0] for form in forms] + [Path(form).stem for form in forms]
            name = next((names[form] for form in forms if form in names), "")
            if not name:
                problem = f"there is no {shorten(word, 150)}.xml" if name == "" else f"several XML files are {word}"
                raise InputError(f"{file}: line {number}: {problem}; correct or remove the line")
            found.append(name)
    if not found:
        raise InputError(f"{file}: no images are listed; list some, or remove the file")
    if len(set(found)) < len(found):
        name, count = Counter(found).most_common(1)[0]
        raise InputError(f"{file}: {os.path.splitext(name)[0]} is listed {count} times; keep one line of it")
    return found


def _read_page(file: Path) -> Page:
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
    things = []
    for number, entry in enumerate(top.findall("object"), 1):
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise InputError(f"{file}: object {number} has no <name>; add it, or remove the object")
        texts = [entry.findtext(f"bndbox/{corner}") for corner in CORNERS]
        try:
            box = tuple(float(text) for text in texts)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            told = ", ".join(f"{corner}={quote(text, 30)}" for corner, text in zip(CORNERS, texts, strict=True))
            raise InputError(
                f"{file}: object {number}: <bndbox> needs 4 numbers, but has {told}; correct or remove the object"
            ) from None
        things.append(Thing(name, box, _is_difficult(file, number, entry.findtext("difficult"))))
    height, width = (_pixels(file, side, top.findtext(f"size/{side}")) for side in ("height", "width"))
    size = (height, width) if height and width else (0, 0)
    return Page(file, (top.findtext("filename") or "").strip(), size, things)


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


def _check_names(pages: Sequence[Page], classes: tuple[str, ...]) -> None:
    known = set(classes)
    for page in pages:
        for number, thing in enumerate(page.things, 1):
            if thing.name not in known:
                raise InputError(
                    f"{page.file}: object {number}: {quote(thing.name)} is not among "
                    f"data.classes={quote(list(classes), 200)}; correct the name, or add it to the classes"
                )


def _find_images(root: Path, given: str | None, annotations: Path, pages: Sequence[Page]) -> tuple[Path, list[str]]:
    """The folder with the images, and the name in it of each page's image: it has the XML file's stem.

    An image lies below the folder where the XML file lies below its own, or is the only one of that stem; else its
    name is the <filename>, which often is out of date.
    """
    folders = [root / given] if given else list(dict.fromkeys([*(root / place for place in IMAGES), annotations]))
    for folder in filter(Path.is_dir, folders):
        files: dict[str, list[str]] = {}
        for name in walk(folder, SUFFIXES)[0]:
            stem = unicodedata.normalize("NFC", os.path.splitext(name)[0])
            for key in dict.fromkeys((stem, f"/{stem.rpartition('/')[2]}")):
                files.setdefault(key, []).append(name)
        names, missing = [], []
        for page in pages:
            relative = unicodedata.normalize("NFC", os.path.splitext(page.file.relative_to(annotations).as_posix())[0])
            written = unicodedata.normalize("NFC", os.path.splitext(page.image.replace("\\", "/"))[0])
            keys = (relative, f"/{relative.rpartition('/')[2]}", written, f"/{written.rpartition('/')[2]}")
            candidates = next(
                (files[key] for key in keys if len({Path(n).parent for n in files.get(key, ())}) == 1), []
            )
            same = [name for name in candidates if Path(name).name == Path(page.image.replace("\\", "/")).name]
            names += (same or candidates)[:1]
            missing += [] if candidates else [page.file]
        if missing and names:
            raise InputError(
                f"{missing[0]}: there is no image {missing[0].stem}.* in {folder} ({len(missing)} of {len(pages)} "
                "images are missing); put it there, or remove the XML file"
            )
        if names:
            return folder, names
    raise InputError(
        f"{pages[0].file}: its image is missing, and so are all {len(pages)}: there is no {pages[0].file.stem}.* in "
        f"{' or '.join(map(str, folders))}; put them there, or name their folder below data.root as data.images"
    )


def _parsed(pages: Sequence[Page], names: list[str], classes: tuple[str, ...], *, one_based: bool) -> Parsed:
    origins = [(i, number) for i, page in enumerate(pages) for number in range(len(page.things))]
    things = [thing for page in pages for thing in page.things]
    labels = {name: label for label, name in enumerate(classes)}
    boxes = np.array([thing.box for thing in things], np.float64).reshape(-1, 4)
    boxes[:, :2] -= one_based
    objects = Objects(
        image=np.array([i for i, _ in origins], np.int64),
        boxes=boxes,
        labels=np.array([labels[thing.name] for thing in things], np.int64),
        crowd=np.array([thing.difficult for thing in things], np.bool_),
        area=np.full(len(things), np.nan),
    )
    return Parsed(
        where=str(pages[0].file.parent),
        names=names,
        sizes=np.array([page.size for page in pages], np.int64),
        objects=objects,
        describe=lambda row: f"{pages[origins[row][0]].file}: object {origins[row][1] + 1}",
    )
