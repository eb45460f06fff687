"""Segmentation data as a folder of images and a folder of masks, whose pixels are class indices or colours."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.files import check_root, held_out, part
from mnv2_tasks.datasets.images import SUFFIXES
from mnv2_tasks.datasets.legend import ClassTable, class_table, make_legend
from mnv2_tasks.datasets.names import check_inside
from mnv2_tasks.datasets.segmentation import MaskSplit, largest_value, make_split
from mnv2_tasks.datasets.sides import SPELLINGS
from mnv2_tasks.errors import InputError, shorten
from mnv2_tasks.foreign import read_text

LISTS = "{split}.txt"
MASK_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff")  # not JPEG: it changes values
Pairs = list[tuple[Path, Path]]  # image, mask


class Masks:
    """Image and mask files of the same names; a mask's values are class indices, with 255 for ignored pixels.

    Args:
        root: the data set's folder.
        images, masks: folders below root, "{split}" allowed. A name is a path in there without its suffix.
        mask_suffix: what follows an image's name in its mask's, as "_mask" in a_mask.png for a.jpg.
        lists: file below root, with "{split}" for train, val, test; a line is an image's name, or an image and a mask
            with their paths below root. None: {split}.txt where there is one; otherwise the sides are sub-folders
            of `images` and `masks`, or without those are split by a hash of the names.
        classes: names in the order of the indices. None: of `colours`, of class_dict.csv (name, r, g, b) or
            classes.json (names, and perhaps a palette) in root; without any, numbers up to the largest in train.
        colours: {class: [r, g, b]}, for masks that are told by colour.
        ignore: more that is to count as 255: values, colours [r, g, b], or names of classes, which are left out.
        val_fraction: the part of train held out where there is no val side.
        outside: whether file names may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    Masks of 16-bit, palette and black-and-white files count by their values, RGB masks by colour. Raises InputError
    for what is wrong: in folders, lists and names at once, in the files once their side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str = "images",
        masks: str = "masks",
        mask_suffix: str = "",
        lists: str | None = None,
        classes: Sequence[str] | None = None,
        colours: Mapping[str, Sequence[int]] | None = None,
        ignore: Sequence[int | str | Sequence[int]] = (),
        val_fraction: float = 0.2,
        outside: bool = False,
        max_side: int | None = None,
    ) -> None:
        self.root = check_root(root, val_fraction=val_fraction)
        self.val_fraction, self.max_side = val_fraction, max_side
        self._sides = _find_sides(self.root, images, masks, suffix=mask_suffix, lists=lists, outside=outside)
        table = class_table(self.root, classes, colours)
        if not table.where:
            values = [one for one in ignore if isinstance(one, int)]
            largest = largest_value([mask for _, mask in self._sides["train"]], ignore=values)
            table = ClassTable("the training masks", [str(number) for number in range(largest + 1)])
        self.classes, self.legend = make_legend(table, ignore)
        self.provides = {"segmentation": self.classes}
        self._splits: dict[str, MaskSplit | None] = {}

    def split(self, name: str) -> MaskSplit | None:
        """The pairs of "train", "val" or "test", checked; None where there are none."""
        if name not in self._splits:
            if name in self._sides:
                self._splits[name] = self._make(name)
            if "val" not in self._sides and name in ("train", "val"):
                self._hold_out(self._splits.get("train") or self._make("train"))
        return self._splits.get(name)

    def _make(self, side: str) -> MaskSplit:
        images, masks = zip(*self._sides[side], strict=True)
        split = make_split(images, masks, legend=self.legend, class_names=self.classes, max_side=self.max_side)
        if side == "train" and np.count_nonzero(split.pixel_counts()) < 2:
            raise InputError(
                f"{masks[0].parent}: the training masks hold less than two classes, besides 255 for ignored; if black "
                "and white stand for classes give data.colours={background: [0,0,0], object: [255,255,255]}"
            )
        return split

    def _hold_out(self, train: MaskSplit) -> None:
        held = held_out([_stem(train.path(i), self.root) for i in range(len(train))], self.val_fraction)
        self._splits["train"], self._splits["val"] = part(train, held)


