"""Label files of YOLO: which is an image's own, the names of its classes, and the objects in its lines."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from mnv2_tasks.datasets.formats.yolo_files import LARGEST, read_lines, read_names
from mnv2_tasks.datasets.formats.yolo_layout import IMAGES, Layout, Places
from mnv2_tasks.datasets.reading.classes import choose_classes
from mnv2_tasks.datasets.reading.file_names import FileNames
from mnv2_tasks.datasets.reading.sides import side_of
from mnv2_tasks.errors import InputError, quote

LABELS = ("labels", "Labels", "label", "annotations", "Annotations")
NAMES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt")
MOST_UNNAMED = 10_000  # classes without names
FARTHEST = 2.0  # fractions of an image: what lies farther off is in pixels


class Line(NamedTuple):
    """An object in a label file."""

    number: int  # from 1
    label: int
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in fractions of the image
    outline: tuple[float, ...]  # x, y, ... in fractions; () for a box


def label_files(images: Sequence[str], names: FileNames) -> dict[str, str]:
    """{image: its label file}, for those that have one: by each folder's first of `label_folders` that has any."""
    by_folder: dict[str, list[str]] = {}
    for image in images:
        by_folder.setdefault(os.path.dirname(image), []).append(image)
    files: dict[str, str] = {}
    for folder, folder_images in by_folder.items():
        for labels in label_folders(folder, names):
            stems = [os.path.splitext(os.path.basename(image))[0] for image in folder_images]
            texts = names.find_all([os.path.join(labels, f"{stem}.txt") for stem in stems])
            pairs = [(image, text) for image, text in zip(folder_images, texts, strict=True) if text is not None]
            if pairs:
                files.update(pairs)
                break
    owners: dict[str, str] = {}
    for image, text in files.items():
        if owners.setdefault(text, image) != image:
            raise InputError(
                f"{names.folder / text}: {os.path.basename(owners[text])} and {os.path.basename(image)} both have "
                "these labels; keep one of the images"
            )
    return files


def label_folders(folder: str, names: FileNames) -> list[str]:
    """Where the labels of a folder of images may be: its path with the last "images" as "labels", labels/, beside."""
    parts = folder.split("/")
    places = []
    for at in reversed(range(len(parts))):
        if IMAGES.search(parts[at]):
            for word in LABELS:
                places.append("/".join([*parts[:at], IMAGES.sub(word, parts[at]), *parts[at + 1 :]]))
            break
    places += [os.path.join(word, folder) if folder else word for word in LABELS]
    return [place for place in dict.fromkeys(places) if names.find_folder(place) == place] + [folder]


def stray_labels(used: Iterable[str], layout: Layout) -> int:
    """How many text files lie beside label files without being one of an image, nor a list or the names of classes."""
    files = set(used)
    stems = {os.path.splitext(os.path.basename(image))[0].lower() for image in layout.unused}
    count = 0
    for folder in {os.path.dirname(file) for file in files}:
        for name in os.listdir(layout.names.folder / folder):
            stem, suffix = os.path.splitext(name.lower())
            other = name.lower() in NAMES or side_of(stem) or stem.startswith(("readme", "license", "."))
            count += suffix == ".txt" and not other and stem not in stems and os.path.join(folder, name) not in files
    return count


def class_names(layout: Layout, labels: Iterable[str]) -> tuple[str, ...]:
    """The names of the classes in their order; () where nobody tells them. Raises InputError.

    A description does, or the file that it names, or else classes.txt and its like in the root or beside the labels.
    """
    where, names = _told_names(layout, labels)
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise InputError(f"{where}: {count} classes are named {quote(name)}; give each a name of its own")
    return choose_classes(where, names, None)


