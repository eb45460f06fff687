"""Where things lie in a YOLO data set: which image is on which side."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnv2_tasks.datasets.formats.yolo_files import Description, read_description, read_list
from mnv2_tasks.datasets.reading.file_names import ByEnds, FileNames
from mnv2_tasks.datasets.reading.image_lists import find_lists, not_read
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import LeftOut, walk
from mnv2_tasks.datasets.reading.sides import by_side, side_of
from mnv2_tasks.errors import InputError

USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")
DESCRIPTIONS = (".yaml", ".yml", ".data")
TEXTS = (*DESCRIPTIONS, ".txt")
BESIDE = (".names", ".labels")
IMAGES = re.compile(r"jpegimages|images|image|imgs|img", re.IGNORECASE)


@dataclass
class Layout:
    """The files of a data set, by their names relative to the root."""

    where: Path  # what says which image is on which side: a file, or the root
    sides: dict[str, list[str]]  # the images of each
    names: FileNames
    description: Description | None
    outside: bool  # whether names may lead out of the root
    left_out: LeftOut
    notes: list[str] = field(default_factory=list)  # what was decided
    unused: list[str] = field(default_factory=list)  # images on no side
    no_train: InputError | None = None  # what is wrong with train, once it is asked for


def read_layout(root: Path, file: str | None, *, outside: bool = False) -> Layout:
    """Find the sides: as a data.yaml or .data file says; or train.txt, val.txt; or by folders; or all are train.

    Raises InputError where that leaves a doubt: an image on two sides, a place that is not there, two descriptions.
    """
    files, left_out = walk(root, (*SUFFIXES, *TEXTS), beside=BESIDE)
    texts = [name for name in files if name.lower().endswith(TEXTS)]
    images = [name for name in files if not name.lower().endswith(TEXTS)]
    description = _find_description(root, file, texts)
    if not images and not outside:
        raise InputError(
            f"{root}: there are no images in this folder{left_out.aside}; give the data set's as data.root"
        )
    layout = Layout(root, {}, FileNames(root), description, outside, left_out)
    if description and description.sides:
        layout.where = description.file
        layout.notes.append(f"sides as {os.path.relpath(description.file, root)} says")
        layout.notes += ["its download: is not run"] if description.download else []
        layout.sides = _described(layout, description, images)
    else:
        layout.sides = _listed(layout, texts, images) or _by_folders(layout, images)
    _check_sides(layout)
    used = {name for names in layout.sides.values() for name in names}
    layout.unused = sorted(set(images) - used)
    if layout.unused:
        left_out["on no side"] = len(layout.unused)
    return layout


def _find_description(root: Path, file: str | None, texts: Sequence[str]) -> Description | None:
    """The one that is named, or in the root, or darknet's data/obj.data, or of a usual name in any folder."""
    if file is not None:
        return read_description(root / file)
    texts = [name for name in texts if name.lower().endswith(DESCRIPTIONS)]
    usual = [name for name in texts if name.rpartition("/")[2].lower() in USUAL]
    texts = [name for name in texts if "/" not in name or name == "data/obj.data"] or usual
    descriptions, errors = [], []
    for name in texts:
        try:
            descriptions.append(read_description(root / name))
        except InputError as error:
            if name in usual:
                raise
            errors.append(error)
    data = [one for one in descriptions if one.is_data] or [one for one in descriptions if one.count is not None]
    if len(data) > 1:
        names = " and ".join(os.path.relpath(one.file, root) for one in data[:4])
        raise InputError(f"{root}: {names} describe data sets; name the one to read as data.file=<file>")
    if errors and not data:
        raise errors[0]
    return data[0] if data else None