def _find_sides(
    root: Path, images: str, masks: str, *, suffix: str, lists: str | None, outside: bool
) -> dict[str, Pairs]:
    """The pairs of each side; all of them are train where there are neither lists nor sub-folders."""
    if lists or ("{split}" not in images + masks and (root / "train.txt").is_file()):
        files = {side: root / (lists or LISTS).replace("{split}", side) for side in SPELLINGS}
        if not files["train"].is_file():
            raise InputError(
                f"{files['train']}: there is no such list; name the lists, below {root}, as data.lists=<file>, with "
                "{split} where train, val or test stands"
            )
        return {
            side: _read_list(file, root, images, masks, suffix=suffix, outside=outside)
            for side, file in files.items()
            if file.is_file()
        }
    if "{split}" not in images and "{split}" not in masks:
        if not (root / images / "train").is_dir():
            return {"train": _pairs(*_folders(root, images, masks), suffix=suffix)}
        images, masks = f"{images}/{{split}}", f"{masks}/{{split}}"
    sides = {}
    for side, spellings in SPELLINGS.items():
        for spelling in spellings:
            if side == "train" or (root / images.replace("{split}", spelling)).is_dir():
                folders = _folders(root, *(place.replace("{split}", spelling) for place in (images, masks)))
                sides[side] = _pairs(*folders, suffix=suffix)
                break
    return sides


def _folders(root: Path, images: str, masks: str) -> tuple[Path, Path]:
    for place, what in ((images, "images"), (masks, "masks")):
        if not (root / place).is_dir():
            raise InputError(
                f"{root / place}: there is no such folder of {what}; name it, below {root}, as data.{what}"
            )
    return root / images, root / masks


def _pairs(images: Path, masks: Path, *, suffix: str) -> Pairs:
    """Every image of a folder with its mask. Raises InputError for one without, or a name that two files have."""
    found, their = _named(images, masks, suffix=suffix)
    if not found:
        raise InputError(
            f"{images}: there are no images in this folder; put some there, or name another as data.images"
        )
    if missing := [name for name in found if name not in their]:
        raise InputError(
            f"{found[missing[0]]}: it has no mask {masks / missing[0]}{suffix}.png ({len(missing)} of {len(found)} "
            "images have none); put it there or remove the image, or correct data.masks or data.mask_suffix"
        )
    return [(path, their[name]) for name, path in found.items()]


def _named(images: Path, masks: Path, *, suffix: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """The images and the masks by their names."""
    if images == masks and not suffix:
        raise InputError(f"{images}: images and masks in one folder are told apart by data.mask_suffix; give that")
    found: list[dict[str, Path]] = [{}, {}]
    for names, folder, kinds in ((found[0], images, SUFFIXES), (found[1], masks, MASK_SUFFIXES)):
        for path in _files(folder, kinds):
            name = _stem(path, folder)
            is_mask = name.endswith(suffix) if folder == masks else masks in path.parents
            if is_mask == (names is found[0]):
                continue  # of the other kind
            name = name.removesuffix(suffix) if is_mask else name
            if name in names:
                raise InputError(
                    f"{path}: {names[name].name} beside it has the same name; rename or remove one of them"
                )
            names[name] = path
    return found[0], found[1]


def _files(folder: Path, kinds: tuple[str, ...]) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if name.lower().endswith(kinds) and name[0] != ".")


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _read_list(file: Path, root: Path, images: str, masks: str, *, suffix: str, outside: bool) -> Pairs:
    lines = read_text(file, fix="give a list of image names, one a line").splitlines()
    pairs: Pairs = []
    found: dict[str, Path] = {}
    their: dict[str, Path] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        words = line.split()
        if len(words) == 2 and all(os.path.isfile(root / word) for word in words):
            if not outside:
                check_inside(words, root, root=root, where=f"{file}: line {number}")
            pairs.append((root / words[0], root / words[1]))
        elif line:
            if not found:
                found, their = _named(*_folders(root, images, masks), suffix=suffix)
            relative = line.removeprefix(f"{images}/")
            name = next((name for name in (line, relative, os.path.splitext(relative)[0]) if name in found), "")
            if name not in found or name not in their:
                what = (
                    f"image {shorten(line, 150)}.* in {root / images}"
                    if name not in found
                    else f"mask {shorten(name, 150)}{suffix}.png in {root / masks}"
                )
                raise InputError(f"{file}: line {number}: there is no {what}; put it there, or remove the line")
            pairs.append((found[name], their[name]))
    if not pairs:
        raise InputError(f"{file}: no images are listed; list some, or remove the file")
    image, count = Counter(image for image, _ in pairs).most_common(1)[0]
    if count > 1:
        raise InputError(f"{file}: {image} is listed {count} times; keep one line of it")
    return pairs
