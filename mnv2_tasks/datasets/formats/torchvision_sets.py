"""Well-known classification sets by name, through torchvision's readers, which can download them."""

import gzip
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets, tv_tensors
from torchvision.models import MobileNet_V2_Weights

from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.reading.classes import check_choice, choose_classes, choose_two
from mnv2_tasks.datasets.reading.file_split import MAX_SIDE, part
from mnv2_tasks.datasets.reading.images import check_images
from mnv2_tasks.datasets.reading.labelled_split import (
    LabelledImages,
    held_out_by_class,
    label_contents,
    only_classes,
    shown_of,
)
from mnv2_tasks.datasets.reading.listing import LeftOut, subfolders
from mnv2_tasks.datasets.reading.sides import SIDES
from mnv2_tasks.errors import InputError


class ArraySplit(Dataset[dict[str, Any]]):
    """Small images that are kept in memory: (I, H, W, 3) or, grey, (I, H, W) uint8; targets (I,) int64."""

    def __init__(self, images: NDArray[np.uint8], targets: NDArray[np.int64], *, class_names: tuple[str, ...]) -> None:
        self.images = images
        self.targets = targets
        self.class_names = class_names
        self.left_out = LeftOut()
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The sample in the one format; a grey image has three equal channels."""
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of a split of {len(self)} images")
        pixels = self.images[index]
        image = np.stack([pixels] * 3) if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return {
            "image": tv_tensors.Image(torch.from_numpy(image)),
            "image_id": index,
            "size": pixels.shape[:2],
            "label": torch.tensor(self.label(index)),
        }

    def contents(self) -> str:
        return label_contents(self.targets, len(self.class_names))

    def label(self, index: int) -> int:
        return int(self.targets[index])

    def label_counts(self) -> Tensor:
        """(K,) int64: how many images show each class."""
        return torch.from_numpy(np.bincount(self.targets, minlength=len(self.class_names)))

    def subset(self, mask: NDArray[np.bool_]) -> "ArraySplit":
        """The images where `mask` (I,) is true, in the same order."""
        return ArraySplit(self.images[mask], self.targets[mask], class_names=self.class_names)

    def joined(self, other: "ArraySplit") -> "ArraySplit":
        """These images, then the other's, of the same classes."""
        images = np.concatenate([self.images, other.images])
        return ArraySplit(images, np.concatenate([self.targets, other.targets]), class_names=self.class_names)

    def shown(self) -> NDArray[np.bool_]:
        """(I, K): which classes each image shows."""
        return shown_of(self.targets, len(self.class_names))

    def only(self, classes: tuple[str, ...]) -> "ArraySplit":
        """The images of these classes alone, in their numbers."""
        return only_classes(self, classes)


class LoadedSource:
    """A classification source whose splits are already loaded."""

    def __init__(self, classes: tuple[str, ...], sides: Mapping[str, Dataset[dict[str, Any]]]) -> None:
        self.provides = {"classification": classes}
        self._sides = dict(sides)

    def split(self, name: str) -> Dataset[dict[str, Any]] | None:
        """The samples of "train", "val" or "test"; None where there are none."""
        return self._sides.get(name)


def cifar10(
    root: str | Path, *, classes: Sequence[str] | None = None, val_fraction: float = 0.1, download: bool = True
) -> LoadedSource:
    """CIFAR-10: 50,000 and 10,000 colour images of 32x32, 10 classes, below root/cifar-10-batches-py.

    The official test images are test's.

    Args:
        root: the folder that they lie in, or are downloaded to.
        classes: names in the order of the class indices, images of others being left out; None: all.
        val_fraction: of the official training images of each class, by a hash of the image's number, those of val.
            With 0 all are for training and the test images serve as val, as in most papers.
        download: whether to fetch what is not there.
    """
    reader = datasets.CIFAR10
    files = f"{reader.url} and put it into {root}"
    return _in_memory(reader, root, files, choice=check_choice(classes), val_fraction=val_fraction, download=download)


def mnist(
    root: str | Path, *, classes: Sequence[str] | None = None, val_fraction: float = 0.1, download: bool = True
) -> LoadedSource:
    """MNIST: 60,000 and 10,000 grey images of 28x28, 10 digits, below root/MNIST/raw; the rest as in `cifar10`."""
    choice = check_choice(classes)
    return _from_idx(datasets.MNIST, root, choice=choice, val_fraction=val_fraction, download=download)


def fashion_mnist(
    root: str | Path, *, classes: Sequence[str] | None = None, val_fraction: float = 0.1, download: bool = True
) -> LoadedSource:
    """Fashion-MNIST: as MNIST, with 10 kinds of clothes, below root/FashionMNIST/raw; the rest as in `cifar10`."""
    choice = check_choice(classes)
    return _from_idx(datasets.FashionMNIST, root, choice=choice, val_fraction=val_fraction, download=download)


