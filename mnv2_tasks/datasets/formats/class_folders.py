"""Which folders are a classification set's sides, and which are its classes."""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from mnv2_tasks.datasets.formats.label_table import LabelledFiles
from mnv2_tasks.datasets.reading.classes import alike_form, choose_classes, composed
from mnv2_tasks.datasets.reading.image_lists import TABLES, check_no_lists
from mnv2_tasks.datasets.reading.images import SUFFIXES
from mnv2_tasks.datasets.reading.listing import LeftOut, subfolders, walk
from mnv2_tasks.datasets.reading.sides import by_side, check_untold, side_of
from mnv2_tasks.errors import InputError, amount, quote

DEEPEST = 3  # folders that archives put around their contents


def read_folders(root: Path, choice: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, LabelledFiles]]:
    """The class names and the images of each side, of <side>/<class>/ or, as train's alone, of <class>/.

    Sides are found in any spelling. Either may lie in a folder more, as archives are unpacked. Raises InputError for
    folders that could be sides as well as classes, and for whatever else does not fit.
    """
    place, sides, levels = _find(root, choice or ())
    first = "train" if "train" in sides else next(iter(sides))  # it names the classes
    train, notes = _unpacked(sides[first], choice or ())
    folders = class_folders(train)
    if not folders:
        raise InputError(f"{train}: no class folders; {_advice(root)}")
    if odd := [name for name in folders if side_of(name) and name not in (choice or ())]:
        raise InputError(_two_ways(train, odd[0], folders))
    # A side that is evaluated alone may lack a class that the model knows.
    classes = choose_classes(train, list(folders) if first == "train" else [*folders, *(choice or ())], choice)
    contents = {first: _read(train, folders, classes, root=root)}
    if len(sides) == 1 and not any(map(side_of, classes)):
        fix = "sort all images into train/<class>/ and val/<class>/, or name a table as data.labels=<file>.csv"
        inside = [os.path.relpath(root / name, train) for name in contents[first].files]
        check_untold(inside, train, fix=fix)
        if sides[first] == place:  # else a folder tells that it is train's
            check_no_lists(root, walk(root, TABLES)[0], fix=fix)
    inner = [subfolders(train / folders[name]) for name in classes if name in folders]
    if len(inner) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner):
        notes.append(f"every class has the folders {', '.join(inner[0][:3])}: all in them is of that class")
    if place != root:
        notes.insert(0, f"all in {place.relative_to(root).as_posix()}/")
    for side, folder in sides.items():
        if side == first:
            continue
        top, its_notes = _unpacked(folder, classes)
        folders = class_folders(top)
        alike = set(map(alike_form, classes)) & set(map(alike_form, folders))
        if side == "test" and len(folders) < 2 and not alike:
            number = len(walk(folder, SUFFIXES)[0])
            notes.append(f"{folder.name}/ is no side: no class folder has its {amount(number, 'image')}")
            continue
        if not folders:
            raise InputError(
                f"{top}: no class folders are here, as in {train.name}; sort the images into some, or remove the folder"
            )
        if choice is None:
            _check_known(top, folders, train, classes)
        contents[side] = _read(top, folders, classes, root=root)
        contents[side].notes = its_notes
    for folder, used in levels.items():
        notes += _others(folder, used, contents[first].left_out)
    contents[first].notes = notes
    return classes, contents


def class_folders(folder: Path) -> dict[str, str]:
    """{name of a class, Unicode composed: its folder}, which systems may have written decomposed."""
    folders: dict[str, str] = {}
    for name in subfolders(folder):
        form = composed(name)
        if form in folders:
            raise InputError(f"{folder}: two folders are called {quote(form)}, in two forms of Unicode; make them one")
        folders[form] = name
    return folders


def _find(root: Path, chosen: Collection[str]) -> tuple[Path, dict[str, Path], dict[Path, Collection[str]]]:
    """The folder that holds the sides or the classes; each side's folder; folders on the way, and what of them is used.

    Where there are no sides, the folder of the class folders is train's.
    """
    place, levels = root, dict[Path, Collection[str]]()
    for _ in range(DEEPEST):
        names = subfolders(place)
        if sides := _sides(place, names, chosen):
            levels[place] = sides.values()
            return place, {side: place / name for side, name in sides.items()}, levels
        if set(chosen) & set(class_folders(place)):
            break
        holders = [name for name in names if "train" in map(side_of, subfolders(place / name))]
        if len(holders) > 1:
            raise InputError(
                f"{place}: {holders[0]} and {holders[1]} both hold train and other sides; sort all images into "
                "train/<class>/ and val/<class>/, or give one of these folders as data.root"
            )
        inner = holders or names
        if len(inner) != 1 or not subfolders(place / inner[0]):
            break
        levels[place] = inner
        place /= inner[0]
    names = subfolders(place)
    if not names or (not chosen and all(side_of(name, among_others=True) for name in names)):
        raise InputError(f"{place}: no class folders; {_advice(root)}")
    return place, {"train": place}, levels