class Places:
    """What data.yaml and lists call files and folders, sought below the root.

    They may be written on another machine: what lies below the root by its last parts is that. Where one was found so,
    others that begin alike mean the same folder. With `outside` what lies elsewhere is taken, too, by its whole path.
    """

    def __init__(self, root: Path, bases: Iterable[str | Path], *, outside: bool) -> None:
        self.outside = outside
        self.tops = dict.fromkeys((os.path.abspath(root), os.path.realpath(root)))
        self.bases = list(dict.fromkeys(os.path.join(os.path.abspath(root), base) for base in bases))
        self.moved: Counter[str] = Counter()  # beginnings that stand for the root

    def find(self, text: str, look: Callable[[str], str | None], *, side: str = "") -> str | None:
        """The name relative to the root that `look` finds; where `text` has a word of `side`, last parts keep it."""
        for form in dict.fromkeys((text, text.replace("\\", "/"))):
            for base in self.bases:
                place = self._below(os.path.join(base, form))
                if place is not None and (name := look(place)) is not None:
                    return name
        whole = form if re.match("[A-Za-z]:", form) else os.path.join(self.bases[0], form)
        parts = os.path.normpath(whole).split("/")
        for start in self.moved:
            if parts[: (cut := start.count("/") + 1)] == start.split("/"):
                return self._count(start, look("/".join(parts[cut:])))
        spoken = bool(side) and side in map(side_of, form.split("/"))
        for cut in range(1, len(parts)):
            if spoken and side not in map(side_of, parts[cut:]):
                break
            if (tail := "/".join(parts[cut:])) and (name := look(tail)) is not None:
                return self._count("/".join(parts[:cut]), name)
        return None

    def _below(self, path: str) -> str | None:
        """A path relative to the root; None for one outside of it that may not be."""
        path = os.path.normpath(path)
        for top in self.tops:
            if path == top:
                return ""
            if path.startswith(top.rstrip("/") + "/"):
                return path[len(top.rstrip("/")) + 1 :]
        return path if self.outside else None

    def _count(self, start: str, name: str | None) -> str | None:
        if name is not None:
            self.moved[start] += 1
        return name


def _described(layout: Layout, description: Description, images: Sequence[str]) -> dict[str, list[str]]:
    """The sides of a description: each is a folder, a list of images, or several of these."""
    root, file, names = layout.names.folder, description.file, layout.names
    folder = file.parent.absolute()
    bases: list[str | Path] = (
        [folder / description.path, description.path, folder, ""] if description.path else [folder, ""]
    )
    sides: dict[str, list[str]] = {}
    for side, entries in description.sides.items():
        for entry in entries:
            places = Places(root, bases, outside=layout.outside)
            place = places.find(entry, names.find_folder, side=side)
            if place is not None:
                entry_images = _images_in(place, root, images)
            elif entry.lower().endswith(".txt") and (place := places.find(entry, names.find)) is not None:
                entry_images = _images_of(layout, root / place, bases, images)
            else:
                entry_images = []
            if place is not None and (places.moved or os.path.normpath(entry) != os.path.normpath(place or ".")):
                layout.notes.append(f"{side}: {entry} is read as {place or '.'}")
            if not entry_images:
                problem = "holds no images" if place is not None else f"is no folder or list of images below {root}"
                if side == "test":  # exports name one that they have not
                    layout.notes.append(f"there is no test side: {entry} {problem}")
                    continue
                fix = "correct it" if side == "train" else "correct it, or remove the line to hold out a part of train"
                error = InputError(f"{file}: {side}: {entry} {problem}; {fix}")
                if side != "train":
                    raise error
                layout.no_train = error  # the other sides may be evaluated
                continue
            sides.setdefault(side, []).extend(entry_images)
    if layout.no_train:
        sides.pop("train", None)
    if not sides:
        raise layout.no_train or InputError(f"{file}: no side has images; name a folder, or a list, as train: <folder>")
    return sides


def _images_in(place: str, root: Path, images: Sequence[str]) -> list[str]:
    """Those of a folder, of which `images` are the ones below the root."""
    if os.path.isabs(place):
        return [os.path.join(place, name) for name in walk(root / place, SUFFIXES)[0]]
    return [name for name in images if name.startswith(place and f"{place}/")]