def flowers102(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    download: bool = True,
    max_side: int | None = MAX_SIDE,
) -> LoadedSource:
    """Oxford 102 Flowers below root/flowers-102: the official 1,020 training, 1,020 val and 6,149 test images.

    `classes` are names in the order of the class indices, images of others being left out; None: all.
    """
    all_names = tuple(datasets.Flowers102.classes)
    chosen = choose_two("Oxford 102 Flowers", all_names, check_choice(classes))
    page = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
    files = f"102flowers.tgz, imagelabels.mat and setid.mat from {page} and put them into {root}/flowers-102"
    sides = {}
    for side in SIDES:
        # A loader that gives the path back: images are read here as those of every other set.
        make = partial(datasets.Flowers102, Path(root).expanduser(), side, loader=Path)
        reader = read(make, root, files, download=download)
        paths, labels = zip(*(reader[i] for i in range(len(reader))), strict=True)
        check_images(paths)
        names = [path.name for path in paths]
        folder, targets = paths[0].parent, np.array(labels, np.int64)
        split = LabelledImages(folder, names, targets=targets, class_names=all_names, max_side=max_side)
        sides[side] = split.only(chosen)
    return LoadedSource(chosen, sides)


def imagenet(
    root: str | Path,
    *,
    classes: Sequence[str] | None = None,
    val_fraction: float = 0.0,
    max_side: int | None = MAX_SIDE,
) -> ImageFolder:
    """ImageNet (ILSVRC 2012): `root/train/<wnid>/` and `root/val/<wnid>/`, in the order of the wnids.

    From the official archives in `root` (ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and
    ILSVRC2012_devkit_t12.tar.gz) torchvision unpacks the sides that are not there. All 1,000
    classes get their usual names; any other number keeps the wnids. `val_fraction` above 0 with no val side: held out.
    `classes` are names, or wnids, in the order of the class indices, images of others being left out; None: all.
    """
    folder = Path(root).expanduser()
    for side in ("train", "val"):
        if not (folder / side).is_dir() and not (side == "val" and val_fraction):
            files = "the ILSVRC2012 archives from https://image-net.org (they need an account) and put them into"
            read(partial(datasets.ImageNet, folder, side), root, f"{files} {root}", download=None)
    wnids, choice = subfolders(folder / "train"), check_choice(classes)
    if len(wnids) != 1000:
        return ImageFolder(folder, classes=choice, val_fraction=val_fraction, max_side=max_side)
    names = dict(zip(wnids, MobileNet_V2_Weights.IMAGENET1K_V2.meta["categories"], strict=True))
    if choice is not None and not set(choice) <= set(wnids):
        usual = list(names.values())
        choice = [wnids[usual.index(name)] for name in choose_classes("ImageNet", usual, choice)]
    source = ImageFolder(folder, classes=choice, val_fraction=val_fraction, max_side=max_side)
    source.provides = {"classification": tuple(names[wnid] for wnid in source.provides["classification"])}
    return source


def read(make: Callable[..., Any], root: str | Path, files: str, *, download: bool | None) -> Any:
    """A torchvision reader, its files downloaded if they are not there and `download` allows.

    `files` says what to fetch and where to put it, for the InputError where that fails; None: it has no download.
    """
    try:
        return make()
    except (OSError, RuntimeError, ValueError, AssertionError, ImportError) as error:
        failure: Exception = error
    if download:
        try:
            return make(download=True)
        except (OSError, RuntimeError, ValueError, AssertionError) as error:
            failure = error
    reason = " ".join(str(failure).split()) or type(failure).__name__
    raise InputError(
        f"{root}: this data set is not there, or not whole, and cannot be downloaded: {reason[:200]}; fetch {files}, "
        "or give the folder that has it as data.root"
    ) from failure


def _from_idx(
    reader: type[datasets.MNIST], root: str | Path, *, choice: list[str] | None, val_fraction: float, download: bool
) -> LoadedSource:
    """A set in MNIST's format. Archives that lie there are unpacked, however they were compressed: torchvision takes
    only those of its own mirror."""
    raw, names = Path(root).expanduser() / reader.__name__ / "raw", [name for name, _ in reader.resources]
    for archive in (raw / name for name in names):
        plain = archive.with_suffix("")
        if archive.is_file() and not plain.exists():
            try:
                plain.write_bytes(gzip.decompress(archive.read_bytes()))
            except (OSError, EOFError, zlib.error) as error:
                plain.unlink(missing_ok=True)
                raise InputError(f"{archive}: cannot be unpacked ({error}); copy it again") from error
    files = f"{', '.join(names)} from {reader.mirrors[0]} and put them into {raw}"
    return _in_memory(reader, root, files, choice=choice, val_fraction=val_fraction, download=download)


def _in_memory(
    reader: Callable[..., Any],
    root: str | Path,
    files: str,
    *,
    choice: list[str] | None,
    val_fraction: float,
    download: bool,
) -> LoadedSource:
    if not isinstance(val_fraction, (int, float)) or not 0 <= val_fraction < 1:
        raise InputError(f"data.val_fraction={val_fraction}: give the part to hold out, from 0 to below 1")
    splits = []
    for train in (True, False):
        data_set = read(partial(reader, Path(root).expanduser(), train=train), root, files, download=download)
        # "0 - zero" and "T-shirt/top" would be odd in the names of metrics.
        names = tuple(name.split(" - ")[0].replace("/", " or ") for name in data_set.classes)
        classes = choose_two(reader.__name__, names, choice)
        split = ArraySplit(np.asarray(data_set.data), np.asarray(data_set.targets, np.int64), class_names=names)
        splits.append(split)
    train_split, test = splits
    mask = held_out_by_class([str(i) for i in range(len(train_split))], train_split.targets, val_fraction)
    rest, val = part(train_split, mask)
    if val is None:
        test.notes = ["the test images serve as val"]
    sides = {"train": rest, "val": test} if val is None else {"train": rest, "val": val, "test": test}
    return LoadedSource(classes, {side: split.only(classes) for side, split in sides.items()})
