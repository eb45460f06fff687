"""What predictions leave: a line a picture as they come, from which a stopped run goes on, and files made from it."""

import csv
import errno
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.files import new_folder, place_of, replacing
from mnv2_tasks.predict.films import NamedPicture, plain_name
from mnv2_tasks.predict.predictor import Predictor
from mnv2_tasks.version import __version__

RECORD = "predict.json"  # what was predicted with what; marks a folder as this program's
RESULTS = "results.jsonl"
LOCK, DRAFT = ".lock", ".draft"
LISTED = 20  # classes whose counts are printed
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
Row = dict[str, Any]


def is_ours(folder: str) -> bool:
    """Whether a folder was written by this command, or lies in one that was."""
    places = [Path(folder), *Path(folder).parents]
    return any("mnv2_tasks" in read_record(place) or _is_of_0_1(place) for place in places)


def _is_of_0_1(folder: Path) -> bool:
    """Whether a folder has the place of pictures that version 0.1 wrote, which left no record."""
    beside = folder.parent
    return (
        folder.name in ("masks", "pictures")
        and "predict" in (beside.parent.name, beside.parent.parent.name)
        and any((beside / name).exists() for name in ("detections.json", "labels.csv", "masks"))
    )


def read_record(folder: Path) -> dict[str, Any]:
    """What predict.json says; {} where it is not ours."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def fingerprint(model: Path) -> str:
    """A hash of a model's files."""
    beside = (model.with_suffix(".bin"), model.with_name(f"{model.name}.data"))  # weights of OpenVINO, ncnn; of ONNX
    files = [*sorted(model.rglob("*"))] if model.is_dir() else [model, *beside]
    whole = hashlib.sha256()
    for path in filter(Path.is_file, files):
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def open_folder(runs: str, name: str | None, record: Mapping[str, Any]) -> tuple[Path, FileLock, bool]:
    """<runs>/predict/<name or the time>, its lock for this process alone, and whether a run there came to its end.

    A folder of that name is gone on with where its record says the same. Raises InputError where it does not, where
    another process writes there, or other files lie there.
    """
    base = Path(runs) / "predict"
    folder = base / str(name) if name is not None else new_folder(base, None)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{folder}: another process predicts there now; wait for it, or choose another name="
        ) from error
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        print(f"{folder}: no locks on this disk; use its name= in one process at a time")
    before = read_record(folder)
    if "mnv2_tasks" not in before:
        if set(os.listdir(folder)) - {LOCK, DRAFT}:
            raise InputError(f"{folder}: other files are there; choose another name=")
        write_whole(folder / RECORD, _json({"mnv2_tasks": __version__, **record}))
    elif other := next((key for key in record if before.get(key) != record[key]), None):
        was, now = (json.dumps(content.get(other))[:100] for content in (before, record))
        values = "" if other == "model" else f" ({was}, not {now})"
        raise InputError(f"{folder}: made with another {other}{values}; choose another name=")
    return folder, lock, bool(before.get("complete"))


