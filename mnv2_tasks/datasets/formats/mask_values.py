"""What values mean in masks whose classes nobody names: class indices, or something else that is to be named."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.reading.legend import index_legend
from mnv2_tasks.datasets.reading.masked_split import Mask, read_mask
from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import IGNORED

MOST_MIXED = 32  # values in a usual mask: more of them are no classes, but what JPEG leaves of a few
REGION = 12  # pixels across: void borders are thinner


def number_of_classes(paths: Sequence[Path], *, ignore: Sequence[int] = ()) -> tuple[int, list[str]]:
    """How many class indices there are, 255 and `ignore` left out, and what is to be said of 255.

    A value is a class index where most indices up to the largest occur, and a mask holds few. 255 is ignored then, and
    is said to be; also whether it fills regions of 12 pixels across, as classes do and borders do not. Raises
    InputError for other values, such as 0, 127 and 255, or a hundred that JPEG made of two.
    """
    legend = index_legend(256, advice="give what the colours mean as data.colours={name: [r,g,b]}")

    def survey(path: Path) -> tuple[np.ndarray, bool]:
        mask = read_mask(path, legend)
        return np.bincount(mask.ravel(), minlength=256), _has_region(mask == IGNORED)

    with ThreadPoolExecutor(8) as pool:
        rows, regions = zip(*pool.map(survey, paths), strict=True)
    counts = np.array(rows)  # (M, 256)
    void = counts[:, IGNORED].sum() / max(counts.sum(), 1)
    counts[:, [IGNORED, *ignore]] = 0
    values = np.flatnonzero(counts.sum(0)).tolist()
    number = max(values, default=-1) + 1
    mixed = int(np.median((counts > 0).sum(1)))
    if mixed > MOST_MIXED:
        raise InputError(
            f"{paths[0].parent}: a mask holds {mixed} values or more, which are no classes but what JPEG or scaling "
            "leaves of a few; save the masks anew as PNG, with nearest values"
        )
    if number > 2 * len(values) + 8:
        levels = [*values, *([IGNORED] if void else [])]
        more = ", ..." if levels[4:] else ""
        colours = ", ".join(f"class{i}: [{v},{v},{v}]" for i, v in enumerate(levels[:4])) + more
        raise InputError(
            f"{paths[0].parent}: the masks' values are {', '.join(map(str, levels[:4]))}{more}, not 0, 1, 2 as class "
            f"indices; give data.colours={{{colours}}}, or if they are indices all {number} names as data.classes"
        )
    notes = []
    if void and number > 1:
        note = f"255, on {void:.1%} of the pixels, is ignored"
        if any(regions):
            note += "; it fills whole regions: if it is a class, name all of them as data.colours={name: [r,g,b]}"
        notes = [note]
    return number, notes


def _has_region(mask: Mask) -> bool:
    """Whether a square of `REGION` pixels across is all true."""
    size = 1
    while size < REGION and mask.any() and min(mask.shape) > 1:
        step = min(size, REGION - size, min(mask.shape) - 1)
        mask = mask[step:] & mask[:-step]
        mask = mask[:, step:] & mask[:, :-step]
        size += step
    return size >= REGION and bool(mask.any())
