"""How a file name as it is written in annotations finds its file, whatever program and system wrote it."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

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
        forms = (name, name.replace("\\", "/"))
        if _SUSPECT.search(name) and not all(_is_inside(form, folder, root) for form in forms):
            fix = "correct the name, or allow such with data.outside=true"
            raise InputError(f"{where}: {quote(name, 150)} leads out of {root}; {fix}")


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
        entry = name if (self.folder / name).is_dir() else self._alike_name(name)
        return entry if entry is not None and (self.folder / entry).is_dir() else None

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
