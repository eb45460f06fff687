"""Outlines of objects as COCO writes them, polygons or run lengths: packed small, and painted into masks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.errors import InputError, quote

FARTHEST = 1e5  # pixels: the time to paint a polygon grows with its length


def pack(segmentation: Any) -> bytes:
    """One object's outline in a few bytes; b"" where there is none.

    The first byte tells the form: "R", the (H, W) and COCO's compressed run lengths; "P" polygons in hundredths of a
    pixel, which is what COCO's files hold; "Q" polygons in float64. Raises ValueError, which says what is wrong.
    """
    if not segmentation:
        return b""
    if isinstance(segmentation, dict):
        return _pack_runs(segmentation.get("size"), segmentation.get("counts"))
    if not isinstance(segmentation, list) or not all(isinstance(polygon, list) for polygon in segmentation):
        raise ValueError("is neither a list of polygons nor run lengths with size and counts")
    if not all(segmentation):
        return pack([polygon for polygon in segmentation if polygon])
    for polygon in segmentation:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"has a polygon of {len(polygon)} numbers; it takes x, y of 3 corners or more")
        if not set(map(type, polygon)) <= {int, float}:
            raise ValueError("has a polygon of other things than numbers")
    flat = np.array([value for polygon in segmentation for value in (len(polygon), *polygon)], np.float64)
    if not (abs(flat) < FARTHEST).all():
        raise ValueError("has a polygon with corners that are not finite or far outside of any image")
    hundredths = np.rint(flat * 100)
    if (hundredths / 100 == flat).all():
        return b"P" + hundredths.astype(np.int32).tobytes()
    return b"Q" + flat.tobytes()


def outline_box(segmentation: Any) -> list[float] | None:
    """The box (x, y, width, height) around an outline; None where there is none, or it is damaged."""
    try:
        packed = pack(segmentation)
    except (ValueError, OverflowError):
        return None
    if packed[:1] == b"R":
        size = segmentation["size"]
        lengths = run_lengths(packed[9:])
        edges = np.cumsum(lengths)
        starts, stops = edges[0::2][: len(edges) // 2], edges[1::2] - 1  # of the object's stretches, down the columns
        if not len(stops) or edges[-1] != math.prod(size):
            return None
        columns = np.concatenate([starts, stops]) // size[0]
        # A stretch over several columns has rows from the first to the last.
        wraps = (starts // size[0] != stops // size[0]).any()
        rows = np.array([0, size[0] - 1]) if wraps else np.concatenate([starts, stops]) % size[0]
        low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    elif packed:
        corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation if polygon])
        low, high = tuple(corners.min(0)), tuple(corners.max(0))
    else:
        return None
    return [float(value) for value in (*low, high[0] - low[0], high[1] - low[1])]


def run_lengths(counts: bytes) -> list[int]:
    """COCO's compressed run lengths as numbers.

    The libraries paint the whole image to decode them, which takes many times as long. A number is stored in groups
    of 5 bits, lowest first, each as a character from "0" on; 32 says that more follow, and 16 in the last that it is
    negative. From the fourth on, they are differences to the number two before.
    """
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if not len(last) or last[-1] != len(codes) - 1 or groups.max() > 12:
        return []
    bits = 5 * (np.arange(len(codes)) - np.repeat(first, groups))
    numbers = np.add.reduceat((codes & 31) << bits, first)
    numbers -= np.where(codes[last] & 16, 1 << 5 * groups, 0)
    for turn in (numbers[1::2], numbers[2::2]):
        np.cumsum(turn, out=turn)
    return numbers.tolist()


def _pack_runs(size: Any, counts: Any) -> bytes:
    if (
        not isinstance(size, list)
        or [type(side) for side in size] != [int, int]
        or not 0 < min(size) <= max(size) < 1e5
    ):
        raise ValueError(f'has run lengths of "size" {quote(size, 40)}; it takes the height and the width')
    if isinstance(counts, list):
        if not set(map(type, counts)) <= {int} or min(counts, default=0) < 0 or sum(counts) != math.prod(size):
            raise ValueError(f"has run lengths that do not add up to its {size[0]} x {size[1]} pixels")
        from faster_coco_eval.core.mask import frPyObjects

        counts = frPyObjects({"size": size, "counts": counts}, *size)["counts"].decode()
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError("has run lengths without counts")
    return b"R" + np.array(size, np.int32).tobytes() + counts.encode()


@dataclass(frozen=True)
class Shapes:
    """The outlines of many objects in one array, which loader processes share without copying."""

    file: str  # where they are from
    ids: NDArray[np.bytes_]  # (S,) the annotations' ids in that file
    data: NDArray[np.uint8]  # packed, one after another
    starts: NDArray[np.int64]  # (S + 1,) of each in data

    @staticmethod
    def of(file: str, ids: Sequence[object], packed: Sequence[bytes]) -> "Shapes":
        return Shapes(
            file,
            np.array([quote(number, 40).encode() for number in ids], np.bytes_),
            np.frombuffer(b"".join(packed), np.uint8),
            np.concatenate([[0], np.cumsum([len(one) for one in packed], dtype=np.int64)]),
        )

    def joined(self, other: "Shapes") -> "Shapes":
        """These outlines, then the other's."""
        return Shapes(
            self.file,
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.data, other.data]),
            np.concatenate([self.starts, self.starts[-1] + other.starts[1:]]),
        )

    def __bool__(self) -> bool:
        """Whether any object has an outline."""
        return len(self.data) > 0

    def check_sizes(self, rows: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        """Refuse run lengths of another (H, W) than `sizes` (N, 2), their images'."""
        for row, size in zip(rows.tolist(), sizes.tolist(), strict=True):
            start = self.starts[row]
            if start < self.starts[row + 1] and self.data[start] == ord("R"):
                declared = self.data[start + 1 : start + 9].view(np.int32).tolist()
                if declared != size:
                    sizes_told = f"{declared[1]}x{declared[0]}, but its image is {size[1]}x{size[0]} (width x height)"
                    raise self._error(row, f"has run lengths of {sizes_told}")

    def check_pixels(self, most: int = 1000) -> None:
        """Refuse polygons of which, of the first `most`, over half lie within 0..1: fractions of the images."""
        small = []
        for start, stop in zip(self.starts[:most].tolist(), self.starts[1 : most + 1].tolist(), strict=False):
            packed = self.data[start:stop].tobytes()
            if packed and packed[:1] != b"R":
                small.append(max(abs(value) for polygon in _polygons(packed) for value in polygon) <= 1.1)
        if sum(small) > len(small) / 2:
            raise InputError(
                f'{self.file}: its "segmentation" lies within 0..1: these are fractions, but pixels are read; multiply '
                "x by the width and y by the height of the image, or leave outlines alone with data.outlines=false"
            )

    def stretches(self, row: int, size: tuple[int, int]) -> list[tuple[int, int]] | None:
        """Where the object's pixels start and stop in an image (H, W), counted down its columns from the left.

        They are the pixels that pycocotools finds. None where the object has no outline. Raises InputError.
        """
        from faster_coco_eval.core import mask as coco

        packed = self.data[self.starts[row] : self.starts[row + 1]].tobytes()
        if not packed:
            return None
        is_runs = packed[:1] == b"R"
        counts = packed[9:] if is_runs else coco.merge(coco.frPyObjects(_polygons(packed), *size))["counts"]
        lengths = run_lengths(counts)
        if min(lengths, default=0) < 0 or sum(lengths) != math.prod(size):
            raise self._error(row, "has damaged run lengths")
        edges = list(accumulate(lengths))
        return list(zip(edges[0::2], edges[1::2], strict=False))  # outside and inside take turns

    def _error(self, row: int, problem: str) -> InputError:
        return bad_outline(self.file, self.ids[row].decode(), problem)


def _polygons(packed: bytes) -> list[list[float]]:
    """The polygons of a packed outline, x, y, ... of each."""
    flat = np.frombuffer(packed[1:], np.int32) / 100 if packed[:1] == b"P" else np.frombuffer(packed[1:])
    polygons, place = [], 0
    while place < len(flat):
        stop = place + 1 + int(flat[place])
        polygons.append(flat[place + 1 : stop].tolist())
        place = stop
    return polygons


def bad_outline(file: object, number: object, problem: str) -> InputError:
    return InputError(
        f'{file}: annotation {number}: its "segmentation" {problem}; correct it, or leave all outlines alone with '
        "data.outlines=false"
    )
