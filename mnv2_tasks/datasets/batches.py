"""From samples to batches: fields filled in and transformed, then put together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset
from torchvision.transforms import v2

from mnv2_tasks.datasets.transforms import Fit, plain, seeded, seen_size
from mnv2_tasks.kinds import Kind, Sample

Batch = tuple[Tensor, dict[str, dict[str, Tensor]]]  # images (B, C, H, W) uint8, {task: batched targets}


class Transformed(Dataset[Any]):
    """A split whose samples have the fields of the kinds in use, transformed, seeded by (seed, pass, index).

    A field that a sample lacks is filled with a value that losses and metrics ignore, so that transforms and
    collation see one form.
    """

    def __init__(
        self,
        split: Any,
        tasks: Mapping[str, Kind],
        classes: Mapping[str, tuple[str, ...]],
        *,
        size: tuple[int, int],
        transform: Any,
        fit: Fit,
        channels: int,
        seed: int,
    ) -> None:
        self.split = split
        self.size = size
        self.transform = transform
        self.fit = fit
        self.seed = seed
        self.kinds = {kind: len(classes[task]) for task, kind in tasks.items()}
        self.grey = v2.Grayscale() if channels == 1 else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int, bool]) -> Sample:
        number, index, repeat = key
        raw = self.split[index]
        canvas = (raw["image"].shape[-2], raw["image"].shape[-1])
        sample = {"image": raw["image"]}
        for kind, classes in self.kinds.items():
            sample |= kind.fill(raw, canvas, classes)
        if self.transform is None:
            moved = plain(self.size, self.fit, canvas)(sample)
            seen = seen_size(self.size, canvas, self.fit)
            for kind in self.kinds:
                moved |= kind.originals(sample)
        else:
            draw = int(np.random.SeedSequence([self.seed, number, index]).generate_state(1)[0])
            moved, seen = {**seeded(self.transform, sample, draw), "draw": draw}, self.size
        if self.grey:
            moved["image"] = self.grey(moved["image"])
        return {**moved, "image_id": -1 if repeat else raw["image_id"], "size": raw["size"], "seen": seen}


class Collate:
    """Samples -> (images (B, C, H, W) uint8, {task: batched targets}).

    Each kind puts its own together (see `Kind.collate`). `mixing` makes labels soft.
    """

    def __init__(
        self,
        tasks: Mapping[str, Kind],
        classes: Mapping[str, tuple[str, ...]],
        *,
        mixing: v2.Transform | None = None,
        whole: bool = True,
    ) -> None:
        self.tasks = dict(tasks)
        self.mixing = mixing
        self.whole = whole
        self.class_counts = {task: len(names) for task, names in classes.items()}

    def __call__(self, samples: list[Sample]) -> Batch:
        images = torch.stack([s["image"].as_subclass(Tensor) for s in samples])
        shared = {
            "image_id": torch.tensor([s["image_id"] for s in samples]),
            "size": torch.tensor([tuple(s["size"]) for s in samples]),
            "seen": torch.tensor([tuple(s["seen"]) for s in samples]),
        }
        targets = {}
        for task, kind in self.tasks.items():
            fields = kind.collate(samples, whole=self.whole)
            if self.mixing is not None:  # then this is a classifier alone
                label = fields["label"]
                soft = one_hot(label.clamp(min=0), self.class_counts[task]) * (label >= 0)[:, None].float()
                mixed, fields["label"] = seeded(
                    lambda pair: self.mixing(*pair), (images.float(), soft), samples[0]["draw"]
                )
                images = mixed.round().to(torch.uint8)
            targets[task] = {**fields, **shared}
        return images, targets
