"""Images with a mask file each, whatever their layout: the split that yields samples, and masks read and checked."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from mnv2_tasks.datasets.reading.classes import new_numbers
from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.datasets.reading.images import all_sizes, check_image, check_images, image_size, open_image
from mnv2_tasks.datasets.reading.legend import Legend
from mnv2_tasks.datasets.reading.problems import refuse
from mnv2_tasks.errors import InputError, amount, without_any
from mnv2_tasks.files import open_regular
from mnv2_tasks.samples import IGNORED

COUNTED = 5_000  # masks that are read for the pixel counts, and so checked before training
Mask = NDArray[np.uint8]  # (H, W)


def read_mask(path: Path, legend: Legend) -> Mask:
    """A mask file as class indices (H, W) uint8, 255 ignored. Raises InputError for values that mean nothing."""
    with _opened(path, whole=True) as opened:
        coloured = legend.by_colour or opened.mode not in ("1", "L", "P") and not opened.mode.startswith("I")
        if coloured:
            values = np.asarray(opened.convert("RGB"))
        else:
            values = np.asarray(opened.convert("L")) // 255 if opened.mode == "1" else np.asarray(opened)
    if coloured and not legend.colours and (values == values[..., :1]).all():
        coloured, values = False, values[..., 0]  # grey, kept as RGB
    if coloured:
        values = values.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)  # (H, W)
        table = {(r << 16) + (g << 8) + b: index for (r, g, b), index in legend.colours.items()}
        known = np.array(sorted(table) or [-1], np.int32)
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        classes = np.array([table.get(colour, IGNORED) for colour in known.tolist()], np.uint8)[place]
        bad = known[place] != values
    else:
        small = values.dtype.itemsize == 1
        indices = legend.indices[values if small else values.clip(0, 255)]
        classes, bad = indices.astype(np.uint8), indices < 0
        if not small:
            bad |= (values < 0) | (values > 255)
    if bad.any():
        first = int(values[bad][0])
        example: Any = [first >> 16, first >> 8 & 255, first & 255] if coloured else first
        what = "colour" if coloured else "value"
        raise InputError(
            f"{path}: {np.count_nonzero(values == first)} pixels have the {what} {example}, which stands for no class; "
            + legend.advice.replace("{}", str(example))
        )
    return classes


def mask_size(path: Path) -> tuple[int, int]:
    """The (H, W) of a mask, from the file's header. Raises InputError."""
    with _opened(path, whole=False) as mask:
        return mask.height, mask.width


def to_canvas(mask: Mask, canvas: tuple[int, int]) -> tv_tensors.Mask:
    """The mask in the pixels of an image that was perhaps reduced when it was read: the nearest value of each."""
    if mask.shape != canvas:
        mask = np.array(Image.fromarray(mask).resize(canvas[::-1], Image.Resampling.NEAREST))
    return tv_tensors.Mask(torch.from_numpy(mask))


Pixels = tuple[NDArray[np.int64], NDArray[np.int64]]  # (M,) the masks that were read; (M, K) the pixels of each class


def count_pixels(mask: Callable[[int], Mask], length: int, *, classes: int) -> Pixels:
    """The pixels of each class, 255 left out, in at most 5,000 of `length` masks, evenly spread."""
    chosen = np.linspace(0, length - 1, min(length, COUNTED)).round().astype(np.int64)

    def count(index: int) -> NDArray[np.int64] | str:
        try:
            return np.bincount(mask(index).ravel(), minlength=256)[:classes]
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        counted = list(pool.map(count, chosen.tolist()))
    refuse([problem for problem in counted if isinstance(problem, str)])
    rows = [row if not isinstance(row, str) else np.zeros(classes, np.int64) for row in counted]
    return chosen, np.array(rows, np.int64).reshape(-1, classes)


