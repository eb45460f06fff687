"""Image files in: any ordinary file becomes uint8 RGB, and a broken file is named before training starts."""

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision import tv_tensors

from mnv2_tasks.datasets.reading.depth import WIDE_SUFFIXES, depth_of, is_wide, to_eight_bits
from mnv2_tasks.datasets.reading.problems import hearing, refuse
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import open_regular

# A long panorama or a scan (32,768 x 8,192) is no attack, 2 GB of pixels out of a file of 400 kB are.
MAX_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # PIL alone refuses what has twice as many, and warns before
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about EXIF: what is hurt counts as upright
SUFFIXES = (  # what PIL opens of itself; formats that start other programs (.eps, .wmf) are not among them
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".jpx", ".avif", ".tga", ".ico", ".pcx", ".qoi", ".sgi"),
)
MIN_SIDE = 16  # shorter sides are stretched to this, so that crops and strides have something to work on
MAX_CHECKED = 20_000  # with more images than this, only their existence is checked before training
_TURNS = {  # EXIF orientation -> what puts the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STARTERS = ("EPS", "WMF")  # formats whose files are drawn by other programs, whatever their names end in
_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
# What PIL's decoders raise on broken files, besides OSError.
_BROKEN = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError),
    *(RuntimeError, MemoryError, struct.error, zlib.error),
)
_UNREADABLE = (*_BROKEN, Image.DecompressionBombError)


def read_image(
    path: str | Path,
    *,
    content: bytes | None = None,
    declared: tuple[int, int] | None = None,
    max_side: int | None = None,
    depth: int = 16,
) -> tv_tensors.Image:
    """Read any image as uint8 (3, H, W) RGB: grey, CMYK, palette and 16-bit ones, too; transparency is dropped.

    Of 16-bit values that use `depth` bits the upper 8 of these are kept. The EXIF rotation is applied, unless
    `declared`, the (H, W) of the annotations, fits only the image as stored. A long side over `max_side` is reduced to
    it (a JPEG then decodes at a fraction of its size, much faster); a side under 16 pixels is stretched to 16. With
    `content`, a file's bytes from elsewhere, `path` is what messages call it. Raises InputError for a file that is
    missing, broken or no image, or when `declared` fits neither way up.
    """
    limit = (max_side, max_side) if max_side else None
    try:
        with open_regular(path) if content is None else io.BytesIO(content) as file, open_image(file) as opened:
            stored = (opened.height, opened.width)
            if limit and opened.format in ("JPEG", "MPO"):
                opened.thumbnail(limit, reducing_gap=1.0)  # before anything else loads the pixels
            image = _rgb(opened, depth)
            orientation = _orientation(opened)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if _is_turned(path, stored, orientation, declared):
        image = image.transpose(_TURNS[orientation])
    if limit:
        image.thumbnail(limit, reducing_gap=1.0)
    if min(image.size) < MIN_SIDE:
        image = image.resize((max(image.width, MIN_SIDE), max(image.height, MIN_SIDE)), Image.Resampling.BILINEAR)
    return tv_tensors.Image(_tensor(image))


def decode(opened: Image.Image, depth: int = 16) -> Tensor:
    """uint8 (3, H, W) RGB of an image that PIL holds, as `read_image` reads a file, but of its own size.

    Of a file with several frames, the one where it stands. Raises what PIL raises: see `reading`.
    """
    image = _rgb(opened, depth)
    orientation = _orientation(opened)  # after the pixels, behind which it may stand
    return _tensor(image if orientation == 1 else image.transpose(_TURNS[orientation]))


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What PIL raises on a broken file as an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def open_image(file: IO[bytes]) -> Image.Image:
    """PIL's image of a file, before its pixels are read. Raises what PIL raises, also for more than `MAX_PIXELS`."""
    image = Image.open(file)
    if image.format in _STARTERS:
        raise UnidentifiedImageError
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """The (H, W) of an image, its EXIF rotation applied, from the file's header. Raises InputError."""
    try:
        with open_regular(path) as file, open_image(file) as image:
            height, width = image.height, image.width
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def all_sizes(
    paths: Sequence[Path] | Sequence[str], measure: Callable[[Any], tuple[int, int]] = image_size
) -> NDArray[np.int64]:
    """(I, 2): the (H, W) of each file, with a few threads. One that was told of as broken counts as `MIN_SIDE` wide."""

    def measured(path: str | Path) -> tuple[int, int]:
        try:
            return measure(path)
        except InputError:
            if strict:
                raise
            return MIN_SIDE, MIN_SIDE

    strict = not hearing()  # asked here: it is unknown to other threads
    with ThreadPoolExecutor(8) as pool:
        return np.array(list(pool.map(measured, paths)), np.int64).reshape(-1, 2)


