"""Near-duplicates: the same picture again, cut, mirrored, brighter or compressed anew.

Candidates are found by perceptual hashes, and kept where the pixels agree once they are laid over each other. An image
may be a part of another: the hash of each is compared with those of many windows of the others. A hash is that of the
library imagehash (its `phash`), of which one call here makes those of all windows, and the mirrored one for nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

BITS = 64  # of a hash
GREY = 256  # pixels a side of the image that windows are cut from
KEPT = 64  # pixels a side of what is kept of an image
COMPARED = 32  # pixels a side of two images laid over each other
FAR = 16  # bits in which the hashes of a near-duplicate and of the nearest window may differ
NEAREST = 6  # candidates of an image whose pixels are looked at
MOST = 20_000  # images up to which windows are compared; of more, only whole images and mirrored ones
ALIKE = 0.9  # correlation of the pixels from which two images are one
DETAIL = 0.6  # correlation of the fine structure alone: two skies are alike but for it
HOPELESS, SURE = 0.4, 0.97  # correlations below and above which no better place of a window is sought
LEAST_DETAIL = 1.5  # grey values that an image's fine structure has to differ by to be told from others
LEAST_SHARED = 0.2  # of the pixels, neither black nor white in both images, that a comparison needs
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 as fractions of the image
Told = Callable[[int, int], None]  # how many of how many images are compared


@cache
def windows() -> tuple[Box, ...]:
    """The whole image, then windows of 0.9, 0.8, 0.7 and 0.6 of its sides on a grid."""
    boxes: list[Box] = [(0.0, 0.0, 1.0, 1.0)]
    for side, steps in ((0.9, 3), (0.8, 3), (0.7, 4), (0.6, 5)):
        places = np.linspace(0, 1 - side, steps).tolist()
        boxes += [(x, y, x + side, y + side) for y in places for x in places]
    return tuple(boxes)


def hashes_of(grey: Image.Image, boxes: tuple[Box, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The perceptual hashes (W, 8) of windows of a grey image, and that (8,) of the image mirrored, as packed bits."""
    from scipy.fft import dct

    width, height = grey.size
    cut = [
        grey.resize((32, 32), Image.Resampling.LANCZOS, box=(x0 * width, y0 * height, x1 * width, y1 * height))
        for x0, y0, x1, y1 in boxes
    ]
    pixels = np.stack([np.asarray(one) for one in cut])  # (W, 32, 32)
    low = dct(dct(pixels, axis=1), axis=2)[:, :8, :8]  # the 64 lowest frequencies
    mirrored = low[:1] * np.array([1, -1] * 4)  # to mirror turns the sign of odd frequencies
    both = np.concatenate([low, mirrored])
    bits = both > np.median(both, axis=(1, 2), keepdims=True)
    packed = np.packbits(bits.reshape(-1, BITS), axis=1)
    return packed[:-1], packed[-1]


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly one; `cut` where the second is a part of the first."""

    first: int
    second: int
    alike: float  # correlation of their pixels
    mirrored: bool
    cut: bool


class Looks:
    """What is kept of every image to compare it: hashes in memory, and a small grey picture in a file."""

    def __init__(self, images: int) -> None:
        self.boxes = windows() if images <= MOST else windows()[:1]
        self.hashes = np.zeros((images, len(self.boxes), BITS // 8), np.uint8)
        self.mirrored = np.zeros((images, BITS // 8), np.uint8)
        self.seen = np.zeros(images, np.bool_)
        self._file = TemporaryFile()  # noqa: SIM115  (as long as this object lives)
        self.small = np.memmap(self._file, np.uint8, "w+", shape=(max(images, 1), KEPT, KEPT))

    def add(self, row: int, image: Image.Image) -> None:
        """An image of any size, as one with this number. One without any structure is like nothing."""
        grey = image.convert("L")
        grey.thumbnail((GREY, GREY), Image.Resampling.BILINEAR)
        self.hashes[row], self.mirrored[row] = hashes_of(grey, self.boxes)
        self.small[row] = np.asarray(grey.resize((KEPT, KEPT), Image.Resampling.BILINEAR))
        self.seen[row] = _details(self.small[row].astype(np.float32)).std() > LEAST_DETAIL

    def pairs(self, told: Told = lambda done, of: None) -> list[Pair]:
        """All near-duplicates, the most alike first."""
        found: dict[tuple[int, int], Pair] = {}
        for first, second, window, mirrored in self._candidates(told):
            key = (min(first, second), max(first, second))
            if key in found and found[key].alike >= SURE:
                continue
            score, box = self.agreement(first, second, self.boxes[window], mirrored=mirrored)
            if score >= ALIKE and (key not in found or score > found[key].alike):
                cut = (box[2] - box[0]) * (box[3] - box[1]) < 0.97
                found[key] = Pair(first, second, score, mirrored, cut) if cut else Pair(*key, score, mirrored, cut)
        return sorted(found.values(), key=lambda pair: (-round(pair.alike, 3), pair.first, pair.second))

    def _candidates(self, told: Told) -> Iterator[tuple[int, int, int, bool]]:
        """(image, image that may be a part of it, window of the first, whether mirrored), by the hashes alone."""
        rows = np.flatnonzero(self.seen)
        block = max(1, (1 << 22) // max(len(rows) * len(self.boxes), 1))
        all_windows = self.hashes[rows].reshape(-1, BITS // 8)  # (N W, 8)
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            for mirrored, asked in ((False, self.hashes[part, 0]), (True, self.mirrored[part])):
                bits = _differing(asked, all_windows).reshape(len(part), len(rows), len(self.boxes))
                window = bits.argmin(2)
                nearest = np.take_along_axis(bits, window[..., None], 2)[..., 0]  # (B, N)
                nearest[np.arange(len(part)), start + np.arange(len(part))] = BITS  # an image itself
                order = nearest.argsort(1, kind="stable")[:, :NEAREST]
                for row, others in zip(range(len(part)), order.tolist(), strict=True):
                    for other in others:
                        if nearest[row, other] > FAR:
                            break
                        yield int(rows[other]), int(part[row]), int(window[row, other]), mirrored
            told(min(start + block, len(rows)), len(rows))

    def agreement(self, first: int, second: int, box: Box, *, mirrored: bool) -> tuple[float, Box]:
        """How well `second` lies over a window of `first` near `box`: the correlation, 0 where details differ; the box.

        The window is moved and scaled as long as that helps.
        """
        whole = Image.fromarray(np.asarray(self.small[first]))
        patch = np.asarray(Image.fromarray(np.asarray(self.small[second])).resize((COMPARED, COMPARED)), np.float32)
        patch = patch[:, ::-1] if mirrored else patch

        def overlaid(box: Box) -> NDArray[np.float32]:
            x0, y0, x1, y1 = (side * KEPT for side in box)
            return np.asarray(whole.resize((COMPARED, COMPARED), box=(x0, y0, x1, y1)), np.float32)

        best = correlation(overlaid(box), patch)
        for step in (0.05, 0.025, 0.0125):
            better = HOPELESS < best < SURE
            while better:
                better = False
                for moved in _moves(box, step):
                    if (score := correlation(overlaid(moved), patch)) > best + 1e-4:
                        best, box, better = score, moved, True
        fine = correlation(overlaid(box), patch, of=_details)
        return (best if fine >= DETAIL else 0.0), box


def _differing(asked: NDArray[np.uint8], known: NDArray[np.uint8]) -> NDArray[np.int8]:
    """(A, 8), (K, 8) packed bits -> (A, K): in how many bits they differ, by a product of matrices."""
    left, right = (torch.from_numpy(np.unpackbits(bits, axis=1)).float() * 2 - 1 for bits in (asked, known))
    return ((BITS - left @ right.T) / 2).to(torch.int8).numpy()


def _moves(box: Box, step: float) -> Iterator[Box]:
    """The box shifted, larger, smaller, or with one edge moved, within the image and no smaller than half of it."""
    x0, y0, x1, y1 = box
    shifts = [(dx, dy, dx, dy) for dx, dy in ((step, 0), (-step, 0), (0, step), (0, -step))]
    edges = [tuple(sign * step * (i == edge) for i in range(4)) for edge in range(4) for sign in (1, -1)]
    scales = [(sign * step, sign * step, -sign * step, -sign * step) for sign in (1, -1)]
    for a, b, c, d in [*shifts, *edges, *scales]:
        moved = (max(x0 + a, 0.0), max(y0 + b, 0.0), min(x1 + c, 1.0), min(y1 + d, 1.0))
        if min(moved[2] - moved[0], moved[3] - moved[1]) >= 0.5:
            yield moved


def correlation(
    one: NDArray[np.float32],
    other: NDArray[np.float32],
    of: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda pixels: pixels,
) -> float:
    """Of two grey images (H, W) in 0..255, or `of` what is made of them, where neither is black or white.

    An image that was made brighter is the same but for where it reached white. 0 where too little is left.
    """
    there = (np.minimum(one, other) > 3) & (np.maximum(one, other) < 252)
    if there.mean() < LEAST_SHARED:
        return 0.0
    left, right = of(one)[there], of(other)[there]
    left, right = left - left.mean(), right - right.mean()
    return float(left @ right / max(float(np.sqrt((left @ left) * (right @ right))), 1e-6))


def _details(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is left of pixels (H, W) without the mean of those around each."""
    from scipy.ndimage import uniform_filter

    return pixels - uniform_filter(pixels, 5, mode="nearest")
