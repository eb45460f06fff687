"""What is said of the data at the start: what each side holds and what was left out; no image may be on two sides."""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.datasets.reading.problems import refuse
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.kinds import Kind

EMPTY = {  # what follows where a side has no label
    "train": ": there is nothing to learn",
    "val": ": it tells no checkpoint from another, and the newest counts as the best",
    "test": ": it measures nothing",
}
LOOKS = 20  # samples that are looked at, where the first do not tell
Splits = Mapping[tuple[str, str], Any]  # (source, side) -> its samples


def describe(source: str, side: str, split: Any) -> str:
    """One line: "coco train: 160 images, 3 classes, 1,203 boxes (12 images without any); 2 files left out: 2 hidden".

    A split may have `contents()`, a text; `left_out`, the files that it does not use; and `notes` on how it was made.
    """
    contents = split.contents() if hasattr(split, "contents") else ""
    parts = [f"{source} {side}: {amount(len(split), 'image')}{contents and ', '}{contents}"]
    parts += [*getattr(split, "notes", ()), str(getattr(split, "left_out", ""))]
    return "; ".join(part for part in parts if part)


def check_sides(splits: Splits) -> list[str]:
    """Refuse images that are on two sides of a source; a line on each pair of sources that share them so.

    Images are the same whose files are, whatever their names: links and hard links are followed, and no pixel is read.
    Raises InputError, with the count and an example.
    """
    files = {key: _identities(split) for key, split in splits.items() if isinstance(split, FileSplit)}
    warnings = []
    for first, second in combinations(files, 2):
        (source, side), (other, another) = first, second
        if side == another or (source != other and "train" not in (side, another)):
            continue
        pairs = _shared(splits[first], files[first], splits[second], files[second])
        if not pairs:
            continue
        names = " and ".join(dict.fromkeys(map(str, pairs[0])))
        number = f"{amount(len(pairs), 'image')} {'are' if len(pairs) > 1 else 'is'}"
        if source == other:
            refuse([f"data={source}: {number} on both {side} and {another}, such as {names}; remove them from one"])
            continue
        warnings.append(
            f"warning: {number} on {side} of {source} and on {another} of {other}, such as {names}: what is measured "
            "there was trained on; merge the two with data=merged, or remove them from one"
        )
    return warnings


def check_labels(splits: Splits, kinds: Mapping[str, Mapping[Kind, Sequence[str]]]) -> list[str]:
    """A line on each side that has no label at all, or none of some classes.

    Args:
        kinds: {source: {kind of annotation that is learnt from it: class names}}.
    """
    warnings = []
    for (source, side), split in splits.items():
        for kind, names in kinds[source].items():
            counts, among = _label_counts(split, kind, len(names))
            if counts is None:
                continue
            where, lacking = f"warning: {source} {side}", [n for n, c in zip(names, counts, strict=True) if not c]
            if len(lacking) == len(names):
                warnings.append(f"{where}: no {kind.label} at all{among}{EMPTY[side]}")
            elif lacking:
                examples = ", ".join(map(repr, lacking[:5])) + (f" and {len(lacking) - 5} more" if lacking[5:] else "")
                share = f"{len(lacking)} of {len(names)} classes"
                warnings.append(f"{where}: no {kind.label} of {examples} ({share}){among}")
    return warnings


def check_samples(splits: Splits, kinds: Mapping[str, Mapping[Kind, Sequence[str]]]) -> list[str]:
    """A line on each train side whose images are of one colour each, or whose masks are of unknown pixels alone.

    At most `LOOKS` samples are read, evenly spread, and no more than it takes to see that all is well.
    """
    warnings = []
    for source, split in ((source, split) for (source, side), split in splits.items() if side == "train"):
        plain, blank = [], []
        for index in np.linspace(0, len(split) - 1, min(LOOKS, len(split))).astype(int).tolist():
            try:
                sample = split[index]
            except InputError:  # told when it is trained on
                continue
            pixels = sample["image"].flatten(1)
            plain.append(bool((pixels == pixels[:, :1]).all()))
            blank += [bare for kind in kinds[source] if (bare := kind.is_blank(sample)) is not None]
            if not all(plain) and not (blank and all(blank)):
                break
        where = f"warning: {source} train"
        if plain and all(plain):
            looked = f"{amount(len(plain), 'image')} looked at"
            warnings.append(f"{where}: of a single colour each, the {looked}; see whether they are the right files")
        if blank and all(blank) and not getattr(split, "counted", 0):
            looked = f"{amount(len(blank), 'mask')} looked at"
            warnings.append(f"{where}: no labelled pixel in the {looked}{EMPTY['train']}")
    return warnings


def _label_counts(split: Any, kind: Kind, classes: int) -> tuple[list[int] | None, str]:
    """How often each class is there, where that is known without reading files, and " in 9 of 20 masks"."""
    part = split.teller(kind.name) if hasattr(split, "teller") else split
    if part is None:
        return [0] * classes, ""
    return kind.label_counts(part, classes)


def _identities(split: FileSplit) -> NDArray[np.int64]:
    """(I,) a number for the file of each image, equal for all of its names."""

    def identity(path: str) -> int:
        try:
            one = os.stat(path)
        except OSError:  # said when it is read
            return hash(path)
        # Size and time besides, as some network file systems use an inode's number again.
        return hash((one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns))

    return np.fromiter((identity(os.fspath(split.path(i))) for i in range(len(split))), np.int64, len(split))


def _shared(
    first: FileSplit, first_identities: NDArray[np.int64], second: FileSplit, second_identities: NDArray[np.int64]
) -> list[Any]:
    """The pairs of paths that are one file."""
    _, first_rows, second_rows = np.intersect1d(first_identities, second_identities, return_indices=True)
    pairs = [(first.path(i), second.path(j)) for i, j in zip(first_rows.tolist(), second_rows.tolist(), strict=True)]
    return sorted((a, b) for a, b in pairs if a == b or os.path.samefile(a, b))
