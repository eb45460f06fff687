"""Images whose names begin with their class, as cat_12.jpg, in one folder: a data format of one's own, in one file."""

import numpy as np

from mnv2_tasks.datasets.reading.file_split import check_root, held_out, part
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages
from mnv2_tasks.errors import InputError


class NamedFiles:
    """root/<class>_<anything>.jpg or .png; a part is held out as val by a hash of the names."""

    def __init__(self, root: str, *, val_fraction: float = 0.2) -> None:
        folder = check_root(root, val_fraction=val_fraction)
        names = sorted(path.name for path in folder.iterdir() if path.suffix in (".jpg", ".png") and "_" in path.name)
        labels = [name.partition("_")[0] for name in names]
        classes = tuple(sorted(set(labels)))
        if len(classes) < 2:
            raise InputError(f"{folder}: names tell {len(classes)} classes: name the images <class>_<anything>.jpg")
        self.provides = {"classification": classes}
        targets = np.array([classes.index(label) for label in labels])
        images = LabelledImages(folder, names, targets=targets, class_names=classes)
        train, val = part(images, held_out(names, val_fraction))
        self.sides = {"train": train, "val": val}

    def split(self, name: str) -> LabelledImages | None:
        """The images of "train" or "val"; there is no "test"."""
        return self.sides.get(name)
