"""The embedded default data set: scenes of textured shapes, drawn on the fly, labelled for all three kinds.

An image is a pure function of (seed, split, index). It is made of raw PCG64 draws and element-wise float32
arithmetic alone (no BLAS, no vectorised sine, no image library), so that its bytes agree between machines.

A scene holds 0 to 5 objects on a textured, lit background with clutter lines. Every object shows at least 80% of
its whole area; the rest may lie behind other objects or outside the image. The first object is, by construction,
the largest: it shows at least 1.6 times as many pixels as any other. Objects are vivid and the background is dull,
but colour and texture do not tell the class.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import as_boxes

Array = NDArray[Any]  # float32, unless said otherwise
Size = tuple[int, int]  # (H, W)
OBJECT_COUNTS = (0.03, 0.40, 0.32, 0.15, 0.07, 0.03)  # probability of asking for 0, 1, .. 5 objects
LARGEST_RATIO = 1.6  # visible pixels of the largest object over those of the next
MIN_VISIBLE = 0.8  # of an object's whole area, the part outside the image included
MOST_TURN = math.radians(12)  # of an object to either side
BOX_SAMPLE = 512  # scenes behind box_sizes(), at most
# Distance from each shape's outline in the shape's own frame, negative inside; the shapes reach to a radius of about 1.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda u, v: np.sqrt(u * u + v * v) - 0.95,
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.8,
    "triangle": lambda u, v: np.maximum(abs(u) * 0.866 - v * 0.5, v) - 0.56,
}


class SceneObject(NamedTuple):
    """An object laid out: arrays are (h, w), over its window of the image."""

    kind: int
    number: int  # its value in the owner map, from 1
    window: tuple[slice, slice]
    u: Array  # the shape's own frame
    v: Array
    cover: Array  # how much of each pixel the shape covers, 0..1


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    # Not Generator.uniform: some builds fuse its multiply and add, which rounds differently.
    return low + (high - low) * rng.random()


def _direction(rng: np.random.Generator, *, most: float = math.pi) -> tuple[float, float]:
    """Cosine and sine of an angle of at most `most` radians to either side."""
    # Rounded, so that the last bit of a C library's cosine does not matter.
    angle = _between(rng, -most, most)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


def _propose(rng: np.random.Generator, size: Size, *, number: int) -> tuple[SceneObject, int]:
    """A random object, and its whole area in pixels, in or out of the image."""
    scale = _between(rng, 0.45, 0.75) if number == 1 else _between(rng, 0.3, 0.56)
    kind, radius = int(rng.integers(len(SHAPES))), scale * min(size) / 2
    cy, cx = (_between(rng, 0.05, 0.95) * side for side in size)
    stretch = _between(rng, 0.87, 1.15)  # squared, it is the aspect ratio
    c, s = _direction(rng, most=MOST_TURN)
    reach = math.ceil(1.4 * radius)
    top, left = int(cy) - reach, int(cx) - reach
    y = np.arange(top, top + 2 * reach + 1, dtype=np.float32)[:, None] + (0.5 - cy)
    x = np.arange(left, left + 2 * reach + 1, dtype=np.float32) + (0.5 - cx)
    along, across = radius * stretch, radius / stretch
    u = x * (c / along) + y * (s / along)
    v = y * (c / across) - x * (s / across)
    distance = list(SHAPES.values())[kind](u, v)
    inside = slice(max(-top, 0), size[0] - top), slice(max(-left, 0), size[1] - left)
    window = slice(max(top, 0), top + len(y)), slice(max(left, 0), left + len(x))
    cover = np.clip(0.5 - distance[inside] * radius, 0, 1)
    return SceneObject(kind, number, window, u[inside], v[inside], cover), int(np.count_nonzero(distance < 0))


def arrange(rng: np.random.Generator, size: Size) -> tuple[list[SceneObject], Array]:
    """Lay a scene out: its objects from back to front, and the owner map (H, W) uint8, which holds the number of
    the object that each pixel shows, or 0."""
    chance = rng.random()
    wanted = sum(chance >= below for below in accumulate(OBJECT_COUNTS[:-1]))
    layers: list[SceneObject] = []
    areas: list[int] = []
    owner = np.zeros(size, np.uint8)
    for _ in range(3 * wanted):  # an object that does not fit is dropped, so that crowded scenes end, too
        item, area = _propose(rng, size, number=len(layers) + 1)
        on_top, trial, wholes = rng.random() < 0.5, owner.copy(), [*areas, area]
        region = trial[item.window]
        region[(item.cover > 0.5) & (on_top | (region == 0))] = item.number
        visible = [int(np.count_nonzero(trial == number)) for number in range(1, item.number + 1)]
        fits = all(part and part >= MIN_VISIBLE * whole for part, whole in zip(visible, wholes, strict=True))
        if fits and visible[0] >= LARGEST_RATIO * max(visible[1:], default=0):
            owner, areas = trial, wholes
            layers.insert(len(layers) if on_top else 0, item)
        if len(layers) == wanted:
            break
    return layers, owner


def _smooth_noise(rng: np.random.Generator, size: Size, *, cells: int) -> Array:
    """Bilinear noise (H, W) in 0..1 from a random grid of `cells` x `cells`."""
    grid = rng.random((cells + 1, cells + 1), dtype=np.float32)
    for side in size:  # each pass interpolates the first axis and swaps the two
        at = np.arange(side, dtype=np.float32) * (cells / side)
        low, weight = at.astype(np.intp), (at - np.floor(at))[:, None]
        grid = (grid[low] * (1 - weight) + grid[low + 1] * weight).T
    return grid


def _texture(rng: np.random.Generator, u: Array, v: Array, *, frequency: float) -> Array:
    """Plain, noise, gradient, checks or stripes: how far (0..1) each point leans to the second of two colours."""
    kind, phase = rng.integers(5), rng.random()
    c, s = _direction(rng)
    if kind == 0:
        return np.zeros((1, 1), np.float32)
    if kind == 1:
        return _smooth_noise(rng, np.broadcast_shapes(u.shape, v.shape), cells=round(2 * frequency) + 1)
    across = u * c + v * s
    if kind == 2:
        return np.clip(across * 0.5 + 0.5, 0, 1)
    steps = np.floor(across * frequency + phase)
    if kind == 3:
        steps += np.floor((v * c - u * s) * frequency + phase)
    return steps - 2 * np.floor(steps * 0.5)


def _dull(rng: np.random.Generator) -> Array:
    """A colour (3, 1, 1) of the background: some grey with a tint."""
    return _between(rng, 0.15, 0.8) + rng.random((3, 1, 1), dtype=np.float32) * np.float32(0.2)


def _vivid(rng: np.random.Generator, others: list[Array]) -> Array:
    """A colour (3, 1, 1) of an object: of four saturated ones the farthest from the others in the picture."""
    picks = rng.random((4, 3), dtype=np.float32)
    picks[:, 0] *= 0.25
    picks[:, 1] = 1 - picks[:, 1] * 0.25
    picks = rng.permuted(picks, axis=1)[:, None, :, None, None]
    distance = abs(picks - np.stack(others)).max(axis=(2, 3, 4)).min(axis=1)
    return picks[distance.argmax(), 0]


def paint(rng: np.random.Generator, size: Size, layers: list[SceneObject]) -> Array:
    """Draw a laid out scene: RGB (3, H, W) uint8."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in size)
    y = y[:, None]
    ground, other = _dull(rng), _dull(rng)
    image = (other - ground) * _between(rng, 0, 0.6) * _texture(rng, x, y, frequency=_between(rng, 1, 5))
    clouds = _smooth_noise(rng, size, cells=int(rng.integers(2, 9))) - 0.5
    image = image + (ground + clouds * _between(rng, 0, 0.4))
    for _ in range(rng.integers(4)):  # clutter lines
        c, s = _direction(rng)
        line = abs(x * c + y * s - _between(rng, -0.9, 0.9)) < _between(rng, 0.01, 0.04)
        line &= y * c - x * s < _between(rng, -0.5, 1.5)
        np.copyto(image, _dull(rng), where=line)

    colours: list[Array] = [ground, other]
    for item in layers:
        first, second = _vivid(rng, colours), _vivid(rng, colours)
        colours.append(first)
        mix = _texture(rng, item.u, item.v, frequency=_between(rng, 1, 2.5)) * _between(rng, 0, 0.5)
        region = image[:, *item.window]
        region += (first + (second - first) * mix - region) * item.cover

    c, s = _direction(rng)
    light, vignette, level = _between(rng, 0, 0.35), _between(rng, 0, 0.2), _between(rng, 0.8, 1.1)
    image *= (x * (c * light) - x * x * vignette) + (y * (s * light) - y * y * vignette + level)
    if rng.random() < 0.2:  # blur
        image[:, 1:-1] = image[:, 1:-1] * 0.5 + (image[:, 2:] + image[:, :-2]) * 0.25
        image[:, :, 1:-1] = image[:, :, 1:-1] * 0.5 + (image[:, :, 2:] + image[:, :, :-2]) * 0.25
    if rng.random() < 0.4:  # in place here and below: big temporaries would take most of the time
        grain = rng.random(image.shape, dtype=np.float32)
        grain -= 0.5
        grain *= _between(rng, 0.05, 0.25)
        image += grain
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += 0.5
    return image.astype(np.uint8)