class MaskSplit(FileSplit):
    """Pairs of an image and a mask, of equal size.

    Args:
        images, masks: the files, in pairs.
        sizes: (I, 2) int, the (H, W) of each mask, which are the image's, too.
        legend: what the masks' values mean.
        max_side: a longer image is reduced when it is read, and its mask with it, taking the nearest values.
    """

    def __init__(
        self,
        images: Sequence[Path],
        masks: Sequence[Path],
        *,
        sizes: NDArray[np.int64],
        legend: Legend,
        class_names: tuple[str, ...],
        max_side: int | None = None,
    ) -> None:
        super().__init__(max_side=max_side)
        self.class_names = class_names
        self.legend = legend
        # Bytes in one array: a list of paths would be copied page by page into every loader process.
        self._images = np.array([os.fsencode(path) for path in images], np.bytes_)
        self._masks = np.array([os.fsencode(path) for path in masks], np.bytes_)
        self._sizes = sizes
        self._pixels: Pixels | None = None

    def __len__(self) -> int:
        return len(self._images)

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self._images[index]))

    def mask_path(self, index: int) -> Path:
        return Path(os.fsdecode(self._masks[index]))

    def declared(self, index: int) -> tuple[int, int]:
        height, width = self._sizes[index].tolist()
        return height, width

    def labels(self, index: int, *, size: tuple[int, int], canvas: tuple[int, int]) -> dict[str, Any]:
        return {"mask": to_canvas(self.mask(index), canvas)}

    def mask(self, index: int) -> Mask:
        """(H, W) in pixels of the original."""
        return read_mask(self.mask_path(index), self.legend)

    def pixel_counts(self) -> Tensor:
        """(K,) int64: the pixels of each class, ignored ones left out, in at most 5,000 masks, evenly spread."""
        if self._pixels is None:
            self._pixels = count_pixels(self.mask, len(self), classes=len(self.class_names))
        return torch.from_numpy(self._pixels[1].sum(0))

    @property
    def counted(self) -> int:
        """The masks whose pixels are counted by now."""
        return 0 if self._pixels is None else len(self._pixels[0])

    def contents(self) -> str:
        classes = amount(len(self.class_names), "class", "classes")
        if self._pixels is None:
            return classes
        chosen, rows = self._pixels
        share = rows.sum() / max(self._sizes[chosen].prod(1).sum(), 1)
        some = f" in {len(chosen):,} masks" if len(chosen) < len(self) else ""
        blank = without_any(int((rows.sum(1) == 0).sum()), "mask")
        return f"{classes}, {share:.1%} of the pixels labelled{some}{blank}"

    def subset(self, mask: NDArray[np.bool_]) -> "MaskSplit":
        """The pairs where `mask` (I,) is true, in the same order."""
        indices = np.flatnonzero(mask).tolist()
        split = MaskSplit(
            [self.path(i) for i in indices],
            [self.mask_path(i) for i in indices],
            sizes=self._sizes[mask],
            legend=self.legend,
            class_names=self.class_names,
            max_side=self.max_side,
        )
        if self._pixels is not None and (counted := mask[self._pixels[0]]).any():
            chosen, rows = self._pixels
            split._pixels = (np.cumsum(mask) - 1)[chosen[counted]], rows[counted]
        return split

    def joined(self, other: "MaskSplit") -> "MaskSplit":
        """These pairs, then the other's, whose masks mean the same."""
        splits = (self, other)
        both = MaskSplit(
            [Path(os.path.abspath(split.path(i))) for split in splits for i in range(len(split))],
            [Path(os.path.abspath(split.mask_path(i))) for split in splits for i in range(len(split))],
            sizes=np.concatenate([self._sizes, other._sizes]),
            legend=self.legend,
            class_names=self.class_names,
            max_side=self.max_side,
        )
        if self._pixels is not None and other._pixels is not None:
            chosen = np.concatenate([self._pixels[0], len(self) + other._pixels[0]])
            both._pixels = chosen, np.concatenate([self._pixels[1], other._pixels[1]])
        both.left_out, both.notes = self.left_out, list(self.notes)
        return both

    def shown(self) -> NDArray[np.bool_]:
        """(I, K): which classes each image shows, of those whose masks were counted."""
        self.pixel_counts()
        assert self._pixels is not None
        shown = np.zeros((len(self), len(self.class_names)), np.bool_)
        shown[self._pixels[0]] = self._pixels[1] > 0
        return shown

    def only(self, classes: tuple[str, ...]) -> "MaskSplit":
        """All pairs, in the numbers of these classes, among which are all of the masks'."""
        if classes == self.class_names:
            return self
        numbers = new_numbers(self.class_names, classes)
        split = self.subset(np.ones(len(self), np.bool_))
        split.legend, split.class_names = self.legend.renumbered(numbers), classes
        if split._pixels is not None:
            chosen, rows = split._pixels
            wide = np.zeros((len(rows), len(classes)), np.int64)
            wide[:, numbers[: rows.shape[1]]] = rows
            split._pixels = chosen, wide
        return split


def make_split(
    images: Sequence[Path],
    masks: Sequence[Path],
    *,
    legend: Legend,
    class_names: tuple[str, ...],
    max_side: int | None,
    read: bool = True,
) -> MaskSplit:
    """Check the files: each whole, a mask of its image's size, and its values (unless read=False) all known.

    Sizes come from the files' headers. Of more than 5,000 masks the values of that many are checked, evenly spread,
    and those of the others when they are used.
    Raises InputError for the first pair that is wrong, and counts the others.
    """
    check_images([*images, *masks])
    sizes = all_sizes(masks, mask_size)
    with ThreadPoolExecutor(8) as pool:
        declared = [(height, width) for height, width in sizes.tolist()]
        problems = [problem for problem in pool.map(_other_size, images, masks, declared) if problem]
        refuse(problems, f" ({len(problems)} of {len(masks)} masks are)")
    split = MaskSplit(images, masks, sizes=sizes, legend=legend, class_names=class_names, max_side=max_side)
    if read:
        split.pixel_counts()
    return split


def _other_size(image: Path, mask: Path, size: tuple[int, int]) -> str | None:
    try:
        check_image(image, declared=size)  # fits as stored, or as its EXIF turns it
    except InputError:
        try:
            height, width = image_size(image)
        except InputError as error:
            return str(error)
        return (
            f"{mask}: the mask is {size[1]}x{size[0]} but its image {image} is {width}x{height} (width x height); "
            "make it anew from the image as it is, resized to the nearest value where need be"
        )
    return None


@contextmanager
def _opened(path: Path, *, whole: bool) -> Iterator[Image.Image]:
    """A mask's file; `whole`: with its pixels read."""
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(open_image(stack.enter_context(open_regular(path))))
            if whole:
                opened.load()
        except Exception as error:  # PIL's decoders raise nearly anything on a broken file
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"{path}: the mask cannot be read: {reason}; replace it, or remove it and its image"
            ) from error
        yield opened
