"""The index of a sharded data set: one JSON file, and columns of numbers as .npy files that are mapped, not read."""

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.reading.depth import DEPTHS
from mnv2_tasks.datasets.reading.places import SHARD, Cached, Folder, Place, checksum, is_address
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import parse_json, read_bytes
from mnv2_tasks.kinds import KINDS

INDEX = "index.json"
FORMAT, VERSION = "mnv2_tasks shards", 1
FIX = "write it anew with mnv2 shards"
LARGEST = 2**32 - 1  # bytes of a shard, whose places are in 32 bits
# A column: its numbers, and how many of them in a row. Rows are samples as they lie in the shards; images are numbered
# as the data set that was written had them.
COLUMNS = {
    "ends": ("<u4", 0),  # of a row: where its sample stops in its shard
    "sums": ("<u4", 0),  # of a row: CRC-32 of its sample
    "rows": ("<u4", 0),  # of an image: its row, where they were shuffled
    "images": ("<u4", 0),  # of a row: its image, likewise
    "labels": ("<i4", 0),  # of an image: its class
    "kinds": ("u1", 0),  # of an image: the kinds that it has labels of, a bit each, where not all have the same
    "box_sizes": ("<f4", 2),  # of a box: width and height, as fractions of its image
    "box_labels": ("<i4", 0),  # of a box: its class
}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a file: it leads nowhere else


@dataclass(frozen=True)
class SideIndex:
    """What the index says of one side.

    Attributes:
        shards: their file names, bytes, and (S + 1,) where each starts in the rows.
        columns: {name: {"file", "length", "bytes", "crc32"}}.
        facts: {kind: what is known in advance of its labels}.
        contents, notes, left_out: for the line at the start, as the data set said it when it was written.
    """

    images: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    starts: NDArray[np.int64]
    columns: dict[str, dict[str, Any]]
    max_side: int | None = None
    depth: int | None = None
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: str = ""
    notes: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)


