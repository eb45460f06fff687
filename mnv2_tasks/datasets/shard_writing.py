"""Any data set as shards: tar files in WebDataset's layout, and an index that finds each sample in them."""

import io
import json
import os
import tarfile
import tempfile
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2_tasks.datasets.reading import data_summary
from mnv2_tasks.datasets.reading.file_split import EncodedSplit, Original
from mnv2_tasks.datasets.reading.places import SHARD, checksum, file_system, is_address
from mnv2_tasks.datasets.reading.shard_index import COLUMNS, INDEX, LARGEST, SideIndex, to_json
from mnv2_tasks.datasets.reading.shard_split import LABELS, MASK
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import InputError, amount, reason_of, shorten
from mnv2_tasks.files import replacing
from mnv2_tasks.kinds import KINDS

_END = bytes(1024)  # of a tar file
_KNOWN = {"image", "image_id", "size", "label", "presence", "boxes", "labels", "crowd", "area", "mask"}


class Source(Protocol):
    """A data set."""

    provides: dict[str, tuple[str, ...]]

    def split(self, name: str) -> Any:
        """The samples of a side; None where there is no such side."""


class Target(Protocol):
    """Where files go once they are whole."""

    def put(self, draft: Path, name: str) -> None:
        """Move a file there."""


def write_shards(
    source: Source,
    out: str,
    *,
    name: str = "data",
    sides: Sequence[str] = SIDES,
    shard_bytes: int = 256_000_000,
    seed: int = 0,
) -> Iterator[str]:
    """Write a data set to a new folder or address; yields lines on each side of `name`. The index comes last.

    Images of train are shuffled over the shards, as images of a class or of a place lie together in most data sets, and
    few shards are mixed at a time; the index has their order. Images are stored as the bytes of their files, those of
    data sets without files as PNG. Raises InputError for what is wrong in the data, or in `out`.
    """
    if not 1 <= shard_bytes <= LARGEST // 2:
        raise InputError(f"shard_mb={shard_bytes / 1e6:g}: give a size from 1 to {LARGEST // 2_000_000}")
    if unknown := [side for side in sides if side not in SIDES]:
        raise InputError(f"sides={list(sides)}: {unknown[0]} is no side, of {', '.join(SIDES)}")
    target = _target(out)
    splits = {side: split for side in SIDES if side in sides and (split := source.split(side)) is not None}
    if not splits:
        raise InputError(f"the data set has no {' nor '.join(sides)} side: nothing is to be written")
    data_summary.check_sides({(name, side): split for side, split in splits.items()})
    entries: dict[str, SideIndex] = {}
    with tempfile.TemporaryDirectory(dir=target.folder if isinstance(target, _Folder) else None) as folder:
        for side, split in splits.items():
            yield data_summary.describe(name, side, split)
            order = np.arange(len(split))
            if side == "train":
                order = np.random.Generator(np.random.PCG64(seed)).permutation(len(split))
            entries[side] = _Side(source, split, side, order, shard_bytes).write(Path(folder), target)
            size = sum(entries[side].sizes)
            yield f"{side}: {amount(len(entries[side].names), 'shard')}, {size / 1e6:,.1f} MB"
        draft = Path(folder) / INDEX
        draft.write_text(to_json(dict(source.provides), entries), encoding="utf-8")
        target.put(draft, INDEX)


class _Folder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: something is there already; give a new folder as out=<folder>")
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, draft: Path, name: str) -> None:
        with replacing(self.folder / name, draft):
            pass


