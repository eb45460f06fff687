"""That an exported file is the same model: its outputs, its metric and its speed beside PyTorch's, in one run."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.export import results
from mnv2_tasks.export.exported import parts_of
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.model import Classes, Model

Call = Callable[[Tensor], dict[str, np.ndarray]]  # images (B, C, H, W) uint8 -> {output: values}
Batches = Iterator[tuple[Tensor, dict[str, dict[str, Tensor]]]]
CLOSE = 0.02  # boxes further apart than this part of the image's side are different boxes
BARE = 1e-3  # detections this close to the lowest score that counts may be there or not


def eager(graph: Graph) -> Call:
    """The graph run by PyTorch as it is; it must take images as (B, C, H, W) uint8."""

    def call(images: Tensor) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return dict(zip(graph.outputs, (value.numpy() for value in graph(images)), strict=True))

    return call


def difference(head: Any, task: str, ours: results.Arrays, theirs: results.Arrays) -> dict[str, float]:
    """How far one head's outputs are apart: {"largest", "relative", "unlike", "total"}.

    largest: the largest difference of a score, a logit, or a box corner in pixels. relative: of the largest value; of
    the image's longer side for boxes. unlike: pixels of another class, or detections without a partner of the same
    class and place, out of the total; such within `BARE` of the lowest score of their image do not count.
    """
    if head.kind == "segmentation" and f"{task}_mask" in ours:
        pairs = (results.predictions(task, head, arrays) for arrays in (ours, theirs))
        rows = [(float((a["mask"] != b["mask"]).sum()), a["mask"].numel()) for a, b in zip(*pairs, strict=True)]
        unlike, total = (float(sum(column)) for column in zip(*rows, strict=True))
        return {"largest": 0.0, "relative": 0.0, "unlike": unlike, "total": total}
    if head.kind == "detection":
        pairs = (results.predictions(task, head, arrays) for arrays in (ours, theirs))
        return _boxes_apart(list(zip(*pairs, strict=True)))
    (name,) = (name for name in ours if name.startswith(f"{task}_"))
    return {**apart(ours[name], theirs[name]), "unlike": 0.0, "total": float(len(ours[name]))}


def apart(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """{"largest", "relative"} difference of two arrays of one shape; a value that is no number is infinitely far."""
    largest = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0))
    largest = largest if np.isfinite(largest) else float("inf")
    return {"largest": largest, "relative": largest / max(float(np.abs(ours).max(initial=0.0)), 1e-12)}


def _boxes_apart(pairs: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> dict[str, float]:
    pixels = relative = lonely = total = 0.0
    for ours, theirs in pairs:
        total += len(ours["scores"])
        if not len(ours["scores"]) and not len(theirs["scores"]):
            continue
        scores = torch.cat([ours["scores"], theirs["scores"]])
        floor = float(scores.min()) + BARE
        side = max(float(torch.cat([ours["boxes"], theirs["boxes"]]).abs().max()), 1.0)
        far = (ours["boxes"][:, None] - theirs["boxes"][None]).abs().amax(-1)  # (N, M)
        far = far + (ours["scores"][:, None] - theirs["scores"][None]).abs() * side
        far = far.masked_fill(ours["labels"][:, None] != theirs["labels"][None], float("inf"))
        for axis, mine in ((1, ours), (0, theirs)):
            if far.shape[axis] == 0:
                lonely += float((mine["scores"] > floor).sum())
                continue
            nearest = far.min(axis)
            paired = nearest.values < CLOSE * side
            lonely += float((~paired & (mine["scores"] > floor)).sum())
            if axis == 1 and paired.any():
                other = nearest.indices[paired]
                moved = float((ours["boxes"][paired] - theirs["boxes"][other]).abs().max())
                score = float((ours["scores"][paired] - theirs["scores"][other]).abs().max())
                pixels, relative = max(pixels, moved), max(relative, moved / side, score)
    return {"largest": pixels, "relative": relative, "unlike": lonely, "total": total}


class Proof:
    """One network's outputs beside the reference's, and its metrics, over any number of batches."""

    def __init__(self, call: Call, model: Model, classes: Classes) -> None:
        self.call, self.heads = call, dict(model.heads)
        self.metrics: dict[str, Any] = {task: head.metrics(classes[task]) for task, head in self.heads.items()}  # type: ignore[operator]
        self.apart: dict[str, dict[str, float]] = {}

    def compare(self, reference: results.Arrays, images: Tensor) -> results.Arrays:
        """Keep the largest difference from what the reference gave for these images, and count what is unlike."""
        found = self.call(images)
        for task, head in self.heads.items():
            kept = self.apart.setdefault(task, dict.fromkeys(("largest", "relative", "unlike", "total"), 0.0))
            for key, value in difference(head, task, reference, found).items():
                kept[key] = kept[key] + value if key in ("unlike", "total") else max(kept[key], value)
        return found

    def differences(self) -> dict[str, dict[str, float]]:
        """{task: {"largest", "relative", "unlike"}}: see `difference`; unlike is a share of the total."""
        return {
            task: {"largest": d["largest"], "relative": d["relative"], "unlike": d["unlike"] / max(d["total"], 1.0)}
            for task, d in self.apart.items()
        }

    def count(self, found: results.Arrays, targets: Mapping[str, dict[str, Tensor]]) -> None:
        for task, wanted in targets.items():
            results.update(task, self.heads[task], self.metrics[task], found, wanted)

    def scores(self, tasks: Sequence[str]) -> dict[str, float]:
        """{task: its primary metric}."""
        return {task: float(self.metrics[task].compute()[self.heads[task].primary]) for task in tasks}


def random_images(shape: Sequence[int], count: int) -> list[Tensor]:
    """Noise, the same in every run: (1, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (1, *shape[1:]), dtype=torch.uint8, generator=generator) for _ in range(count)]


def latency(call: Callable[[], Any], *, seconds: float = 1.0, least: int = 7) -> float:
    """Median milliseconds of a call, over about so many seconds; the first calls do not count."""
    for _ in range(3):
        call()
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < least or (time.perf_counter() - began < seconds and len(took) < 300):
        start = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - start))
    return round(median(took), 3)


def size_of(path: Path) -> int:
    """Bytes of an exported model: of its file, or folder, and of the weights that lie beside it under the same name."""
    return sum(part.stat().st_size for part in parts_of(path))
