"""From data sources to batches: kinds for tasks, transforms, padding, one loader a source."""

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import CombinedLoader, rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from mnv2_tasks.datasets import transforms
from mnv2_tasks.datasets.batches import Batch, Collate, Transformed
from mnv2_tasks.datasets.folds import Folds, cut, together
from mnv2_tasks.datasets.reading import data_summary
from mnv2_tasks.datasets.reading.depth import DEPTHS
from mnv2_tasks.datasets.reading.file_split import EncodedSplit
from mnv2_tasks.datasets.sampling import EvaluationOrder, TrainingOrder
from mnv2_tasks.datasets.transforms import Fit, Size
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import Kind
from mnv2_tasks.machine import cores

USUAL: dict[str, Callable[[Size], Any]] = {  # transforms for training; the command line's are the same
    "classification": transforms.classification,
    "multilabel": partial(transforms.classification, scale=(0.5, 1.0)),  # a small part loses classes
    "detection": transforms.detection,
    "segmentation": transforms.segmentation,
    "joint": transforms.joint,
}


class DataSource(Protocol):
    """One data set in one on-disk format.

    Attributes:
        provides: {name of a kind of annotation: the names of its classes}.
    """

    provides: dict[str, tuple[str, ...]]

    def split(self, name: str) -> Dataset[Any] | None:
        """The samples of "train", "val" or "test"; None where there is no such side."""


def assign_tasks(
    sources: Mapping[str, DataSource], tasks: Mapping[str, Kind], assign: Mapping[str, str]
) -> dict[str, dict[str, Kind]]:
    """{source: {task: kind}}: a task learns from the source that it was given, or the first that provides its kind.

    Raises InputError where no source provides it (and says who provides what), or a source is left over.
    """
    offers = "; ".join(f"{name} provides {', '.join(source.provides)}" for name, source in sources.items())
    assigned: dict[str, dict[str, Kind]] = {name: {} for name in sources}
    for task, kind in tasks.items():
        able = [name for name, source in sources.items() if kind.name in source.provides]
        chosen = assign.get(task) or next(iter(able), None)
        if chosen not in able:
            asked = f"assign.{task}={chosen}: " if chosen else ""
            raise InputError(
                f"{asked}task={task} learns {kind.name}, but {offers}; choose another data=..., or another task"
            )
        assigned[chosen][task] = kind
    if idle := [name for name, kinds in assigned.items() if not kinds]:
        raise InputError(f"no task learns from data={idle[0]} ({offers}); leave it out, or set assign.<task>={idle[0]}")
    return assigned


def outlast_signal(worker: int = 0) -> None:
    """In a loader's process: the first SIGTERM, which a scheduler sends to all, is for the run, which ends this one."""
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class LateLoader(DataLoader[Any]):
    """A DataLoader whose workers read nothing before a batch is asked for.

    Lightning asks for an iterator first, and then tells the order which epoch it is: of a resumed run, the workers
    would by then have read images of epoch 0.

    batches_done: how many batches of an epoch come before the first that is asked for, in a run that goes on.
    """

    def __init__(self, *arguments: Any, batches_done: Callable[[], int] | None = None, **settings: Any) -> None:
        self.batches_done = batches_done
        super().__init__(*arguments, **settings)

    def __iter__(self) -> Any:  # of batches; torch names a private class here
        if self.batches_done is not None and isinstance(self.sampler, TrainingOrder):
            order, batch = self.sampler, self.batch_size or 1
            order.go_on(order.epoch, self.batches_done() * batch * order.processes)
        yield from super().__iter__()


