"""Classification data: a folder of images for each class, or a table of files and their labels."""

from collections.abc import Sequence
from pathlib import Path

from mnv2_tasks.datasets.formats.class_folders import label_tables, read_folders
from mnv2_tasks.datasets.formats.label_table import read_table
from mnv2_tasks.datasets.reading.classes import check_choice
from mnv2_tasks.datasets.reading.file_split import MAX_SIDE, check_root, part
from mnv2_tasks.datasets.reading.images import MAX_CHECKED, check_images
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages, held_out_by_class
from mnv2_tasks.datasets.reading.sides import no_train
from mnv2_tasks.errors import InputError


class ImageFolder:
    """`root/{train,val,test}/<class>/` with images at any depth, or `root/<class>/` alone.

    Args:
        root: the data set's folder. Its sides may be spelled in other ways, as Training or my_valid_set, and lie in a
            folder more.
        labels: a CSV file below root to read instead: columns "file" (relative to root), "label" and, if there is
            one, "split" (train, val or test, in any spelling).
        separator: between the labels of a file that has several, such as "|": the data is multi-label then, and a
            file without labels shows no class.
        classes: names in the order of the class indices, all others being left out; None: every class of train, sorted.
        val_fraction: where there is no val side, the part of train's images held out, class by class, by a hash of
            their names. With 0, the test side, where there is one, serves as val.
        outside: whether file names may lead out of root.
        max_side: an image whose long side is over this is reduced when it is read.

    A test folder without class folders, such as an unlabelled competition's, counts as none. Raises InputError for
    what is wrong: in folders and tables at once, in images once their side is asked for.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | None = None,
        separator: str | None = None,
        classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        outside: bool = False,
        max_side: int | None = MAX_SIDE,
    ) -> None:
        self.root = check_root(root, val_fraction=val_fraction)
        classes = check_choice(classes)
        if separator is not None and (labels is None or not separator):
            raise InputError(f"data.separator={separator!r} parts the labels in a table: name it as data.labels=<file>")
        if labels is None:
            names, sides = read_folders(self.root, classes)
        else:
            names, sides = read_table(self.root / labels, separator, classes, root=self.root, outside=outside)
        if separator is None and len(names) < 2:
            table = next(iter(label_tables(self.root) if labels is None else ()), None)
            fix = f"; or name the labels' table as data.labels={table}" if table else ""
            raise InputError(f"{self.root}: {names[0]} is the only class: give two or more to tell apart{fix}")
        self.provides = {"classification" if separator is None else "multilabel": names}
        self._sides: dict[str, LabelledImages] = {}
        for side, one in sides.items():
            split = LabelledImages(self.root, one.files, targets=one.targets, class_names=names, max_side=max_side)
            split.left_out, split.notes = one.left_out, one.notes
            self._sides[side] = split
        if "train" in self._sides and "val" not in self._sides:
            self._hold_out(val_fraction)
        self._labels = labels
        self._checked = set[str]()

    def split(self, name: str) -> LabelledImages | None:
        """The images of "train", "val" or "test", checked; None where there are none."""
        if name == "train" and name not in self._sides:
            place = self.root / self._labels if self._labels else self.root
            raise no_train(
                place, self._sides, fix="list training images" if self._labels else "add it, as train/<class>/"
            )
        split = self._sides.get(name)
        # Above the limit only existence is checked, which the listing of folders has just seen.
        if split is not None and name not in self._checked and not (self._labels is None and len(split) > MAX_CHECKED):
            check_images([split.path(i) for i in range(len(split))])
            self._checked.add(name)
        return split

    def _hold_out(self, fraction: float) -> None:
        train = self._sides["train"]
        mask = held_out_by_class([train.file_name(i) for i in range(len(train))], train.targets, fraction)
        train, val = part(train, mask)
        if val is not None:
            self._sides |= {"train": train, "val": val}
        elif "test" in self._sides:
            val = self._sides["val"] = self._sides.pop("test")
            val.notes = [*val.notes, "the test images serve as val"]
