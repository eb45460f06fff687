"""One data set out of several that label the same image files: breeds here, boxes there, masks elsewhere."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import KINDS


class Source(Protocol):
    """A part: a data set of image files."""

    provides: dict[str, tuple[str, ...]]

    def split(self, name: str) -> Any:
        """The FileSplit of a side, with `subset(mask)`; None where there is no such side."""


class MergedSplit(FileSplit):
    """The images of several splits, each image once, with what the splits that have it tell.

    Args:
        parts: {name: split}.
        rows: {name: (I,) int64}, the position of each image in that split, -1 where it is not in it.
        tellers: {kind: name of the part whose labels of this kind count}.
    """

    def __init__(
        self, parts: Mapping[str, Any], rows: Mapping[str, NDArray[np.int64]], tellers: Mapping[str, str]
    ) -> None:
        limits = [part.max_side for part in parts.values() if part.max_side]
        super().__init__(max_side=min(limits, default=None))
        self.parts = dict(parts)
        self.rows = dict(rows)
        self.tellers = dict(tellers)
        for name, one in self.parts.items():
            self.left_out.update(one.left_out)
            self.notes += [f"{name}: {note}" for note in one.notes]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))

    def known(self, kind: str) -> list[int]:
        """The images with labels of this kind."""
        return np.flatnonzero(self.rows[self.tellers[kind]] >= 0).tolist() if self.tellers[kind] in self.rows else []

    def _having(self, index: int) -> dict[str, int]:
        """{part that has the image: the image's position in it}."""
        return {name: int(rows[index]) for name, rows in self.rows.items() if rows[index] >= 0}

    def path(self, index: int) -> Path:
        name, row = next(iter(self._having(index).items()))
        return self.parts[name].path(row)

    def declared(self, index: int) -> tuple[int, int] | None:
        sizes = {name: self.parts[name].declared(row) for name, row in self._having(index).items()}
        known_sizes = {name: size for name, size in sizes.items() if size is not None}
        if len(set(known_sizes.values())) > 1:
            texts = [f"{name} declares {width}x{height}" for name, (height, width) in known_sizes.items()]
            raise InputError(f"{self.path(index)}: {', '.join(texts)} (width x height); correct what is wrong")
        return next(iter(known_sizes.values()), None)

    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name, row in self._having(index).items():
            part_labels = self.parts[name].labels(row, size=size, canvas=canvas)
            fields = {field for kind, teller in self.tellers.items() if teller == name for field in KINDS[kind].fields}
            merged |= {field: value for field, value in part_labels.items() if field in fields}
        return merged

    def subset(self, mask: NDArray[np.bool_]) -> "MergedSplit":
        """The images where `mask` (I,) is true, in the same order."""
        parts, rows = {}, {}
        for name, part in self.parts.items():
            kept = np.zeros(len(part), np.bool_)
            kept[self.rows[name][mask & (self.rows[name] >= 0)]] = True
            if kept.any():
                place = np.where(kept, np.cumsum(kept) - 1, -1)
                parts[name] = part.subset(kept)
                rows[name] = np.where(self.rows[name] >= 0, place[self.rows[name]], -1)[mask]
        return MergedSplit(parts, rows, self.tellers)

    def joined(self, other: "MergedSplit") -> "MergedSplit":
        """These images, then the other's, of the same parts."""
        parts, rows = {}, {}
        for name in dict.fromkeys((*self.parts, *other.parts)):
            mine, theirs = self.parts.get(name), other.parts.get(name)
            parts[name] = mine.joined(theirs) if mine and theirs else mine or theirs
            first = self.rows.get(name, np.full(len(self), -1, np.int64))
            second = other.rows.get(name, np.full(len(other), -1, np.int64))
            rows[name] = np.concatenate([first, np.where(second >= 0, second + (len(mine) if mine else 0), -1)])
        return MergedSplit(parts, rows, self.tellers)

    def shown(self) -> NDArray[np.bool_]:
        """(I, K of all kinds together): which classes each image shows."""
        tables = []
        for name in dict.fromkeys(self.tellers.values()):
            if name in self.parts:
                rows = self.rows[name]
                tables.append(self.parts[name].shown()[rows] & (rows >= 0)[:, None])
        return np.concatenate(tables, axis=1)

    def contents(self) -> str:
        tellers = [name for name in dict.fromkeys(self.tellers.values()) if name in self.parts]
        return "; ".join(f"{len(self.parts[name]):,} in {name}: {self.parts[name].contents()}" for name in tellers)

    def teller(self, kind: str) -> Any:
        """The part that has labels of this kind on this side; None where none has."""
        return self.parts.get(self.tellers.get(kind, ""))

    def label(self, index: int) -> int:
        """The image's class, without reading the image; -1 for unknown."""
        part, row = self._teller("classification"), int(self.rows[self.tellers["classification"]][index])
        return part.label(row) if row >= 0 else -1

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images show each class."""
        return self._teller("classification" if "classification" in self.tellers else "multilabel").label_counts()

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: width and height of the boxes, as fractions of their images."""
        return self._teller("detection").box_sizes()

    def box_labels(self) -> Tensor:
        """(N,) int64: the classes of these boxes."""
        return self._teller("detection").box_labels()

    def pixel_counts(self) -> Tensor:
        """(K,) int64: pixels of each class in the masks."""
        return self._teller("segmentation").pixel_counts()

    def _teller(self, kind: str) -> Any:
        part = self.teller(kind)
        if part is None:
            raise InputError(f"none of the merged parts ({', '.join(self.parts)}) has labels for {kind} on this side")
        return part


class Merged:
    """The images of all parts, matched by their resolved paths; a label that no part has for an image is unknown.

    Sides: val and test hold each part's val and test images, with the labels of just those parts, so that a metric
    counts what it would count of the part alone. Train holds the rest: an image that any part has on val or test is
    in no part's train, or one head would be trained on what another is measured on. A part without a val side holds
    out images of its own choice, which train then loses for every part: better give it one.

    Args:
        parts: {name: data set of image files}.
        take: {kind: part}, where several parts provide a kind.
    """

    def __init__(self, parts: Mapping[str, Source], *, take: Mapping[str, str] | None = None) -> None:
        if len(parts) < 2:
            raise InputError(f"data.parts: merging takes two data sets or more, but {len(parts)} given")
        self.parts = dict(parts)
        self._tellers = _choose(parts, take or {})
        self.provides = {kind: self.parts[name].provides[kind] for kind, name in self._tellers.items()}
        self._splits: dict[str, MergedSplit | None] | None = None

    def split(self, name: str) -> MergedSplit | None:
        """The images of "train", "val" or "test"; None where no part has any. All sides are made at once."""
        if self._splits is None:
            self._splits = self._merge()
        return self._splits.get(name)

    def _merge(self) -> dict[str, MergedSplit | None]:
        sides = {side: self._read(side) for side in SIDES}
        evaluation_keys = {key for side in ("val", "test") for _, keys in sides[side].values() for key in keys}
        for name, (split, keys) in sides["train"].items():
            mask = np.array([key not in evaluation_keys for key in keys])
            if not mask.any():
                raise InputError(
                    f"data.parts.{name}: all of its {len(mask)} training images are on another part's val or test "
                    "side; give the parts sides that agree"
                )
            if not mask.all():
                rest = [key for key, keep in zip(keys, mask.tolist(), strict=True) if keep]
                less = split.subset(mask)
                less.left_out = split.left_out
                less.notes = [*split.notes, f"{sum(~mask):,} of {len(mask):,} are on another part's val or test"]
                sides["train"][name] = less, rest
        _check_overlap(self.parts, sides)
        return {side: join(splits, self._tellers) if splits else None for side, splits in sides.items()}

    def _read(self, side: str) -> dict[str, tuple[Any, list[str]]]:
        """{part: (split, the resolved path of each image)} of the parts that have this side."""
        splits = {}
        for name, part in self.parts.items():
            split = part.split(side)
            if split is not None:
                if not isinstance(split, FileSplit) or not hasattr(split, "subset"):
                    raise InputError(f"data.parts.{name}: {type(part).__name__} has no image files; leave it out")
                splits[name] = split, [os.path.realpath(split.path(i)) for i in range(len(split))]
        return splits


def _choose(parts: Mapping[str, Source], take: Mapping[str, str]) -> dict[str, str]:
    """{kind: the part that tells it}."""
    able: dict[str, list[str]] = {}
    for name, part in parts.items():
        for kind in part.provides:
            able.setdefault(kind, []).append(name)
    for kind, name in take.items():
        if name not in able.get(kind, []):
            raise InputError(
                f"data.take.{kind}={name}: only {', '.join(able.get(kind, [])) or 'no part'} provides {kind}"
            )
    for kind, names in able.items():
        if len(names) > 1 and kind not in take:
            raise InputError(f"data.parts: {' and '.join(names)} provide {kind}; choose one as data.take.{kind}=<part>")
    return {kind: take.get(kind, names[0]) for kind, names in able.items()}


def _check_overlap(parts: Mapping[str, Any], sides: Mapping[str, Mapping[str, Any]]) -> None:
    """Parts that share no image at all are most likely given with a wrong root."""
    keys: dict[str, set[str]] = {name: set() for name in parts}
    for splits in sides.values():
        for name, (_, paths) in splits.items():
            keys[name].update(paths)
    for name, part_keys in keys.items():
        if not any(part_keys & other for another, other in keys.items() if another != name):
            raise InputError(
                f"data.parts.{name}: no other part labels any of its images, such as {min(part_keys)}; correct the "
                "roots, or train on different images as data=[...]"
            )


def join(splits: Mapping[str, tuple[Any, list[str]]], tellers: Mapping[str, str]) -> MergedSplit:
    """Match the images of {part: (split, a key for each image)} by their keys; of each key, a part has one image."""
    order = {key: i for i, key in enumerate(dict.fromkeys(key for _, keys in splits.values() for key in keys))}
    rows = {name: np.full(len(order), -1, np.int64) for name in splits}
    for name, (_, keys) in splits.items():
        rows[name][[order[key] for key in keys]] = np.arange(len(keys))
    return MergedSplit({name: split for name, (split, _) in splits.items()}, rows, tellers)
