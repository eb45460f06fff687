"""What the values and the colours in mask files mean: class tables in, lookup tables out."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.classes import BACKGROUND, choose_classes
from mnv2_tasks.errors import InputError, amount, quote
from mnv2_tasks.files import read_json, read_text
from mnv2_tasks.samples import IGNORED

MOST_CLASSES = 255  # as many as fit a mask of 8 bits beside it
Colour = tuple[int, ...]  # red, green, blue


@dataclass(frozen=True)
class Legend:
    """What the values or the colours in mask files mean.

    Args:
        indices: (256,) a value in the file -> its class, 255 for ignored, -1 for a value that may not be there.
        colours: {(red, green, blue): class, or 255 for ignored}.
        by_colour: palette and grey masks are read by their colours, too; otherwise by their values.
        advice: what to do about a value or colour that means nothing; "{}" stands for it.
    """

    indices: NDArray[np.int16]
    colours: Mapping[tuple[int, ...], int]
    by_colour: bool = False
    advice: str = "correct the mask"

    def renumbered(self, numbers: NDArray[Any]) -> "Legend":
        """The same where its classes have the numbers (K,), in the order of the old ones; 255 and -1 stay."""
        new = np.arange(256)
        new[: len(numbers)] = numbers
        indices = np.where(self.indices < 0, self.indices, new[self.indices]).astype(np.int16)
        return replace(self, indices=indices, colours={rgb: int(new[old]) for rgb, old in self.colours.items()})


def index_legend(classes: int, *, ignore: Sequence[int] = (), advice: str = "correct the mask") -> Legend:
    """Values that are the classes' own indices; 255 and `ignore` are left out."""
    indices = np.full(256, -1, np.int16)
    indices[:classes] = np.arange(classes)
    indices[[IGNORED, *ignore]] = IGNORED
    return Legend(indices, {}, advice=advice)


@dataclass(frozen=True)
class ClassTable:
    """The classes as a setting or a file names them, those to be ignored included."""

    where: str  # who told: a setting or a file
    names: list[str] = field(default_factory=list)  # in the order of the values; empty where nothing tells
    palette: dict[str, Colour] = field(default_factory=dict)
    ignored: list[int] = field(default_factory=list)  # values
    by_colour: bool = False


def class_table(root: Path, names: Sequence[str] | None, colours: Mapping[str, Sequence[int]] | None) -> ClassTable:
    """The classes from the settings, or else from root's class_dict.csv or classes.json. Raises InputError."""
    if names is not None and colours is not None:
        raise InputError("data.names and data.colours both name the classes; give one of them")
    if names is not None:
        return ClassTable("data.names", [] if isinstance(names, str) else list(map(str, names)))
    if colours is not None:
        palette = {name: _colour(rgb, f"data.colours.{name}") for name, rgb in colours.items()}
        return ClassTable("data.colours", list(palette), palette, by_colour=True)
    if (file := root / "class_dict.csv").is_file():
        palette = _read_csv(file)
        return ClassTable(str(file), list(palette), palette, by_colour=True)
    if (file := root / "classes.json").is_file():
        return _read_json(file)
    return ClassTable("")


def make_legend(table: ClassTable, ignore: Sequence[int | str | Sequence[int]]) -> tuple[tuple[str, ...], Legend]:
    """The classes that are not ignored, and the legend; `ignore` has values, names and colours. Raises InputError."""
    values = [*table.ignored, *(one for one in ignore if isinstance(one, int))]
    left_out = [one for one in ignore if isinstance(one, str)]
    colours = [_colour(one, "data.ignore") for one in ignore if not isinstance(one, (int, str))]
    names, palette = table.names, table.palette
    if not names or len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise InputError(
            f"{table.where}: {len(set(names))} different class names; give a list of 1 to {MOST_CLASSES}, "
            "each once, as in [road,tree]"
        )
    if len(set(palette.values())) < len(palette):
        colour, count = Counter(palette.values()).most_common(1)[0]
        raise InputError(f"{table.where}: {count} classes have the colour {list(colour)}; give each its own")
    if unknown := [name for name in left_out if name not in names] + [v for v in values if not 0 <= v <= 255]:
        raise InputError(f"data.ignore: {unknown[0]} is neither a value from 0 to 255 nor among {', '.join(names)}")
    classes = tuple(name for name in names if name not in left_out)
    numbers = [classes.index(name) if name in classes else IGNORED for name in names]
    indices = np.full(256, -1, np.int16)
    indices[: len(names)] = numbers
    indices[[IGNORED, *values]] = IGNORED
    meaning = {palette[name]: number for name, number in zip(names, numbers, strict=True) if name in palette}
    meaning |= dict.fromkeys(colours, IGNORED)
    place = "data.colours" if palette else "data.classes" if table.where == "data.classes" else "data.names"
    advice = f"the classes are {', '.join(names)}: add it in {place}, or leave it out with data.ignore=[{{}}]"
    return classes, Legend(indices, meaning, by_colour=table.by_colour, advice=advice)


