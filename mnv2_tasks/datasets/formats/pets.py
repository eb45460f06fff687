"""Oxford-IIIT Pet: breeds, head boxes and trimaps of the same photos."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchvision import datasets

from mnv2_tasks.datasets.formats.merged import MergedSplit, join
from mnv2_tasks.datasets.formats.torchvision_sets import read
from mnv2_tasks.datasets.formats.voc import Voc
from mnv2_tasks.datasets.reading.boxed_split import DetectionSplit
from mnv2_tasks.datasets.reading.classes import check_choice, choose_classes, choose_two
from mnv2_tasks.datasets.reading.file_split import MAX_SIDE, check_root
from mnv2_tasks.datasets.reading.images import check_images
from mnv2_tasks.datasets.reading.labelled_split import LabelledImages, held_out_by_class
from mnv2_tasks.datasets.reading.legend import Legend
from mnv2_tasks.datasets.reading.masked_split import make_split
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.samples import IGNORED

PAGE = "https://www.robots.ox.ac.uk/~vgg/data/pets/data"
FOLDER = "oxford-iiit-pet"  # torchvision's name for it
HEADS, MASKS = ("cat", "dog"), ("background", "pet")
TELLERS = {"classification": "lists", "detection": "xmls", "segmentation": "trimaps"}


class Pets:
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012) in its official layout: images/, annotations/{trainval,test}.txt,
    annotations/xmls/ and annotations/trimaps/, in `root` or in root/oxford-iiit-pet, where it is downloaded to.

    - classification: the breeds that trainval.txt lists, in the order of their official numbers (all 37).
    - detection: boxes around heads, "cat" or "dog" as the XML says; only about half of the images have one, nearly all
      of them in trainval.
    - segmentation: "background" and "pet", from the trimaps; their border is ignored.

    The official test images are test's; of the official trainval, `val_fraction` of each breed, by a hash of the file
    name, are val's. With 0, trainval is train and the test images serve as val.

    Args:
        root: see above.
        classes: breeds in the order of the class indices, images of others being left out; or of "cat" and "dog",
            boxes of the other being left out, and no image. None: all.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        download: bool = True,
        max_side: int | None = MAX_SIDE,
    ) -> None:
        self.root = _find(Path(root).expanduser(), download=download)
        check_root(self.root, val_fraction=val_fraction)
        self._max_side = max_side
        trainval, test = (_read_list(self.root / "annotations" / f"{side}.txt") for side in ("trainval", "test"))
        if odd := [name for name, number in test.items() if number not in set(trainval.values())]:
            raise InputError(f"{self.root}: test.txt: trainval.txt has no image of {odd[0]}'s breed; correct the lists")
        breeds = {number: name.rsplit("_", 1)[0] for name, number in trainval.items()}
        choice = check_choice(classes) or []
        numbers = {breeds[number]: number for number in sorted(breeds)}
        choose_classes(self.root, [*numbers, *HEADS], choice)
        of_heads = set(choice) <= set(HEADS)
        chosen = tuple(numbers) if of_heads else choose_two(self.root, list(numbers), choice)
        self._numbers = [numbers[name] for name in chosen]
        self.provides = {
            "classification": chosen,
            "detection": tuple(choice) if of_heads and choice else HEADS,
            "segmentation": MASKS,
        }
        mask = held_out_by_class(list(trainval), np.array(list(trainval.values())), val_fraction).tolist()
        val = {name: number for (name, number), out in zip(trainval.items(), mask, strict=True) if out}
        train = {name: number for name, number in trainval.items() if name not in val}
        self._listed = {"train": train, "val": val, "test": test} if val else {"train": train, "val": test}
        self._heads: DetectionSplit | None = None
        self._splits: dict[str, MergedSplit] = {}

    def split(self, name: str) -> MergedSplit | None:
        """The images of "train", "val" or "test", checked, with what is known of each; None where there are none."""
        if name in self._listed and name not in self._splits:
            listed = {stem: n for stem, n in self._listed[name].items() if n in self._numbers}
            split = self._splits[name] = self._make(listed)
            if others := len(self._listed[name]) - len(listed):
                split.notes.append(f"{amount(others, 'image')} of other classes left out")
            if name == "val":
                official = len(self._listed["val"]) + len(self._listed["train"])
                note = f"held out of trainval, {len(self._listed[name]):,} of {official:,} by name"
                split.notes.append(note if "test" in self._listed else "the test images serve as val")
        return self._splits.get(name)

    def _make(self, listed: dict[str, int]) -> MergedSplit:
        """The side of these images: names without suffix, and the official numbers of their breeds."""
        folder, trimaps = self.root / "images", self.root / "annotations" / "trimaps"
        names = [f"{name}.jpg" for name in listed]
        check_images([folder / name for name in names])
        labels = {number: label for label, number in enumerate(self._numbers)}
        targets = np.array([labels[number] for number in listed.values()], np.int64)
        classes = self.provides["classification"]
        lists = LabelledImages(folder, names, targets=targets, class_names=classes, max_side=self._max_side)
        parts: dict[str, tuple[Any, list[str]]] = {"lists": (lists, list(listed))}

        heads = self._all_heads()
        stems = [Path(heads.file_name(i)).stem for i in range(len(heads))]
        mask = np.array([name in listed for name in stems], np.bool_)
        if mask.any():
            parts["xmls"] = heads.subset(mask), [name for name in stems if name in listed]

        files = set(os.listdir(trimaps)) if trimaps.is_dir() else set()
        if traced := [name for name in listed if f"{name}.png" in files]:
            split = make_split(
                [folder / f"{name}.jpg" for name in traced],
                [trimaps / f"{name}.png" for name in traced],
                legend=_trimap_legend(),
                class_names=MASKS,
                max_side=self._max_side,
                read=False,  # values are checked as they are used: reading all trimaps first takes long
            )
            parts["trimaps"] = split, traced
        return join(parts, TELLERS)

    def _all_heads(self) -> DetectionSplit:
        """The images with XML files, whatever their side."""
        if self._heads is None:
            source = Voc(
                self.root / "annotations" / "xmls",  # as a data set of its own: the lists beside it are of other form
                images=os.path.relpath(self.root / "images", self.root / "annotations" / "xmls"),
                one_based=True,
                val_fraction=0,
                bad_boxes="fix",
                max_side=self._max_side,
            )
            heads = source.split("train")
            assert heads is not None
            self._heads = heads.only(self.provides["detection"])
        return self._heads


def _trimap_legend() -> Legend:
    indices = np.full(256, -1, np.int16)
    indices[[1, 2, 3]] = 1, 0, IGNORED  # the pet, the background, the border
    return Legend(indices, {}, advice="a trimap has 1, 2 and 3 alone: unpack the annotations again")


def _find(root: Path, *, download: bool) -> Path:
    for folder in (root, root / FOLDER):
        if (folder / "annotations" / "trainval.txt").is_file():
            return folder
    files = f"{PAGE}/images.tar.gz and annotations.tar.gz and unpack both in {root / FOLDER}"
    read(lambda download=False: datasets.OxfordIIITPet(root, download=download), root, files, download=download)
    return root / FOLDER


def _read_list(file: Path) -> dict[str, int]:
    """{image name without suffix: number of its breed} of lines such as "Abyssinian_100 1 1 1"."""
    breeds: dict[str, int] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}; unpack the annotations again") from error
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and not line.startswith("#"):
            if len(words) < 2 or not words[1].isdecimal() or words[0] in breeds or {"/", "\\"} & set(words[0]):
                raise InputError(f"{file}: line {number}: {line!r:.60}; correct it: a name, once, and a class number")
            breeds[words[0]] = int(words[1])
    if not breeds:
        raise InputError(f"{file}: no images are listed; unpack the annotations again")
    return breeds
