"""Every image read once: what is measured of it and of its labels, a few numbers an image."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.doctor.duplicates import Looks
from mnv2_tasks.doctor.findings import Place
from mnv2_tasks.doctor.quality import MEASURES, measure
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import Kind
from mnv2_tasks.samples import IGNORED

LOOKED = 512  # pixels of the longer side of an image as it is looked at: more than most networks see
AHEAD = 64  # images that are read at a time
OBJECT = np.dtype([("row", "i4"), ("label", "i4"), ("crowd", "?"), ("box", "f4", 4)])


@dataclass
class Side:
    """One side of a data set, and what was seen of it.

    Attributes:
        first: the number of its first image among all images of all sides.
        kinds: {kind that is learnt from it: class names}.
        measures: (N,) of `MEASURES`.
        objects: (M,) of `OBJECT`: row of the image, class, crowd, box xyxy as fractions of the image.
        label: (N,) the class of each image, -1 unknown; of data with one class an image.
        presence: (N, K) int8, whether each shows each class, -1 unknown; of multi-label data.
        pixels: (N, K + 1) the share of the image that each class of a mask covers, last that of unknown pixels.
        boxed, masked: (N,) whether boxes or a mask are known of the image.
        broken: {row: why the image cannot be read}.
    """

    source: str
    name: str
    split: Any
    first: int
    kinds: Mapping[str, Sequence[str]]
    measures: NDArray[Any] = field(init=False)
    objects: NDArray[Any] = field(init=False)
    label: NDArray[np.int64] = field(init=False)
    presence: NDArray[np.int8] = field(init=False)
    pixels: NDArray[np.float32] = field(init=False)
    boxed: NDArray[np.bool_] = field(init=False)
    masked: NDArray[np.bool_] = field(init=False)
    broken: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self)
        self.measures = np.zeros(count, MEASURES)
        self.objects = np.zeros(0, OBJECT)
        self.label = np.full(count, -1, np.int64)
        self.presence = np.full((count, len(self.kinds.get("multilabel", ()))), -1, np.int8)
        self.pixels = np.zeros((count, len(self.kinds.get("segmentation", ())) + 1), np.float32)
        self.boxed, self.masked = np.zeros(count, np.bool_), np.zeros(count, np.bool_)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def whole(self) -> NDArray[np.int64]:
        """The rows of the images that could be read."""
        return np.array([row for row in range(len(self)) if row not in self.broken], np.int64)

    def place(self, row: int) -> Place:
        name = str(self.split.path(row)) if isinstance(self.split, FileSplit) else f"{self.source} {self.name} {row}"
        return Place(self.source, self.name, row, name)


def sides_of(splits: Mapping[tuple[str, str], Any], kinds: Mapping[str, Mapping[Kind, Sequence[str]]]) -> list[Side]:
    """What `look` fills, of {(source, side): samples}; images are read no larger than `LOOKED` from here on."""
    sides, first = [], 0
    for (source, name), split in splits.items():
        if hasattr(split, "max_side"):
            split.max_side = LOOKED
        sides.append(Side(source, name, split, first, {kind.name: names for kind, names in kinds[source].items()}))
        first += len(split)
    return sides


def look(sides: Sequence[Side], looks: Looks, told: Any) -> None:
    """Read every image of all sides once; `told.update(1)` after each, as tqdm has it."""
    for side in sides:
        parts: list[NDArray[Any]] = []
        for row, seen in _read(side):
            if isinstance(seen, str):
                side.broken[row] = seen
            else:
                sample, numbers = seen
                side.measures[row] = numbers
                looks.add(side.first + row, _picture(sample))
                parts += _take_labels(side, row, sample)
            told.update(1)
        if parts:
            side.objects = np.concatenate(parts)


def _read(side: Side) -> Iterator[tuple[int, tuple[dict[str, Any], tuple[float, ...]] | str]]:
    """(row, (sample, its measures), or why it cannot be read), in order, a few read ahead."""

    def read(row: int) -> tuple[dict[str, Any], tuple[float, ...]] | str:
        try:
            sample = side.split[row]
            return sample, measure(sample["image"].numpy(), sample["size"])
        except InputError as error:
            return str(error)

    rows = iter(range(len(side)))
    if not isinstance(side.split, FileSplit):
        yield from ((row, read(row)) for row in rows)
        return
    with ThreadPoolExecutor(2) as pool:
        while block := list(islice(rows, AHEAD)):
            yield from zip(block, pool.map(read, block), strict=True)


def _picture(sample: dict[str, Any]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(sample["image"].numpy().transpose(1, 2, 0)))


def _take_labels(side: Side, row: int, sample: dict[str, Any]) -> list[NDArray[Any]]:
    """Note the labels of a sample; its objects are returned."""
    if "label" in sample and "classification" in side.kinds:
        side.label[row] = int(sample["label"])
    if "presence" in sample and "multilabel" in side.kinds:
        side.presence[row] = np.asarray(sample["presence"], np.int8)
    if "mask" in sample and "segmentation" in side.kinds:
        mask = np.asarray(sample["mask"]).ravel()
        counts = np.bincount(mask, minlength=IGNORED + 1)
        classes = side.pixels.shape[1] - 1
        side.pixels[row] = np.append(counts[:classes], counts[IGNORED]) / max(len(mask), 1)
        side.masked[row] = True
    if "boxes" not in sample or "detection" not in side.kinds:
        return []
    side.boxed[row] = True
    height, width = sample["image"].shape[-2:]
    objects = np.zeros(len(sample["labels"]), OBJECT)
    objects["row"], objects["label"] = row, sample["labels"].numpy()
    objects["crowd"] = sample.get("crowd", torch.zeros(len(objects), dtype=torch.bool)).numpy()
    objects["box"] = sample["boxes"].as_subclass(torch.Tensor).numpy() / np.array([width, height] * 2)
    return [objects]