def choose(
    names: tuple[str, ...], legend: Legend, choice: Sequence[str] | None, *, where: str
) -> tuple[tuple[str, ...], Legend, list[str]]:
    """The chosen classes, the legend of masks with them alone, and a note of the others, which are background.

    The background comes first unless `choice` has it elsewhere. What is ignored stays so. Raises InputError.
    """
    if choice is None:
        return names, legend, []
    chosen = choose_classes(where, names if BACKGROUND in names else (*names, BACKGROUND), choice)
    others = [name for name in names if name not in (*chosen, BACKGROUND)]
    if BACKGROUND not in chosen and (others or BACKGROUND in names):
        chosen = (BACKGROUND, *chosen)
    numbers = np.array([chosen.index(name if name in chosen else BACKGROUND) for name in names], np.int64)
    notes = [f"pixels of {amount(len(others), 'other class', 'other classes')} are background"] if others else []
    return chosen, legend.renumbered(numbers), notes


def _colour(colour: Any, where: str) -> Colour:
    values = list(colour) if isinstance(colour, Sequence) and not isinstance(colour, str) else []
    if [type(value) is int and 0 <= value <= 255 for value in values] != [True] * 3:
        raise InputError(f"{where}: {quote(colour, 40)} is no colour; give 3 numbers from 0 to 255, as in [128,64,0]")
    return tuple(values)


def _read_csv(file: Path) -> dict[str, Colour]:
    text = read_text(file, fix="give a table of name, r, g, b")
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        table = {name: tuple(int(value) for value in rgb) for name, *rgb in rows[1:]}
    except (ValueError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as a table of name, r, g, b: {error!s:.100}; correct it") from error
    if len(table) < len(rows) - 1:
        raise InputError(f"{file}: a class is named twice; give each its own name")
    return {name: _colour(rgb, f"{file}: {name}") for name, rgb in table.items()}


def _read_json(file: Path) -> ClassTable:
    """A list of names; or {"names": [...]} with perhaps "palette" {index: [r, g, b]} and "ignore_index"."""
    fix = "correct it, or give data.classes"
    content = read_json(file, fix=fix)
    table = content if isinstance(content, dict) else {"names": content}
    names, palette = table.get("names"), table.get("palette") or {}
    if not isinstance(names, list) or not isinstance(palette, dict):
        form = '{"names": [...], "palette": {"0": [r, g, b], ...}}'
        raise InputError(f"{file}: it is not of the form {form}; {fix}")
    if not all(isinstance(name, str) for name in names):
        raise InputError(f'{file}: "names" holds other things than names; {fix}')
    if odd := [key for key in palette if not (key.isdecimal() and len(key) < 4 and int(key) < len(names))]:
        raise InputError(f'{file}: "palette" has the key {quote(odd[0])}, which is no index of "names"; {fix}')
    ignored = table.get("ignore_index", IGNORED)
    if type(ignored) is not int or not -1 <= ignored <= 255:
        raise InputError(f'{file}: "ignore_index" is {quote(ignored)}; give a value from 0 to 255')
    colours = {names[int(key)]: _colour(rgb, f"{file}: {names[int(key)]}") for key, rgb in palette.items()}
    return ClassTable(str(file), names, colours, [IGNORED if ignored == -1 else ignored])