class DataModule(pl.LightningDataModule):
    """Loaders over one source or several for the given tasks; a batch has a part from each source.

    Every random choice of an image depends on (seed, pass, index) alone, so that a run gives the same batches with
    any number of workers, and after being stopped and resumed. An epoch is a pass over the source with the most
    steps; the others go round in it.

    Args:
        sources: {name: data set}.
        tasks: {task: the kind of annotation that it learns from}.
        sizes: {source: (H, W) of its images in a batch}; one side, or one (H, W), for all.
        assign: {task: source}, where several sources provide a kind and the first is not the one.
        augment: {kind, or "joint" for a source with several: (size -> transform for training)}; None: the `USUAL` ones,
            {}: images as in evaluation.
        fit: how images come to the size in evaluation: stretch, pad or crop.
        channels: of the images: 3, or 1 for grey.
        batch_size: images a process and step.
        mix: {source: share of the batch}; None: a whole batch of each in every step.
        balanced: draw images of rare classes as often as those of frequent ones.
        mixup, cutmix: the chance that a training batch is mixed so (arXiv 1710.09412 with alpha 0.2; 1905.04899 with
            alpha 1), for sources that serve classification alone.
        depth: the bits that the values of 16-bit files use.
        workers: loader processes; None for as many as there are cores for, at most 8.
        seed: of every random choice.
        folds: None leaves the sides as the sources have them.
    """

    def __init__(
        self,
        sources: Mapping[str, DataSource],
        tasks: Mapping[str, Kind],
        *,
        sizes: Mapping[str, Size] | Size | int,
        assign: Mapping[str, str] | None = None,
        augment: Mapping[str, Callable[[tuple[int, int]], Any]] | None = None,
        fit: Fit = "stretch",
        channels: int = 3,
        batch_size: int = 32,
        mix: Mapping[str, float] | None = None,
        balanced: bool = False,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        depth: int = 16,
        workers: int | None = None,
        seed: int = 0,
        folds: Folds | None = None,
    ) -> None:
        super().__init__()
        self.sources = dict(sources)
        self.tasks = dict(tasks)
        self.sizes = _each_size(sizes, list(sources))
        self.assigned = assign_tasks(sources, tasks, assign or {})
        if fit not in ("stretch", "pad", "crop"):
            raise InputError(f"fit={fit}: use stretch, pad or crop")
        if fit == "crop" and any(kind.placed for kind in tasks.values()):
            raise InputError("fit=crop cuts boxes and masks off: use stretch or pad with these tasks")
        if channels not in (1, 3):
            raise InputError(f"backbone.in_channels={channels}: images are read with 3 channels, or as grey with 1")
        self.augment = dict(USUAL if augment is None else augment)
        self.fit = fit
        self.channels = channels
        if not isinstance(batch_size, int):
            raise InputError(f"loader.batch_size={batch_size}: give a whole number of images")
        self.mix = mix
        self.batch_sizes = _shares(self.sources, batch_size, mix)
        if (mixup or cutmix) and not all(kind.mixes for kind in tasks.values()):
            raise InputError("loader.mixup and loader.cutmix mix images of classifiers alone: set both to 0")
        if min(mixup, cutmix) < 0 or mixup + cutmix > 1:
            raise InputError(f"loader.mixup={mixup}, loader.cutmix={cutmix}: chances, of at most 1 together")
        self.mixing = (mixup, cutmix)
        if depth not in DEPTHS:
            raise InputError(f"depth={depth}: the values of 16-bit files use {', '.join(map(str, DEPTHS))} bits")
        self.depth = depth
        self.balanced = balanced
        self.workers = workers
        self.seed = seed
        self.tested = "test"  # the side that the test and the predict loop run on
        self.folds = folds
        self.val_rows: dict[str, NDArray[np.int64]] = {}  # of folds: val's images among those of train and val
        self._splits: dict[tuple[str, str], Any] = {}
        self.contents: list[str] = []  # what `tell` has said of each side

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """{task: the names of its classes}, in the order of their numbers."""
        return {task: self.sources[self.source_of(task)].provides[kind.name] for task, kind in self.tasks.items()}

    def source_of(self, task: str) -> str:
        """The source that a task learns from."""
        return next(name for name, tasks in self.assigned.items() if task in tasks)

    def augmented_as(self, source: str) -> str:
        """The kind whose transforms a source's training images take; "joint" where it serves several."""
        kinds = {kind.name for kind in self.assigned[source].values()}
        return "joint" if len(kinds) > 1 else kinds.pop()

    @property
    def passes(self) -> list[tuple[tuple[int, int], list[str]]]:
        """(H, W) of a source's images, and the tasks that one forward of them serves."""
        return [(self.sizes[source], list(tasks)) for source, tasks in self.assigned.items()]

    def split(self, source: str, side: str) -> Any:
        """The raw samples of one side, made once; None where the data set has no such side."""
        if (source, side) not in self._splits:
            if self.folds is not None and side != "test":
                train, val, self.val_rows[source] = cut(source, self.whole(source), self.folds)
                made = {"train": train, "val": val}
            else:
                made = {side: self.sources[source].split(side)}
            for name, split in made.items():
                self._splits[source, name] = split
                if isinstance(split, EncodedSplit):
                    split.depth = self.depth
        return self._splits[source, side]

    def whole(self, source: str) -> Any:
        """Train and val of a source in one, which folds cut."""
        return together(source, self.sources[source].split("train"), self.sources[source].split("val"))

    def find_depth(self) -> int | None:
        """The bits that 16-bit files use, from the values of some training images; None without such files."""
        files = [split for name in self.sources if isinstance(split := self.split(name, "train"), EncodedSplit)]
        return max((depth for one in files if (depth := one.find_depth()) is not None), default=None)

    def scale_by(self, depth: int) -> None:
        """Take the values of 16-bit files as ones of `depth` bits."""
        self.depth = depth
        for split in self._splits.values():
            if isinstance(split, EncodedSplit):
                split.depth = depth

    def tell(self, sides: Sequence[str]) -> None:
        """Print a line for each source and side. Raises InputError for images that are on two sides of a source."""
        lines, warnings = self.described(self.with_splits(sides))
        self.contents += lines
        for line in lines + warnings:
            rank_zero_only(print)(line)

    @property
    def learnt(self) -> dict[str, dict[Kind, tuple[str, ...]]]:
        """{source: {kind of annotation that is learnt from it: class names}}."""
        return {
            source: {kind: self.sources[source].provides[kind.name] for kind in tasks.values()}
            for source, tasks in self.assigned.items()
        }

    def with_splits(self, sides: Sequence[str]) -> dict[tuple[str, str], Any]:
        """{(source, side): its raw samples} of these sides, of those that there are."""
        splits = {(source, side): self.split(source, side) for source in self.sources for side in sides}
        return {key: split for key, split in splits.items() if split is not None}

    def described(self, splits: data_summary.Splits) -> tuple[list[str], list[str]]:
        """A line for each side, and a line for whatever is odd. Raises InputError for images on two sides."""
        lines = [data_summary.describe(source, side, split) for (source, side), split in splits.items()]
        warnings = data_summary.check_sides(splits) + data_summary.check_labels(splits, self.learnt)
        return lines, warnings + data_summary.check_samples(splits, self.learnt)

    def with_side(self, side: str) -> list[str]:
        """The sources that have this side."""
        return [name for name in self.sources if self.split(name, side) is not None]

    def batch(self, source: str, side: str, indices: list[int], *, whole: bool = True) -> Batch:
        """The images of these indices as for evaluation, and their targets; without `whole`, as training has these."""
        samples = self._samples(source, side, None)
        read = {index: samples[(0, index, False)] for index in dict.fromkeys(indices)}
        return Collate(self.assigned[source], self.classes, whole=whole)([read[index] for index in indices])

    def take_batch_size(self, batch_size: int) -> None:
        """Images a process and step from now on."""
        self.batch_sizes = _shares(self.sources, batch_size, self.mix)

    def shares(self, batch_size: int | None = None, processes: int = 1) -> dict[str, int]:
        """{source: its images in a process's training batch}, at most as many as it has for each process.

        batch_size: None: the one that is set.
        """
        sizes = self.batch_sizes if batch_size is None else _shares(self.sources, batch_size, self.mix)
        return {name: min(size, len(self.split(name, "train")) // processes) for name, size in sizes.items()}

    def loaders(self, side: str, *, training: bool = False) -> dict[str, DataLoader[Any]]:
        """A loader of batches for each source; only training is shuffled, augmented and cut to whole batches.

        Without `training` every image of the side comes once, as for evaluation, those of train too.
        """
        names = list(self.sources) if side in ("train", "val") else self.with_side(side)
        if missing := [name for name in names if self.split(name, side) is None]:
            raise InputError(f"data={missing[0]} has no {side} side; use another split, or give it one")
        if not names:
            raise InputError(f"data={'+'.join(self.sources)} has no {side} side; use another split, or give it one")
        processes = self.trainer.world_size if self.trainer else 1
        sizes, steps = dict(self.batch_sizes), 0
        if training:
            sizes = self.shares(None, processes)
            for name in names:
                if sizes[name] < 2:
                    raise InputError(
                        f"training batches of {sizes[name]} image(s) of {name}: batch norm needs at least 2 a "
                        "process; raise loader.batch_size or add training images"
                    )
            steps = max(len(self.split(name, side)) // (sizes[name] * processes) for name in names)
        return {
            name: self._loader(name, side, training=training, batch_size=sizes[name], steps=steps) for name in names
        }

    def check_training(self) -> None:
        """Raises InputError where training or its validation would lack a side, or have too few images for a batch."""
        self.loaders("train", training=True)
        self.loaders("val")

    def _loader(self, source: str, side: str, *, training: bool, batch_size: int, steps: int) -> DataLoader[Any]:
        split = self.split(source, side)
        processes, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        tasks, mixing = self.assigned[source], None
        shares: dict[str, Any] = {"processes": processes, "rank": rank, "blocks": getattr(split, "blocks", None)}
        order: Any = EvaluationOrder(len(split), **shares)
        transform = None
        if training:
            weights = _equal_chances(source, split) if self.balanced else None
            draws = steps * batch_size
            order = TrainingOrder(len(split), draws, seed=self.seed, weights=weights, **shares)
            make = self.augment.get(self.augmented_as(source))
            transform = make(self.sizes[source]) if make else None
            mixing = _mixing(*self.mixing)
        workers = self._workers(processes * len(self.sources))
        return LateLoader(
            self._samples(source, side, transform),
            batch_size=batch_size,
            sampler=order,
            drop_last=training,
            collate_fn=Collate(tasks, self.classes, mixing=mixing, whole=not training),
            num_workers=workers,
            persistent_workers=workers > 0 and training,
            worker_init_fn=outlast_signal,
            batches_done=self._batches_done if training else None,
            pin_memory=torch.cuda.is_available(),
        )

    def _batches_done(self) -> int:
        """Of the epoch that Lightning is about to begin, or to go on with."""
        if self.trainer is None or not self.trainer.training:
            return 0
        return int(self.trainer.fit_loop.epoch_loop.batch_progress.current.ready)

    def _samples(self, source: str, side: str, transform: Any) -> "Transformed":
        return Transformed(
            self.split(source, side),
            self.assigned[source],
            self.classes,
            size=self.sizes[source],
            transform=transform,
            fit=self.fit,
            channels=self.channels,
            seed=self.seed,
        )

    def _workers(self, sharers: int) -> int:
        if self.workers is not None:
            return self.workers
        return min(8, max(1, cores() // sharers))

    def train_dataloader(self) -> CombinedLoader:
        return CombinedLoader(list(self.loaders("train", training=True).values()), "min_size")

    def val_dataloader(self) -> CombinedLoader:
        return CombinedLoader(list(self.loaders("val").values()), "max_size")

    def test_dataloader(self) -> CombinedLoader:
        return CombinedLoader(list(self.loaders(self.tested).values()), "max_size")

    def predict_dataloader(self) -> CombinedLoader:
        """The images of `tested`, of one source after the other, as Lightning's predict loop wants them."""
        return CombinedLoader(list(self.loaders(self.tested).values()), "sequential")


def _each_size(sizes: Mapping[str, Size] | Size | int, sources: Sequence[str]) -> dict[str, Size]:
    if isinstance(sizes, int):
        sizes = (sizes, sizes)
    if not isinstance(sizes, Mapping):
        sizes = dict.fromkeys(sources, sizes)
    if set(sizes) != set(sources):
        raise InputError(f"sizes={dict(sizes)}: give one size, or one for each of {', '.join(sources)}")
    return {source: (sizes[source][0], sizes[source][1]) for source in sources}


def _shares(sources: Mapping[str, Any], batch_size: int, mix: Mapping[str, float] | None) -> dict[str, int]:
    if not mix:
        return dict.fromkeys(sources, batch_size)
    if set(mix) != set(sources) or min(mix.values()) <= 0:
        raise InputError(f"loader.mix={dict(mix)}: give each of {', '.join(sources)} a share above 0")
    total = sum(mix.values())
    return {name: max(2, round(batch_size * mix[name] / total)) for name in sources}


def _mixing(mixup: float, cutmix: float) -> v2.Transform | None:
    if not mixup + cutmix:
        return None
    choices = [v2.MixUp(alpha=0.2), v2.CutMix(alpha=1.0), v2.Identity()]
    return v2.RandomChoice(choices, p=[mixup, cutmix, 1 - mixup - cutmix])


def _equal_chances(source: str, split: Any) -> Tensor:
    """(N,) the chance of each image that makes all classes equally frequent."""
    if hasattr(split, "all_labels"):
        labels = torch.from_numpy(split.all_labels())
    else:
        labels = torch.tensor([split.label(index) if hasattr(split, "label") else -1 for index in range(len(split))])
    known = labels >= 0
    if not known.any():
        raise InputError(f"loader.balanced=true: data={source} has no one label an image to balance by; leave it out")
    counts = labels[known].bincount(minlength=1)
    weights = torch.zeros(len(labels), dtype=torch.double)
    weights[known] = 1.0 / counts[labels[known]].double()
    weights[~known] = weights[known].mean()  # without a label: as often as an image is on the average
    return weights
