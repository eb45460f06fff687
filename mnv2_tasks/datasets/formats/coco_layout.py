"""Where things lie in a COCO data set: the annotation file of each side, and the image that a name means."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnv2_tasks.datasets.reading.file_names import ByEnds, FileNames, check_inside, leads_out
from mnv2_tasks.datasets.reading.image_lists import TABLES, check_no_lists, not_read
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import walk
from mnv2_tasks.datasets.reading.sides import BOTH, SPELLINGS, by_side, check_untold, side_of, spelled
from mnv2_tasks.errors import InputError, shorten

IMAGES = ("images/{split}", "{split}/images", "{split}", "images", ".")
OTHER_KINDS = ("person_keypoints", "captions", "panoptic", "stuff", "image_info")  # of COCO's own annotation files
DEEPEST = 3  # parts of an annotation file's name: train/annotations/instances.json
BESIDE = (".md", ".yaml", ".yml", ".xml", ".html")
USUAL_NAMES = "annotations/instances_train.json, train/_annotations.coco.json, train.json or the like"


class Layout:
    """The files of a data set.

    Args:
        annotations: file below root, with "{split}" for train, val, test; without it, one file for all sides.
        images: folder below root, "{split}" allowed.

    Attributes:
        sides: {side: its annotation file}; one at least.
        left_out: the files that are of no use.
        notes: what else was decided.
    """

    def __init__(self, root: Path, *, annotations: str | None, images: str | None, outside: bool) -> None:
        self.root = root
        self.outside = outside
        self.pattern = images
        top = (images or "").partition("{split}")[0].rpartition("/")[0] if "{split}" in (images or "") else images
        self.top = root / (top or ".")
        files, self.left_out = walk(root, (*TABLES, *SUFFIXES), beside=BESIDE)
        self.images = [file for file in files if not file.lower().endswith(TABLES)]
        lists = [f for f in files if f.lower().endswith(TABLES) and not f.lower().endswith(".json")]
        tables = self._tables(file for file in files if file.lower().endswith(".json"))
        self.notes: list[str] = []
        self._untold: str | None = None  # the file that is for all sides, unless it is said to be
        self.sides = self._given(annotations) if annotations else self._by_name(tables)
        lists = [file for file in lists if side_of(Path(file).stem)]
        if self._untold:
            check_no_lists(root, lists, fix=self._fix_untold)
        self.notes += not_read(file for file in [*tables, *lists] if root / file not in self.sides.values())
        if images and os.path.relpath(self.top, root).startswith(".."):
            self.images, self.left_out = walk(self.top, SUFFIXES)
        elif self.top != root:
            start = os.path.relpath(self.top, root) + "/"
            self.images = [file.removeprefix(start) for file in self.images if file.startswith(start)]
        self._set = frozenset(self.images)
        self._ends: ByEnds | None = None
        self._used: dict[str, set[str]] = {}  # side -> the images below `top` that are its own

    @property
    def _fix_untold(self) -> str:
        return f"make an annotation file for each side, or to mix them name it as data.annotations={self._untold}"

    def _tables(self, files: Iterable[str]) -> list[str]:
        """The JSON files that may be annotations of many images; LabelMe writes one beside each image."""
        images = frozenset(self.images)
        tables = []
        for file in files:
            stem = file[: -len(".json")]
            if side_of(stem.rpartition("/")[2]) is None and any(
                stem + suffix in images or stem + suffix.upper() in images for suffix in SUFFIXES
            ):
                self.left_out["JSON of one image"] += 1
            elif file.count("/") < DEEPEST:
                tables.append(file)
        return tables

    def _given(self, pattern: str) -> dict[str, Path]:
        if "{split}" not in pattern:
            sides = {"train": self.root / pattern} if (self.root / pattern).is_file() else {}
        else:
            paths = {word: path for word, path in spelled(self.root, pattern).items() if path.is_file()}
            words = by_side(paths, self.root / pattern, plainest=True)
            sides = {side: paths[word] for side, word in words.items()}
        if not sides:
            raise self.no_train(pattern.replace("{split}", "train"))
        return sides

    def _by_name(self, tables: Sequence[str]) -> dict[str, Path]:
        """The file of each side: one named for it alone, or in a folder of it, goes before one with other words."""
        usual: dict[str, list[str]] = {}
        worded: dict[str, list[str]] = {}
        for file in tables:
            *folders, name = file.split("/")
            stem = os.path.splitext(name)[0]
            if name.lower().startswith(OTHER_KINDS):
                continue
            if side := side_of(stem):
                usual.setdefault(side, []).append(file)
            elif side := side_of(stem, among_others=True):
                worded.setdefault(side, []).append(file)
            elif side := next(filter(None, map(side_of, reversed(folders))), None):
                usual.setdefault(side, []).append(file)
        sides: dict[str, str] = {}
        for side in (*SPELLINGS, BOTH):
            files = usual.get(side) or worded.get(side, [])
            if len(files) > 1 and not (side == BOTH and "train" in sides):
                raise InputError(
                    f"{self.root}: {' and '.join(files[:4])} may all be its {side} side; name the files, below this "
                    'folder, as data.annotations=<file>, with "{split}" where train, val or test stands'
                )
            if files:
                sides[side] = files[0]
        both = sides.pop(BOTH, None)
        if both is not None:
            sides = {"train": both} | sides
        annotations = [file for file in tables if not Path(file).name.lower().startswith(OTHER_KINDS)]
        if not sides and len(annotations) == 1:
            self.notes.append(f"{annotations[0]} is for all sides")
            self._untold = annotations[0]
            sides = {"train": annotations[0]}
        if not sides:
            raise self.no_train(others=tables)
        return {side: self.root / file for side, file in sides.items()}

    def no_train(self, names: str = USUAL_NAMES, others: Sequence[str] = ()) -> InputError:
        """What to raise where train is asked for and not there; `others` are the files that are."""
        rest = f", but {', '.join(others[:5])}" if others else ""
        return InputError(
            f"{self.root}: no training annotations: there is no {names}{rest}; name the file, below this folder, as "
            'data.annotations=<file>, with "{split}" where train, val or test stands'
        )

    def find_images(self, side: str, names: Sequence[str], where: str) -> tuple[Path, list[str], list[str]]:
        """The folder of a side's images, their names in it, and notes on those that are not where they should be.

        Raises InputError where there is none at all, where a name may mean several images or leads out of the root,
        and where two names mean one image.
        """
        folders = self._folders(side, Path(where).parent)
        folder = self._first(folders, names)
        # Where its own folder is, images of other sides' folders are not meant, though they may have their names.
        wanted_side = (
            side if len(self.sides) > 1 and side in map(side_of, folder.parts[len(self.root.parts) :]) else None
        )
        listing = FileNames(folder)
        start = os.path.relpath(folder, self.top)
        start = "" if start == "." else f"{start}/"
        files = list(names)
        missing = 0
        moved: list[int] = []
        others = [row for row, name in enumerate(names) if start + name not in self._set]
        for row in others:
            name = names[row]
            out = not self.outside and leads_out(name, folder, root=self.root)
            if not out and (file := listing.find(name)) is not None:
                files[row] = file
            elif (file := self._by_end(name, wanted_side, where)) is not None:
                files[row] = os.path.relpath(self.top / file, folder)
                moved.append(row)
            else:
                check_inside([name] if out else [], folder, root=self.root, where=where)
                missing += 1
        if missing == len(names):
            places = " or ".join(
                place.replace("{split}", side) for place in ([self.pattern] if self.pattern else IMAGES)
            )
            raise InputError(
                f"{where}: its images are missing: {shorten(names[0], 150)} (the first of {len(names)}) is not in "
                f"{shorten(places, 150)} of {self.root}, nor is there one so named in another folder"
                f"{self.left_out.aside}; put them there, or name their folder, below data.root, as data.images"
            )
        if self._untold:
            check_untold([start + file for file in files], self.root / self._untold, fix=self._fix_untold)
        self._count(side, where, names, [start + file for file in files], others)
        if not moved:
            return folder, files, []
        name, file = names[moved[0]], os.path.relpath(folder / files[moved[0]], self.root)
        more = f", and {len(moved) - 1:,} more so" if moved[1:] else ""
        return folder, files, [f"{shorten(name, 60)} is read as {shorten(file, 60)}{more}"]

    def _folders(self, side: str, beside: Path) -> list[Path]:
        folders: list[Path] = []
        for pattern in (self.pattern,) if self.pattern else IMAGES:
            if "{split}" in pattern:
                folders += [f for word, f in spelled(self.root, pattern).items() if side_of(word) in (side, BOTH)]
            else:
                folders.append(self.root / pattern)
        return list(dict.fromkeys(folders if self.pattern else [*folders, beside]))

    def _first(self, folders: Sequence[Path], names: Sequence[str]) -> Path:
        listings = [FileNames(folder) for folder in folders if folder.is_dir()]
        for name in names[:10]:  # one missing image must not hide the folder
            for listing in listings:
                if (self.outside or not leads_out(name, listing.folder, root=self.root)) and listing.find(name):
                    return listing.folder
        return self.top

    def _by_end(self, name: str, side: str | None, where: str) -> str | None:
        if self._ends is None:
            self._ends = ByEnds(self.images)
        files = self._ends.find(name, side=side)
        if len(files) > 1:
            raise InputError(
                f"{where}: {shorten(name, 150)} may be {' or '.join(shorten(file, 60) for file in files[:3])}; name "
                "the folder of the images as data.images, or write it before their names"
            )
        return files[0] if files else None

    def _count(self, side: str, where: str, names: Sequence[str], paths: list[str], others: Sequence[int]) -> None:
        """Note the images of a side, and with the last side how many lie among them without being in any file.

        Raises InputError where two names mean one image, which only `others` can, that are not written as they are.
        """
        if others:
            for row in others:
                paths[row] = os.path.normpath(paths[row])
            rows: dict[str, int] = {}
            for row, path in enumerate(paths):
                if (first := rows.setdefault(path, row)) != row:
                    both = f"{shorten(names[first], 100)} and {shorten(names[row], 100)}"
                    raise InputError(f"{where}: {both} are one image; keep one of them")
        self._used[side] = set(paths)
        if len(self._used) < len(self.sides):
            return
        used = set().union(*self._used.values())
        folder = os.path.commonpath({path.rpartition("/")[0] for path in used})
        begin = f"{folder}/" if folder else ""
        number = sum(file.startswith(begin) for file in self.images) - len(used & self._set)
        if number:
            self.left_out[f"{'images' if number > 1 else 'image'} in no annotation file"] = number