def _sides(place: Path, names: Sequence[str], chosen: Collection[str]) -> dict[str, str]:
    """{side: folder}, where train, or else every side, has class folders; none where there are class folders alone."""
    # A folder of data.classes is a class, unless it holds some.
    free = [n for n in names if n not in chosen or set(class_folders(place / n)) & set(chosen)]
    plain = [name for name in free if side_of(name)]
    loose = [n for n in free if n not in plain and side_of(n, among_others=True) and subfolders(place / n)]
    if not plain and len({side_of(name, among_others=True) for name in loose}) < 2:  # a class may be "train station"
        return {}
    sides = by_side(plain + loose, place, among_others=True, plainest=True)
    if "train" in sides and subfolders(place / sides["train"]):
        return sides
    if set(chosen) & set(class_folders(place)):
        return {}
    if others := [name for name in names if name not in sides.values()]:
        raise InputError(_two_ways(place, next(iter(sides.values())), [*sides.values(), *others]))
    if "train" in sides:
        raise InputError(f"{place / sides['train']}: no class folders; {_advice(place)}")
    if all(subfolders(place / name) for name in sides.values()):
        return sides
    raise InputError(f"{place}: there is no train folder beside {', '.join(sides.values())}; put it there")


def _unpacked(folder: Path, classes: Collection[str]) -> tuple[Path, list[str]]:
    """Where a side's class folders are, such as seg_train/seg_train for seg_train; and a note of it."""
    place = folder
    for _ in range(DEEPEST):
        names = subfolders(place)
        if len(names) != 1 or names[0] in classes or not (subfolders(place / names[0]) or side_of(names[0])):
            break
        place /= names[0]
    return place, [f"in {place.relative_to(folder.parent)}/"] if place != folder else []


def _read(folder: Path, folders: Mapping[str, str], classes: Sequence[str], *, root: Path) -> LabelledFiles:
    files, left = walk(folder, SUFFIXES)
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    inside: dict[str, list[str]] = {name: [] for name in folders.values()}
    for file in files:
        name, slash, _ = file.partition("/")
        if not slash:
            left["beside the class folders"] += 1
        elif name in inside:
            inside[name].append(prefix + file)
    for name, entry in folders.items():
        if name not in classes and inside[entry]:
            left["of other classes"] += len(inside[entry])
        elif name in classes and not inside[entry]:
            aside = walk(folder / entry, SUFFIXES)[1].aside
            raise InputError(
                f"{folder / entry}: this class folder holds no images{aside}; put some there, or remove it"
            )
    if not any(inside[folders[name]] for name in classes if name in folders):
        raise InputError(f"{folder}: no images of data.classes={list(classes)} are here; add some, or remove it")
    images = [inside[folders[name]] if name in folders else [] for name in classes]
    targets = np.repeat(np.arange(len(classes)), [len(class_images) for class_images in images])
    return LabelledFiles([file for class_images in images for file in class_images], targets, left)


def _others(folder: Path, used: Collection[str], left_out: LeftOut) -> list[str]:
    """A note on the folders that are not used; what is in them, and beside them, is counted as left out."""
    files, left = walk(folder, SUFFIXES, beside=(".csv", ".txt", ".md", ".json"), skip=used)
    left_out.update(left)
    for name in files:
        left_out["in other folders" if "/" in name else "beside the folders"] += 1
    others = [name for name in subfolders(folder) if name not in used]
    return [f"not used: {', '.join(f'{name}/' for name in others)}"] if others else []


def _check_known(folder: Path, names: Collection[str], train: Path, classes: Sequence[str]) -> None:
    """Every class of another side is one of train's."""
    forms = {alike_form(name): name for name in classes}
    for name in sorted(set(names) - set(classes)):
        if alike := forms.get(alike_form(name)):
            raise InputError(f"{folder / name}: in {train.name} this class is {quote(alike)}; give both one name")
        raise InputError(
            f"{folder / name}: {train} has no class of that name; rename the folder, give train images of it, or "
            "choose the classes as data.classes"
        )


def _two_ways(place: Path, name: str, folders: Collection[str]) -> str:
    names = quote(",".join(sorted(folders)), 80).strip("'")
    return (
        f"{place}: {name} is called as a side is, but lies beside other folders; move it away, sort all images into "
        f"train/<class>/ and val/<class>/, or say which folders are classes, of data.classes=[{names}]"
    )


def label_tables(root: Path) -> list[str]:
    """Names of CSV files in the folder, which may tell the labels of its images."""
    return sorted(name for name in os.listdir(root) if name.lower().endswith(".csv") and name[0] != ".")


def _advice(root: Path) -> str:
    return (
        "put the images into train/<class>/ (and val/<class>/), or into <class>/, or name a table of files and labels "
        f"as data.labels={next(iter(label_tables(root)), '<file>.csv')}"
    )
