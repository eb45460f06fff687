"""Images and labels out of shards: tar files in WebDataset's layout, each sample found by the columns of the index."""

import io
import json
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mnv2_tasks.datasets.reading.classes import BACKGROUND, new_numbers
from mnv2_tasks.datasets.reading.file_split import EncodedSplit, Original
from mnv2_tasks.datasets.reading.images import open_image, read_image
from mnv2_tasks.datasets.reading.listing import LeftOut
from mnv2_tasks.datasets.reading.masked_split import to_canvas
from mnv2_tasks.datasets.reading.places import Place
from mnv2_tasks.datasets.reading.shard_index import FIX, Columns, SideIndex
from mnv2_tasks.datasets.sampling import Blocks
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import open_regular
from mnv2_tasks.kinds import KINDS
from mnv2_tasks.samples import IGNORED, as_boxes

_TRIES = 5  # to read a shard before the cache makes room for another one
LABELS, MASK = "json", "mask.png"  # what follows a sample's number in the names of its members
Classes = dict[str, tuple[str, ...]]  # {kind: names}


class Facts:
    """What is known of one kind's labels without reading any.

    Attributes:
        counted: the masks whose pixels were counted.
    """

    def __init__(self, images: int, *, counted: int = 0, pixels: Tensor | None = None) -> None:
        self.images = images
        self.counted = counted
        self._pixels = pixels

    def __len__(self) -> int:
        return self.images

    def pixel_counts(self) -> Tensor:
        """(K,) int64."""
        assert self._pixels is not None, "asked for where masks were counted"
        return self._pixels


class Counts(Facts):
    """Facts that tell how many images show each class."""

    def __init__(self, images: int, labels: Tensor) -> None:
        super().__init__(images)
        self._labels = labels

    def label_counts(self) -> Tensor:
        """(K,) int64."""
        return self._labels


