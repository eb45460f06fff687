"""Folds: train and val together in parts of which each is val once; test is never among them."""

import hashlib
import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.errors import InputError, quote


@dataclass(frozen=True)
class Folds:
    """How a data set is cut.

    Attributes:
        count: of the parts.
        number: the part that is val.
        groups: a regular expression; images stay together where its first group finds the same in their paths.
    """

    count: int
    number: int = 0
    groups: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 2:
            raise InputError(f"folds.count={self.count}: give a number of parts, at least 2")
        if not isinstance(self.number, int) or not 0 <= self.number < self.count:
            raise InputError(f"folds.number={self.number}: with folds.count={self.count} give 0 to {self.count - 1}")
        try:
            if self.groups is not None and re.compile(self.groups).groups < 1:
                raise InputError(f"folds.groups={quote(self.groups)}: put what tells a group in brackets: ^(.*?)_")
        except re.error as error:
            raise InputError(f"folds.groups={quote(self.groups)} is no pattern: {error}; correct it") from error


def together(source: str, train: Any, val: Any) -> Any:
    """Train and val of a data set in one, train's images first. Raises InputError for a format that cannot."""
    if not hasattr(train, "joined") or not hasattr(train, "shown"):
        raise InputError(f"data={source}: this format has no folds; leave folds.count out, or use another format")
    return train if val is None else train.joined(val)


def cut(source: str, whole: Any, folds: Folds) -> tuple[Any, Any, NDArray[np.int64]]:
    """Train and val of a fold, and which images (V,) of `whole` are val's."""
    assigned = assign(whole.shown(), groups_of(source, whole, folds.groups), folds.count)
    mask = assigned == folds.number
    if not mask.any() or mask.all():
        raise InputError(f"data={source}: fold {folds.number} of {folds.count} would be empty; take fewer folds")
    train, val = whole.subset(~mask), whole.subset(mask)
    train.left_out, train.notes = whole.left_out, whole.notes
    val.notes = [f"fold {folds.number} of {folds.count}, {mask.sum():,} of {len(mask):,}"]
    return train, val, np.flatnonzero(mask)


def groups_of(source: str, split: Any, pattern: str | None) -> list[str]:
    """A group's name for each image: what `pattern` finds in its path; else the image, all of Roboflow's copies one."""
    if not isinstance(split, FileSplit):
        if pattern is not None:
            raise InputError(f"data={source}: its images have no files to group by; leave folds.groups out")
        return [str(i) for i in range(len(split))]
    names = [os.path.abspath(split.path(i)) for i in range(len(split))]
    place = os.path.commonpath(names)  # which may be another tomorrow: folds do not depend on it
    names = [os.path.relpath(name, place) for name in names]
    if pattern is None:
        return [name.split(".rf.")[0] for name in names]
    found = [re.search(pattern, os.path.basename(name)) or re.search(pattern, name) for name in names]
    if lacking := next((name for name, match in zip(names, found, strict=True) if match is None), None):
        raise InputError(f"folds.groups={quote(pattern)} finds nothing in {lacking}; make it fit all images")
    return [match[1] or "" for match in found if match]


def assign(shown: NDArray[np.bool_], groups: list[str], count: int) -> NDArray[np.int64]:
    """The fold (N,) of each image, so that each fold has its share of every class.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) of groups: those with the rarest class that is
    left go first, each to the fold that lacks most of it. What is equal is decided by a hash of the group's name.

    Args:
        shown: (N, K) which classes each image shows.
    """
    names, unit = np.unique(np.array(groups, dtype=np.str_), return_inverse=True)
    sizes = np.bincount(unit).astype(np.float64)
    classes = np.zeros((len(names), shown.shape[1]))
    np.add.at(classes, unit, shown)
    digests = [hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest() for name in names.tolist()]
    order = sorted(range(len(names)), key=lambda u: (-sizes[u], digests[u]))
    wanted, room = np.tile(classes.sum(0) / count, (count, 1)), np.full(count, sizes.sum() / count)
    folds = np.full(len(names), -1, np.int64)

    def give(units: list[int], label: int | None) -> None:
        for u in units:
            lack = room if label is None else wanted[:, label]
            best = np.flatnonzero(lack >= lack.max() - 1e-9)
            folds[u] = fold = int(best[room[best].argmax()])
            wanted[fold] -= classes[u]
            room[fold] -= sizes[u]

    while True:
        left = classes[folds < 0].sum(0)
        if not (left > 0).any():
            break
        label = int(np.where(left > 0, left, np.inf).argmin())
        give([u for u in order if folds[u] < 0 and classes[u, label] > 0], label)
    give([u for u in order if folds[u] < 0], None)
    return folds[unit]
