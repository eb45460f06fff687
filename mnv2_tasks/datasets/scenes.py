"""The embedded default data set: scenes of six textured shapes, drawn on the fly, labelled for all three kinds.

An image is a pure function of (seed, split, index). Only raw PCG64 draws and element-wise float32 arithmetic are
used (no BLAS, no vectorised sine, no text or image library), so that the bytes agree between machines.

A scene holds 0 to 6 objects on a textured, lit background with clutter lines. The first object is by construction
the largest: it shows at least 1.6 times as many pixels as any other. Every object shows at least half of its own area;
the rest may lie behind another object or outside the image. Colour and texture say nothing about the class.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from mnv2_tasks.errors import InputError

Array = NDArray[np.float32]

OBJECT_COUNTS = (0.03, 0.21, 0.22, 0.20, 0.15, 0.11, 0.08)  # probability of asking for 0, 1, .. 6 objects
LARGEST_RATIO = 1.6  # visible pixels of the largest object over those of the next
MIN_VISIBLE = 0.5  # of an object's whole area, the part outside the image included
BOX_SAMPLE = 512  # images behind box_sizes()


# Signed distance of each shape in its own frame (u, v): negative inside, circumradius about 1.


def _circle(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 0.95


def _square(u: Array, v: Array) -> Array:
    return np.maximum(abs(u), abs(v)) - 0.8


def _triangle(u: Array, v: Array) -> Array:
    return np.maximum(abs(u) * 0.866025 - v * 0.5, v) - 0.56


def _star(u: Array, v: Array) -> Array:
    # The pentagram is where at least four of five half-planes meet: the second largest distance decides.
    first, second = np.full_like(u, -9), np.full_like(u, -9)
    for x, y in ((0, 1), (0.951057, 0.309017), (0.587785, -0.809017), (-0.587785, -0.809017), (-0.951057, 0.309017)):
        distance = u * x + v * y
        second = np.maximum(second, np.minimum(first, distance))
        first = np.maximum(first, distance)
    return second - 0.35


def _ring(u: Array, v: Array) -> Array:
    return abs(np.sqrt(u * u + v * v) - 0.76) - 0.24


def _cross(u: Array, v: Array) -> Array:
    u, v = abs(u), abs(v)
    return np.maximum(np.minimum(u, v) - 0.3, np.maximum(u, v) - 1)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "ring": _ring, "cross": _cross,
}  # fmt: skip


class Placed(NamedTuple):
    """One object as laid out: its class and its window of the image, with arrays (h, w) over that window."""

    kind: int
    number: int  # its value in the owner map, from 1
    window: tuple[slice, slice]
    u: Array  # own frame, unit radius
    v: Array
    cover: Array  # how much of each pixel the shape covers, 0..1


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """A random unit vector, rounded so that the last bit of a C library's cosine does not matter."""
    angle = rng.uniform(0, 2 * math.pi)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def _propose(rng: np.random.Generator, size: tuple[int, int], scale: float, number: int) -> tuple[Placed, int]:
    """A random object about `scale` image sides wide, and its whole area in pixels, in or out of the image."""
    kind, radius = int(rng.integers(len(SHAPES))), scale * min(size) / 2
    cy, cx = (rng.uniform(0.05, 0.95) * side for side in size)
    stretch = rng.uniform(0.87, 1.15)  # squared, the aspect ratio
    c, s = _direction(rng)
    reach = math.ceil(1.4 * radius)
    top, left = int(cy) - reach, int(cx) - reach
    y = np.arange(top, top + 2 * reach + 1, dtype=np.float32)[:, None] + (0.5 - cy)
    x = np.arange(left, left + 2 * reach + 1, dtype=np.float32) + (0.5 - cx)
    along, across = radius * stretch, radius / stretch
    u = x * (c / along) + y * (s / along)
    v = y * (c / across) - x * (s / across)
    distance = tuple(SHAPES.values())[kind](u, v)
    clip = slice(max(-top, 0), size[0] - top), slice(max(-left, 0), size[1] - left)
    window = slice(max(top, 0), top + len(y)), slice(max(left, 0), left + len(x))
    cover = np.clip(0.5 - distance[clip] * radius, 0, 1)
    return Placed(kind, number, window, u[clip], v[clip], cover), int(np.count_nonzero(distance < 0))


