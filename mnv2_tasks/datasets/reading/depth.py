"""Files of 16 bits a value, and how many of these the values use: cameras and scanners give 10, 12 or 14."""

import re
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)
WIDE_SUFFIXES = (".png", ".tif", ".tiff", ".pgm", ".ppm", ".pnm", ".jp2", ".j2k", ".jpx")  # may have 16 bits
MAX_SAMPLE_VALUE = 281  # a tag of TIFF
_COLOUR = re.compile(r"(RGB|RGBA|RGBX);16[BLN]")  # what PIL reads the upper bytes of


def is_wide(image: Image.Image) -> bool:
    """Whether an image, not loaded yet if it is of colours, comes from a file of more than 8 bits a value."""
    return image.mode.startswith("I") or _raw_mode(image) is not None


def to_eight_bits(image: Image.Image, depth: int) -> Image.Image:
    """A wide image whose values use `depth` bits, as one of the upper 8 of them; what is over counts as white."""
    if depth == 16 and not image.mode.startswith("I"):
        return image
    values = np.minimum(wide_values(image), 2**depth - 1)
    return Image.fromarray((values >> (depth - 8)).astype(np.uint8))


def wide_values(image: Image.Image) -> NDArray[np.integer]:
    """(H, W), or (H, W, 3) of colours: the values of a wide image, from 0 to 65535."""
    raw_mode = _raw_mode(image)
    if raw_mode is None:  # grey: I;16 and its byte orders, or 32-bit integers that hold 16-bit values
        return np.clip(np.asarray(image), 0, 65535)
    opened: Any = image  # of a file, which PIL's types do not tell
    file = opened.fp
    image.load()
    # PIL has no colours of 16 bits: read in the other byte order, it takes the lower bytes for the upper ones.
    swapped = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}[raw_mode[-1]]
    file.seek(0)
    low: Any
    with Image.open(file) as low:
        low.seek(image.tell())
        low.tile = [tile._replace(args=_with_order(tile.args, swapped)) for tile in low.tile]
        low.load()
        upper, lower = (np.asarray(one)[..., :3].astype(np.uint16) for one in (image, low))
    return (upper << 8) | lower


def depth_of(images: Iterable[Image.Image]) -> int | None:
    """The fewest bits, of 8, 10, 12, 14 and 16, that hold the values of all wide images; None where none is wide.

    A TIFF's tag may say that values up to a larger one occur.
    """
    largest = -1
    for image in images:
        if is_wide(image):
            said = getattr(image, "tag_v2", {}).get(MAX_SAMPLE_VALUE, 0)
            tag = max(said) if isinstance(said, tuple) else said
            largest = max(largest, int(wide_values(image).max()), int(tag) if tag < 65535 else 0)
    return next(depth for depth in DEPTHS if largest < 2**depth) if largest >= 0 else None


def _raw_mode(image: Image.Image) -> str | None:
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    return raw_mode if isinstance(raw_mode, str) and _COLOUR.fullmatch(raw_mode) else None


def _with_order(args: Any, order: str) -> Any:
    if isinstance(args, tuple):
        return (args[0][:-1] + order, *args[1:])
    return str(args)[:-1] + order