def mark_complete(folder: Path) -> None:
    write_whole(folder / RECORD, _json({**read_record(folder), "complete": True}))


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2) + "\n").encode()


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file whole or, where the disk is full or the process is killed, not at all. Raises OSError."""
    with whole(path) as draft:
        draft.write_bytes(content)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """`replacing` in a folder of results; the OSError has the file's own name."""
    try:
        with replacing(path, path.with_name(DRAFT)) as draft:
            yield draft
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class Results:
    """results.jsonl, a line a picture; and for other programs detections.json, masks/, labels.csv.

    A line says {image_id, file, time (of a frame), predictions: {task: ...}}, or the error of a picture that could not
    be read. It is written last, so that what it tells of is there. With several heads, each has a folder.

    detections.json is a list as COCO's results are: image_id counts the pictures from 0, category_id the classes from
    1, bbox is [x, y, width, height] in the picture's pixels; file and category say the same in names. masks/ holds PNG
    files of class indices. labels.csv has a row a picture: the likeliest class, and the score of every class.
    """

    def __init__(self, predictor: Predictor, folder: Path, *, timed: bool) -> None:
        self.predictor = predictor
        self.folder = folder
        self.timed = timed
        self.done: set[str] = set()
        self.failed: dict[str, int] = {}  # name -> image_id
        self.next_id = 0
        self._counts: dict[str, Counter[str]] = {task: Counter() for task in predictor.kinds}  # of this process
        self._folders: set[Path] = set()
        self._lines = AppendedFile(folder / RESULTS)
        self._lines.cut(self._remember())
        self._tables = {
            task: AppendedFile(self.place(task) / kind.table) for task, kind in predictor.kinds.items() if kind.table
        }
        for task, table in self._tables.items():
            table.cut(0)
            times = ["time"] if timed else []
            table.write(_csv(["file", *times, "label", "score", *predictor.classes[task]]))
        if self._tables:
            for row in self.rows():
                self._label(row)
        self._past = self.rows()

    def place(self, task: str) -> Path:
        """A head's folder."""
        return self._made(place_of(self.folder, task, self.predictor.kinds))

    def recall(self, named: NamedPicture) -> dict[str, dict[str, Tensor]]:
        """The predictions of a picture that is `done`; to be asked for in the order in which they were made."""
        row = next(row for row in self._past if row["file"] == named.name)
        predictions = {}
        for task, line in row["predictions"].items():
            kind = self.predictor.kinds[task]
            content = self._picture(task, kind.pictures, named).read_bytes() if kind.pictures else None
            predictions[task] = kind.from_line(line, content)
        return predictions

    def add(self, named: NamedPicture, prediction: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Raises OSError where it cannot be written; then nothing of it counts."""
        self._write(named, {"predictions": {task: self._line(task, named, row) for task, row in prediction.items()}})
        for task, row in prediction.items():
            self._count(task, row)
        self.done.add(named.name)
        self.failed.pop(named.name, None)

    def add_error(self, named: NamedPicture) -> None:
        if named.name not in self.failed:
            self._write(named, {"error": str(named.image)})

    def counts(self) -> list[str]:
        """A line a head: the objects of each class that this process found, or the images or masks that show it."""
        lines = []
        for task, counts in self._counts.items():
            parts = [f"{count:,} {name}" for name, count in counts.most_common(LISTED)]
            more = f" and {len(counts) - LISTED} classes more" if len(counts) > LISTED else ""
            what = self.predictor.kinds[task].counted(self.predictor.counted_from(task))
            lines.append(f"{task}: {what}: {', '.join(parts) or 'none'}{more}")
        return lines if self.done else []

    def _count(self, task: str, row: Mapping[str, Tensor]) -> None:
        classes = self.predictor.classes[task]
        labels = self.predictor.kinds[task].labels(dict(row), len(classes), self.predictor.counted_from(task))
        self._counts[task].update(classes[label] for label in labels)

    def finish(self) -> None:
        """Write detections.json from the lines, one at a time. Raises OSError."""
        for task, kind in self.predictor.kinds.items():
            if not kind.gathered:
                continue
            path = self.place(task) / kind.gathered
            with whole(path) as draft, draft.open("w", encoding="utf-8", errors="backslashreplace") as file:
                file.write("[")
                separator = "\n"
                for row in self.rows():
                    fields = {key: row[key] for key in ("image_id", "file", "time") if key in row}
                    for entry in row["predictions"][task]:
                        file.write(separator + json.dumps({**fields, **entry}, ensure_ascii=False))
                        separator = ",\n"
                file.write("\n]\n")

    def close(self) -> None:
        for file in (self._lines, *self._tables.values()):
            file.close()

    def _made(self, folder: Path) -> Path:
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)
        return folder

    def _remember(self) -> int:
        """Take up what is there; the bytes of its whole lines."""
        size = 0
        for line, row in _read(self.folder / RESULTS):
            size += len(line)
            self.next_id = max(self.next_id, row["image_id"] + 1)
            if "error" in row:
                self.failed[row["file"]] = row["image_id"]
            else:
                self.done.add(row["file"])
                self.failed.pop(row["file"], None)
        return size

    def rows(self) -> Iterator[Row]:
        """The lines of the pictures that are done, in the order in which they were."""
        return (row for _, row in _read(self.folder / RESULTS) if "predictions" in row)

    def _write(self, named: NamedPicture, content: Mapping[str, Any]) -> None:
        number = self.failed.get(named.name, self.next_id)
        row: Row = {"image_id": number, "file": named.name}
        if self.timed:
            row["time"] = round(named.time or 0.0, 3)
        row |= content
        self._lines.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        self.next_id = max(self.next_id, number + 1)
        if "error" in row:
            self.failed[named.name] = number
        else:
            self._label(row)

    def _label(self, row: Row) -> None:
        for task, table in self._tables.items():
            times = [row["time"]] if self.timed else []
            table.write(_csv([row["file"], *times, *self.predictor.kinds[task].row(row["predictions"][task])]))

    def _line(self, task: str, named: NamedPicture, row: Mapping[str, Tensor]) -> Any:
        """A prediction as results.jsonl holds it."""
        kind, prediction, picture = self.predictor.kinds[task], dict(row), None
        if kind.pictures:
            path = self._picture(task, kind.pictures, named)
            self._made(path.parent)
            write_whole(path, kind.picture(prediction))
            picture = plain_name(path.relative_to(self.folder).as_posix())
        least = self.predictor.least(task)
        return kind.line(prediction, self.predictor.classes[task], picture=picture, least=least)

    def _picture(self, task: str, folder: str, named: NamedPicture) -> Path:
        return self.place(task) / folder / f"{named.stem}.png"


class Drawings:
    """Predictions on the pictures, a PNG each."""

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor = predictor
        self.folder = folder
        self._folders: set[Path] = set()

    def add(self, named: NamedPicture, prediction: dict[str, Any]) -> None:
        """Raises OSError where the picture cannot be written."""
        from torchvision.io import encode_png

        assert isinstance(named.image, Tensor)
        for task, drawn in self.predictor.draw(named.image, prediction).items():
            place = place_of(self.folder, task, prediction)
            path = place / "pictures" / f"{named.stem}.png"
            if path.parent not in self._folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._folders.add(path.parent)
            write_whole(path, encode_png(drawn, compression_level=3).numpy().data)

    def close(self) -> None:
        pass


class AppendedFile:
    """A file that grows by whole lines: of one that cannot be written, nothing stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._size = os.fstat(self._file.fileno()).st_size

    def cut(self, size: int) -> None:
        self._file.truncate(size)
        self._size = size

    def write(self, line: bytes) -> None:
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._file.truncate(self._size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        self._size += len(line)

    def close(self) -> None:
        self._file.close()


def _read(path: Path) -> Iterator[tuple[bytes, Row]]:
    """The lines of results.jsonl, up to one that was not written whole."""
    with path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                return
            if not isinstance(row, dict) or not isinstance(row.get("image_id"), int) or "file" not in row:
                return
            yield line, row


def _csv(values: Sequence[Any]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode("utf-8", "backslashreplace")
