"""Near-duplicates among the sides of the data: leaks from train into what measures, repeats, and labels that differ."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnv2_tasks.doctor.duplicates import Looks, Pair, Told
from mnv2_tasks.doctor.findings import Finding, Shown
from mnv2_tasks.errors import amount

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side


def look_at_duplicates(sides: "Sequence[Side]", looks: Looks, told: Told) -> list[Finding]:
    """Name the images that are nearly one, leaks across sides first."""
    firsts = [side.first for side in sides]

    def located(number: int) -> "tuple[Side, int]":
        side = sides[bisect_right(firsts, number) - 1]
        return side, number - side.first

    cases: dict[str, list[Shown]] = {"leaks": [], "twins": [], "repeats": []}
    touched: dict[str, set[tuple[str, str, int]]] = {name: set() for name in cases}
    for pair in looks.pairs(told):
        (one, row), (other, another) = located(pair.first), located(pair.second)
        if one.source != other.source and "train" not in (one.name, other.name):
            continue  # both are measured on: nothing was learnt of either
        if one.source != other.source and one.name == other.name:
            continue  # one picture in two data sets, for two tasks
        labels = sorted({int(one.label[row]), int(other.label[another])} - {-1})
        names = one.kinds.get("classification", ())
        name = "repeats" if one.name == other.name else "leaks"
        words = _words(pair)
        if len(labels) > 1 and one.source == other.source:
            words += f"; labelled {' and '.join(names[label] for label in labels)}"
            cases["twins"].append(Shown((one.place(row), other.place(another)), words))
            touched["twins"] |= {(one.source, one.name, row), (other.source, other.name, another)}
        # The image that measures is the one to remove.
        pairs = [(one, row), (other, another)]
        pairs.sort(key=lambda place: place[0].name != "train")
        cases[name].append(Shown(tuple(side.place(at) for side, at in pairs), words))
        side, at = pairs[1]
        touched[name].add((side.source, side.name, at))
    found = []
    for name, weight, what, fix in (
        (
            "leaks",
            "wrong",
            "of one side nearly as on another: what is measured there was seen before",
            "remove them from one",
        ),
        ("twins", "wrong", "nearly as another, and of another class", "correct the labels"),
        ("repeats", "look", "nearly as another of the same side", "see whether they are meant to count twice"),
    ):
        if cases[name]:
            among = f" ({_by_side(touched[name])})"
            text = f"{amount(len(touched[name]), 'image')} {what}{among}"
            found.append(Finding(name, weight, text, fix, cases[name]))  # type: ignore[arg-type]
    return found


def _words(pair: Pair) -> str:
    how = [word for word, is_so in (("a part of it", pair.cut), ("mirrored", pair.mirrored)) if is_so]
    return ", ".join([f"alike {pair.alike:.2f}", *how])


def _by_side(touched: set[tuple[str, str, int]]) -> str:
    counts: dict[str, int] = {}
    for source, side, _ in touched:
        counts[f"{source} {side}"] = counts.get(f"{source} {side}", 0) + 1
    return ", ".join(f"{count:,} of {name}" for name, count in sorted(counts.items()))