class Columns:
    """The columns of one side, each mapped into memory when it is first wanted; loader processes share its pages."""

    def __init__(self, place: Place, side: SideIndex) -> None:
        self.place = place
        self.side = side
        self._open: dict[str, NDArray[Any]] = {}

    def get(self, name: str) -> NDArray[Any] | None:
        """None for a column that this side does not have."""
        return self[name] if name in self.side.columns else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": {}}

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Raises InputError for a file that is not what the index says."""
        if name not in self._open:
            self._open[name] = self._load(name)
        return self._open[name]

    def _load(self, name: str) -> NDArray[Any]:
        told = self.side.columns[name]
        where = self.place.where(told["file"])
        path = self.place.path(told["file"], told["bytes"])
        if checksum(path) != told["crc32"]:
            self.place.renew(told["file"])
            raise InputError(f"{where}: its checksum is not that of the index: it is damaged; copy it again")
        kind, width = COLUMNS[name]
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise InputError(f"{where}: cannot be read as an array: {error}; {FIX}") from error
        shape = (told["length"], width) if width else (told["length"],)
        if values.dtype != np.dtype(kind) or values.shape != shape:
            raise InputError(f"{where}: it holds {values.dtype} {values.shape}, no {kind} {shape}; {FIX}")
        return values


@dataclass(frozen=True)
class ShardIndex:
    """A sharded data set: its place, its classes {kind: names}, and its sides."""

    place: Place
    provides: dict[str, tuple[str, ...]]
    sides: dict[str, SideIndex]


def read_index(root: str | Path, *, cache: Path, most: int) -> ShardIndex:
    """The index of a folder or an address. Raises InputError for one that is missing, foreign or damaged."""
    place: Place
    if is_address(root):
        place = fetched = Cached(str(root), cache=cache, most=most)
        content = fetched.read(INDEX)
        fetched.version = f"-{hashlib.sha256(content).hexdigest()[:16]}"
    else:
        folder = Path(str(root).removeprefix("file://")).expanduser()
        if not (folder / INDEX).is_file():
            others = sorted(folder.glob(f"*{SHARD}"))
            problem = f"{others[0].name} is there, but no {INDEX}" if others else f"no {INDEX} is there"
            raise InputError(f"{folder}: {problem}; give the folder that mnv2 shards wrote as data.root=<folder>")
        place = Folder(folder)
        content = read_bytes(folder / INDEX, fix=FIX)
    where = place.where(INDEX)
    try:
        table = parse_json(content.decode(), where, fix=FIX)
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: cannot be read as text; {FIX}") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise InputError(f"{where}: its format is no {quote(FORMAT)}, but of another program's; {FIX}")
    if table.get("version") != VERSION:
        raise InputError(f"{where}: its version is {quote(table.get('version'))}, where {VERSION} is read; {FIX}")
    try:
        provides = {kind: _names(names) for kind, names in table["classes"].items()}
        _check(bool(provides) and set(provides) <= set(KINDS), "classes")
        sides = {side: _side(entry, side, provides) for side, entry in table["sides"].items()}
        _check(set(sides) <= set(SIDES), "sides")
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        name = str(error) if isinstance(error, (KeyError, _FieldError)) else "sides"
        raise InputError(f"{where}: its field {name} is missing, or is not as such files have it; {FIX}") from error
    return ShardIndex(place, provides, sides)


def to_json(provides: dict[str, tuple[str, ...]], sides: dict[str, SideIndex]) -> str:
    """The text of an index."""
    entries = {
        name: {
            "images": side.images,
            "shards": [
                {"file": file, "images": int(count), "bytes": size}
                for file, count, size in zip(side.names, np.diff(side.starts), side.sizes, strict=True)
            ],
            "columns": side.columns,
            "max_side": side.max_side,
            "depth": side.depth,
            "facts": side.facts,
            "contents": side.contents,
            "notes": list(side.notes),
            "left_out": side.left_out,
        }
        for name, side in sides.items()
    }
    table = {"format": FORMAT, "version": VERSION, "classes": provides, "sides": entries}
    return json.dumps(table, ensure_ascii=True, indent=1) + "\n"


class _FieldError(ValueError):
    """A field that is not as it should be, by its name."""


def _check(right: bool, name: str) -> None:
    if not right:
        raise _FieldError(name)


def _names(names: Any) -> tuple[str, ...]:
    _check(isinstance(names, list) and len(names) > 0 and {type(name) for name in names} == {str}, "classes")
    return tuple(names)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _side(entry: Any, side: str, provides: dict[str, tuple[str, ...]]) -> SideIndex:
    images, shards, columns = entry["images"], entry["shards"], entry["columns"]
    where = f"sides.{side}"
    _check(_is_count(images) and images > 0, f"{where}.images")
    for shard in shards:
        numbers = _is_count(shard["images"]) and _is_count(shard["bytes"]) and shard["bytes"] <= LARGEST
        _check(numbers and _is_file(shard["file"], SHARD), f"{where}.shards")
    starts = np.concatenate([[0], np.cumsum([shard["images"] for shard in shards], dtype=np.int64)])
    _check(int(starts[-1]) == images, f"{where}.shards")
    _check({"ends", "sums"} <= set(columns) <= set(COLUMNS), f"{where}.columns")
    _check(("rows" in columns) == ("images" in columns), f"{where}.columns")
    for name, column in columns.items():
        counts = [column["length"], column["bytes"], column["crc32"]]
        _check(all(map(_is_count, counts)) and _is_file(column["file"], ".npy"), f"{where}.columns.{name}")
        _check(name.startswith("box_") or column["length"] == images, f"{where}.columns.{name}")
    max_side, depth = entry["max_side"], entry["depth"]
    _check(max_side is None or (_is_count(max_side) and max_side > 0), f"{where}.max_side")
    _check(depth is None or depth in DEPTHS, f"{where}.depth")
    _check({type(one) for one in (entry["contents"], *entry["notes"], *entry["left_out"])} == {str}, f"{where}.notes")
    _check(all(map(_is_count, entry["left_out"].values())), f"{where}.left_out")
    for kind, facts in entry["facts"].items():
        _check(kind in provides, f"{where}.facts")
        for name, value in facts.items():
            _check(_is_fact(kind, name, value, len(provides[kind])), f"{where}.facts.{kind}.{name}")
    return SideIndex(
        images=images,
        names=tuple(shard["file"] for shard in shards),
        sizes=tuple(shard["bytes"] for shard in shards),
        starts=starts,
        columns=columns,
        max_side=max_side,
        depth=depth,
        facts=entry["facts"],
        contents=entry["contents"],
        notes=tuple(entry["notes"]),
        left_out=entry["left_out"],
    )


def _is_fact(kind: str, name: str, value: Any, classes: int) -> bool:
    if name in ("label_counts", "pixel_counts"):
        lengths = (classes, classes - 1) if kind == "segmentation" else (classes,)  # a background has no objects
        return isinstance(value, list) and len(value) in lengths and all(map(_is_count, value))
    return name in ("images", "counted") and _is_count(value)


def _is_file(name: Any, suffix: str) -> bool:
    return isinstance(name, str) and name.endswith(suffix) and len(name) < 200 and _NAME.fullmatch(name) is not None
