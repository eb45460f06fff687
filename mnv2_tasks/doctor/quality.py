"""How images are: dark, bright, blurred, almost empty, of odd size; plain statistics of their pixels.

Cleanvision measures much the same; it brings pandas and Hugging Face's datasets with it, to read images of its own.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.doctor.findings import Finding, Shown, Table, Weight
from mnv2_tasks.errors import amount

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side

MEASURES = np.dtype([(n, "f4") for n in ("height", "width", "light", "dark", "entropy", "sharp", "colour")])
DARK, BRIGHT = 60, 195  # of 255: nearly all pixels darker, brighter than this
EMPTY = 2.0  # bits a pixel, of the histogram of 64 greys
BLURRED = 6.0  # squared grey values that a blur of 3 pixels takes, at the sharpest place of the image
PLACES = 8  # a side, that sharpness is measured at: a background may be out of focus
LONG = 3.0  # longer side over the shorter one
SMALL = 8.0  # times fewer pixels than the median image
FEW = 0.05  # of the images: grey ones are odd where they are fewer


def measure(image: NDArray[np.uint8], size: tuple[int, int]) -> tuple[float, ...]:
    """`MEASURES` of an image (3, H, W) whose original has `size` (H, W).

    light, dark: the grey value that 99% of the pixels are below, and 5%. sharp: the variance of what a blur
    takes, at the sharpest of 8 x 8 places. colour: the mean distance of the channels.
    """
    from scipy.ndimage import uniform_filter

    pixels = image.astype(np.float32)
    grey = pixels.mean(0)
    dark, light = np.percentile(grey, [5, 99])
    share = np.bincount((grey.ravel() / 4).astype(np.int64), minlength=64) / grey.size
    entropy = -(share[share > 0] * np.log2(share[share > 0])).sum()
    fine = (grey - uniform_filter(grey, 3)) ** 2
    cells = [np.array_split(rows, PLACES, 1) for rows in np.array_split(fine, PLACES, 0)]
    sharp = max(float(cell.mean()) for row in cells for cell in row if cell.size)
    colour = (pixels.max(0) - pixels.min(0)).mean()
    return (*map(float, size), float(light), float(dark), float(entropy), float(sharp), float(colour))


def look_at_quality(sides: "Sequence[Side]") -> tuple[list[Finding], list[Table]]:
    """What is broken, dark, bright, blurred, almost empty, of odd shape or size."""
    found = _broken(sides)
    area = np.concatenate([side.measures["height"] * side.measures["width"] for side in sides])
    usual = float(np.median(area[area > 0])) if (area > 0).any() else 0.0
    whole = np.concatenate([side.measures[side.whole] for side in sides])
    mostly_coloured = len(whole) and float((whole["colour"] < 1).mean()) < FEW
    least = min(BLURRED, float(np.median(whole["sharp"])) / 8) if len(whole) else 0.0

    def ratio(m: NDArray[Any]) -> NDArray[Any]:
        sides = np.stack([m["height"], m["width"]])
        return np.asarray(sides.max(0) / sides.min(0).clip(1))

    rules: list[tuple[str, Weight, str, str, Callable[[NDArray[Any]], Any], Callable[[NDArray[Any]], Any]]] = [
        ("empty", "look", "almost without content", "see whether they are the right files",
         lambda m: m["entropy"], lambda m: m["entropy"] < EMPTY),
        ("dark", "look", "very dark", "leave them out, or photometric augmentation may help",
         lambda m: m["light"], lambda m: (m["light"] < DARK) & (m["entropy"] >= EMPTY)),
        ("bright", "look", "very bright", "leave them out, or photometric augmentation may help",
         lambda m: -m["dark"], lambda m: (m["dark"] > BRIGHT) & (m["entropy"] >= EMPTY)),
        ("blurred", "look", "blurred", "leave them out where the labels cannot be told from them",
         lambda m: m["sharp"], lambda m: (m["sharp"] < least) & (m["entropy"] >= EMPTY) & (m["light"] >= DARK)),
        ("long", "look", f"over {LONG:g} times as long as wide", "fit=pad keeps their proportions",
         lambda m: -ratio(m), lambda m: ratio(m) > LONG),
        ("small", "look", f"of {SMALL:g} times fewer pixels than most", "see whether they are thumbnails",
         lambda m: m["height"] * m["width"], lambda m: m["height"] * m["width"] < usual / SMALL),
        ("grey", "tells", "grey among coloured ones", "see whether that tells a class from another",
         lambda m: m["colour"], lambda m: (m["colour"] < 1) & mostly_coloured),
    ]  # fmt: skip
    for name, weight, what, fix, key, rule in rules:
        cases = [
            (float(value), side.place(row))
            for side in sides
            for row, value in zip(side.whole.tolist(), key(side.measures[side.whole]).tolist(), strict=True)
            if rule(side.measures[row : row + 1])[0]
        ]
        cases.sort(key=lambda case: (case[0], case[1].name))
        if cases:
            text = f"{amount(len(cases), 'image')} {what}"
            found.append(Finding(name, weight, text, fix, [Shown((place,)) for _, place in cases]))
    return found, [_sizes(sides)]


def _broken(sides: "Sequence[Side]") -> list[Finding]:
    cases = [Shown((side.place(row),), why) for side in sides for row, why in side.broken.items()]
    text = f"{amount(len(cases), 'image')} that cannot be read"
    return [Finding("broken", "stops", text, "replace them, or remove them from the data", cases)] if cases else []


def _sizes(sides: "Sequence[Side]") -> Table:
    rows = []
    for side in sides:
        heights, widths = (side.measures[side.whole][name] for name in ("height", "width"))
        if len(heights):
            middle = f"{int(np.median(widths))} x {int(np.median(heights))}"
            span = f"{int(widths.min())} x {int(heights.min())} to {int(widths.max())} x {int(heights.max())}"
            rows.append([f"{side.source} {side.name}", len(side), middle, span])
    return Table("Images", ("side", "images", "median width x height", "from, to"), rows)
