"""The names of a data set's classes, and which of them are learnt, as `data.classes` chooses them."""

import difflib
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.errors import InputError, quote, shorten

BACKGROUND = "background"


def composed(name: str) -> str:
    """A class's name in the one form of Unicode, which some systems write decomposed."""
    return unicodedata.normalize("NFC", name)


def alike_form(name: str) -> str:
    """The same for two names of one class, which differ in case, blanks or the form of Unicode."""
    return " ".join(composed(name).casefold().split())


def check_choice(choice: Any) -> list[str] | None:
    """`data.classes` as names; numbers are names, too. Raises InputError for what is no list of different ones."""
    if choice is None:
        return None
    names = [choice] if isinstance(choice, str) or not isinstance(choice, Sequence) else list(choice)
    names = [composed(str(name)) for name in names]
    if isinstance(choice, str) or not names or len(set(names)) < len(names):
        example = ",".join(dict.fromkeys(names)) or "cat,dog"
        raise InputError(f"data.classes={choice}: give a list of different names, as in data.classes=[{example}]")
    return names


def choose_classes(where: Path | str, names: Sequence[str], choice: Sequence[str] | None) -> tuple[str, ...]:
    """The class names: `choice`, which must be among `names`, or all of these; no two may be alike but for case."""
    if choice is not None and (missing := [name for name in choice if name not in set(names)]):
        raise InputError(
            f"{where}: data.classes: no class is called {quote(missing[0])}{_nearest(missing[0], names)}; the classes "
            f"are {shorten(', '.join(names), 200) or 'none'}"
        )
    alike: dict[str, str] = {}
    for name in choice if choice is not None else names:
        other = alike.setdefault(alike_form(name), name)
        if other != name:
            raise InputError(
                f"{where}: {quote(other)} and {quote(name)} are duplicate names of one class; make them one"
            )
    return tuple(alike.values())


def choose_two(where: Path | str, names: Sequence[str], choice: Sequence[str] | None) -> tuple[str, ...]:
    """`choose_classes` of images that have one class each: of two or more."""
    chosen = choose_classes(where, names, choice)
    if len(chosen) < 2:
        raise InputError(f"{where}: {chosen[0]} is the only class: give two or more to tell apart")
    return chosen


def _nearest(name: str, names: Sequence[str]) -> str:
    forms = {alike_form(one): one for one in names}
    close = difflib.get_close_matches(alike_form(name), list(forms), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(forms[form] for form in close)}?)" if close else ""


def new_numbers(names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """(len(names),) the number that each class of the files has among `classes`; -1 for one that is left out."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in names], np.int64)


def class_advice(known: Sequence[str], names: Sequence[str]) -> str:
    """What to do where a network knows other classes than the data has; "" where no choice of them helps."""
    chosen = [name for name in known if name != BACKGROUND]
    if not set(chosen) <= set(names):
        return ""
    listed = ",".join(map(_as_typed, chosen))
    return f"data.classes=[{listed if len(listed) < 200 else '...'}] takes those that it knows, in its order"


def _as_typed(name: str) -> str:
    """A name as Hydra's lists take it."""
    return name if all(character.isalnum() or character in "_-" for character in name) else f"'{name}'"
