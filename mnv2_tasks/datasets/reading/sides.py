"""The words for a data set's sides, the same for every format: train, val and test however people spell them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from mnv2_tasks.errors import InputError

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst"),
}
SIDES = tuple(SPELLINGS)
BOTH = "trainval"  # train and val in one, as Pascal VOC calls it
_SIDE = {word: side for side, words in SPELLINGS.items() for word in words} | {BOTH: BOTH}
_PLAIN = {  # words beside a side's that say nothing else: train_images, val2017, testset
    *("annotations", "captions", "data", "dataset", "default", "folder", "full", "images", "image", "imgs", "img"),
    *("instances", "jpegs", "labels", "list", "masks", "new", "old", "original", "photos", "pics", "pictures", "set"),
    *("split", "autosplit", "the", "all", "my", "coco", "voc", "x", "y"),
}
_GLUED = re.compile(rf"({'|'.join(sorted(_SIDE, key=len, reverse=True))})(set|data|dataset|images|imgs|split)")


def side_of(name: str, *, among_others: bool = False) -> str | None:
    """One of "train", "val", "test", "trainval" for a name that is a spelling of it, with or without plain words.

    "Training", "val2017", "test_images" and "TrainingSet" are; "test_tube" and "steam train" are not, but for
    `among_others=True`, where any words may stand around one of a side's: "pets_train".
    """
    words = [word for word in _words(name) if word not in _PLAIN]
    sides = {_SIDE[word] for word in words if word in _SIDE}
    if sides == {"train", "val"}:
        return BOTH
    if "test" in sides and "dev" in words:  # COCO's test-dev
        sides.discard("val")
    return sides.pop() if len(sides) == 1 and (among_others or all(word in _SIDE for word in words)) else None


def _words(name: str) -> list[str]:
    """The words of a name, in lower case: "TrainingSet_2" is "training", "set"."""
    words: list[str] = []
    for run in re.findall(r"[^\W\d_]+", name):
        for word in re.sub(r"(?<=[a-z])(?=[A-Z])", " ", run).lower().split():
            glued = _GLUED.fullmatch(word)
            words += glued.groups() if glued else [word]
    return words


def by_side(names: Iterable[str], where: Path, *, among_others: bool = False, plainest: bool = False) -> dict[str, str]:
    """{side: the one of `names` that is it}; train and val in one count as train where there is no other train.

    With `plainest`, "train" goes before "my_train". Raises InputError where two names are the same side.
    """
    sides: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (plainest and name.lower() not in _SIDE, name)):
        side = side_of(name, among_others=among_others)
        if side is None:
            continue
        if side not in sides:
            sides[side] = name
        elif not plainest or (name.lower() in _SIDE) == (sides[side].lower() in _SIDE):
            raise InputError(f"{where}: {sides[side]} and {name} both are its {side} side; keep one of them")
    both = sides.pop(BOTH, None)
    if both is not None:
        sides.setdefault("train", both)
    return {side: sides[side] for side in SPELLINGS if side in sides}


def no_train(root: Path | str, sides: Iterable[str], *, fix: str) -> InputError:
    """What to raise once train is asked for, where only other sides are there, which may be evaluated."""
    return InputError(f"{root}: there is {' and '.join(sides)}, but no train side to learn from; {fix}")


def check_untold(names: Iterable[str], where: Path, *, fix: str) -> None:
    """Refuse images, by their names with "/", in folders of several sides where nothing tells which is on which."""
    folders = {os.path.dirname(name): name for name in names}
    examples = {side: name for folder, name in folders.items() for part in folder.split("/") if (side := side_of(part))}
    if len(examples) > 1:
        some = " and ".join(list(examples.values())[:2])
        raise InputError(f"{where}: nothing tells sides, but images are in folders called so, such as {some}; {fix}")


def spelled(root: Path, pattern: str) -> dict[str, Path]:
    """{a spelling of a side: the file or folder below root that the pattern means with it in place of "{split}"}.

    "images/{split}" finds images/Training and images/val2017.
    """
    head, _, tail = pattern.partition("{split}")
    place, _, start = head.rpartition("/")
    end, slash, rest = tail.partition("/")
    paths: dict[str, Path] = {}
    try:
        with os.scandir(root / place) as entries:  # a folder of a hundred thousand images is one such
            names = sorted(entry.name for entry in entries if end or entry.is_dir())
    except (OSError, ValueError):  # a null byte
        return {}
    for name in names:
        word = name[len(start) : len(name) - len(end)]
        if name == start + word + end and name[0] != "." and side_of(word) is not None:
            path = root / place / (name + (slash + rest).replace("{split}", word))
            if path.exists():
                paths[word] = path
    return paths
