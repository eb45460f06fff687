"""Where shards lie: a folder, or a place of S3, Google Cloud or the web, whose files come through a bounded cache."""

import hashlib
import os
import re
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from mnv2_tasks.errors import FULL, InputError, reason_of, shorten
from mnv2_tasks.files import open_regular

SHARD = ".tar"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_BLOCK = 1 << 20  # bytes that a checksum reads at a time
_TRIES = 4  # of a fetch; a network may be away for a while
_STALE = 3600  # seconds after which a draft is of a process that was killed


class Place(Protocol):
    """A place of files.

    Attributes:
        root: as it was given, for messages.
        remote: whether files are fetched.
    """

    root: str
    remote: bool

    def path(self, name: str, size: int | None = None) -> Path:
        """A file of the place as one of this machine. Raises InputError where it is missing or not of `size` bytes."""

    def renew(self, name: str) -> bool:
        """Forget a copy that turned out damaged; False where there is none but the file itself."""

    def expect(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """These shards are wanted soon."""

    def where(self, name: str) -> str:
        """A file, for messages."""


def is_address(root: str | Path) -> bool:
    """Whether it is s3://, gs://, https:// or the like, and no folder."""
    return isinstance(root, str) and _ADDRESS.match(root) is not None and not root.startswith("file://")


def file_system(root: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the address as it takes it. Raises InputError where a library lacks."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(root)
    except ImportError as error:
        raise InputError(f"{root}: {error}; pip install 'mnv2_tasks[shards]'") from error
    except ValueError as error:  # a protocol that nobody knows
        raise InputError(f"{root}: {error}; give a folder, s3://, gs:// or https://") from error


def checksum(path: Path) -> int:
    """CRC-32 of a file, which is read block by block, so that no memory grows with it."""
    value = 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value


class Folder:
    """Files of this machine."""

    remote = False

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self._folder = root

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def path(self, name: str, size: int | None = None) -> Path:
        path = self._folder / name
        try:
            there = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; copy it there, or write the shards anew") from error
        if size is not None and there != size:
            raise _wrong_size(str(path), there, size)
        return path

    def renew(self, name: str) -> bool:
        return False

    def expect(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """They are there."""


class Cached:
    """Files from elsewhere, kept in a folder that all processes of this machine share.

    Shards beyond `most` bytes make the longest unused go, and are fetched again when they are wanted. A file is fetched
    by one process while the others wait for it.

    Args:
        root: the address.
        cache: the folder; different data sets, and different versions of one, have folders of their own in it.
        most: bytes of shards in the whole folder.
    """

    remote = True

    def __init__(self, root: str, *, cache: Path, most: int) -> None:
        self.root = root.rstrip("/")
        self.cache = cache
        self.most = most
        self.version = ""  # of the index that names the files
        self._systems: dict[int, tuple[Any, str]] = {}  # of each process: clients do not survive a fork
        self._ahead: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_systems": {}, "_ahead": None}

    def where(self, name: str) -> str:
        return f"{self.root}/{name}"

    @property
    def folder(self) -> Path:
        return self.cache / f"{hashlib.sha256(self.root.encode()).hexdigest()[:16]}{self.version}"

    def read(self, name: str) -> bytes:
        """A file as it is there now."""
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / name
            self._fetch(name, draft, None)
            return draft.read_bytes()

    def path(self, name: str, size: int | None = None) -> Path:
        path = self.folder / name
        with suppress(OSError):
            if name.endswith(SHARD):
                os.utime(path)  # the longest unused is the first to go
            if size is None or path.stat().st_size == size:
                return path
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if not path.is_file() or (size is not None and path.stat().st_size != size):
                path.unlink(missing_ok=True)
                draft = self._draft(path, size or 0)
                try:
                    self._fetch(name, draft, size)
                    draft.replace(path)
                finally:
                    draft.unlink(missing_ok=True)
        return path

    def renew(self, name: str) -> bool:
        (self.folder / name).unlink(missing_ok=True)
        return True

    def expect(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        """Fetch them in the background, one after another; a failure is told where they are read."""

        before = self._ahead

        def fetch() -> None:
            if before is not None:
                before.join()
            with suppress(Exception):
                for name, size in zip(names, sizes, strict=True):
                    self.path(name, size)

        self._ahead = threading.Thread(target=fetch, daemon=True)
        self._ahead.start()

    def _draft(self, path: Path, size: int) -> Path:
        """Where to fetch to, after room was made: its name tells what it will take."""
        draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.{size}.part")
        if path.suffix != SHARD:
            return draft
        with FileLock(self.cache / ".lock"):
            used, shards = size, []
            for file in self.cache.glob("*/*"):
                with suppress(OSError, ValueError):  # gone by now
                    entry = file.stat()
                    if file.suffix == ".part" and time.time() - entry.st_mtime > _STALE:
                        file.unlink()
                    elif file.suffix == ".part":
                        used += int(file.name.split(".")[-2])
                    elif file.suffix == SHARD:
                        shards.append((entry.st_mtime_ns, entry.st_size, file))
                        used += entry.st_size
            for _, taken, file in sorted(shards):
                if used <= self.most:
                    break
                file.unlink(missing_ok=True)
                used -= taken
            draft.touch()
        return draft

    def _fetch(self, name: str, draft: Path, size: int | None) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                if os.getpid() not in self._systems:
                    self._systems = {os.getpid(): file_system(self.root)}
                system, base = self._systems[os.getpid()]
                system.get_file(f"{base}/{name}", str(draft))
            except InputError:
                raise
            except FileNotFoundError as error:
                raise InputError(f"{self.where(name)}: no such file; correct data.root, or copy it there") from error
            except Exception as error:  # of whatever client reads there
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                if attempt == _TRIES or isinstance(error, PermissionError):
                    reason = shorten(reason_of(error), 200)
                    raise InputError(
                        f"{self.where(name)}: cannot be fetched: {reason}; see whether this machine may read there"
                    ) from error
            else:
                there = draft.stat().st_size
                if size is None or there == size:
                    return
                if attempt == _TRIES:
                    raise _wrong_size(self.where(name), there, size)
            time.sleep(2.0**attempt / 4)


def _wrong_size(where: str, there: int, size: int) -> InputError:
    problem = "it is cut short" if there < size else "it is another file"
    return InputError(f"{where}: it has {there:,} bytes where the index says {size:,}: {problem}; copy it again")


def default_cache() -> Path:
    """Where fetched shards are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mnv2_tasks" / "shards"
