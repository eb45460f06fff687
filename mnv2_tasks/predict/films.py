"""Films and cameras: frames in, with the time of each, and predictions drawn on them as films out, through PyAV."""

import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.datasets.reading.listing import LeftOut
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import place_of

SUFFIXES = (
    *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts", ".wmv"),
    *(".ts", ".flv", ".f4v", ".ogv", ".mxf", ".vob", ".asf"),
)
STREAMS = ("rtsp://", "rtmp://", "udp://")
WEB = ("http://", "https://")
PATIENCE = 30  # seconds that a stream may be silent
TELL_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv")  # formats whose header says how long
TICKS = Fraction(1, 90_000)  # of a second: MPEG's clock, fine enough for frames that come at any time


class NamedPicture(NamedTuple):
    """A picture to predict on."""

    name: str  # as results name it
    stem: str  # of the files that are written of it
    image: Tensor | InputError  # uint8 (3, H, W), or what is wrong with it
    time: float | None = None  # seconds from the start of its film


def plain_name(name: str) -> str:
    """A file's name as results write it, valid text on every system: a byte that is no UTF-8, a backslash and a
    control character each as \\xNN, which tells them apart from all others.
    """
    text = os.fsencode(name).replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\x{ord(match[0]):02x}", text)


def is_moving(source: str) -> bool:
    """Whether a source is a film or a camera by its name, and no folder or file called like a camera."""
    if os.path.isdir(source) or source.isdigit() and os.path.exists(source):
        return False
    path = urlsplit(source).path if source.startswith(WEB) else source
    return source.isdigit() or source.startswith(("/dev/video", *STREAMS)) or path.lower().endswith(SUFFIXES)


def is_remote(source: str) -> bool:
    return source.startswith((*WEB, *STREAMS))


def without_password(url: str) -> str:
    """An address as it may be written down."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError("videos and cameras need PyAV: pip install 'mnv2_tasks[video]'") from error
    return av


class Video:
    """The frames of a film, a stream or a camera, upright, `most` of them.

    A packet that cannot be decoded is skipped and counted in `hurt`; a film that breaks off ends with its error.
    """

    def __init__(self, source: str, most: int | None = None) -> None:
        self.av = av = import_av()
        self.most = most
        self.hurt = 0
        self._reached = 0.0  # seconds of the film's clock that its packets cover
        camera = f"/dev/video{source}" if source.isdigit() else source
        self.remote = remote = is_remote(source)
        if not remote and not camera.startswith("/dev/video") and os.path.exists(source) and not os.path.isfile(source):
            raise InputError(f"source={source}: no regular file; give an image, folder, glob, video, camera or URL")
        self.shown = without_password(source) if remote else source
        try:
            if camera.startswith("/dev/video"):
                self.container = av.open(camera, format="v4l2")
            else:
                self.container = av.open(source, timeout=PATIENCE if remote else None)
        except (av.FFmpegError, OSError) as error:
            reason = self._reason(error)
            raise InputError(f"source={self.shown}: no video can be read there ({reason}); check the path") from error
        if not self.container.streams.video:
            raise InputError(f"source={self.shown}: there is sound but no picture in it; give a film")
        self.stream = self.container.streams.video[0]
        self.stream.thread_type = "AUTO"
        self.rate: Any = self.stream.average_rate or 25
        self.endless = camera.startswith("/dev/video") or (remote and not self.container.duration)
        path = urlsplit(source).path if remote else source
        self.name = "camera" if source.isdigit() else os.path.basename(path) or "stream"
        known = [number for number in (self.stream.frames, most) if number]
        self.count: int | None = min(known, default=None)
        self.views = Counter[str]()
        self.left_out = LeftOut()

    def read(self, done: Collection[str] = ()) -> Iterator[NamedPicture]:
        """Every frame, also those whose names are `done`: a film is drawn from its start."""
        stem, clock = os.path.splitext(self.name)[0], _FrameClock(self.container, self.rate)
        label, number = plain_name(self.name), 0
        try:
            for frame in self._frames():
                if number == self.most:
                    return
                turned = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))  # both anticlockwise
                image = torch.from_numpy(turned.transpose(2, 0, 1).copy())
                yield NamedPicture(f"{label}#{number}", f"{stem}_{number}", image, clock(frame, number))
                number += 1
            end = self._early_end(number)
        except self.av.FFmpegError as error:
            end = self._reason(error)
        finally:
            self.container.close()
        if end:
            what, fix = "it breaks off", "save it as a file first" if self.remote else "repair the film"
            if self.endless:
                what, fix = "it ends", "start again under another name="
            broken = InputError(f"source={self.shown}: {what} after {amount(number, 'frame')} ({end}); {fix}")
            yield NamedPicture(f"{label}#{number}", f"{stem}_{number}", broken)

    def among(self, done: Collection[str]) -> int:
        return len(done)

    def _reason(self, error: OSError) -> str:
        return f"nothing came for {PATIENCE} s" if isinstance(error, self.av.error.ExitError) else str(error.strerror)

    def _early_end(self, number: int) -> str:
        """What a film lacks that came to an end; "" for nothing. Films that were cut say how long they were."""
        start, length = (self.container.start_time or 0) / 1_000_000, (self.container.duration or 0) / 1_000_000
        came = self._reached - start
        if not self.endless and self.container.format.name in TELL_LENGTH and came < min(0.9 * length, length - 0.5):
            return f"at {came:.1f} of {length:.1f} s"
        return "" if number or self.hurt else "there are none"

    def _frames(self) -> Iterator[Any]:
        for packet in self.container.demux():  # of sound, too: a picture may stand still for long
            if packet.pts is not None:
                self._reached = max(self._reached, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != self.stream.index:
                continue
            try:
                yield from packet.decode()
            except self.av.EOFError:
                return
            except self.av.FFmpegError:
                self.hurt += 1


class _FrameClock:
    """Seconds from a film's start to a frame; where the frames do not say, by the rate, or as they come."""

    def __init__(self, container: Any, rate: Any) -> None:
        self.as_they_come = container.format.name == "mpjpeg"  # says 25 frames a second, whatever comes
        self.rate = rate
        self.start = None
        if container.start_time is not None:
            self.start = container.start_time / 1_000_000

    def __call__(self, frame: Any, number: int) -> float:
        now = time.monotonic() if self.as_they_come else frame.time
        if now is None:
            return float(number / self.rate)
        if self.start is None or self.as_they_come and number == 0:
            self.start = now
        return max(0.0, now - self.start)


