"""Files that others wrote, read with care: no pipes and devices, text by its byte order mark, JSON of one meaning."""

import codecs
import errno
import gc
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mnv2_tasks.errors import InputError, quote

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