class ShardSplit(EncodedSplit):
    """One side of a sharded data set.

    A sample is what the data set that was written gave: its image as the file's own bytes, its labels in pixels of
    the original, which follow an image that is reduced when it is read.

    Args:
        place, side: where the shards are, and what the index says of them.
        classes: {kind: names}.
        window: how many shards training mixes at a time; None: all, in the order that plain files have.
    """

    def __init__(self, place: Place, side: SideIndex, classes: Classes, *, window: int | None = None) -> None:
        super().__init__(max_side=side.max_side)
        self.place = place
        self.side = side
        self.classes = classes
        self.window = window
        self.columns = Columns(place, side)
        self.left_out = LeftOut(side.left_out)
        self.notes = list(side.notes)
        self._stored = classes  # those that the labels are numbered by
        self._chosen: NDArray[np.int64] | None = None  # the images that are left, where classes were chosen

    def __len__(self) -> int:
        return self.side.images if self._chosen is None else len(self._chosen)

    def contents(self) -> str:
        if self.classes is self._stored:
            return self.side.contents
        return amount(max(map(len, self.classes.values())), "class", "classes")

    def find_depth(self) -> int | None:
        return self.side.depth

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample in the one format: "image", "image_id", "size" (H, W) of the original, and its labels."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a split of {len(self)} images")
        where, one, mask = self._stored_sample(index)
        declared = one.size if one.declared else None
        name = f"{where} ({one.name})"
        image = read_image(name, content=one.content, declared=declared, max_side=self.max_side, depth=self.depth)
        canvas = (image.shape[-2], image.shape[-1])
        fields = self._fields(one.labels, mask, one.size, canvas, where)
        return {"image": image, "image_id": index, "size": one.size, **fields}

    def original(self, index: int) -> Original:
        where, one, mask = self._stored_sample(index)
        return replace(one, labels=self._fields(one.labels, mask, one.size, one.size, where))

    def _stored_sample(self, index: int) -> tuple[str, Original, bytes | None]:
        """What messages call it, the sample with its labels as they are stored, and its mask."""
        where, members = self._members(self._row(index))
        content, mask = members.pop(LABELS, b""), members.pop(MASK, None)
        if len(members) != 1:
            raise InputError(f"{where}: it holds {len(members)} images, where a sample has one; {FIX}")
        try:
            record = json.loads(content)
            size, declared = _pair(record["size"]), record["declared"] is True
            (image,) = members.values()
            one = Original(str(record["file"]), image, size, declared, record)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise _damaged(where, error) from error
        return where, one, mask

    # ------------------------------------------------------------------------------------- what is known in advance

    def label(self, index: int) -> int:
        """The image's class, without reading the image; -1 for unknown."""
        labels = self.columns.get("labels")
        label = -1 if labels is None else int(labels[self._image(index)])
        return label if label < 0 else int(self._numbers("classification")[label])

    def all_labels(self) -> NDArray[np.int64]:
        """(I,) `label` of every image."""
        labels = self.columns.get("labels")
        if labels is None:
            return np.full(len(self), -1, np.int64)
        return np.append(self._numbers("classification"), -1)[labels if self._chosen is None else labels[self._chosen]]

    def known(self, kind: str) -> list[int]:
        """The images with labels of this kind; none where all have."""
        kinds = self.columns.get("kinds")
        if kinds is None:
            return []
        bit = 1 << list(KINDS).index(kind)
        return np.flatnonzero((kinds if self._chosen is None else kinds[self._chosen]) & bit).tolist()

    def teller(self, kind: str) -> Facts | None:
        """What is known of this kind; None where no image has labels of it."""
        if kind not in self.side.facts:
            return None
        facts = self.side.facts[kind]
        if facts.get("counted"):
            return Facts(facts["images"], counted=facts["counted"], pixels=self._counts(kind, "pixel_counts"))
        if "label_counts" in facts:
            return Counts(facts["images"], self._counts(kind, "label_counts"))
        return Facts(facts["images"])

    @property
    def counted(self) -> int:
        """The masks whose pixels were counted when the data was checked, of data that has masks alone."""
        return self.side.facts.get("segmentation", {}).get("counted", 0) if len(self.classes) == 1 else 0

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images show each class."""
        kind = next((kind for kind in ("classification", "multilabel") if kind in self.side.facts), "detection")
        return self._counts(kind, "label_counts")

    def pixel_counts(self) -> Tensor:
        """(K,) int64: pixels of each class in the masks, as the data set that was written counted them."""
        return self._counts("segmentation", "pixel_counts")

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: width and height of every box but the crowds', as fractions of its image."""
        return torch.from_numpy(np.array(self._of_boxes("box_sizes")))

    def box_labels(self) -> Tensor:
        """(N,) int64: the classes of these boxes."""
        labels = np.array(self._of_boxes("box_labels"), np.int64)
        return torch.from_numpy(self._numbers("detection")[labels])

    # ------------------------------------------------------------------------------------- order and classes

    @property
    def blocks(self) -> Blocks | None:
        """How training goes through the shards; None for the order that plain files have."""
        if self.window is None:
            return None
        images = self.columns.get("images")
        starts = self.side.starts
        if self._chosen is not None:
            position = np.full(self.side.images, -1, np.int64)
            position[self._chosen] = np.arange(len(self._chosen))
            images = position if images is None else position[images]
            starts = np.concatenate([[0], np.cumsum(images >= 0)])[starts]
            images = images[images >= 0]
        return Blocks(starts, images, window=self.window, expect=self._expect)

    def _expect(self, shards: Sequence[int]) -> None:
        self.place.expect([self.side.names[i] for i in shards], [self.side.sizes[i] for i in shards])

    def only(self, classes: tuple[str, ...]) -> "ShardSplit":
        """In the numbers of these classes: their images alone where each has one, else all images.

        Masks are as they were written: the pixels of other classes are background, or ignored where there is none.
        """
        kinds = set(self._stored)
        objects = kinds & {"detection", "multilabel"}
        (first, *others) = {self._stored[kind] for kind in objects} or {self._stored[kind] for kind in kinds}
        if others or (objects and "classification" in kinds) or len(kinds - objects) > 1:
            raise InputError(
                f"{self.place.root}: it has labels of {', '.join(sorted(kinds))}, whose classes cannot be chosen "
                "together; choose them where the shards are written"
            )
        if classes == first:
            return self
        less = ShardSplit(self.place, self.side, dict.fromkeys(objects or kinds, classes), window=self.window)
        if objects and "segmentation" in kinds:
            painted = self._stored["segmentation"][:1] == (BACKGROUND,)
            less.classes["segmentation"] = (BACKGROUND, *classes) if painted else classes
        less._stored, less.depth, less.max_side = self._stored, self.depth, self.max_side
        less.notes = list(self.notes)
        if "classification" in kinds:
            less._chosen = np.flatnonzero(new_numbers(first, classes)[self.columns["labels"]] >= 0)
            if others_number := self.side.images - len(less._chosen):
                less.notes.append(f"{amount(others_number, 'image')} of other classes left out")
        return less

    # ------------------------------------------------------------------------------------- inside

    def _image(self, index: int) -> int:
        return index if self._chosen is None else int(self._chosen[index])

    def _row(self, index: int) -> int:
        image, rows = self._image(index), self.columns.get("rows")
        return image if rows is None else int(rows[image])

    def _members(self, row: int) -> tuple[str, dict[str, bytes]]:
        """What messages call a sample, and its files {suffix: bytes}."""
        shard = int(np.searchsorted(self.side.starts, row, "right")) - 1
        name = self.side.names[shard]
        ends = self.columns["ends"]
        start = 0 if row == self.side.starts[shard] else int(ends[row - 1])
        where = f"{self.place.where(name)}: sample {row:09d}"
        if not start < int(ends[row]) <= self.side.sizes[shard]:
            raise InputError(f"{where}: the index has it outside of its shard; {FIX}")
        wanted = int(self.columns["sums"][row])
        content = self._read(name, shard, start, int(ends[row]))
        if zlib.crc32(content) != wanted and self.place.renew(name):  # once more from where it comes from
            content = self._read(name, shard, start, int(ends[row]))
        if zlib.crc32(content) != wanted:
            problem = "it is cut short" if len(content) < int(ends[row]) - start else "its checksum is not the index's"
            raise InputError(f"{where}: {problem}: the shard is damaged, or of another data set; copy it again")
        return where, _unpack(content, where)

    def _read(self, name: str, shard: int, start: int, stop: int) -> bytes:
        for _ in range(_TRIES):
            path = self.place.path(name, self.side.sizes[shard])
            try:
                with open_regular(path) as file:
                    file.seek(start)
                    return file.read(stop - start)
            except FileNotFoundError:  # the cache made room for another process
                continue
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}; correct its permissions") from error
        raise InputError(
            f"{path}: it goes from the cache before it is read: raise data.cache_gb, or give an own data.cache"
        )

    def _fields(
        self, record: dict[str, Any], mask: bytes | None, size: tuple[int, int], canvas: tuple[int, int], where: str
    ) -> dict[str, Any]:
        """The labels of an original of `size` (H, W) that was read as one of `canvas` (H, W)."""
        try:
            fields = self._numbered(record, size, canvas)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
            raise _damaged(where, error) from error
        if mask is not None:
            fields["mask"] = to_canvas(self._mask(mask, size, where), canvas)
        return fields

    def _numbered(self, record: dict[str, Any], size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if "label" in record:
            label = _whole(record["label"])
            fields["label"] = torch.tensor(int(self._numbers("classification")[label]) if label >= 0 else -1)
        if "presence" in record:
            presence = np.zeros(len(self._stored["multilabel"]), np.float32)
            for value, name in ((1, "shown"), (-1, "unknown")):
                presence[[_whole(number) for number in record["presence"][name]]] = value
            fields["presence"] = torch.from_numpy(_taken(presence, self._numbers("multilabel"), self.classes))
        if "boxes" in record:
            boxes = np.array(record["boxes"], np.float32).reshape(-1, 4)
            stored = np.array(record["labels"], np.int64)
            labels = self._numbers("detection")[stored]
            crowd, area = np.array(record["crowd"], np.bool_), np.array(record["area"], np.float32)
            if (
                not len(boxes) == len(labels) == len(crowd) == len(area)
                or not np.isfinite(boxes).all()
                or (stored < 0).any()
            ):
                raise ValueError("boxes and their labels")
            scale = np.array([canvas[1] / size[1], canvas[0] / size[0]] * 2, np.float32)
            kept = labels >= 0
            fields |= {
                "boxes": as_boxes(torch.from_numpy((boxes * scale)[kept]), canvas),
                "labels": torch.from_numpy(labels[kept]),
                "crowd": torch.from_numpy(crowd[kept]),
                "area": torch.from_numpy(area[kept]),
            }
        return fields

    def _mask(self, content: bytes, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
        try:
            with open_image(io.BytesIO(content)) as opened:
                mask = np.array(opened)
        except Exception as error:  # PIL's decoders raise nearly anything on a broken file
            raise InputError(f"{where}: its mask cannot be read: {error}; {FIX}") from error
        if mask.dtype != np.uint8 or mask.shape != size:
            raise InputError(f"{where}: its mask is {mask.dtype} {mask.shape}, no uint8 of {size}; {FIX}")
        stored = len(self._stored["segmentation"])
        if ((mask >= stored) & (mask != IGNORED)).any():
            raise InputError(f"{where}: its mask has values of no class, of {stored}; {FIX}")
        if self.classes is self._stored:
            return mask
        numbers = self._numbers("segmentation")
        rest = 0 if self.classes["segmentation"][0] == BACKGROUND else IGNORED
        table = np.full(256, IGNORED, np.uint8)
        table[:stored] = np.where(numbers < 0, rest, numbers)
        return table[mask]

    def _numbers(self, kind: str) -> NDArray[np.int64]:
        """(K,) what becomes of the classes that the labels are numbered by; -1 for one that is left out."""
        return new_numbers(self._stored[kind], self.classes[kind])

    def _counts(self, kind: str, name: str) -> Tensor:
        facts = self.side.facts.get(kind, {})
        if name not in facts:
            what = "images of each class" if name == "label_counts" else "pixels of each class"
            raise InputError(f"{self.place.root}: the data set that was written counts no {what}; leave out what asks")
        counts = np.array(facts[name], np.int64)
        if self.classes is self._stored:
            return torch.from_numpy(counts)
        less = len(self._stored[kind]) - len(counts)  # 1 for objects' counts of masks on a background
        numbers = self._numbers(kind)[less:] - less
        taken = np.zeros(len(self.classes[kind]) - less, np.int64)
        np.add.at(taken, numbers[numbers >= 0], counts[numbers >= 0])
        if name == "pixel_counts" and self.classes[kind][0] == BACKGROUND:
            taken[0] += counts[numbers < 0].sum()
        return torch.from_numpy(taken)

    def _of_boxes(self, name: str) -> NDArray[Any]:
        values = self.columns.get(name)
        if values is None:
            raise InputError(f"{self.place.root}: the data set that was written has no sizes of boxes; set head.boxes")
        if self.classes is self._stored:
            return values
        return values[self._numbers("detection")[self.columns["box_labels"]] >= 0]


def _taken(presence: NDArray[np.float32], numbers: NDArray[np.int64], classes: Classes) -> NDArray[np.float32]:
    taken = np.zeros(len(classes["multilabel"]), np.float32)
    taken[numbers[numbers >= 0]] = presence[numbers >= 0]
    return taken


def _unpack(content: bytes, where: str) -> dict[str, bytes]:
    """{suffix: bytes} of the members of a piece of a tar file."""
    members, place = {}, 0
    while place < len(content):
        try:
            header = tarfile.TarInfo.frombuf(content[place : place + 512], "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise InputError(f"{where}: it is no part of a tar file: {error}; {FIX}") from error
        start = place + 512
        if not header.isreg() or header.size < 0 or start + header.size > len(content):
            raise InputError(f"{where}: its member {header.name} is no file, or cut short; {FIX}")
        members[header.name.partition(".")[2]] = content[start : start + header.size]
        place = start + -(-header.size // 512) * 512
    return members


def _pair(value: Any) -> tuple[int, int]:
    height, width = map(_whole, value)
    if min(height, width) < 1:
        raise ValueError("size")
    return height, width


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is no whole number")
    return value


def _damaged(where: str, error: Exception) -> InputError:
    return InputError(f"{where}: its labels are damaged, or of another program ({error!s:.80}); {FIX}")
