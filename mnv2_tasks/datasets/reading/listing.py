"""What lies in a folder: files of the wanted kinds at any depth, and a count of everything that is left out."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from mnv2_tasks.errors import InputError, amount

# Folders and files that systems make beside people's own, in lower case.
SYSTEM_FOLDERS = frozenset({"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "__pycache__"})
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})


class LeftOut(Counter[str]):
    """How many files were not used, by reason."""

    def __str__(self) -> str:
        """ "6 files left out: 4 .heic, 2 hidden"; "" for none."""
        if not (total := self.total()):
            return ""
        reasons = ", ".join(
            f"{count:,} {reason}" for reason, count in sorted(self.items(), key=lambda x: (-x[1], x[0]))
        )
        return f"{amount(total, 'file')} left out: {reasons}"

    @property
    def aside(self) -> str:
        """ " (4 files left out: 4 .heic)", to follow what says that nothing is there; "" for none."""
        return f" ({self})" if self else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden or a system's own: .git, ._a.jpg, @eaDir, Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS or name.lower() in SYSTEM_FILES


def subfolders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without the hidden ones and links back to it or its parents."""
    entries = _entries(folder)
    top = os.path.realpath(folder)
    return [e.name for e in entries if e.is_dir() and not is_hidden(e.name) and not _leads_back(e, top)]


def walk(
    folder: Path,
    suffixes: Collection[str],
    *,
    beside: Collection[str] = (),
    skip: Collection[str] = (),
    unwanted: Callable[["os.DirEntry[str]"], str | None] = lambda entry: None,
) -> tuple[list[str], LeftOut]:
    """The files with one of `suffixes` (lower case) at any depth, sorted, as "a/b.jpg" relative to the folder.

    Links are followed, but for those that lead back into the folder or to one that holds it. Left out and counted are
    these, hidden and system files, what `unwanted` gives a reason for, and other suffixes but those of `beside`, which
    are of use elsewhere. What `skip` names, of the folder itself, is not looked at. Raises InputError for a folder that
    cannot be read.
    """
    files: list[str] = []
    left = LeftOut()
    top = os.path.realpath(folder)

    def visit(place: Path, prefix: str) -> None:
        for entry in _entries(place):
            if not prefix and entry.name in skip:
                continue
            if is_hidden(entry.name):
                left["hidden"] += _count(entry)
            elif reason := unwanted(entry):
                left[reason] += _count(entry)
            elif entry.is_dir():
                if _leads_back(entry, top):
                    left["linked back"] += 1
                else:
                    visit(place / entry.name, f"{prefix}{entry.name}/")
            elif not entry.is_file():
                left["broken link" if entry.is_symlink() else "no regular file"] += 1
            elif (suffix := os.path.splitext(entry.name)[1].lower()) in suffixes:
                files.append(prefix + entry.name)
            elif suffix not in beside:
                left[suffix or "without a suffix"] += 1

    visit(folder, "")
    return sorted(files), left


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror}); correct its permissions") from error


def _leads_back(entry: "os.DirEntry[str]", top: str) -> bool:
    """Whether a link goes to a folder that holds `top`, or that lies in it and is read there."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return os.path.commonpath([target, top]) in (target, top)


def _count(entry: "os.DirEntry[str]") -> int:
    """The files in a folder that is left out; 1 for a file."""

    def inside(path: str) -> Iterator[int]:
        for _, _, names in os.walk(path):
            yield len(names)

    return sum(inside(entry.path)) if entry.is_dir(follow_symlinks=False) else 1