class _Address:
    def __init__(self, out: str) -> None:
        self.out = out.rstrip("/")
        self.system, self.base = file_system(self.out)
        if self._try(self.system.exists, f"{self.base}/{INDEX}"):
            raise InputError(f"{self.out}: a data set is there already; give a new place as out=<address>")

    def put(self, draft: Path, name: str) -> None:
        self._try(self.system.put_file, str(draft), f"{self.base}/{name}")
        draft.unlink()

    def _try(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # of whatever client writes there
            reason = shorten(reason_of(error), 200)
            raise InputError(f"{self.out}: cannot be written to: {reason}; see whether this machine may") from error


def _target(out: str) -> Any:
    return _Address(out) if is_address(out) else _Folder(Path(out.removeprefix("file://")).expanduser())


class _Side:
    """One side on its way into shards."""

    def __init__(self, source: Source, split: Any, side: str, order: NDArray[np.int64], shard_bytes: int) -> None:
        self.source = source
        self.split = split
        self.side = side
        self.order = order
        self.shard_bytes = shard_bytes
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.starts = [0]

    def write(self, folder: Path, target: Target) -> SideIndex:
        split, count = self.split, len(self.split)
        ends, sums = array("I"), array("I")
        kinds = np.zeros(count, np.uint8)
        for shard, rows in enumerate(self._samples(kinds)):
            name = f"{self.side}-{shard:06d}{SHARD}"
            with (folder / name).open("wb") as file:
                for sample in rows:
                    file.write(sample)
                    ends.append(file.tell())
                    sums.append(zlib.crc32(sample))
                file.write(_END)
                self.sizes.append(file.tell())
            self.names.append(name)
            self.starts.append(len(ends))
            target.put(folder / name, name)
        columns: dict[str, NDArray[Any]] = {"ends": np.array(ends), "sums": np.array(sums)}
        if (self.order != np.arange(count)).any():
            columns |= {"images": self.order, "rows": np.argsort(self.order)}
        if "classification" in self.source.provides and hasattr(split, "label"):
            columns["labels"] = np.fromiter((split.label(i) for i in range(count)), np.int32, count)
        if (kinds != kinds[0]).any():
            columns["kinds"] = kinds
        boxed: Any = self._teller("detection") if "detection" in self.source.provides else None
        if hasattr(boxed, "box_sizes"):
            columns["box_sizes"] = boxed.box_sizes().numpy()
            if hasattr(boxed, "box_labels"):
                columns["box_labels"] = boxed.box_labels().numpy()
        return SideIndex(
            images=count,
            names=tuple(self.names),
            sizes=tuple(self.sizes),
            starts=np.array(self.starts, np.int64),
            columns={name: self._put(name, values, folder, target) for name, values in columns.items()},
            max_side=getattr(split, "max_side", None),
            depth=split.find_depth() if isinstance(split, EncodedSplit) else None,
            facts=self._facts(),
            contents=split.contents() if hasattr(split, "contents") else "",
            notes=tuple(getattr(split, "notes", ())),
            left_out={str(reason): int(number) for reason, number in getattr(split, "left_out", {}).items()},
        )

    def _put(self, column: str, values: NDArray[Any], folder: Path, target: Target) -> dict[str, Any]:
        name = f"{self.side}-{column}.npy"
        draft = folder / name
        np.save(draft, values.astype(COLUMNS[column][0]), allow_pickle=False)
        told = {"file": name, "length": len(values), "bytes": draft.stat().st_size, "crc32": checksum(draft)}
        target.put(draft, name)
        return told

    def _samples(self, kinds: NDArray[np.uint8]) -> Iterator[Iterator[bytes]]:
        """The samples of one shard after the other; `kinds` is filled in on the way."""
        rows = iter(enumerate(self.order.tolist()))
        waiting: list[bytes] = []

        def shard() -> Iterator[bytes]:
            size = 0
            while True:
                if not waiting:
                    row, index = next(rows, (-1, -1))
                    if row < 0:
                        return
                    sample, fields = self._sample(row, index)
                    kinds[index] = sum(1 << i for i, kind in enumerate(KINDS.values()) if kind.fields[0] in fields)
                    waiting.append(sample)
                if size and size + len(waiting[0]) > self.shard_bytes:
                    return
                size += len(waiting[0])
                yield waiting.pop()

        while True:
            samples = shard()
            first = next(samples, None)
            if first is None:
                return
            yield chain([first], samples)

    def _sample(self, row: int, index: int) -> tuple[bytes, set[str]]:
        """The members of a sample, and the names of its labels."""
        split = self.split
        if isinstance(split, EncodedSplit):
            one = split.original(index)
        else:
            sample = dict(split[index])
            height, width = map(int, sample["size"])
            content = _png(sample["image"].permute(1, 2, 0).numpy())
            one = Original(f"{index}.png", content, (height, width), False, sample)
        fields = one.labels
        if unknown := set(fields) - _KNOWN:
            raise InputError(f"image {index}: shards have no place for its field {min(unknown)}; leave it out")
        name = os.fsencode(one.name).decode("utf-8", "replace")
        record = {"file": name, "size": list(one.size), "declared": one.declared, **_labels(fields)}
        suffix = os.path.splitext(name)[1].lower().lstrip(".") or "image"
        members = {suffix: one.content, LABELS: json.dumps(record, separators=(",", ":")).encode()}
        if "mask" in fields:
            members[MASK] = _png(fields["mask"].numpy())
        return b"".join(_member(f"{row:09d}.{suffix}", content) for suffix, content in members.items()), set(fields)

    def _teller(self, kind: str) -> Any:
        """What knows of the labels of a kind; None where no image has any."""
        return self.split.teller(kind) if hasattr(self.split, "teller") else self.split

    def _facts(self) -> dict[str, dict[str, Any]]:
        """{kind: how often each class is there, where the split knows}."""
        facts: dict[str, dict[str, Any]] = {}
        for kind in self.source.provides:
            part = self._teller(kind)
            if part is None:
                continue
            fact = facts[kind] = {"images": len(part)}
            if hasattr(part, "label_counts"):
                fact["label_counts"] = part.label_counts().tolist()
            if kind == "segmentation" and hasattr(part, "pixel_counts"):
                fact["counted"] = int(getattr(part, "counted", 0))
                fact["pixel_counts"] = part.pixel_counts().tolist()
        return facts


def _labels(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The labels but the mask, as JSON has them; float32 numbers come back exactly."""
    record: dict[str, Any] = {}
    if "label" in fields:
        record["label"] = int(fields["label"])
    if "presence" in fields:
        presence = fields["presence"]
        record["presence"] = {
            name: (presence == value).nonzero().flatten().tolist() for name, value in (("shown", 1), ("unknown", -1))
        }
    if "boxes" in fields:
        record |= {name: fields[name].tolist() for name in ("boxes", "labels", "crowd", "area")}
    return record


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def _member(name: str, content: bytes) -> bytes:
    """A file of a tar file."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    return header.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
