"""Where things lie in a Pascal VOC data set: the XML files of each side, and the image of each."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mnv2_tasks.datasets.reading.file_names import ByEnds, plain_form
from mnv2_tasks.datasets.reading.image_lists import TABLES, find_lists, given_lists, not_read
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import walk
from mnv2_tasks.datasets.reading.sides import by_side, check_untold, side_of
from mnv2_tasks.errors import InputError, shorten
from mnv2_tasks.files import read_text

ANNOTATIONS = ("Annotations", "annotations", "annotations/xmls", "xml", ".")
IMAGES = ("JPEGImages", "images", ".")
BESIDE = (".yaml", ".yml", ".md", ".html", ".pbtxt")


class Source(Protocol):
    """What an XML file says of its image."""

    @property
    def file(self) -> Path: ...

    @property
    def names(self) -> tuple[str, ...]: ...  # what it calls the image


class Layout:
    """The files of a data set.

    Args:
        annotations, images: folders below root; None looks in the usual places.
        lists: file below root, with "{split}" for train, val, test; without it, one list for all.

    Attributes:
        folder: of the XML files.
        sides: {side: its XML files, relative to the folder}; one at least.
        left_out: the files that are of no use.
        notes: what else was decided.
    """

    def __init__(self, root: Path, *, annotations: str | None, images: str | None, lists: str | None) -> None:
        self.root = root
        self.images = images
        self.notes: list[str] = []
        files, self.left_out = walk(root, (".xml", *TABLES, *SUFFIXES), beside=BESIDE)
        self.folder, self.files = _find_annotations(root, annotations, files)
        others = sum(file.lower().endswith(".xml") for file in files) - len(self.files)
        if others > 0:
            self.left_out["XML in another folder"] = others
        listed_sides = self._listed([file for file in files if file.lower().endswith(TABLES)], lists)
        self.sides = listed_sides or _by_folders(self.folder, self.files)
        self._untold = not listed_sides and len(self.sides) == 1
        self._unlisted = set(self.files).difference(*self.sides.values())
        if self._unlisted:
            self.left_out["XML on no list"] = len(self._unlisted)
        self._used: dict[str, set[str]] = {}  # side -> its images, relative to the folder of images

    def _listed(self, tables: Sequence[str], pattern: str | None) -> dict[str, list[str]]:
        texts = [file for file in tables if file.lower().endswith(".txt")]
        lists = given_lists(self.root, pattern) if pattern else find_lists(self.root, texts, task="Main")
        self.notes += not_read(f for f in tables if side_of(Path(f).stem) and self.root / f not in lists.values())
        names = _by_stem(self.files)
        sides: dict[str, list[str]] = {}
        for side, file in lists.items():
            rows = _read_list(file, names)
            if side == "test" and not any(rows.values()):  # the official test set has no XML
                self.notes.append(f"there is no test side: no image of {file.name} has an XML file")
                continue
            sides[side] = _checked(file, rows)
        return sides

    def find_images(self, side: str, annotations: Sequence[Source]) -> tuple[Path, list[str], list[str]]:
        """The folder of images, the name in it of each XML file's image, and notes.

        An image has the XML file's stem, and lies below its folder as the XML file does below its own, or is the only
        one so named; or it is the one that the XML file names, which often is out of date. Raises InputError where
        images are missing, and where two XML files have one.
        """
        places: Sequence[str | Path] = [self.images] if self.images else [*IMAGES, self.folder]
        folders = list(dict.fromkeys(self.root / place for place in places))
        for folder in filter(Path.is_dir, folders):
            images, _ = walk(folder, SUFFIXES)
            ends = ByEnds(images, stems=True)
            files: dict[str, Path] = {}  # image -> its XML file
            missing: list[Path] = []
            by_name = 0
            for annotation in annotations:
                path = annotation.file.relative_to(self.folder).as_posix()
                choices = [_choose(ends.find(text), side, annotation.names) for text in (path, *annotation.names)]
                name = next(filter(None, choices), None)
                if name is None:
                    missing.append(annotation.file)
                    continue
                by_name += not choices[0]
                if (other := files.setdefault(name, annotation.file)) != annotation.file:
                    raise InputError(
                        f"{annotation.file}: its image is {folder / name}, as that of {other}; remove one of them"
                    )
            if missing and files:
                raise InputError(
                    f"{missing[0]}: there is no image {missing[0].stem}.* in {folder}, or there are several "
                    f"({len(missing)} of {len(annotations)} images are missing){self.left_out.aside}; put it there, or "
                    "remove the XML file"
                )
            if files and self._untold:
                fix = "sort the XML files into such folders, too, or list the images of each side in ImageSets/Main"
                check_untold(files, folder, fix=fix)
            if files:
                self._count(side, folder, images, files)
                note = f"{by_name:,} {'image has' if by_name == 1 else 'images have'} the name that the XML file says"
                return folder, list(files), [note] if by_name else []
        raise InputError(
            f"{annotations[0].file}: its image is missing, and so are all {len(annotations)}: there is no "
            f"{annotations[0].file.stem}.* in {' or '.join(map(str, folders))}{self.left_out.aside}; put them there, "
            "or name their folder below data.root as data.images"
        )

    def _count(self, side: str, folder: Path, images: Sequence[str], files: Mapping[str, Path]) -> None:
        """With the last side, count the images beside the used ones that have no XML file."""
        self._used[side] = set(files)
        if len(self._used) < len(self.sides):
            return
        used = set().union(*self._used.values())
        stems = {plain_form(Path(file).stem) for file in self._unlisted}
        rest = [name for name in images if name not in used and plain_form(Path(name).stem) not in stems]
        if rest:
            self.left_out[f"{'images' if len(rest) > 1 else 'image'} without XML"] = len(rest)


def _find_annotations(root: Path, place: str | None, files: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder of the XML files, and their names in it, at any depth."""
    places = (place,) if place else ANNOTATIONS
    for place in places:
        start = os.path.normpath(place)
        if start.startswith("..") or os.path.isabs(start):
            names = walk(root / place, (".xml",))[0] if (root / place).is_dir() else []
        else:
            begin = "" if start == "." else f"{start}/"
            names = [f.removeprefix(begin) for f in files if f.startswith(begin) and f.lower().endswith(".xml")]
        if names:
            return root / place, names
    raise InputError(
        f"{root}: no XML files in {' or '.join(places)}; name their folder, below this one, as data.annotations"
    )