def _boxes(layers: list[SceneObject], owner: Array) -> list[tuple[int, int, int, int]]:
    """The tight XYXY box of each object's visible pixels, in pixel edges."""
    boxes = []
    for item in layers:
        seen = owner[item.window] == item.number
        y, x = (np.flatnonzero(seen.any(axis=axis)) + item.window[1 - axis].start for axis in (1, 0))
        boxes.append((x[0], y[0], x[-1] + 1, y[-1] + 1))
    return boxes


class ScenesSplit(Dataset[dict[str, Any]]):
    """One split, with random access; `Scenes` says what its samples hold."""

    def __init__(self, size: Size, length: int, *, seed: int, split: int) -> None:
        self.size = size
        self.length = length
        self.seed = seed
        self.split = split

    def __len__(self) -> int:
        return self.length

    def contents(self) -> str:
        return f"{len(SHAPES)} classes"

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
        area = np.bincount(owner.ravel(), minlength=len(kinds) + 1)[1:]
        mask = np.array([0, *(kind + 1 for kind in kinds)], np.uint8)[owner]
        return {
            "image": tv_tensors.Image(torch.from_numpy(image)),
            "image_id": index,
            "size": self.size,
            "boxes": as_boxes(boxes, self.size),
            "labels": torch.tensor(kinds, dtype=torch.int64),
            "crowd": torch.zeros(len(kinds), dtype=torch.bool),
            "area": torch.from_numpy(area.astype(np.float32)),
            "label": torch.tensor(kinds[0] if kinds else -1),
            "mask": tv_tensors.Mask(torch.from_numpy(mask)),
        }

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: width and height, as fractions of the image, of the boxes of at most 512 scenes."""
        indices = range(0, self.length, math.ceil(self.length / BOX_SAMPLE))
        boxes = [box for index in indices for box in _boxes(*arrange(self._rng(index), self.size))]
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        return (corners[:, 2:] - corners[:, :2]) / torch.tensor(self.size[::-1])


class Scenes:
    """Drawn scenes of at least 16 pixels a side.

    - detection: a box is the tight extent of an object's visible pixels, so that boxes and masks agree; "area"
      counts these pixels.
    - segmentation: 0 is the background, 1..3 are the shapes.
    - classification: the class of the largest object; -1, to be ignored, in the few scenes without objects.

    Args:
        size: one side, or (H, W).
        train: how many images there are to train on.
        val: and to validate.
        seed: of what is drawn.
    """

    provides: dict[str, tuple[str, ...]] = {
        "classification": tuple(SHAPES),
        "detection": tuple(SHAPES),
        "segmentation": ("background", *SHAPES),
    }

    def __init__(self, size: int | Sequence[int] = 128, *, train: int = 3200, val: int = 512, seed: int = 0) -> None:
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or min(pair) < 16:
            raise InputError(f"scenes: size={size}: give an int or an (H, W) pair, 16 pixels or more a side")
        for name, value, least in (("train", train, 1), ("val", val, 1), ("seed", seed, 0)):
            if value < least:
                raise InputError(f"scenes: {name}={value}: give {least} or more")
        self.splits = {
            name: ScenesSplit(pair, length, seed=seed, split=number)
            for number, (name, length) in enumerate((("train", train), ("val", val)))
        }

    def split(self, name: str) -> ScenesSplit | None:
        """The "train" or "val" split; there is no other."""
        return self.splits.get(name)
