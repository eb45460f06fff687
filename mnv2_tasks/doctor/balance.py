"""Classes: how often each side has each, and what part of the masks' pixels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.doctor.findings import Finding, Table
from mnv2_tasks.errors import shorten

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side

FEW = 10  # labels of a class in train that are hardly enough to learn it
UNEVEN = 10.0  # times as many labels of the most frequent class as of the rarest
THIN = 0.01  # of the labelled pixels, of a class
UNLIKELY = 1e-4  # chance that two sides of one kind differ as much in their classes
APART = 0.15  # of the labels that would have to change class for two sides to be alike


def look_at_balance(sides: "Sequence[Side]", weighs: Sequence[str]) -> tuple[list[Finding], list[Table]]:
    """How even the classes are, for each kind of annotation of each data set.

    Args:
        weighs: settings by which a training can even out the classes of one label an image, and of masks.
    """
    found: list[Finding] = []
    tables: list[Table] = []
    for source in dict.fromkeys(side.source for side in sides):
        mine = [side for side in sides if side.source == source]
        for kind, names in mine[0].kinds.items():
            counts = {side.name: class_counts(side, kind) for side in mine}
            tables.append(_table(source, kind, names, counts))
            found += _uneven(source, kind, names, counts, weighs)
            if kind != "segmentation":  # pixels of one image depend on each other: any two sides would differ
                found += _other_shares(source, kind, counts)
    return found, tables


def class_counts(side: "Side", kind: str) -> NDArray[np.float64]:
    """(K,): images, objects, or, of masks, the sum over the images of the part that each class covers."""
    if kind == "classification":
        known = side.label[side.label >= 0]
        return np.bincount(known, minlength=len(side.kinds[kind])).astype(np.float64)
    if kind == "multilabel":
        return np.asarray((side.presence == 1).sum(0), np.float64)
    if kind == "detection":
        labels = side.objects["label"][~side.objects["crowd"]]
        return np.bincount(labels, minlength=len(side.kinds[kind])).astype(np.float64)
    return np.asarray(side.pixels[:, :-1].sum(0), np.float64)


def _table(source: str, kind: str, names: Sequence[str], counts: dict[str, NDArray[np.float64]]) -> Table:
    is_mask = kind == "segmentation"
    rows = []
    for label, name in enumerate(names):
        row: list[object] = [name]
        for each in counts.values():
            share = float(each[label] / each.sum()) if each.sum() else None
            row += [share] if is_mask else [int(each[label]), share]
        rows.append(row)
    titles = ["class"]
    for side in counts:
        titles += [f"{side}, share of pixels"] if is_mask else [side, f"{side}, share"]
    return Table(f"{source}: {kind}", tuple(titles), rows)


def _uneven(
    source: str, kind: str, names: Sequence[str], counts: dict[str, NDArray[np.float64]], weighs: Sequence[str]
) -> list[Finding]:
    train = counts.get("train")
    if train is None or len(train) < 2 or not train.sum():
        return []
    found = []
    shares = train / train.sum()
    if kind == "segmentation":
        if thin := [names[i] for i in np.argsort(shares) if 0 < shares[i] < THIN]:
            text = f"{source}: {_listed(thin)} cover less than {THIN:.0%} of the labelled pixels each"
            fix = "a loss weighted by class helps them"
            found.append(Finding("thin", "look", text, fix, settings=tuple(w for w in weighs if "class_weights" in w)))
        return found
    if few := [f"{names[i]} ({int(train[i])})" for i in np.argsort(train, kind="stable") if 0 < train[i] < FEW]:
        text = f"{source} train: fewer than {FEW} labels of {_listed(few)}"
        found.append(
            Finding("few", "look", text, "label more of them, or leave the classes out with data.classes=[...]")
        )
    known = train[train > 0]
    if known.max() >= UNEVEN * known.min():
        most, least = names[int(train.argmax())], names[int(np.where(train > 0, train, np.inf).argmin())]
        text = f"{source} train: {known.max() / known.min():.0f} times as many labels of {most} as of {least}"
        settings = tuple(w for w in weighs if "balanced" in w) if kind == "classification" else ()
        fix = "draw rare classes more often" if settings else "metrics by class tell whether the rare ones are learnt"
        found.append(Finding("uneven", "look", text, fix, settings=settings))
    return found


def _other_shares(source: str, kind: str, counts: dict[str, NDArray[np.float64]]) -> list[Finding]:
    from scipy.stats import chi2_contingency

    found = []
    train = counts.get("train")
    for side in ("val", "test"):
        if train is None or side not in counts or not counts[side].sum() or not train.sum():
            continue
        both = np.stack([train, counts[side]])
        both = both[:, both.sum(0) > 0]
        apart = float(np.abs(both[0] / both[0].sum() - both[1] / both[1].sum()).sum() / 2)
        if both.shape[1] > 1 and apart > APART and chi2_contingency(both).pvalue < UNLIKELY:
            text = f"{source}: {side} has other shares of the {kind} classes than train: {apart:.0%} of its labels"
            found.append(Finding("shares", "look", text, "see whether that is meant: what is measured there counts so"))
    return found


def _listed(names: Sequence[str]) -> str:
    return shorten(", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else ""), 200)
