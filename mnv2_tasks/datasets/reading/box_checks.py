"""Checks on the boxes that people give."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.problems import hearing, refuse
from mnv2_tasks.errors import InputError

Order = Literal["corners", "corner", "centre"]
NEARLY_ALL = 0.95  # of a file's boxes; some are bad for themselves


def check_boxes(
    boxes: NDArray[np.floating[Any]],
    sizes: NDArray[np.int64],
    *,
    bad_boxes: str,
    where: str,
    order: Order = "corners",
    describe: Callable[[int], str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Refuse, or with bad_boxes="fix" mend, boxes (N, 4) xyxy in images of `sizes` (N, 2) (H, W).

    Bad is a box that is not finite, is inverted, has no area, or sticks out of its image by more than 1
    pixel; up to 1 pixel is rounding and is clipped in silence. "fix" clips what sticks out and drops what
    then has no area, with one warning that counts both (`where` opens it).

    Boxes that cannot be meant are refused in any case: see `check_meaning`, which has `order`, too.

    Returns the boxes clipped to their images, and the mask (N,) of those to keep. With "error", raises
    InputError for the first bad box, which `describe(row)` names.
    """
    check_meaning(boxes, sizes, where=where, order=order)
    low, high = boxes[:, :2], boxes[:, 2:]
    edges = np.tile(sizes[:, ::-1], 2)  # (N, 4): W, H, W, H
    finite = np.isfinite(boxes).all(1)
    clipped = np.clip(np.where(finite[:, None], boxes, 0), 0, edges).astype(np.float32)
    out: NDArray[np.bool_] = finite & np.any((boxes < -1) | (boxes > edges + 1), axis=1)
    flat: NDArray[np.bool_] = np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    bad = out | flat
    if not bad.any():
        return clipped, ~flat
    if bad_boxes == "fix" and not hearing():
        warnings.warn(
            f"{where}: of {len(bad)} boxes, clipped {np.count_nonzero(out & ~flat)} that stuck out of their "
            f"image and dropped {np.count_nonzero(flat)} without area in it",
            stacklevel=2,
        )
        return clipped, ~flat

    def problem(row: int) -> str:
        if not finite[row]:
            what = "is not finite"
        elif (high[row] < low[row]).any():
            what = "is inverted"
        elif (high[row] == low[row]).any() or not out[row]:
            what = "has no area"
        else:
            what = "lies outside its image" if flat[row] else "sticks out of its image"
        height, width = sizes[row].tolist()
        corners = ", ".join(f"{value:g}" for value in boxes[row])
        return (
            f"{describe(row)}: the box (x1, y1, x2, y2) = ({corners}) {what}; the image is {width}x{height} "
            "(width x height)"
        )

    others = f"; {np.count_nonzero(bad) - 1} more boxes are bad" if np.count_nonzero(bad) > 1 else ""
    fix = "; correct it, or give data.bad_boxes=fix, which clips or drops such boxes"
    refuse([problem(row) for row in np.flatnonzero(bad).tolist()], others + fix)
    return clipped, ~flat


def check_meaning(boxes: NDArray[np.floating[Any]], sizes: NDArray[np.int64], *, where: str, order: Order) -> None:
    """Refuse boxes of a whole file that are no pixels, or not in the order that the format has.

    Args:
        boxes: (N, 4), as x1, y1, x2, y2, in images of `sizes` (N, 2) (H, W).
        order: how they were written: as x1, y1, x2, y2; or "corner" or "centre" first, then width and height.

    A reading counts as meant where nearly all boxes fit their images by it, and not as they are.
    """
    low, high, edges = boxes[:, :2], boxes[:, 2:], sizes[:, ::-1]
    sides = high - low

    def fit(low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(((low >= -1) & (high <= edges + 1) & (high > low)).all(1))

    def share(rows: NDArray[np.bool_]) -> float:
        return np.count_nonzero(rows) / max(len(rows), 1)

    small = (np.abs(boxes) <= 1.1).all(1) & (sizes > 4).all(1) & (boxes != 0).any(1)
    if share(small) > 0.5:
        number = f"all of its {len(boxes):,}" if small.all() else f"{np.count_nonzero(small):,} of its {len(boxes):,}"
        raise InputError(
            f"{where}: {number} boxes lie within 0..1: they are fractions, but pixels are read; multiply x by the "
            "width and y by the height of the image (data=yolo reads fractions)"
        )
    misfits = ~fit(low, high)
    bad = np.count_nonzero(misfits)
    if share(misfits) <= 1 - NEARLY_ALL:
        return
    problem = f"{where}: {bad:,} of its {len(boxes):,} boxes do not lie in their images"
    first = (low + high) / 2 if order == "centre" else low
    if order != "corners" and share(fit(first, sides)) >= NEARLY_ALL:
        written, fix = (
            ("centre, width, height", "write the centre in place of x1 and y1, and width and height")
            if order == "centre"
            else ("x, y, width, height", "write width and height")
        )
        raise InputError(f"{problem} as {written}, but nearly all do as x1, y1, x2, y2; {fix} in place of x2 and y2")
    if bad > 2 and order == "corner" and share(fit(low - sides / 2, low + sides / 2)) >= 0.99:  # it is easier to fit so
        raise InputError(f"{problem}, but nearly all do with x, y as their centre; subtract half of width and height")
    if bad > 2 and order == "centre" and share(fit(first, first + sides)) >= 0.99:
        raise InputError(f"{problem}, but nearly all do with x, y as their corner; add half of width and height")
    if bad < 2 or share(misfits) < 0.2:
        return
    if order == "corners" and (high < low).any() and share(fit(low, low + high)) >= NEARLY_ALL:
        other = ", or with the smaller corner second" if share(fit(high, low)) >= NEARLY_ALL else ""
        raise InputError(
            f"{problem} as x1, y1, x2, y2, but nearly all do as x, y, width, height{other}; write x + width and "
            "y + height in place of width and height, and the smaller corner first"
        )
    if bad > 2 and share(fit(low[:, ::-1], high[:, ::-1])) >= NEARLY_ALL:
        raise InputError(
            f"{problem}, but nearly all do with x and y changed; write x before y, or turn the images as they were "
            "annotated"
        )
    out = np.isfinite(boxes).all(1) & (sides > 0).all(1) & misfits
    if bad > 2 and share(out) > 0.5:
        row = int(np.argmax(np.where(out, high.max(1), -np.inf)))
        reach = "x".join(f"{value:g}" for value in high[row])
        size = "x".join(map(str, edges[row]))
        raise InputError(
            f"{problem}: one reaches to {reach} in an image of {size} (width x height); they are in other pixels: "
            "scale them, or put the images there that were annotated"
        )
