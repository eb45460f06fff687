"""Files in and out: what others wrote is read with care, and what is written is there whole or as it was."""

import atexit
import codecs
import csv
import errno
import gc
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from mnv2_tasks.errors import FULL, InputError, quote

_MARKS = (  # UTF-32's begins with UTF-16's
    *((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
    *((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
)
_PACKED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")  # gzip, zip, bzip2, xz, zstd


def open_regular(path: str | Path) -> IO[bytes]:
    """The file, to be read. Raises OSError, too, for a folder, pipe, socket or device: reading these may never end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        what = "it is a folder" if stat.S_ISDIR(mode) else "it is no regular file, but a pipe or a device"
        raise OSError(errno.EINVAL, what, str(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: str | Path, *, fix: str, most: int | None = None) -> bytes:
    """A file of at most `most` bytes. Raises InputError, which ends with `fix`."""
    try:
        with open_regular(path) as file:
            if most is not None and (size := os.fstat(file.fileno()).st_size) > most:
                raise InputError(f"{path}: its {size:,} bytes are more than such a file has; {fix}")
            return file.read()
    except (OSError, ValueError) as error:  # a null byte in the name
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}; {fix}") from error


def read_text(path: str | Path, *, fix: str, most: int | None = None) -> str:
    """A file's text: UTF-8, or UTF-16 or -32 where its first bytes say so. Raises InputError that ends with `fix`."""
    content = read_bytes(path, fix=fix, most=most)
    if content.startswith(_PACKED):
        raise InputError(f"{path}: cannot be read: it is compressed; unpack it")
    mark, encoding = next((pair for pair in _MARKS if content.startswith(pair[0])), (b"", "utf-8"))
    try:
        return content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        place = f"byte {error.start} is no {encoding.upper()}"
        raise InputError(f"{path}: cannot be read as text: {place}; save it as UTF-8, or {fix}") from error


def read_json(path: str | Path, *, fix: str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """What a JSON file holds; `hook` may change every object of it, and raise InputError.

    Raises InputError that ends with `fix` where it cannot be read, and where an object has a key twice.
    """
    return parse_json(read_text(path, fix=fix), path, fix=fix, hook=hook)


def parse_json(text: str, path: str | Path, *, fix: str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """As `read_json`, of the text of a file."""

    def unique(pairs: list[tuple[str, Any]]) -> Any:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            keys = [key for key, _ in pairs]
            key = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{path}: an object has the key {quote(key)} twice; keep one of them")
        return hook(entry) if hook else entry

    collecting = gc.isenabled()
    gc.disable()  # it would look at millions of objects again and again, and find nothing
    try:
        return json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{path}: {place}: not JSON: {error.msg}; {fix}") from error
    except ValueError as error:  # sys.get_int_max_str_digits
        raise InputError(f"{path}: cannot be read as JSON: it holds a number of thousands of digits; {fix}") from error
    except RecursionError as error:
        raise InputError(f"{path}: cannot be read as JSON: it is nested too deep; {fix}") from error
    finally:
        if collecting:
            gc.enable()


def new_folder(base: Path, name: str | None) -> Path:
    """<base>/<name>, or <base>/<time>, with a number where a run of the same second has that.

    The system makes it or refuses it in one step, so that no two runs share one. It goes again at the end where nothing
    was written. Raises InputError where the name is taken.
    """
    named = name is not None and name != ""
    stem = str(name) if named else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = base / stem, 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.mkdir()
        except FileExistsError as error:
            if named:
                raise InputError(f"{folder}: exists already; choose another name=, or delete it") from error
            number += 1
            folder = base / f"{stem}_{number}"
        else:
            atexit.register(_remove_empty, folder)
            return folder


def place_of(folder: Path, task: str, tasks: Sized) -> Path:
    """Where the files of one of several tasks go: a folder of its own; those of a lone one into the folder itself."""
    return folder if len(tasks) == 1 else folder / task


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Where to write a file, by default beside it as <stem>.tmp: it is moved to `path` once it is whole.

    So a full disk or a kill leaves the one before. What fails leaves no draft, a kill may.
    """
    draft = draft or path.with_suffix(".tmp")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something
        folder.rmdir()


def check_writable(folder: str | Path) -> None:
    """Raises InputError where `folder` is not there and cannot be made, or nothing can be written into it.

    A folder is made and removed to see, for a permission says nothing to root, on a read-only disk or in /proc.
    """
    if not isinstance(folder, (str, Path)):
        raise InputError(f"runs={folder}: give a folder for results")
    there = next(place for place in (Path(folder), *Path(folder).absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryDirectory(prefix=".mnv2_tasks_", dir=there):
            pass
    except OSError as error:
        if error.errno in FULL:
            raise
        reason = "is a file" if there.is_file() else f"cannot be written to ({error.strerror})"
        raise InputError(f"{there}: {reason}; give another folder for results") from error


def write_json(path: Path, values: Any) -> None:
    """Replace the file in one move; NaN becomes null, which every reader understands."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and value != value else value

    text = json.dumps(plain(values), indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as draft:  # \udce9, of a name that is no UTF-8, is JSON
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics.csv as numbers; none where there is no file. Raises InputError for a damaged one."""
    if not path.exists():
        return []
    rows = []
    for row in csv.DictReader(read_text(path, fix="delete it, or restore it").splitlines()):
        try:
            rows.append({str(k): _number(v) for k, v in row.items() if v not in ("", None)})
        except (ValueError, AttributeError) as error:  # more fields than columns are a list
            place = f"{path}: row {len(rows) + 1}"
            raise InputError(f"{place} is not of numbers ({error}); delete the file, or restore it") from error
    return rows


def _number(text: str) -> float:
    return int(text) if text.isdecimal() else float(text)  # epochs and steps stay whole


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace the file in one move, so that a full disk or a kill leaves the old one."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def write_settings(path: Path, config: Mapping[str, Any]) -> None:
    """Replace a config.yaml in one move."""
    with replacing(path) as draft:
        draft.write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