def arrange(rng: np.random.Generator, size: tuple[int, int]) -> tuple[list[Placed], NDArray[np.uint8]]:
    """Lay a scene out: its objects from back to front, and the owner map (H, W): 0 or the visible object's number."""
    wanted = int(np.searchsorted(np.cumsum(OBJECT_COUNTS), rng.random() * 0.999999, side="right"))
    layers: list[Placed] = []
    owner, whole = np.zeros(size, np.uint8), []
    for _ in range(3 * wanted):  # an object that does not fit is dropped, so that crowded scenes end, too
        scale = rng.uniform(0.14, 0.44) if layers else rng.uniform(0.3, 0.6)
        candidate, area = _propose(rng, size, scale, len(whole) + 1)
        on_top = rng.random() < 0.5
        trial = owner.copy()
        region = trial[candidate.window]
        region[(candidate.cover > 0.5) & (on_top | (region == 0))] = candidate.number
        areas = [*whole, area]
        visible = [int(np.count_nonzero(trial == number)) for number in range(1, len(areas) + 1)]
        shown = all(part and part >= MIN_VISIBLE * area for part, area in zip(visible, areas, strict=True))
        if shown and visible[0] >= LARGEST_RATIO * max(visible[1:], default=0):
            owner = trial
            whole = areas
            layers.insert(len(layers) if on_top else 0, candidate)
            if len(layers) == wanted:
                break
    return layers, owner


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Array:
    """Bilinear noise (H, W) in 0..1 from a random grid of `cells` x `cells`."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    for side in size:  # rows, then columns: each pass interpolates the first axis and turns the grid
        at = np.arange(side, dtype=np.float32) * (cells / side)
        low = at.astype(np.intp)
        weight = (at - np.floor(at))[:, None]
        grid = (grid[low] * (1 - weight) + grid[low + 1] * weight).T
    return grid


def _texture(rng: np.random.Generator, u: Array, v: Array, frequency: float) -> Array:
    """How far (0..1) each point leans to the second of two colours: plain, stripes, checks, noise or gradient."""
    kind, phase = rng.integers(5), rng.random()
    c, s = _direction(rng)
    if kind == 0:
        return np.zeros((1, 1), np.float32)
    if kind == 1:
        return _smooth_noise(rng, (u + v).shape, round(2 * frequency) + 1)
    across = u * c + v * s
    if kind == 2:
        return np.clip(across * 0.5 + 0.5, 0, 1)
    stripes = np.floor(across * frequency + phase)
    if kind == 3:
        stripes = stripes + np.floor((v * c - u * s) * frequency + phase)
    return stripes - 2 * np.floor(stripes * 0.5)


def _colour(rng: np.random.Generator, others: list[Array]) -> Array:
    """A random colour (3, 1, 1), the farthest of four from the others: an object stands out from what is behind it."""
    picks = rng.random((4, 1, 3, 1, 1), dtype=np.float32)
    distance = abs(picks - np.stack(others)).max(axis=(2, 3, 4)).min(axis=1)
    return picks[distance.argmax(), 0]


def paint(rng: np.random.Generator, size: tuple[int, int], layers: list[Placed]) -> NDArray[np.uint8]:
    """Draw a laid out scene as an RGB image (3, H, W)."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None]
    ground = rng.random((3, 1, 1), dtype=np.float32)
    ground2 = np.clip(ground + rng.random((3, 1, 1), dtype=np.float32) * 0.6 - 0.3, 0, 1)
    image = (ground2 - ground) * _texture(rng, x, y, rng.uniform(1, 5))
    image = image + ground + (_smooth_noise(rng, size, int(rng.integers(2, 9))) - 0.5) * rng.uniform(0, 0.4)
    for _ in range(rng.integers(5)):  # clutter lines, which belong to no class
        c, s = _direction(rng)
        line = abs(x * c + y * s - rng.uniform(-0.9, 0.9)) < rng.uniform(0.01, 0.04)
        line &= y * c - x * s < rng.uniform(-0.5, 1.5)
        np.copyto(image, rng.random((3, 1, 1), dtype=np.float32), where=line)
    for item in layers:
        region = image[:, *item.window]
        first, second = (_colour(rng, [ground, ground2]) for _ in range(2))
        fill = first + (second - first) * (_texture(rng, item.u, item.v, rng.uniform(1, 2.5)) * rng.uniform(0.2, 0.8))
        region += (fill - region) * item.cover
    c, s = _direction(rng)
    light, vignette = rng.uniform(0, 0.35), rng.uniform(0, 0.2)
    image *= (x * (c * light) - x * x * vignette) + (y * (s * light) - y * y * vignette + rng.uniform(0.8, 1.1))
    if rng.random() < 0.2:  # a binomial blur
        image[:, 1:-1] = image[:, 1:-1] * 0.5 + (image[:, 2:] + image[:, :-2]) * 0.25
        image[:, :, 1:-1] = image[:, :, 1:-1] * 0.5 + (image[:, :, 2:] + image[:, :, :-2]) * 0.25
    if rng.random() < 0.4:
        grain = rng.random(image.shape, dtype=np.float32)
        grain -= 0.5
        grain *= rng.uniform(0.05, 0.25)
        image += grain
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += 0.5
    return image.astype(np.uint8)


