"""A data set in the class numbers of a network that knows its classes, and perhaps others."""

from typing import Any

from mnv2_tasks.datasets.reading.classes import BACKGROUND
from mnv2_tasks.errors import InputError

OF_OBJECTS = ("detection", "multilabel")


class Renumbered:
    """`source` with other numbers for its classes; those that it lacks are without images.

    Args:
        kind: the kind of annotation that `classes` are of; others of the source are renumbered alike.
        classes: all of the source's, and any others, in the order of the new indices.
    """

    def __init__(self, source: Any, kind: str, classes: tuple[str, ...]) -> None:
        self.source = source
        self.classes = classes
        objects = set(OF_OBJECTS) & set(source.provides)
        if objects and kind == "segmentation" and classes[0] == BACKGROUND == source.provides[kind][0]:
            self.classes = classes[1:]  # painted from objects, on a background
        self.provides = dict(source.provides)
        for other in objects or {kind}:
            self.provides[other] = self.classes
        if objects and "segmentation" in source.provides:
            painted = source.provides["segmentation"][:1] == (BACKGROUND,)
            self.provides["segmentation"] = (BACKGROUND, *self.classes) if painted else self.classes

    def split(self, name: str) -> Any:
        """The samples of "train", "val" or "test"; None where there are none."""
        split = self.source.split(name)
        if split is None:
            return None
        if not hasattr(split, "only"):
            raise InputError(f"{type(self.source).__name__}: its classes are those of its parts; give data of the same")
        less = split.only(self.classes)
        less.left_out, less.notes = split.left_out, split.notes
        return less
