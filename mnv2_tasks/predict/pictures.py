"""Where pictures to predict on come from: files, folders, globs and addresses; films and cameras are in films.py."""

import glob
import hashlib
import http.client
import io
import os
import re
import time
import urllib.error
import urllib.request
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path

from PIL import Image
from torch import Tensor

from mnv2_tasks.datasets.reading.images import MAX_PIXELS, SUFFIXES, decode, find_depth, open_image, reading
from mnv2_tasks.datasets.reading.listing import LeftOut, walk
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import open_regular
from mnv2_tasks.predict.films import (
    PATIENCE,
    WEB,
    NamedPicture,
    Video,
    is_moving,
    is_remote,
    plain_name,
    without_password,
)
from mnv2_tasks.predict.prediction_files import is_ours

AHEAD = 16  # pictures, at most, that are read while others are predicted
AHEAD_BYTES = 2**28  # and their size, once read
ONE_PICTURE = ("MPO", "PSD")  # formats whose further frames are views or layers of the same picture
THUMBNAIL, MASK = 1, 4  # bits of TIFF's NewSubfileType: pages that belong to another page
SUBFILE_TYPE = 254
MOST_BYTES = 2**28  # of a picture from the web
MOST_SECONDS = 120
PLAYLISTS = ("application/vnd.apple.mpegurl", "application/x-mpegurl", "application/dash+xml")


def find(source: str, *, frames: int | None = None, runs: str | None = None) -> "Pictures | Video":
    """What a source holds; without what is in the folder `runs`, unless the source is. Raises InputError."""
    if not is_remote(source) and os.path.exists(source) and is_ours(os.path.realpath(source)):
        raise InputError(f"source={source}: an earlier prediction wrote it; give what that was made of")
    if source.isdigit() and os.path.exists(source) and os.path.exists(f"/dev/video{source}"):
        raise InputError(f"source={source}: a camera and a file have this name; give /dev/video{source} or ./{source}")
    if is_moving(source):
        return Video(source, frames)
    if source.startswith(WEB):
        content = download(source)
        return Video(source, frames) if content is None else Pictures.of_bytes(source, content)
    return Pictures(*list_pictures(source, runs))