class ScenesSplit(Dataset[dict[str, Any]]):
    """One split, with random access; see `Scenes` for what a sample holds."""

    def __init__(self, size: tuple[int, int], length: int, *, seed: int, split: int) -> None:
        self.size, self.length, self.seed, self.split = size, length, seed, split

    def __len__(self) -> int:
        return self.length

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64((self.seed, self.split, index)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.length:
            raise IndexError(f"index {index} of a split of {self.length} scenes")
        rng = self._rng(index)
        layers, owner = arrange(rng, self.size)
        image = paint(rng, self.size, layers)
        layers.sort(key=lambda item: item.number)
        kinds = [item.kind for item in layers]
        boxes = torch.tensor(_boxes(layers, owner), dtype=torch.float32).reshape(-1, 4)
        area = np.bincount(owner.ravel(), minlength=len(layers) + 1)[1:]
        mask = np.array([0, *(kind + 1 for kind in kinds)], np.uint8)[owner]
        return {
            "image": tv_tensors.Image(torch.from_numpy(image)),
            "image_id": index,
            "size": self.size,
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.size),  # type: ignore[call-overload]
            "labels": torch.tensor(kinds, dtype=torch.int64),
            "crowd": torch.zeros(len(kinds), dtype=torch.bool),
            "area": torch.from_numpy(area.astype(np.float32)),
            "label": torch.tensor(kinds[0] if kinds else -1),
            "mask": tv_tensors.Mask(torch.from_numpy(mask)),
        }

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: widths and heights as fractions of the image, of the boxes in at most 512 scenes."""
        indices = range(0, self.length, -(-self.length // BOX_SAMPLE))
        boxes = [box for index in indices for box in _boxes(*arrange(self._rng(index), self.size))]
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return (corners[:, 2:] - corners[:, :2]) / torch.tensor(self.size[::-1])


def _boxes(layers: list[Placed], owner: NDArray[np.uint8]) -> list[tuple[int, int, int, int]]:
    """The tight box of each object's visible pixels, as XYXY pixel edges, in the order of `layers`."""
    boxes = []
    for item in layers:
        rows, columns = item.window
        seen = owner[item.window] == item.number
        y, x = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        box = columns.start + x[0], rows.start + y[0], columns.start + x[-1] + 1, rows.start + y[-1] + 1
        boxes.append(box)
    return boxes


class Scenes:
    """Drawn scenes: `train` and `val` images, `size` pixels square or an (H, W) pair.

    - detection: a box is the tight extent of an object's visible pixels, so boxes and masks agree; "area" counts them.
    - segmentation: 0 is background, 1..6 are the shapes.
    - classification: the class of the largest object; -1 (ignore) in the few scenes without objects.
    """

    provides: dict[str, tuple[str, ...]] = {
        "classification": tuple(SHAPES),
        "detection": tuple(SHAPES),
        "segmentation": ("background", *SHAPES),
    }

    def __init__(
        self, size: int | Sequence[int] = 128, *, train: int = 4096, val: int = 512, seed: int = 0
    ) -> None:
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or min(pair) < 16:
            raise InputError(f"scenes: size={size}: give an int or an (H, W) pair, 16 pixels or more a side")
        for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"scenes: {name}={value}: give {least} or more")
        self.size, self.seed = (int(pair[0]), int(pair[1])), seed
        self.lengths = {"train": train, "val": val}

    def split(self, name: str) -> ScenesSplit | None:
        """The "train" or "val" split; there is no other."""
        if name not in self.lengths:
            return None
        split = list(self.lengths).index(name)
        return ScenesSplit(self.size, self.lengths[name], seed=self.seed, split=split)