class Film:
    """Predictions on the frames of a video, an MP4 a head (H.264), each frame at its time.

    What is written can be played, also when the process is killed: fragments first, one whole film in the end.
    """

    def __init__(self, predictor: Any, folder: Path, video: Video) -> None:
        self.predictor = predictor
        self.folder = folder
        self.stem = os.path.splitext(video.name)[0]
        self.rate = Fraction(video.rate).limit_denominator(1001)
        self.films: dict[str, tuple[Any, Any]] = {}
        self.last = -1

    def add(self, named: NamedPicture, prediction: dict[str, Any]) -> None:
        """Raises OSError where the film cannot be written."""
        assert isinstance(named.image, Tensor)
        av = import_av()
        self.last = max(self.last + 1, round((named.time or 0) / TICKS))
        for task, drawn in self.predictor.draw(named.image, prediction).items():
            if task not in self.films:
                self.films[task] = self._open(task, self._canvas(task, named.image, drawn))
            container, stream = self.films[task]
            canvas = drawn.new_full((3, stream.height, stream.width), 255)
            part = drawn[:, : stream.height, : stream.width]
            canvas[:, : part.shape[1], : part.shape[2]] = part
            frame = av.VideoFrame.from_ndarray(canvas.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            frame.pts, frame.time_base = self.last, TICKS
            container.mux(stream.encode(frame))

    def close(self) -> None:
        for container, stream in self.films.values():
            container.mux(stream.encode())
            container.close()

    def _open(self, task: str, size: tuple[int, int]) -> tuple[Any, Any]:
        place = place_of(self.folder, task, self.predictor.kinds)
        place.mkdir(exist_ok=True)
        fragments = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}  # of a second
        av = import_av()
        container = av.open(str(place / f"{self.stem}.mp4"), "w", options=fragments)
        # Frames that refer to later ones (bf) would shift all times; the macroblock tree (mbtree) reads memory that
        # nobody wrote, so that the same frames gave other bytes from time to time.
        coding = {"crf": "20", "preset": "veryfast", "bf": "0", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=self.rate, options=coding)
        stream.time_base = stream.codec_context.time_base = TICKS
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        return container, stream

    def _canvas(self, task: str, image: Tensor, drawn: Tensor) -> tuple[int, int]:
        """(H, W), both even, that every frame fits in: the legend of a mask grows with the classes that are there."""
        height, width = drawn.shape[1:]
        fullest = self.predictor.kinds[task].fullest(len(self.predictor.classes[task]))
        if fullest is not None:
            whole = self.predictor.draw(image, {task: fullest})[task]
            height, width = max(height, whole.shape[1]), max(width, whole.shape[2])
        return height + height % 2, width + width % 2