def list_pictures(source: str, runs: str | None = None) -> tuple[Path, list[str], LeftOut]:
    """The pictures of a file, a folder (and its subfolders) or a glob: a folder, their sorted names in it, and a count
    of what else is there. Raises InputError without any.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path.name], LeftOut()
    if path.is_dir():
        folder, (names, left_out) = path, _walk(path, _results(path, runs))
    elif path.exists():
        raise InputError(f"source={source}: no regular file; give an image, folder, glob, video, camera or URL")
    elif glob.has_magic(source):
        # Names do not depend on what else matches, so that a stopped run finds them again.
        folder = Path(os.path.dirname(re.split(r"[*?[]", source, maxsplit=1)[0]))
        names, left_out = _match(source, folder, _results(folder, runs))
    else:
        raise InputError(f"source={source}: no such file or folder; give an image, folder, glob, video, camera or URL")
    if not names:
        rest = f"; {left_out}" if left_out else ""
        raise InputError(f"source={source}: no images there (they end in {', '.join(SUFFIXES)}){rest}")
    return folder, sorted(names), left_out


def _results(top: Path, runs: str | None) -> Callable[[str], bool]:
    """Whether a path below `top` is something that this program wrote: a prediction, or anything in `runs`."""
    place = os.path.realpath(runs) if runs else None
    if place and Path(os.path.realpath(top)).is_relative_to(place):
        place = None

    @cache
    def ours(folder: str) -> bool:
        return is_ours(folder) or (place is not None and Path(folder).is_relative_to(place))

    return ours


def _walk(folder: Path, ours: Callable[[str], bool]) -> tuple[list[str], LeftOut]:
    """The pictures in a folder; links that lead nowhere are among them, to be named and counted when they are read."""
    dangling: list[str] = []

    def unwanted(entry: "os.DirEntry[str]") -> str | None:
        link = entry.is_symlink()
        if link and not os.path.exists(entry.path) and entry.name.lower().endswith(SUFFIXES):
            dangling.append(os.path.relpath(entry.path, folder))
        return "of earlier runs" if (link or entry.is_dir()) and ours(os.path.realpath(entry.path)) else None

    names, left_out = walk(folder, SUFFIXES, unwanted=unwanted)
    left_out["broken link"] -= len(dangling)
    return names + dangling, LeftOut(+left_out)


def _match(pattern: str, folder: Path, ours: Callable[[str], bool]) -> tuple[list[str], LeftOut]:
    names, left_out = [], LeftOut()
    for match in glob.glob(pattern, recursive=True):
        if os.path.isdir(match):
            left_out["a folder"] += 1
        elif os.path.exists(match) and not os.path.isfile(match):
            left_out["no regular file"] += 1
        elif ours(os.path.dirname(os.path.realpath(match))):
            left_out["of earlier runs"] += 1
        else:
            names.append(os.path.relpath(match, folder))
    return names, left_out


def short(stem: str) -> str:
    """A stem with room for an ending: file systems take names of 255 bytes."""
    folder, base = os.path.split(stem)
    whole = os.fsencode(base)
    if len(whole) > 240:
        base = whole[:200].decode("utf-8", "ignore") + "_" + hashlib.sha256(whole).hexdigest()[:16]
    return os.path.join(folder, base)


class Pictures:
    """Pictures from files, read ahead in threads, in order; a broken one comes as its error.

    A file that holds several (a GIF, the pages of a TIFF) gives each, as name#0, name#1, ... Stems are names without
    their endings, unless two would be one. `count` grows as such files are opened; `views` counts, by format,
    the files whose further frames are of the same picture and stay unread. `depth` is as in `read_image`.
    """

    endless = False
    hurt = 0
    depth = 16

    def __init__(self, folder: Path, names: list[str], left_out: LeftOut | None = None) -> None:
        self.folder = folder
        self.names = names
        self.left_out = left_out or LeftOut()
        self.count = len(names)
        self.views: Counter[str] = Counter()
        self.content: bytes | None = None

    @classmethod
    def of_bytes(cls, url: str, content: bytes) -> "Pictures":
        name = os.path.basename(url.partition("?")[0].partition("#")[0].rstrip("/")) or "picture"
        pictures = cls(Path(), [name])
        pictures.content = content
        return pictures

    def read(self, done: Collection[str] = ()) -> Iterator[NamedPicture]:
        """The pictures but those whose names are `done`."""
        bare = {os.path.splitext(name)[0].casefold() for name in self.names}  # as disks that ignore case compare
        frames_of = {name.casefold() for name in self.names}
        whole = len(bare) < len(self.names) or any(stem.rpartition("#")[0] in frames_of for stem in bare)
        ahead: deque[tuple[str, str, Future[Tensor | InputError], int]] = deque()
        ahead_bytes = 0

        def next_one() -> NamedPicture:
            nonlocal ahead_bytes
            name, stem, future, size = ahead.popleft()
            ahead_bytes -= size
            return NamedPicture(name, stem, future.result())

        pool = ThreadPoolExecutor(2)
        try:
            for path in self.names:
                name, stem = plain_name(path), short(path if whole else os.path.splitext(path)[0])
                if name in done:
                    continue
                try:
                    opened, frames = self._open(path)
                except InputError as error:
                    while ahead:
                        yield next_one()
                    yield NamedPicture(name, stem, error)
                    continue
                if frames != 1:
                    while ahead:
                        yield next_one()
                    yield from self._frames(path, opened, frames, done)
                    continue
                size = 3 * opened.width * opened.height
                while ahead and (len(ahead) >= AHEAD or ahead_bytes + size > AHEAD_BYTES):
                    yield next_one()
                ahead.append((name, stem, pool.submit(self._decode, path, opened), size))
                ahead_bytes += size
            while ahead:
                yield next_one()
        finally:
            pool.shutdown(cancel_futures=True)

    def among(self, done: Collection[str]) -> int:
        """How many of the names `done` are of these pictures: files may have gone since."""
        names = set(map(plain_name, self.names))
        return sum(name in names or name.rpartition("#")[0] in names for name in done)

    def find_depth(self) -> int | None:
        """See `datasets.images.find_depth`."""
        return find_depth([self.folder / name for name in self.names]) if self.content is None else None

    def _open(self, path: str) -> tuple[Image.Image, int | None]:
        """A picture whose pixels are still unread, and how many frames there are to read; None for an unknown end."""
        with reading(self._full(path)):
            file = io.BytesIO(self.content) if self.content is not None else open_regular(self.folder / path)
            opened = open_image(file)
        try:
            with reading(path):
                frames = getattr(opened, "n_frames", 1)
        except InputError:  # a later frame is hurt
            return opened, None
        if frames > 1 and opened.format in ONE_PICTURE:
            self.views[opened.format] += 1
            return opened, 1
        return opened, frames

    def _decode(self, path: str, opened: Image.Image) -> Tensor | InputError:
        try:
            with opened, reading(self._full(path)):
                return decode(opened, self.depth)
        except InputError as error:
            return error

    def _full(self, path: str) -> str:
        return plain_name(str(self.folder / path))

    def _frames(
        self, path: str, opened: Image.Image, frames: int | None, done: Collection[str]
    ) -> Iterator[NamedPicture]:
        self.count += frames - 1 if frames else 0
        with opened:
            for number in count() if frames is None else range(frames):
                self.count += frames is None and number > 0
                name = f"{plain_name(path)}#{number}"
                if name in done:
                    continue
                stem = short(f"{path}#{number}")
                try:
                    with reading(f"{self._full(path)}#{number}"):
                        opened.seek(number)
                        tags = getattr(opened, "tag_v2", {}) if opened.format == "TIFF" else {}
                        if tags.get(SUBFILE_TYPE, 0) & (THUMBNAIL | MASK):
                            self.count -= 1
                            self.views["TIFF"] += 1
                            continue
                        if opened.width * opened.height > MAX_PIXELS:
                            raise Image.DecompressionBombError
                        image = decode(opened, self.depth)
                except InputError as error:
                    yield NamedPicture(name, stem, error)
                    if frames is None:
                        return
                    continue
                yield NamedPicture(name, stem, image)


def download(url: str) -> bytes | None:
    """A picture at an http(s) address; None where a film or a camera answers. Raises InputError."""
    request = urllib.request.Request(url, headers={"User-Agent": "mnv2_tasks"})
    address = without_password(url)
    content, began = bytearray(), time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            kind = answer.headers.get_content_type()
            if kind.startswith(("multipart/", "video/")) or kind in PLAYLISTS:
                return None
            expected = int(answer.headers.get("Content-Length") or 0)
            while part := answer.read1(2**16):
                content += part
                if len(content) > MOST_BYTES or time.monotonic() - began > MOST_SECONDS:
                    raise InputError(
                        f"source={address}: {len(content):,} bytes came in {time.monotonic() - began:.0f} s and no end "
                        f"({kind}); save it as a file first"
                    )
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"source={address}: cannot be had ({error}); check the address") from error
    if len(content) < expected:
        raise InputError(f"source={address}: it breaks off after {len(content):,} of {expected:,} bytes; try again")
    return bytes(content)
