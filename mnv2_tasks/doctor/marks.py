"""Labels that look like slips: doubled, tiny or all-covering boxes, images without labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from mnv2_tasks.doctor.findings import Finding, Shown, Weight
from mnv2_tasks.errors import amount

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side

SAME = 0.9  # IoU of two boxes from which they are of one object
TINY = 3.0  # pixels of the original: a shorter side is a slip of the mouse
WHOLE = 0.98  # of the image's area, of a box around everything
UNKNOWN = 0.5  # of a mask's pixels, from which there is little to learn


def look_at_marks(sides: "Sequence[Side]") -> list[Finding]:
    """What is odd about the labels of all sides."""
    cases: dict[str, list[Shown]] = {name: [] for name in KINDS}
    for side in sides:
        if "detection" in side.kinds:
            _look_at_objects(side, cases)
        if "classification" in side.kinds and side.label.max(initial=-1) >= 0:
            cases["unlabelled"] += [Shown((side.place(row),)) for row in side.whole.tolist() if side.label[row] < 0]
        if "segmentation" in side.kinds:
            known = side.whole[side.masked[side.whole]]
            unknown = side.pixels[known, -1]
            rows = known[np.argsort(-unknown, kind="stable")]
            rows = rows[side.pixels[rows, -1] > UNKNOWN]
            cases["unknown"] += [Shown((side.place(r),), f"{side.pixels[r, -1]:.0%} unknown") for r in rows.tolist()]
    return [
        Finding(name, weight, f"{amount(len(cases[name]), one, several)} {what}", fix, cases[name])
        for name, (weight, one, several, what, fix) in KINDS.items()
        if cases[name]
    ]


KINDS: dict[str, tuple[Weight, str, str, str, str]] = {
    "doubled": (
        "wrong",
        "image",
        "images",
        f"with boxes twice on one object (IoU {SAME:g} or more)",
        "keep one of each",
    ),
    "contrary": (
        *("wrong", "image", "images"),
        f"with boxes of two classes on one object (IoU {SAME:g} or more)",
        "keep the right one",
    ),
    "tiny": ("look", "image", "images", f"with boxes under {TINY:g} pixels a side", "remove what nobody can see"),
    "around": ("look", "image", "images", "with a box around everything", "see whether it is of an object"),
    "bare": (
        "tells",
        "image",
        "images",
        "without any box",
        "right for backgrounds; else they teach that nothing is there",
    ),
    "unlabelled": ("tells", "image", "images", "without a label", "they teach nothing"),
    "unknown": ("look", "mask", "masks", f"of which more than {UNKNOWN:.0%} are unknown", "they teach little"),
}


def _look_at_objects(side: "Side", cases: dict[str, list[Shown]]) -> None:
    size = np.stack([side.measures["width"], side.measures["height"]], 1)
    starts = np.searchsorted(side.objects["row"], np.arange(len(side) + 1))
    for row in side.whole[side.boxed[side.whole]].tolist():
        here = side.objects[starts[row] : starts[row + 1]]
        here = here[~here["crowd"]]
        place = side.place(row)
        if not len(here):
            if starts[row] == starts[row + 1]:
                cases["bare"].append(Shown((place,)))
            continue
        sides = here["box"][:, 2:] - here["box"][:, :2]
        for name, marked in (("tiny", (sides * size[row]).min(1) < TINY), ("around", sides.prod(1) > WHOLE)):
            if marked.any():
                cases[name].append(_shown(place, here[marked], amount(int(marked.sum()), "box", "boxes")))
        boxes = torch.from_numpy(here["box"].copy())
        same = (box_iou(boxes, boxes).numpy() >= SAME) & np.tri(len(here), k=-1, dtype=np.bool_)
        one, other = np.nonzero(same)
        alike = here["label"][one] == here["label"][other]
        for name, pairs in (("doubled", one[alike]), ("contrary", one[~alike])):
            if len(pairs):
                cases[name].append(_shown(place, here[np.unique(pairs)], amount(len(pairs), "time")))


def _shown(place: Any, objects: NDArray[Any], words: str) -> Shown:
    return Shown((place,), words, tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in objects["box"].tolist()))