def check_image(path: str | Path, *, declared: tuple[int, int] | None = None) -> None:
    """Refuse an image that is missing, cut short, no image or not of the `declared` (H, W).

    Cheap: it reads the header and looks for the end marker of a JPEG or PNG. Only when that is not there are
    the pixels decoded, to be sure. Damage in between is found when the image is read. Raises InputError.
    """
    try:
        with open_regular(path) as file, open_image(file) as image:
            stored = (image.height, image.width)
            position = file.tell()
            file.seek(-min(4096, os.fstat(file.fileno()).st_size), os.SEEK_END)
            complete = _END_MARKERS.get(image.format or "", b"") in file.read()
            file.seek(position)
            if not complete:
                image.load()
            orientation = 1 if declared in (None, stored) else _orientation(image)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    _is_turned(path, stored, orientation, declared)


def check_images(paths: Sequence[str | Path], *, declared: Sequence[tuple[int, int] | None] | None = None) -> None:
    """check_image for every path, with a few threads; for more than 20,000 paths, only that each file exists.

    Existence takes one listing per folder. Raises InputError for the first bad file, and counts the others.
    """
    missing = _missing(paths)
    refuse([_no_such(path) for path in missing], f" ({len(missing)} of {len(paths)} images are missing)")
    if len(paths) > MAX_CHECKED:
        return
    sizes = declared if declared is not None else [None] * len(paths)
    there = [pair for pair in zip(paths, sizes, strict=True) if str(pair[0]) not in set(missing)]
    with ThreadPoolExecutor(8) as pool:
        problems = [problem for problem in pool.map(lambda pair: _problem(*pair), there) if problem]
    refuse(problems, f" ({len(problems)} of {len(paths)} images are bad)")


def _problem(path: str | Path, declared: tuple[int, int] | None) -> str | None:
    try:
        check_image(path, declared=declared)
    except InputError as error:
        return str(error)
    return None


def _missing(paths: Sequence[str | Path]) -> list[str]:
    listings: dict[str, set[str]] = {}
    missing = []
    for path in map(str, paths):
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        # A file system that ignores case finds names that its listing spells differently.
        if name not in listings[folder] and not os.path.isfile(path):
            missing.append(path)
    return missing


def find_depth(paths: Sequence[Path]) -> int | None:
    """The bits that the values of 16-bit files among these use, from at most 64 of them; None where there are none.

    Files that cannot be read are passed over.
    """

    def opened() -> Iterator[Image.Image]:
        wide = [path for path in paths if path.suffix.lower() in WIDE_SUFFIXES]
        for path in wide[:: math.ceil(len(wide) / 64) or 1]:
            with suppress(*_UNREADABLE), open_regular(path) as file, open_image(file) as image:
                yield image

    return depth_of(opened())


def _rgb(image: Image.Image, depth: int = 16) -> Image.Image:
    if is_wide(image):
        image = to_eight_bits(image, depth)
    image.load()
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # PIL warns about a palette with transparency that goes to RGB directly
    return image if image.mode == "RGB" else image.convert("RGB")


def _tensor(image: Image.Image) -> Tensor:
    # NumPy copies (H, W, 3) to (3, H, W) in this thread; torch would start its own beside the loader's processes.
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; broken EXIF counts as upright."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except _BROKEN:
        return 1
    return orientation if orientation in _TURNS else 1


def _is_turned(path: str | Path, stored: tuple[int, int], orientation: int, declared: tuple[int, int] | None) -> bool:
    """Whether to apply the EXIF orientation: annotations are made on the stored or on the upright image."""
    upright = stored[::-1] if orientation >= 5 else stored
    if declared is not None and declared not in (stored, upright):
        turned = f" ({upright[1]}x{upright[0]} after its EXIF rotation)" if upright != stored else ""
        fix = "correct the width and height there, or put the image there that was annotated"
        if declared[::-1] == stored:
            fix = f"the two have changed places: {fix}"
        raise InputError(
            f"{path}: the image is {stored[1]}x{stored[0]}{turned} but its annotations declare "
            f"{declared[1]}x{declared[0]} (width x height); {fix}"
        )
    return orientation != 1 and (declared is None or declared == upright)


def _no_such(path: str | Path) -> str:
    return f"{path}: no such image; put it there, or remove it from the data"


def _unreadable(path: str | Path, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(_no_such(path))
    if isinstance(error, Image.DecompressionBombError):
        reason = f"it has more than {MAX_PIXELS:,} pixels; make it smaller, or cut it into parts"
        return InputError(f"{path}: the image cannot be read: {reason}")
    if isinstance(error, UnidentifiedImageError):
        empty = os.path.isfile(path) and not os.path.getsize(path)
        reason = "the file is empty" if empty else "it is no image of a known format"
    elif isinstance(error, MemoryError):
        return InputError(f"{path}: the image cannot be read: it is too large for this machine's memory; reduce it")
    else:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return InputError(f"{path}: the image cannot be read: {reason}; replace it, or remove it from the data")
