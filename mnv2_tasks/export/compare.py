"""That an exported file is the same model: its outputs, its metric and its speed beside PyTorch's, in one run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.export import decode
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.session import parts_of
from mnv2_tasks.heads import Head
from mnv2_tasks.model import Classes, Model

Call = Callable[[Tensor], dict[str, np.ndarray]]  # images (B, C, H, W) uint8 -> {output: values}


def eager(graph: Graph) -> Call:
    """The graph run by PyTorch as it is; it must take images as (B, C, H, W) uint8."""

    def call(images: Tensor) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            return dict(zip(graph.outputs, (value.numpy() for value in graph(images)), strict=True))

    return call


def difference(head: Head, task: str, ours: decode.Arrays, theirs: decode.Arrays) -> dict[str, float]:
    """How far one head's outputs are apart, see `Kind.difference`: {"largest", "relative", "unlike", "total"}."""
    rows = (decode.predictions(task, head.kind, arrays, head.decoding) for arrays in (ours, theirs))
    pairs = list(zip(*rows, strict=True))
    return head.kind.difference(decode.of_task(task, ours), decode.of_task(task, theirs), pairs)


class Proof:
    """One network's outputs beside the reference's, and its metrics, over any number of batches."""

    def __init__(self, call: Call, model: Model, classes: Classes) -> None:
        self.call = call
        self.heads = dict(model.heads.items())
        self.metrics: dict[str, Any] = {task: head.metrics(classes[task]) for task, head in self.heads.items()}
        self.apart: dict[str, dict[str, float]] = {}

    def compare(self, reference: decode.Arrays, images: Tensor) -> decode.Arrays:
        """Keep the largest difference from what the reference gave for these images, and count what is unlike."""
        outputs = self.call(images)
        for task, head in self.heads.items():
            totals = self.apart.setdefault(task, dict.fromkeys(("largest", "relative", "unlike", "total"), 0.0))
            for key, value in difference(head, task, reference, outputs).items():
                totals[key] = totals[key] + value if key in ("unlike", "total") else max(totals[key], value)
        return outputs

    def differences(self) -> dict[str, dict[str, float]]:
        """{task: {"largest", "relative", "unlike"}}: see `difference`; unlike is a share of the total."""
        return {
            task: {"largest": d["largest"], "relative": d["relative"], "unlike": d["unlike"] / max(d["total"], 1.0)}
            for task, d in self.apart.items()
        }

    def count(self, outputs: decode.Arrays, targets: Mapping[str, dict[str, Tensor]]) -> None:
        for task, wanted in targets.items():
            head = self.heads[task]
            rows = decode.predictions(task, head.kind, outputs, head.decoding)
            head.kind.count(self.metrics[task], rows, wanted)

    def scores(self, tasks: Sequence[str]) -> dict[str, float]:
        """{task: its primary metric}."""
        return {task: float(self.metrics[task].compute()[self.heads[task].primary]) for task in tasks}


def random_images(shape: Sequence[int], count: int) -> list[Tensor]:
    """Noise, the same in every run: (1, C, H, W) uint8."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (1, *shape[1:]), dtype=torch.uint8, generator=generator) for _ in range(count)]


def size_of(path: Path) -> int:
    """Bytes of an exported model: of its file, or folder, and of the weights that lie beside it under the same name."""
    return sum(part.stat().st_size for part in parts_of(path))
