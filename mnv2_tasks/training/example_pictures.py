"""Example images with truth and prediction, for sheets of pictures and for loggers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.samples import spread
from mnv2_tasks.training.module import MultiTask


@dataclass(frozen=True)
class Example:
    """An image as it lies on disk, and per task its targets and the prediction, in the pixels of the model's input."""

    image: Tensor  # (3, H, W) uint8
    seen: tuple[int, int]  # (h, w) at the top left of the input, which holds the image
    targets: dict[str, dict[str, Tensor]]
    predictions: dict[str, dict[str, Tensor]]
    losses: Mapping[str, float] = field(default_factory=dict)  # of each task, on this image


def task_examples(module: MultiTask, data: DataModule, source: str, side: str, count: int) -> dict[str, list[Example]]:
    """{task: `count` images with its truth}, of the tasks that learn from this source."""
    split = data.split(source, side)
    picked = {task: spread(split, count, kind.name) for task, kind in data.assigned[source].items()}
    union = sorted({index for indices in picked.values() for index in indices})
    by_index = dict(zip(union, examples(module, data, source, side, union), strict=True))
    return {task: [by_index[index] for index in indices] for task, indices in picked.items()}


def examples(module: MultiTask, data: DataModule, source: str, side: str, picked: list[int]) -> list[Example]:
    """The images of these indices, predicted by the module as it is."""
    raw = data.split(source, side)
    training = module.training
    module.eval()
    pictures = []
    for index in picked:  # one at a time: big inputs would need much memory together
        images, targets = data.batch(source, side, [index])
        with torch.inference_mode():
            outputs = module.model.infer(images.to(module.device), data.assigned[source])
            predictions = {task: module.model.heads[task].predict(out) for task, out in outputs.items()}
            losses = {}
            for task, out in outputs.items():
                there = {name: value.to(module.device) for name, value in targets[task].items()}
                losses[task] = float(torch.stack(list(module.model.heads[task].loss(out, there).values())).sum())
        pictures.append(
            Example(
                raw[index]["image"].as_subclass(Tensor),
                tuple(next(iter(targets.values()))["seen"][0].tolist()),
                {task: {name: value[0] for name, value in fields.items()} for task, fields in targets.items()},
                {task: {name: value.cpu() for name, value in rows[0].items()} for task, rows in predictions.items()},
                losses,
            )
        )
    module.train(training)
    return pictures


def example_sheet(module: MultiTask, task: str, pictures: list[Example], path: Path, *, heading: str = "") -> None:
    """Write truth beside prediction for one task, as a PNG; what is drawn of the predictions follows the heading."""
    from mnv2_tasks.visual.drawing import sheet

    kind, classes = module.model.heads[task].kind, module.classes[task]

    def draw(example: Example, what: dict[str, Tensor]) -> Tensor:
        return kind.draw(example.image, what, classes, seen=example.seen)

    pairs = [(draw(e, e.targets[task]), draw(e, e.predictions[task])) for e in pictures]
    sheet(pairs, heading=f"{heading}predictions: {kind.drawn}").save(path)
