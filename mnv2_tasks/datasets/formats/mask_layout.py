"""Which image has which mask, and on which side the two are: by lists, by folders, by names."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mnv2_tasks.datasets.reading.file_names import ByEnds, FileNames, check_inside, plain_form
from mnv2_tasks.datasets.reading.image_lists import TABLES, find_lists, given_lists, not_read
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import LeftOut, subfolders, walk
from mnv2_tasks.datasets.reading.sides import SPELLINGS, by_side, check_untold, side_of, spelled
from mnv2_tasks.errors import InputError, amount, shorten
from mnv2_tasks.files import read_text

LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".jp2", ".j2k", ".jpx")  # they may change values
MASK_SUFFIXES = tuple(suffix for suffix in SUFFIXES if suffix not in LOSSY)
Folders = tuple[Path, Path]  # of images, of masks


@dataclass
class MaskFiles:
    """The pairs of image and mask of one side."""

    pairs: list[tuple[Path, Path]]  # image, mask
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)


def read_layout(
    root: Path, images: str, masks: str, *, suffix: str, lists: str | None, outside: bool
) -> dict[str, MaskFiles]:
    """The pairs of each side, train's first; all are train's where neither lists nor folders tell sides.

    Args:
        images, masks, suffix, lists, outside: as `Masks` has them.

    Raises InputError for an image without a mask, and for whatever leaves a doubt.
    """
    patterns = "{split}" in images + masks
    tables, _ = walk(root, TABLES)
    texts = [file for file in tables if file.lower().endswith(".txt")]
    files = given_lists(root, lists) if lists else {} if patterns else find_lists(root, texts, task="Segmentation")
    unread = notes = not_read(f for f in tables if side_of(Path(f).stem) and root / f not in files.values())
    if files:
        return _read_lists(files, root, images, masks, suffix=suffix, outside=outside, notes=unread)
    place = root
    while not patterns and not (place / images).is_dir():
        inner = subfolders(place)
        halves = by_side([name for name in inner if (place / name / images).is_dir()], place, among_others=True)
        alone = [name for name in halves.values() if side_of(name)]  # "test" may hold images/train, too
        if "train" in halves or (alone and not any(map(side_of, subfolders(place / alone[0] / images)))):
            folders = {side: (place / name / images, place / name / masks) for side, name in halves.items()}
            return _pair_all(folders, suffix=suffix, notes=notes)
        if len(inner) != 1:
            break
        place /= inner[0]
        notes = [f"all in {place.relative_to(root).as_posix()}/", *unread]
    if patterns:
        image_folders, mask_folders = _spelt(place, images, "images"), _spelt(place, masks, "masks")
        folders = {
            s: (image_folders[s], mask_folders.get(s, place / masks.replace("{split}", s)))
            for s in SPELLINGS
            if s in image_folders
        }
    elif (place / images).is_dir():
        folders = _inner_sides(place / images, place / masks) or {"train": (place / images, place / masks)}
    else:
        folders = {"train": (root / images, root / masks)}
    sides = _pair_all(folders, suffix=suffix, notes=notes)
    if len(folders) == 1:
        names = [image.relative_to(place).as_posix() for image, _ in next(iter(sides.values())).pairs]
        check_untold(names, place, fix="put them into images/train and so on, or list those of each side in train.txt")
    if not patterns and len({folder for folder, _ in folders.values()} | {place / images}) > len(folders):
        used = [folder.name for folder, _ in folders.values()]
        listing, _ = walk(place / images, SUFFIXES)
        if rest := sum(name.partition("/")[0] not in used for name in listing):
            next(iter(sides.values())).left_out["on no side"] += rest
    return sides


def _inner_sides(images: Path, masks: Path) -> dict[str, Folders]:
    """images/train and masks/train, in any spelling; a folder of masks may serve all sides."""
    image_names = by_side(subfolders(images), images)
    mask_names = by_side(subfolders(masks), masks) if masks.is_dir() else {}
    flat = masks if not mask_names else None
    return {side: (images / name, flat or masks / mask_names.get(side, name)) for side, name in image_names.items()}


def _spelt(root: Path, pattern: str, what: str) -> dict[str, Path]:
    """{side: the folder whose word stands for {split}}, or of all sides the one that the pattern names."""
    if "{split}" not in pattern:
        return dict.fromkeys(SPELLINGS, root / pattern)
    paths = {word: path for word, path in spelled(root, pattern).items() if path.is_dir()}
    sides = {side: paths[word] for side, word in by_side(paths, root / pattern, plainest=True).items()}
    if not sides:
        raise InputError(f"{root / pattern.replace('{split}', 'train')}: there is no such folder; correct data.{what}")
    return sides


def _pair_all(folders: Mapping[str, Folders], *, suffix: str, notes: list[str]) -> dict[str, MaskFiles]:
    sides: dict[str, MaskFiles] = {}
    shared = len({masks for _, masks in folders.values()}) < len(folders)
    for side, (images, masks) in folders.items():
        for place, what in ((images, "images"), (masks, "masks")):
            if not place.is_dir() and not (side == "test" and what == "masks" and len(folders) > 1):
                raise InputError(f"{place}: there is no such folder of {what}; name it as data.{what}")
        names = Names(images, masks, suffix=suffix)
        if side == "test" and sides and names.images and not any(map(names.mask_of, names.images)):
            notes = [*notes, f"there is no test side: no mask for its {amount(len(names.images), 'image')}"]
            continue
        sides[side] = names.pairs()
        if shared:
            del sides[side].left_out[UNUSED]
    next(iter(sides.values())).notes = notes
    return sides


UNUSED = "mask without an image"


class Names:
    """The images and the masks of two folders by their names, which are paths in there without suffixes.

    Names that differ only in Unicode's form, or in %20 for a blank, are one, unless both are there.
    """

    def __init__(self, images: Path, masks: Path, *, suffix: str) -> None:
        if images == masks and not suffix:
            raise InputError(f"{images}: images and masks in one folder are told apart by data.mask_suffix; give that")
        self.folders = (images, masks)
        self.suffix = suffix
        files, self.left_out = walk(images, SUFFIXES)
        if images == masks:
            others = [file for file in files if file.lower().endswith(MASK_SUFFIXES)]
            files = [file for file in files if not os.path.splitext(file)[0].endswith(suffix)]
        else:
            others, left = walk(masks, MASK_SUFFIXES) if masks.is_dir() else ([], LeftOut())
            if images not in masks.parents:  # else they are counted already, or are masks
                self.left_out.update(left)
        inside = [images / file for file in files]
        self.images = _by_stem([path for path in inside if images == masks or masks not in path.parents], images)
        self.masks = _by_stem(
            [masks / file for file in others if os.path.splitext(file)[0].endswith(suffix)], masks, suffix=suffix
        )
        self._alike = [_by_form(self.images), _by_form(self.masks)]
        self._ends: ByEnds | None = None

    def image(self, name: str) -> str | None:
        """The name of the image that a list calls so."""
        return name if name in self.images else self._alike[0].get(plain_form(name))

    def by_end(self, text: str) -> list[str]:
        """The name of the one image that a path of another place can mean."""
        if self._ends is None:
            self._ends = ByEnds(self.images)
        ends = [self._ends.find(form) for form in (text, os.path.splitext(text)[0])]
        return [names[0] for names in ends if len(names) == 1]

    def mask_of(self, name: str) -> Path | None:
        """The mask of an image."""
        other = name if name in self.masks else self._alike[1].get(plain_form(name))
        return None if other is None or (other != name and other in self.images) else self.masks[other]

    def pairs(self) -> MaskFiles:
        """Every image with its mask. Raises InputError for one without."""
        images, masks = self.folders
        if not self.images:
            raise InputError(
                f"{images}: there are no images in this folder{self.left_out.aside}; put some there, or name another "
                "as data.images"
            )
        pairs = [(path, self.mask_of(name)) for name, path in self.images.items()]
        if missing := [path for path, mask in pairs if mask is None]:
            raise InputError(
                f"{missing[0]}: {self.lacking(missing[0])} ({len(missing)} of {len(pairs)} images have none); put it "
                "there or remove the image, or correct data.masks or data.mask_suffix"
            )
        whole = [(path, mask) for path, mask in pairs if mask is not None]
        if unused := len(set(self.masks.values()) - {mask for _, mask in whole}):
            self.left_out[UNUSED] += unused
        return MaskFiles(whole, self.left_out)

    def lacking(self, image: Path) -> str:
        """What to say of an image without a mask."""
        images, masks = self.folders
        stem = masks / (_stem(image, images) + self.suffix)
        beside = sorted(os.listdir(stem.parent)) if stem.parent.is_dir() else []
        for name in beside:
            base, suffix = os.path.splitext(name)
            if base == stem.name and suffix.lower() in LOSSY:
                kind = "a JPEG" if suffix.lower().startswith((".jp", ".jf")) else suffix
                return f"its mask {name} is {kind}, which may not keep values: save the masks anew as PNG"
            if base == stem.name and suffix.lower() not in MASK_SUFFIXES and images != masks:
                return f"its mask {name} is of a kind that is not read: save the masks as PNG"
            if re.match(rf"{re.escape(stem.name)}[^0-9A-Za-z].*", base) and suffix.lower() in MASK_SUFFIXES:
                perhaps = f"perhaps data.mask_suffix={self.suffix}{base[len(stem.name) :]}"
                return f"it has no mask {stem}.png, but {name} is there: {perhaps}"
        return f"it has no mask {stem}.png"


def _by_stem(paths: Sequence[Path], folder: Path, *, suffix: str = "") -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in paths:
        name = _stem(path, folder).removesuffix(suffix)
        if name in names:
            raise InputError(f"{path}: {names[name].name} beside it has the same name; rename or remove one of them")
        names[name] = path
    return names


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _by_form(names: Mapping[str, Path]) -> dict[str, str]:
    """{plain form: the one name that has it}."""
    forms = Counter(map(plain_form, names))
    return {form: name for name in names if forms[form := plain_form(name)] == 1}


def _read_lists(
    files: Mapping[str, Path], root: Path, images: str, masks: str, *, suffix: str, outside: bool, notes: list[str]
) -> dict[str, MaskFiles]:
    below = FileNames(root)
    names: Names | None = None
    sides: dict[str, MaskFiles] = {}
    for side, file in files.items():
        pairs = []
        for number, line in enumerate(read_text(file, fix="give a list of image names, one a line").splitlines(), 1):
            if not (line := line.strip()):
                continue
            words = re.split(r"\s*[,;\t]\s*|\s+", line)
            image, mask = map(below.find, words) if len(words) == 2 else (None, None)
            if image is not None and mask is not None:
                if not outside:
                    check_inside(words, root, root=root, where=f"{file}: line {number}")
                pairs.append((root / image, root / mask))
                continue
            if names is None:
                for place, what in ((images, "images"), (masks, "masks")):
                    if not (root / place).is_dir():
                        raise InputError(f"{root / place}: there is no such folder of {what}; name it as data.{what}")
                names = Names(root / images, root / masks, suffix=suffix)
            pairs.append(_named(line, names, f"{images}/", where=f"{file}: line {number}"))
        if not pairs:
            raise InputError(f"{file}: no images are listed; list some, or remove the file")
        path, count = Counter(path for path, _ in pairs).most_common(1)[0]
        if count > 1:
            raise InputError(f"{file}: {path} is listed {count} times; keep one line of it")
        sides[side] = MaskFiles(pairs)
    if names is not None:
        listed = {path for side in sides.values() for path, _ in side.pairs}
        if unlisted := len(set(names.images.values()) - listed):
            names.left_out["on no list"] += unlisted
        next(iter(sides.values())).left_out = names.left_out
    next(iter(sides.values())).notes = notes
    return sides


def _named(line: str, names: Names, prefix: str, *, where: str) -> tuple[Path, Path]:
    """The pair of a line that names an image, with or without its folder and its suffix, or by a path of elsewhere."""
    written = os.path.normpath(line.replace("\\", "/"))
    forms = [form.removeprefix(prefix) for form in dict.fromkeys((line, written))]
    forms += [os.path.splitext(form)[0] for form in forms]
    forms += names.by_end(written)
    name = next((name for name in map(names.image, forms) if name is not None), None)
    mask = names.mask_of(name) if name is not None else None
    if name is None or mask is None:
        images, masks = names.folders
        what = (
            f"image {shorten(line, 150)}.* in {images}"
            if name is None
            else f"mask {shorten(name, 150)}{names.suffix}.png in {masks}"
        )
        raise InputError(f"{where}: there is no {what}; put it there, or remove the line")
    return names.images[name], mask