def _told_names(layout: Layout, labels: Iterable[str]) -> tuple[Path, tuple[str, ...]]:
    description, root = layout.description, layout.names.folder
    if description and description.names:
        if description.count is not None and description.count != len(description.names):
            raise InputError(
                f"{description.file}: nc is {description.count}, but names are {len(description.names)}; correct one "
                "of the two"
            )
        return description.file, description.names
    if description and description.names_file:
        places = Places(root, [description.file.parent.absolute(), ""], outside=layout.outside)
        name = places.find(description.names_file, layout.names.find)
        if name is None:
            raise InputError(
                f"{description.file}: names: there is no {description.names_file} below {root}; put it there"
            )
        files = [root / name]
    else:
        folders = dict.fromkeys(["", *sorted({os.path.dirname(file) for file in labels})])
        folders = dict.fromkeys([*folders, *(os.path.dirname(folder) for folder in folders)])
        files = [root / folder / name for folder in folders for name in NAMES]
        files = [file for file in files if file.is_file()]
    tables = {file: read_names(file) for file in files}
    for file, names in tables.items():
        if names != tables[files[0]]:
            raise InputError(f"{file}: its class names are not those of {files[0]}; make them one, in one order")
    if not tables:
        return root, ()
    if description and description.count is not None and description.count != len(tables[files[0]]):
        raise InputError(
            f"{description.file}: classes is {description.count}, but {files[0]} names {len(tables[files[0]])}; "
            "correct one"
        )
    return files[0], tables[files[0]]


def read_labels(file: Path, *, names: Sequence[str], keypoints: int = 0) -> tuple[list[Line], int]:
    """The objects of a label file, and how many lines repeat an earlier one, which are left out.

    A line has 5 numbers: class, centre x and y, width, height, as fractions of the image; or the class and x, y of 3
    corners or more; or with `keypoints` a box and so many numbers, which are left alone. Raises InputError.
    """
    lines: dict[tuple[float, ...], Line] = {}
    repeats = 0
    for number, text in enumerate(read_lines(file, fix="correct or remove it", most=LARGEST), 1):
        if not text.strip():
            continue
        try:
            values = tuple(float(field) for field in text.split())
            if problem := _problem(values, len(names), keypoints):
                raise ValueError(problem)
        except ValueError as error:
            reason = str(error)
            if "could not convert" in reason:
                reason = f"{quote(text.strip())} is not numbers with blanks between; write class x y width height"
            raise InputError(f"{file}: line {number}: {reason}") from None
        if values in lines:
            repeats += 1
        else:
            lines[values] = _line(number, values, keypoints)
    return list(lines.values()), repeats


def _problem(values: tuple[float, ...], classes: int, keypoints: int) -> str:
    label, count = values[0], len(values)
    if count != 5 and count != 5 + keypoints and (keypoints or count < 7 or count % 2 == 0):
        if keypoints:
            return f"{count} numbers; kpt_shape in data.yaml asks for 5 + {keypoints}; correct one of them"
        if count == 6:
            return "6 numbers; a sixth is the confidence of a prediction: correct the boxes by hand, and leave it out"
        keys = " (for keypoints, data.yaml needs its kpt_shape)" if count > 7 else ""
        return f"{count} numbers; write class x y width height, or class and x y of 3 corners or more{keys}"
    if not all(map(math.isfinite, values)):
        return "a number is not finite; correct or remove the line"
    if label != int(label) or not 0 <= label < (classes or MOST_UNNAMED):
        known = f"the {classes} classes have 0 to {classes - 1}" if classes else f"give 0 to {MOST_UNNAMED - 1}"
        known = "the only class is 0" if classes == 1 else known
        return f"class {label:g}: {known}; correct it, or name the class in data.yaml"
    if abs(largest := max(values[1 : 5 if keypoints else None], key=abs)) > FARTHEST:
        return (
            f"{largest:g} is no fraction of the image, from 0 to 1; divide x and width by the image's "
            "width, y and height by its height"
        )
    return ""


def _line(number: int, values: tuple[float, ...], keypoints: int) -> Line:
    if len(values) == 5 or keypoints:
        x, y, width, height = values[1:5]
        return Line(number, int(values[0]), (x - width / 2, y - height / 2, x + width / 2, y + height / 2), ())
    xs, ys = values[1::2], values[2::2]
    return Line(number, int(values[0]), (min(xs), min(ys), max(xs), max(ys)), values[1:])
