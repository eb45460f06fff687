"""From a data source to batches: kinds for tasks, transforms, seeded shuffling, padding, loaders."""

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from mnv2_tasks.datasets.transforms import plain, seeded
from mnv2_tasks.errors import InputError

Sample = dict[str, Any]
FIELDS = {
    "classification": ("label",),
    "detection": ("boxes", "labels", "crowd", "area"),
    "segmentation": ("mask",),
}


class DataSource(Protocol):
    """One data set in one on-disk format: what it provides, and its sides."""

    provides: dict[str, tuple[str, ...]]

    def split(self, name: str) -> Dataset | None:
        """The samples of "train", "val" or "test"; None where there is no such side."""


class DataModule(pl.LightningDataModule):
    """Loaders over one source for the given tasks.

    Every random choice of an image depends on (seed, epoch, index) alone, so that a run gives the same batches with
    any number of workers, and after being stopped and resumed.

    Args:
        source: the data set.
        tasks: {task: the kind of annotation that it learns from}.
        size: (H, W) of the batches' images.
        augment: size -> transform for training; None for none.
        batch_size: images a process and step.
        workers: loader processes; None for as many as there are cores for, at most 8.
    """

    def __init__(
        self,
        source: DataSource,
        tasks: dict[str, str],
        *,
        size: tuple[int, int],
        augment: Callable[[tuple[int, int]], Any] | None = None,
        batch_size: int = 32,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for task, kind in tasks.items():
            if kind not in source.provides:
                raise InputError(
                    f"task={task} learns {kind}, which this data set does not provide (it has "
                    f"{', '.join(source.provides)}); choose another data=..., or another task"
                )
        self.source, self.tasks, self.size, self.augment = source, tasks, size, augment
        self.batch_size, self.seed = batch_size, seed
        self.workers = workers
        self.tested = "test"  # the side that the test loop runs on
        self._splits: dict[str, Dataset | None] = {}

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        return {task: self.source.provides[kind] for task, kind in self.tasks.items()}

    def split(self, name: str) -> Any:
        """The raw samples of one side, made once; None where the data set has no such side."""
        if name not in self._splits:
            self._splits[name] = self.source.split(name)
        return self._splits[name]

    def batch(self, name: str, indices: list[int]) -> tuple[Tensor, dict[str, dict[str, Tensor]]]:
        """The untransformed images of these indices, at the size of the model, and their targets."""
        samples = Transformed(self.split(name), self.tasks, plain(self.size), seed=self.seed)
        return Collate(self.tasks)([samples[(0, index)] for index in indices])[0]

    def loader(self, name: str) -> DataLoader:
        """Batches of one side; only training is shuffled, augmented and cut to whole batches."""
        split = self.split(name)
        if split is None:
            raise InputError(f"this data set has no {name} side; use another split, or give it one")
        training = name == "train"
        trainer = self.trainer
        processes = trainer.world_size if trainer else 1
        rank = trainer.global_rank if trainer else 0
        batch_size = self.batch_size
        if training:
            batch_size = min(batch_size, len(split) // processes)
            if batch_size < 2:
                raise InputError(
                    f"training batches of {batch_size} image(s): batch norm needs at least 2 a process; raise "
                    "loader.batch_size or add training images"
                )
        transform = self.augment(self.size) if training and self.augment else plain(self.size)
        workers = self._workers(processes)
        return DataLoader(
            Transformed(split, self.tasks, transform, seed=self.seed),
            batch_size=batch_size,
            sampler=EpochSampler(split, processes, rank, shuffle=training, seed=self.seed),
            drop_last=training,
            collate_fn=Collate(self.tasks),
            num_workers=workers,
            persistent_workers=workers > 0 and training,
            pin_memory=torch.cuda.is_available(),
        )

    def _workers(self, processes: int) -> int:
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(8, max(1, cores // processes))

    def train_dataloader(self) -> DataLoader:
        return self.loader("train")

    def val_dataloader(self) -> DataLoader:
        return self.loader("val")

    def test_dataloader(self) -> DataLoader:
        return self.loader(self.tested)


class EpochSampler(DistributedSampler):
    """Yields (epoch, index): the epoch reaches the loader's workers with the index."""

    def __iter__(self) -> Iterator[Any]:
        return ((self.epoch, index) for index in super().__iter__())


class Transformed(Dataset):
    """A split whose samples are cut to the fields in use and transformed, seeded by (seed, epoch, index)."""

    def __init__(self, split: Any, tasks: dict[str, str], transform: Any, *, seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed
        self.fields = ["image", "image_id", *(field for kind in tasks.values() for field in FIELDS[kind])]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        sample = self.split[index]
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        moved = seeded(self.transform, {field: sample[field] for field in self.fields}, seed)
        return {**moved, "size": sample["size"]}


class Collate:
    """Samples -> [(images (B, C, H, W) uint8, {task: batched targets})]: a list of one source.

    Detection targets are padded to the image with the most objects: labels with -1, everything else with 0.
    """

    def __init__(self, tasks: dict[str, str]) -> None:
        self.tasks = tasks

    def __call__(self, samples: list[Sample]) -> list[tuple[Tensor, dict[str, dict[str, Tensor]]]]:
        images = torch.stack([s["image"].as_subclass(Tensor) for s in samples])
        shared = {
            "image_id": torch.tensor([s["image_id"] for s in samples]),
            "size": torch.tensor([tuple(s["size"]) for s in samples]),
        }
        targets = {}
        for task, kind in self.tasks.items():
            fields = {}
            for name in FIELDS[kind]:
                values = [torch.as_tensor(s[name]).as_subclass(Tensor) for s in samples]
                if kind == "detection":
                    fields[name] = pad_sequence(values, batch_first=True, padding_value=-1 if name == "labels" else 0)
                else:
                    fields[name] = torch.stack(values)
            targets[task] = {**fields, **shared}
        return [(images, targets)]
