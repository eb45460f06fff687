"""Text files that name the images of each side: which of those below a data set's root are meant."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mnv2_tasks.datasets.reading.sides import by_side, side_of, spelled
from mnv2_tasks.errors import InputError

TABLES = (".txt", ".csv", ".lst", ".json")  # what tells sides is often in such
SETS = "ImageSets"  # Pascal VOC's folder of lists, in which each task has its own
FIX = "name the lists, below this folder, as data.lists=<file>, with {split} where train, val or test stands"


def given_lists(root: Path, pattern: str) -> dict[str, Path]:
    """{side: its list} for a pattern; without "{split}" in it, one list for all. Raises InputError without any."""
    if "{split}" in pattern:
        paths = {word: path for word, path in spelled(root, pattern).items() if path.is_file()}
        lists = {side: paths[word] for side, word in by_side(paths, root / pattern, plainest=True).items()}
    else:
        lists = {"train": root / pattern} if (root / pattern).is_file() else {}
    if not lists:
        raise InputError(f"{root}: there is no list {pattern.replace('{split}', 'train')}; {FIX}")
    return lists


def find_lists(root: Path, texts: Sequence[str], *, task: str, fix: str = FIX) -> dict[str, Path]:
    """{side: its list} of ImageSets/<task>, or of the root, or of the only other folder that has one of train.

    `texts` are the text files below root. Raises InputError where there are several such folders.
    """
    usual = f"{SETS}/{task}"
    folders: dict[str, list[str]] = {usual: [], "": []}
    for file in texts:
        folder, _, name = file.rpartition("/")
        if folder == usual or side_of(os.path.splitext(name)[0]):
            folders.setdefault(folder, []).append(file)
    sides: dict[str, dict[str, Path]] = {}
    for folder, files in folders.items():
        stems = {os.path.splitext(file)[0].rpartition("/")[2]: file for file in files}
        sides[folder] = {
            side: root / stems[stem] for side, stem in by_side(stems, root / folder, plainest=True).items()
        }
        if folder == usual and len(files) == 1 and not sides[folder]:  # CVAT's default.txt
            return {"train": root / files[0]}
    if folders[usual] and not sides[usual]:
        names = [file.rpartition("/")[2] for file in folders[usual]]
        raise InputError(f"{root}: none of the lists in {usual} is named for a side: {', '.join(names[:4])}; {fix}")
    for folder in (usual, ""):
        if sides[folder]:
            return sides[folder]
    others = [folder for folder in sides if "train" in sides[folder] and not _is_of_another_task(folder, task)]
    others = [folder for folder in others if folder.endswith(usual)] or others
    if len(others) > 1:
        raise InputError(
            f"{root}: {' and '.join(others[:4])} all hold lists of training images; give one data set's folder as "
            f"data.root, or {fix}"
        )
    return sides[others[0]] if others else {}


def _is_of_another_task(folder: str, task: str) -> bool:
    above, _, name = folder.rpartition("/")
    return above.rpartition("/")[2] == SETS and name != task


def check_no_lists(root: Path, files: Sequence[str], *, fix: str) -> None:
    """Refuse lists of several sides where a format reads none, and nothing else tells sides."""
    sides = {side: file for file in files if (side := side_of(Path(file).stem))}
    if len(sides) > 1:
        raise InputError(f"{root}: {' and '.join(sides.values())} seem to list sides, but are not read here; {fix}")


def not_read(files: Iterable[str]) -> list[str]:
    """A note of files that might have been meant; none where there are none."""
    files = list(files)
    others = f" and {len(files) - 3} more" if files[3:] else ""
    return [f"not read: {', '.join(files[:3])}{others}"] if files else []
