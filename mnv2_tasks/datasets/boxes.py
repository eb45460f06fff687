"""Checks on the boxes that people give."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.errors import InputError


def check_boxes(
    boxes: NDArray[np.floating[Any]],
    sizes: NDArray[np.int64],
    *,
    bad_boxes: str,
    where: str,
    xywh: bool = False,
    describe: Callable[[int], str],
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Refuse, or with bad_boxes="fix" mend, boxes (N, 4) xyxy in images of `sizes` (N, 2) (H, W).

    Bad is a box that is not finite, is inverted, has no area, or sticks out of its image by more than 1
    pixel; up to 1 pixel is rounding and is clipped in silence. "fix" clips what sticks out and drops what
    then has no area, with one warning that counts both (`where` opens it).

    Boxes of a whole file that cannot be meant are refused in any case: all within 0..1 or, with `xywh`, where they
    were written as x, y, width, height, those that only fit as corners.

    Returns the boxes clipped to their images, and the mask (N,) of those to keep. With "error", raises
    InputError for the first bad box, which `describe(row)` names.
    """
    if len(boxes) and np.isfinite(boxes).all() and not (boxes < 0).any() and (boxes[:, :2] <= 1).all():
        if (boxes[:, 2:] - boxes[:, :2] <= 1).all() and (sizes > 2).all():
            raise InputError(
                f"{where}: all of its {len(boxes):,} boxes lie within 0..1: they are fractions, but pixels are read; "
                "multiply x by the width and y by the height of the image (data=yolo reads fractions)"
            )
    low, high = boxes[:, :2], boxes[:, 2:]
    edges = np.tile(sizes[:, ::-1], 2)  # (N, 4): W, H, W, H
    finite = np.isfinite(boxes).all(1)
    clipped = np.clip(np.where(finite[:, None], boxes, 0), 0, edges).astype(np.float32)
    out: NDArray[np.bool_] = finite & np.any((boxes < -1) | (boxes > edges + 1), axis=1)
    flat: NDArray[np.bool_] = np.any(clipped[:, 2:] <= clipped[:, :2], axis=1)
    bad = out | flat
    if xywh and np.count_nonzero(out) > 0.05 * len(out) and _are_corners(boxes, edges):
        raise InputError(
            f"{where}: {np.count_nonzero(out):,} of its {len(out):,} boxes stick out of their images as x, y, width, "
            "height, and all fit in as x1, y1, x2, y2; write width and height in place of x2 and y2"
        )
    if not bad.any():
        return clipped, ~flat
    if bad_boxes == "fix":
        warnings.warn(
            f"{where}: of {len(bad)} boxes, clipped {np.count_nonzero(out & ~flat)} that stuck out of their "
            f"image and dropped {np.count_nonzero(flat)} without area in it",
            stacklevel=2,
        )
        return clipped, ~flat
    row = int(np.argmax(bad))
    if not finite[row]:
        problem = "is not finite"
    elif (high[row] < low[row]).any():
        problem = "is inverted"
    elif (high[row] == low[row]).any() or not out[row]:
        problem = "has no area"
    else:
        problem = "lies outside its image" if flat[row] else "sticks out of its image"
    height, width = sizes[row].tolist()
    corners = ", ".join(f"{value:g}" for value in boxes[row])
    others = f"; {np.count_nonzero(bad) - 1} more boxes are bad" if np.count_nonzero(bad) > 1 else ""
    raise InputError(
        f"{describe(row)}: the box (x1, y1, x2, y2) = ({corners}) {problem}; the image is {width}x{height} "
        f"(width x height){others}; correct it, or give data.bad_boxes=fix, which clips or drops such boxes"
    )


def _are_corners(boxes: NDArray[np.floating[Any]], edges: NDArray[np.int64]) -> bool:
    """Whether boxes, made of x, y, width, height, all lie in their images when these are read as two corners."""
    low, high = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    return bool((low >= -1).all() and (high > low).all() and (high <= edges[:, :2] + 1).all())
