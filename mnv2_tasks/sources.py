"""Where pictures to predict on come from: files, folders, globs, URLs, videos and cameras."""

import glob
import os
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.datasets.images import SUFFIXES, read_image
from mnv2_tasks.errors import InputError

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
STREAMS = ("rtsp://", "rtmp://", "udp://")
AHEAD = 16  # images that are read while others are predicted

# A picture's name, the stem of the files that are written of it, and uint8 (3, H, W) or what is wrong with it.
Named = tuple[str, str, Tensor | InputError]


def is_moving(source: str) -> bool:
    """Whether a source is a video or a camera, not a set of images."""
    return source.isdigit() or source.startswith(STREAMS) or source.lower().endswith(VIDEOS)


def image_files(source: str) -> list[Path]:
    """The files of an image, a folder (and its subfolders) or a glob, sorted. Raises InputError without any."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
    elif any(mark in source for mark in "*?["):
        found = [Path(file) for file in glob.glob(source, recursive=True) if Path(file).is_file()]
    else:
        raise InputError(f"source={source}: no such file or folder; give an image, folder, glob, video, camera or URL")
    if not found:
        raise InputError(f"source={source}: no images there (they end in {', '.join(SUFFIXES)})")
    return sorted(found)


def read_all(files: list[Path], *, depth: int = 16) -> Iterator[Named]:
    """The pictures of files, in order, read ahead in threads; a broken one comes as its error.

    Stems are names without their endings, unless two pictures differ in that alone. `depth` is as in `read_image`.
    """
    folder = os.path.commonpath([file.parent for file in files])
    whole = len({file.with_suffix("") for file in files}) < len(files)

    def read(file: Path) -> Named:
        name = file.relative_to(folder)
        stem = str(name if whole else name.with_suffix(""))
        try:
            return str(name), stem, read_image(file, depth=depth).as_subclass(Tensor)
        except InputError as error:
            return str(name), stem, error

    with ThreadPoolExecutor(2) as pool:
        waiting = []
        rest = iter(files)
        for file in rest:
            waiting.append(pool.submit(read, file))
            if len(waiting) >= AHEAD:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def download(url: str) -> Path:
    """A picture at an http(s) address, as a file of its own. Raises InputError."""
    name = url.partition("?")[0].rpartition("/")[2] or "picture"
    path = Path(tempfile.mkdtemp()) / name
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            path.write_bytes(answer.read())
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InputError(f"source={url}: cannot be had ({error}); check the address") from error
    return path


class Video:
    """Frames of a video file, a stream or a camera, upright, through PyAV; one that breaks ends with its error."""

    def __init__(self, source: str, most: int | None) -> None:
        self.av = av = import_av()
        self.source, self.most = source, most
        try:
            if source.isdigit():
                self.container = av.open(f"/dev/video{source}", format="v4l2")
            else:
                self.container = av.open(source)
            self.stream = self.container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            raise InputError(f"source={source}: no video can be read there ({error}); check the path") from error
        self.stream.thread_type = "AUTO"
        self.rate: Any = self.stream.average_rate or 25
        self.name = "camera" if source.isdigit() else Path(source).name
        known = [number for number in (self.stream.frames, most) if number]
        self.count: int | None = min(known, default=None)

    def __iter__(self) -> Iterator[Named]:
        number, stem = 0, Path(self.name).stem
        try:
            for number, frame in enumerate(islice(self.container.decode(self.stream), self.most), 1):
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))  # both anticlockwise
                image = torch.from_numpy(turned.transpose(2, 0, 1).copy())
                yield f"{self.name}#{number - 1}", f"{stem}_{number - 1}", image
        except self.av.FFmpegError as error:
            broken = InputError(
                f"source={self.source}: it breaks off after {number} frames ({error.strerror}); repair the film"
            )
            yield f"{self.name}#{number}", f"{stem}_{number}", broken


def import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError("videos and cameras need PyAV: pip install -e '.[video]' in the clone") from error
    return av
