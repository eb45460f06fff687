"""How a file name as it is written in annotations finds its file, whatever program and system wrote it."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from mnv2_tasks.datasets.reading.sides import BOTH, side_of
from mnv2_tasks.errors import InputError, quote


def plain_form(part: str) -> str:
    """The one form in which the parts of a path are compared: %20 as a space, Unicode composed (NFC), suffix lower."""
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", unquote(part)))
    return stem + suffix.lower()


def check_inside(names: Iterable[str], folder: Path, *, root: Path, where: object) -> None:
    """Refuse names, read from `folder`, that lead out of it and of the data set's root: ../x, /x, C:\\x, ..\\x.

    The names alone tell: a link that somebody put into the folder may lead anywhere. Raises InputError.
    """
    for name in names:
        if leads_out(name, folder, root=root):
            fix = "correct the name, or allow such with data.outside=true"
            raise InputError(f"{where}: {quote(name, 150)} leads out of {root}; {fix}")


def leads_out(name: str, folder: Path, *, root: Path) -> bool:
    forms = (name, name.replace("\\", "/"))
    return bool(_SUSPECT.search(name)) and not all(_is_inside(form, folder, root) for form in forms)


_SUSPECT = re.compile(r"(^|[/\\])\.\.($|[/\\])|^[/\\]|^\w:")


def _is_inside(name: str, folder: Path, root: Path) -> bool:
    if re.match(r"\w:", name):  # a drive of Windows
        return False
    path = os.path.abspath(folder / name)
    real = os.path.realpath(folder / name)
    if ".." in name and real != os.path.realpath(path):
        return False  # through a link and back: not where its words say
    pairs = [(path, os.path.abspath(place)) for place in (folder, root)]
    pairs += [(real, os.path.realpath(place)) for place in (folder, root)]
    return any(os.path.commonpath(pair) == pair[1] for pair in pairs)


class FileNames:
    """The files below a folder, by name; each folder is listed once.

    A name that is there as it is written means that file and no other. Only else is `\\` read as `/`, and names are
    compared in their plain form.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, list[str]]] = {}  # folder -> plain form -> its entries

    def find(self, name: str) -> str | None:
        """The name, relative to the folder, of the file that `name` means; None where there is none, or several."""
        place, base = os.path.split(name)
        # A file system that ignores case finds names that its listing spells differently.
        if base in self._listing(place) or self._is_file(name):
            return name
        entry = self._alike_name(name)
        return entry if entry is not None and self._is_file(entry) else None

    def find_folder(self, name: str) -> str | None:
        """As `find` does for a file; "" is the folder itself."""
        entry = name if self._is_folder(name) else self._alike_name(name)
        return entry if entry is not None and self._is_folder(entry) else None

    def _alike_name(self, name: str) -> str | None:
        place = ""
        for part in os.path.normpath(name.replace("\\", "/")).split("/"):
            entry = self._entry(place, part)
            if entry is None:
                return None
            place = os.path.join(place, entry)
        return place

    def find_all(self, names: Sequence[str]) -> list[str | None]:
        return [self.find(name) for name in names]

    def _is_file(self, name: str) -> bool:
        try:
            return os.path.isfile(self.folder / name)
        except ValueError:  # a null byte
            return False

    def _is_folder(self, name: str) -> bool:
        try:
            return os.path.isdir(self.folder / name)
        except ValueError:  # a null byte
            return False

    def _listing(self, place: str) -> frozenset[str]:
        if place not in self._entries:
            try:
                self._entries[place] = frozenset(os.listdir(self.folder / place))
            except (OSError, ValueError):
                self._entries[place] = frozenset()
        return self._entries[place]

    def _entry(self, place: str, part: str) -> str | None:
        """The entry of a folder that `part` means."""
        listing = self._listing(place)
        if part in listing or part in ("", ".", ".."):
            return part
        if place not in self._alike:
            self._alike[place] = {}
            for entry in listing:
                self._alike[place].setdefault(plain_form(entry), []).append(entry)
        alike = self._alike[place].get(plain_form(part), [])
        return alike[0] if len(alike) == 1 else None


class ByEnds:
    """Files below a folder, found by the last parts of what annotations call them.

    So paths of other machines find their files, and what labelling services write: C:\\x\\a.jpg, file:///x/a.jpg,
    /data/local-files/?d=x/a.jpg.

    Args:
        files: their names relative to the folder, with "/".
        stems: whether names are compared without their suffix.
    """

    def __init__(self, files: Iterable[str], *, stems: bool = False) -> None:
        self.stems = stems
        self._files: dict[str, list[str]] = {}
        for file in files:
            self._files.setdefault(self._form(file.rpartition("/")[2]), []).append(file)

    def find(self, text: str, *, side: str | None = None) -> list[str]:
        """The files that a name can mean: of those with its last part, the ones that share most of its others.

        None is of another side than `side`, or than the one that the name itself speaks of.
        """
        parts = _parts(text)
        if not parts:
            return []
        files = self._files.get(self._form(parts[-1]), [])
        if not files and (upload := re.fullmatch(r"[0-9a-f]{8}-(.+)", parts[-1])):  # Label Studio's mark of an upload
            files = self._files.get(self._form(upload[1]), [])
        side = next(filter(None, map(side_of, reversed(parts[:-1]))), side)
        files = [file for file in files if side is None or _side_in(file) in (None, side, BOTH)]
        folders = [plain_form(part) for part in parts[:-1]]
        ranks = [_shared(folders, [plain_form(part) for part in file.split("/")[:-1]]) for file in files]
        return [file for file, rank in zip(files, ranks, strict=True) if rank == max(ranks)]

    def _form(self, part: str) -> str:
        form = plain_form(part)
        return os.path.splitext(form)[0] if self.stems else form


def _parts(text: str) -> list[str]:
    """The parts of a path of any system, or of an address."""
    address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text)
    path, mark, query = text.partition("?")
    if mark and (local := re.search(r"(?:^|&)d=([^&]+)", query)):  # Label Studio's local files
        text = unquote(local[1])
    elif address:
        text = path[address.end() :]
    return [
        part for part in re.sub(r"^[A-Za-z]:", "", text).replace("\\", "/").split("/") if part not in ("", ".", "..")
    ]


def _side_in(file: str) -> str | None:
    return next(filter(None, map(side_of, reversed(file.split("/")[:-1]))), None)


def _shared(folders: Sequence[str], others: Sequence[str]) -> tuple[int, int]:
    """How many folders two paths share at their ends, and at their beginnings."""
    pairs = (zip(reversed(folders), reversed(others), strict=False), zip(folders, others, strict=False))
    ends, starts = (next((i for i, (a, b) in enumerate(some) if a != b), None) for some in map(list, pairs))
    most = min(len(folders), len(others))
    return most if ends is None else ends, most if starts is None else starts