def _by_folders(top: Path, files: Sequence[str]) -> dict[str, list[str]]:
    """The XML files of folders named for sides; without any, all are train's."""
    folders = {part for file in files for part in Path(file).parts[:-1]}
    names = by_side(folders, top)
    if not names:
        return {"train": list(files)}
    sides = {side: [f for f in files if folder in Path(f).parts[:-1]] for side, folder in names.items()}
    if rest := [file for file in files if not any(file in side_files for side_files in sides.values())]:
        raise InputError(
            f"{top / rest[0]}: it lies beside the folders {', '.join(names.values())}, on no side ({len(rest)} such); "
            "move it into one of them"
        )
    return sides


def _by_stem(files: Sequence[str]) -> dict[str, str | None]:
    """{what a list may call an XML file, by its path or its name alone: the file, None where several are so called}.

    Names are in their plain form, too, unless another file is so called as it is.
    """
    names: dict[str, str | None] = {}
    alike: dict[str, str | None] = {}
    for file in files:
        stem = os.path.splitext(file)[0]
        for name in dict.fromkeys((stem, stem.rpartition("/")[2])):
            names[name] = file if name not in names else None
            alike[plain_form(name)] = file if alike.get(plain_form(name), file) == file else None
    return alike | names


def _read_list(file: Path, names: Mapping[str, str | None]) -> dict[tuple[int, str], str | None]:
    """{(line, first word): its XML file}, "" for several, None for none; some lists go on with labels."""
    rows: dict[tuple[int, str], str | None] = {}
    for number, line in enumerate(read_text(file, fix="give a list of image names, one a line").splitlines(), 1):
        if words := line.split():
            forms = [form.replace("\\", "/") for form in (line.strip(), words[0])]
            forms += [os.path.splitext(form)[0] for form in forms]
            forms += [form.rpartition("/")[2] for form in forms]
            forms += [plain_form(form) for form in forms]
            rows[number, words[0]] = next((names[form] or "" for form in forms if form in names), None)
    return rows


def _checked(file: Path, rows: Mapping[tuple[int, str], str | None]) -> list[str]:
    """The XML files of a list. Raises InputError for lines without one, or two of one."""
    if not rows:
        raise InputError(f"{file}: no images are listed; list some, or remove the file")
    for (number, word), name in rows.items():
        if not name:
            problem = f"there is no {shorten(word, 150)}.xml" if name is None else f"several XML files are {word}"
            raise InputError(f"{file}: line {number}: {problem}; correct or remove the line")
    names = [name for name in rows.values() if name]
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise InputError(f"{file}: {os.path.splitext(name)[0]} is listed {count} times; keep one line of it")
    return names


def _choose(files: Sequence[str], side: str, names: Sequence[str]) -> str | None:
    """The one of several images that is meant: in a folder of the side, and in it the one that the XML file names."""
    if len(files) > 1:
        files = [file for file in files if side in map(side_of, file.split("/")[:-1])] or files
    if len(files) > 1:
        bases = {name.replace("\\", "/").rpartition("/")[2] for name in names}
        one_folder = len({os.path.dirname(file) for file in files}) == 1  # a.jpg and a.png
        files = [file for file in files if file.rpartition("/")[2] in bases] or files[:one_folder]
    return files[0] if len(files) == 1 else None
