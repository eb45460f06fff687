"""A table of image files and their labels, as CSV."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.classes import alike_form, choose_classes, composed
from mnv2_tasks.datasets.reading.file_names import FileNames, check_inside
from mnv2_tasks.datasets.reading.image_lists import TABLES, not_read
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import LeftOut, subfolders, walk
from mnv2_tasks.datasets.reading.sides import BOTH, check_untold, side_of
from mnv2_tasks.errors import InputError, amount, quote, shorten
from mnv2_tasks.files import read_text


@dataclass
class LabelledFiles:
    """The images of one side and their classes."""

    files: list[str]  # below the root
    targets: NDArray[Any]  # (I,) int64 class indices, or (I, K) bool
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)


def read_table(
    file: Path, separator: str | None, choice: Sequence[str] | None, *, root: Path, outside: bool = False
) -> tuple[tuple[str, ...], dict[str, LabelledFiles]]:
    """Class names, and the images and targets of each side, of a table that `ImageFolder` describes.

    Targets are (I,) int64 class indices or, with a separator, (I, K) bool. With `choice`, rows of other classes are
    left out. Raises InputError for what is wrong, with the line.
    """
    rows, unread = _read_rows(file, separator)
    if not outside:
        for line, name, _, _ in rows:
            check_inside([name], root, root=root, where=f"{file}: line {line}")
    rows, notes = _find_files(rows, root)
    seen: dict[str, int] = {}
    for line, name, _, _ in rows:
        if (first := seen.setdefault(os.path.normpath(name), line)) != line:
            raise InputError(f"{file}: line {line}: {shorten(name, 150)} is in line {first}, too; keep one of the two")
    sides = sorted({side for _, _, side, _ in rows})
    naming = ["train"] if "train" in sides else sides
    label_names = {label for _, _, side, labels in rows if side in naming for label in labels}
    if not label_names:
        others = f", but {amount(len(rows), 'image')} of {' and '.join(sides)}" if rows else ""
        raise InputError(
            f"{file}: no training images with a label are listed{others}; list some: they name the classes"
        )
    # A side that is evaluated alone may lack a class that the model knows.
    classes = choose_classes(
        file, sorted(label_names) if "train" in sides else sorted({*label_names, *(choice or ())}), choice
    )
    number = {name: index for index, name in enumerate(classes)}
    files: dict[str, list[str]] = {}
    class_numbers: dict[str, list[list[int]]] = {}
    left = LeftOut()
    for line, name, side, labels in rows:
        if choice is None and (odd := [label for label in labels if label not in number]):
            alike = next((one for one in classes if alike_form(one) == alike_form(odd[0])), None)
            fix = f"on train it is {quote(alike)}; give both one name" if alike else "correct it, or list some"
            raise InputError(f"{file}: line {line}: no training image is labelled {quote(odd[0])}; {fix}")
        known = [number[label] for label in labels if label in number]
        if known or separator is not None:
            files.setdefault(side, []).append(name)
            class_numbers.setdefault(side, []).append(known)
        else:
            left["of other classes"] += 1
    paths, hidden = walk(root, (*TABLES, *SUFFIXES), beside=(".md",))
    images = [path for path in paths if not path.lower().endswith(TABLES)]
    unread += not_read(p for p in paths if p.lower().endswith(TABLES) and side_of(Path(p).stem) and root / p != file)
    left.update(hidden)
    if unlisted := len(set(images) - {os.path.normpath(name) for _, name, _, _ in rows}):
        left["in no row of the table"] = unlisted
    chosen: dict[str, LabelledFiles] = {}
    for side, lists in class_numbers.items():
        if separator is None:
            targets = np.array(lists, np.int64)[:, 0]
        else:
            targets = np.zeros((len(lists), len(classes)), np.bool_)
            for row, shows in enumerate(lists):
                targets[row, shows] = True
        chosen[side] = LabelledFiles(files[side], targets)
    lead = chosen["train" if "train" in chosen else min(chosen)]
    lead.left_out, lead.notes = left, [*notes, *unread]
    return classes, chosen


Row = tuple[int, str, str, list[str]]  # line number, file, side, labels


def _find_files(rows: Sequence[Row], root: Path) -> tuple[list[Row], list[str]]:
    """The rows with their files' names as they are on disk, and a note where all lie in one folder below the root.

    A name without a file stays, to be told with the others.
    """
    written = [name for _, name, _, _ in rows]
    names, notes = FileNames(root).find_all(written), []
    if rows and not any(names):
        for folder in subfolders(root):
            if any(inside := FileNames(root / folder).find_all(written)):
                names = [name and f"{folder}/{name}" for name in inside]
                notes = [f"files are in {folder}/"]
                break
    disk_rows = [(line, name or old, side, labels) for (line, old, side, labels), name in zip(rows, names, strict=True)]
    return disk_rows, notes


def _read_rows(file: Path, separator: str | None) -> tuple[list[Row], list[str]]:
    """The rows, and a note of columns that are not read."""
    rows: list[Row] = []
    text = read_text(file, fix="correct data.labels, or the file")
    try:
        with io.StringIO(text, newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            columns = [name.strip().casefold() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            if missing := [name for name in ("file", "label") if name not in columns]:
                raise InputError(
                    f"{file}: it has no column {missing[0]!r} (but {quote(', '.join(columns), 80)}); its first line "
                    "must name the columns file, label and, if there is one, split, with commas between them"
                )
            if len(set(columns)) < len(columns):
                twice = next(name for name in columns if columns.count(name) > 1)
                raise InputError(f"{file}: two columns are called {quote(twice)}; keep one of them")
            values: dict[str, set[str]] = {name: set() for name in columns if name not in ("file", "label", "split")}
            for row in reader:
                where = f"{file}: line {reader.line_num}"
                if None in row:
                    raise InputError(
                        f"{where}: it has more fields than the first line; quote what holds a comma, or remove them"
                    )
                for name, words in values.items():
                    words.add((row[name] or "").strip())
                rows.append((reader.line_num, *_read_row(row, separator, where=where)))
    except csv.Error as error:
        raise InputError(
            f"{file}: line {reader.line_num}: cannot be read as a CSV table: {error}; correct data.labels, or the file"
        ) from error
    if "split" not in columns:
        if side_columns := [name for name, words in values.items() if len(words) > 1 and all(map(side_of, words))]:
            raise InputError(f"{file}: its column {quote(side_columns[0])} tells sides; call it split, or remove it")
        names = [name.replace("\\", "/") for _, name, _, _ in rows]
        check_untold(names, file, fix="add a column split, of train, val and test")
    return rows, [f"columns that are not read: {shorten(', '.join(values), 80)}"] if values else []


def _read_row(row: Mapping[str, str | None], separator: str | None, *, where: str) -> tuple[str, str, list[str]]:
    """File, side and labels."""
    name, text = ((row[column] or "").strip() for column in ("file", "label"))
    labels = [text] if separator is None else [part.strip() for part in text.split(separator)]
    labels = [composed(label) for label in labels if label]
    word = (row["split"] or "").strip() if "split" in row else "train"
    side = side_of(word)
    if not name or (not labels and separator is None):
        raise InputError(f"{where}: the {'label' if name else 'file'} is empty; fill it in, or remove the line")
    if side is None:
        raise InputError(f"{where}: the split is {quote(word)}; write train, val or test")
    return name, "train" if side == BOTH else side, labels