def _images_of(layout: Layout, file: Path, bases: Sequence[str | Path], images: Sequence[str]) -> list[str]:
    """The images of a list, relative to the root. Raises InputError for one that is not there, or there twice."""
    places = Places(layout.names.folder, [file.parent.absolute(), *bases], outside=layout.outside)
    ends = ByEnds(images, stems=True)

    def find(text: str) -> str | None:
        if os.path.splitext(text)[1].lower() not in ("", ".txt"):
            return places.find(text, layout.names.find)
        names = ends.find(text)  # its name alone, or its label file
        return names[0] if len(names) == 1 else None

    lines = read_list(file)
    names = [find(text) for _, text in lines]
    if not names:
        raise InputError(f"{file}: no images are listed; list some, or remove the file")
    if None in names:
        number, text = lines[names.index(None)]
        raise InputError(
            f"{file}: line {number}: there is no image {text[:200]} below {layout.names.folder}; put it there, or "
            f"remove the line ({names.count(None):,} of {len(names):,} are missing)"
        )
    paths = [os.path.normpath(name) for name in names if name is not None]
    name, count = Counter(paths).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file}: {name} is listed {count} times; keep one line of it")
    layout.notes += [f"{file.name}: {start or '/'} is read as data.root" for start in places.moved]
    return paths


def _listed(layout: Layout, texts: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """The sides of train.txt and others, where there are any; a label file is none of them."""
    root = layout.names.folder
    stems = {os.path.splitext(os.path.basename(image))[0] for image in images}
    files = []
    for name in texts:
        stem = os.path.splitext(os.path.basename(name))[0]
        if name.lower().endswith(".txt") and side_of(stem) and ("/" not in name or stem not in stems):
            entries = read_list(root / name)
            if entries and not _NUMBERS.fullmatch(entries[0][1]):
                files.append(name)
    fix = "name the lists in a data.yaml, as train: <file> and val: <file>"
    lists = find_lists(root, files, task="Main", fix=fix)
    if lists:
        layout.where = next(iter(lists.values()))
        layout.notes.append(f"sides as listed in {', '.join(os.path.relpath(file, root) for file in lists.values())}")
        layout.notes += not_read([name for name in files if root / name not in lists.values()])
    return {side: _images_of(layout, file, [root], images) for side, file in lists.items()}


_NUMBERS = re.compile(r"[-+.\deE]+(\s+[-+.\deE]+){4,}")  # a line of a label file


def _by_folders(layout: Layout, images: Sequence[str]) -> dict[str, list[str]]:
    """The sides of folders such as images/train or valid/images; without any, everything is train."""
    root = layout.names.folder
    folders: dict[str, list[str]] = {}
    pool = []
    for name in images:
        parts = name.split("/")
        if in_images := len(parts) > 1 and IMAGES.fullmatch(parts[0]) is not None:
            pool.append(name)
        depth = 2 if in_images else 1
        if len(parts) > depth:
            folders.setdefault("/".join(parts[:depth]), []).append(name)
    sides = by_side(folders, root)
    if sides:
        layout.notes.append(f"sides by folders: {', '.join(sides.values())}")
        return {side: folders[name] for side, name in sides.items()}
    pool = pool or list(images)
    for name in pool:
        parts = name.split("/")[:-1]
        if deep := [depth for depth, part in enumerate(parts) if side_of(part)]:
            place = "/".join(parts[: deep[0] + 1])
            above = root.joinpath(*parts[: deep[0]])
            above = above.parent if IMAGES.fullmatch(above.name) else above
            raise InputError(
                f"{root / place}: this looks like one side's folder; give data.root={above}, or a data.yaml"
            )
    return {"train": pool}


def _check_sides(layout: Layout) -> None:
    """No image is on two sides, and none twice on one; a test side that is val's is left out."""
    sides = {side: set(names) for side, names in layout.sides.items()}
    for side, names in layout.sides.items():
        if len(sides[side]) < len(names):
            name, count = Counter(names).most_common(1)[0]
            raise InputError(f"{layout.where}: {side}: {name} is named {count} times; keep one of the places")
    if "val" in sides and sides.get("test") == sides["val"]:
        layout.notes.append("there is no test side: its images are those of val")
        del sides["test"], layout.sides["test"]
    for side, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if not (both := sorted(sides.get(side, set()) & sides.get(other, set()))):
            continue
        if sides[side] == sides[other]:
            problem = f"{side} and {other} are the same {len(both):,} images"
        else:
            problem = f"{both[0]} is on {side} and on {other} ({len(both):,} images are)"
        fix = (
            f"remove {other}: to hold out a part of train by data.val_fraction"
            if other == "val"
            else f"remove {other}:"
        )
        raise InputError(f"{layout.where}: {problem}, so that scores would be of what was learnt; {fix}, or part them")
