"""What the doctor has to say: findings, the images that show them, and settings that mend them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Weight = Literal["stops", "wrong", "look", "tells"]
WEIGHTS: dict[Weight, str] = {  # from the worst on, as a page says it
    "stops": "stops a training",
    "wrong": "spoils what is measured or learnt",
    "look": "worth a look",
    "tells": "good to know",
}


@dataclass(frozen=True)
class Place:
    """An image of the data: on which side of which data set, its number there, its file or name."""

    source: str
    side: str
    index: int
    name: str


@dataclass(frozen=True)
class Shown:
    """One case of a finding: the images that it is about, in words, and the boxes (N, 4) xyxy, as fractions."""

    places: tuple[Place, ...]
    words: str = ""
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        name: for programs, and of the picture's file: "leaks".
        text: a line, with the numbers.
        fix: what to do about it.
        cases: those that it is about, the worst first.
        settings: that mend it, as on a command line.
    """

    name: str
    weight: Weight
    text: str
    fix: str = ""
    cases: Sequence[Shown] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Numbers of a subject for the page and the JSON file."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[Any]]
    remark: str = ""


@dataclass
class Report:
    """All that is to be said."""

    sides: list[str] = field(default_factory=list)  # a line a side, as training says it
    findings: list[Finding] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def worst_first(self) -> list[Finding]:
        order = list(WEIGHTS)
        return sorted(self.findings, key=lambda finding: (order.index(finding.weight), -len(finding.cases)))

    def settings(self) -> list[str]:
        """What all findings suggest; the first of two that set the same is taken."""
        chosen: dict[str, str] = {}
        for finding in self.worst_first():
            for setting in finding.settings:
                chosen.setdefault(setting.partition("=")[0], setting)
        return list(chosen.values())
