"""From samples to batches: fields filled in and transformed, then put together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2_tasks.datasets.files import FIELDS, IGNORED
from mnv2_tasks.datasets.transforms import Fit, plain, seeded, seen_size

Sample = dict[str, Any]
Batch = tuple[Tensor, dict[str, dict[str, Tensor]]]  # images (B, C, H, W) uint8, {task: batched targets}


class Transformed(Dataset):
    """A split whose samples have the fields of the kinds in use, transformed, seeded by (seed, pass, index).

    What a sample does not tell is filled with what is ignored, so that transforms and collation see one form.
    """

    def __init__(
        self,
        split: Any,
        tasks: Mapping[str, str],
        classes: Mapping[str, tuple[str, ...]],
        *,
        size: tuple[int, int],
        transform: Any,
        fit: Fit,
        channels: int,
        seed: int,
    ) -> None:
        self.split, self.size, self.transform, self.fit, self.seed = split, size, transform, fit, seed
        self.kinds = {kind: len(classes[task]) for task, kind in tasks.items()}
        self.grey = v2.Grayscale() if channels == 1 else None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int, bool]) -> Sample:
        number, index, repeat = key
        raw = self.split[index]
        canvas = (raw["image"].shape[-2], raw["image"].shape[-1])
        sample = {"image": raw["image"], **_known(raw, self.kinds, canvas)}
        if self.transform is None:
            moved = plain(self.size, self.fit, canvas)(sample)
            seen = seen_size(self.size, canvas, self.fit)
            if "mask" in sample:
                moved["whole"] = sample["mask"]
        else:
            draw = int(np.random.SeedSequence([self.seed, number, index]).generate_state(1)[0])
            moved, seen = {**seeded(self.transform, sample, draw), "draw": draw}, self.size
        if self.grey:
            moved["image"] = self.grey(moved["image"])
        known = {"known": "boxes" in raw} if "detection" in self.kinds else {}
        return {**moved, **known, "image_id": -1 if repeat else raw["image_id"], "size": raw["size"], "seen": seen}


def _known(raw: Sample, kinds: Mapping[str, int], canvas: tuple[int, int]) -> Sample:
    """The fields of these kinds; those that the sample lacks as unknown."""
    found: Sample = {}
    for kind, classes in kinds.items():
        if FIELDS[kind][0] in raw:
            found |= {name: raw[name] for name in FIELDS[kind]}
        elif kind == "classification":
            found["label"] = torch.tensor(-1)
        elif kind == "multilabel":
            found["presence"] = torch.full((classes,), -1.0)
        elif kind == "segmentation":
            found["mask"] = tv_tensors.Mask(torch.full(canvas, IGNORED, dtype=torch.uint8))
        else:
            boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=canvas)  # type: ignore[call-overload]
            found |= {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
            found |= {"crowd": torch.zeros(0, dtype=torch.bool), "area": torch.zeros(0)}
    return found


class Collate:
    """Samples -> (images (B, C, H, W) uint8, {task: batched targets}).

    Detection targets are padded to the image with the most objects: labels with -1, everything else with 0. With
    `whole`, masks in their own pixels come along, padded with 255 to the largest. `mixing` makes labels soft.
    """

    def __init__(
        self,
        tasks: Mapping[str, str],
        classes: Mapping[str, tuple[str, ...]],
        *,
        mixing: v2.Transform | None = None,
        whole: bool = True,
    ) -> None:
        self.tasks, self.mixing, self.whole = dict(tasks), mixing, whole
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
            fields = {}
            for name in FIELDS[kind]:
                values = [torch.as_tensor(s[name]).as_subclass(Tensor) for s in samples]
                if kind == "detection":
                    fields[name] = pad_sequence(values, batch_first=True, padding_value=-1 if name == "labels" else 0)
                else:
                    fields[name] = torch.stack(values)
            if kind == "detection":
                fields["known"] = torch.tensor([s["known"] for s in samples])
            if kind == "segmentation" and self.whole:
                fields |= _pad_whole([s["whole"].as_subclass(Tensor) for s in samples])
            if self.mixing is not None:  # then this is a classifier alone
                label = fields["label"]
                soft = one_hot(label.clamp(min=0), self.class_counts[task]) * (label >= 0)[:, None].float()
                mixed, fields["label"] = seeded(
                    lambda pair: self.mixing(*pair), (images.float(), soft), samples[0]["draw"]
                )
                images = mixed.round().to(torch.uint8)
            targets[task] = {**fields, **shared}
        return images, targets


def _pad_whole(masks: list[Tensor]) -> dict[str, Tensor]:
    sizes = torch.tensor([tuple(mask.shape[-2:]) for mask in masks])  # (B, 2)
    height, width = sizes.max(0).values.tolist()
    whole = torch.full((len(masks), height, width), IGNORED, dtype=torch.uint8)
    for row, mask in zip(whole, masks, strict=True):
        row[: mask.shape[-2], : mask.shape[-1]] = mask.reshape(mask.shape[-2:])
    return {"whole": whole, "whole_size": sizes}
