"""What a run or an evaluation leaves for people: pictures, curves, metrics.json, the table at the end."""

import json
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.callbacks import read_rows
from mnv2_tasks.cost import madds, parameters
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.listing import amount
from mnv2_tasks.errors import shorten
from mnv2_tasks.examples import example_sheet, examples, task_examples
from mnv2_tasks.folders import replacing
from mnv2_tasks.model import Model
from mnv2_tasks.tasks import MultiTask

LISTED = 40  # classes, at most, with rows in the table at the end


def write_pictures(task: MultiTask, data: DataModule, split: str, folder: Path, *, count: int) -> None:
    """Example sheets, the worst predictions and the heads' plots of the side that was evaluated last."""
    for source in data.with_side(split):
        for name, shown in task_examples(task, data, source, split, count).items():
            head = task.model.heads[name]
            place = folder if len(task.model.heads) == 1 else folder / name
            place.mkdir(parents=True, exist_ok=True)
            if count:
                example_sheet(task, name, shown, place / "examples.png")
                worst = head.worst(task.metrics[name], count)
                if worst:
                    shown = examples(task, data, source, split, worst)
                    example_sheet(task, name, shown, place / "worst.png", heading=f"the worst {head.ranked}; ")
            head.plot(task.metrics[name], task.classes[name], place)


def told_classes(names: Sequence[str]) -> str:
    """How many there are, and the names of the first and the last: "3 classes: cat, cow, dog"."""
    return f"{amount(len(names), 'class', 'classes')}: {shorten(', '.join(names), 60)}"


def print_start(task: MultiTask, data: DataModule, folder: Path) -> None:
    """What this run trains, in a line each: tasks and data, the network and its cost, the folder."""
    for source, its in data.assigned.items():
        heads = [f"{name} ({told_classes(task.classes[name])})" for name in its]
        height, width = data.sizes[source]
        print(f"task: {', '.join(heads)} on {source}, images of {height} x {width}")
    cost = model_cost(deepcopy(task.model), data.passes)  # which puts it into eval mode
    print(f"network: {cost['parameters'] / 1e6:.2f} M parameters, {cost['madds'] / 1e6:.0f} M multiply-adds an image")
    print(f"folder: {folder}")


def write_curves(task: MultiTask, folder: Path) -> None:
    """Losses and scores over the epochs, from metrics.csv."""
    from mnv2_tasks.plots import plot_losses, plot_scores

    rows = read_rows(folder / "metrics.csv")
    if not rows:
        return
    names = [f"{name}/val/{curve}" for name, head in task.model.heads.items() for curve in head.curves]
    plot_losses(rows, folder / "losses.png")
    plot_scores(rows, folder / "scores.png", names=names)


Passes = Sequence[tuple[tuple[int, int], Sequence[str]]]  # see `DataModule.passes`


def model_cost(model: Model, passes: Passes) -> dict[str, int]:
    """{"parameters", "madds"}: of one image of each source, through the backbone and the heads that it serves."""
    model.eval()
    cost = sum(madds(model, _blank(model, size), tasks) for size, tasks in passes)
    return {"parameters": parameters(model), "madds": cost}


def latency(model: Model, passes: Passes, *, runs: int = 20) -> float:
    """Median milliseconds of the forward passes that `model_cost` counts, one image at a time, where the model is."""
    model.eval()
    inputs = [(_blank(model, size), tasks) for size, tasks in passes]
    took = []
    with torch.inference_mode():
        for _ in range(runs + 3):  # the first ones are slower
            began = time.perf_counter()
            for images, tasks in inputs:
                model(images, tasks)
            if images.is_cuda:
                torch.cuda.synchronize()
            took.append(1000 * (time.perf_counter() - began))
    return round(median(took[3:]), 3)


def _blank(model: Model, size: tuple[int, int]) -> Tensor:
    stem: Any = model.backbone.stem[0]
    image = torch.zeros((1, stem.in_channels, *size), dtype=torch.uint8, device=model.mean.device)
    return image.contiguous(memory_format=torch.channels_last)


def write_json(path: Path, values: Any) -> None:
    """Replace the file in one move; NaN becomes null, which every reader understands."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(inner) for inner in value]
        return None if isinstance(value, float) and value != value else value

    text = json.dumps(plain(values), indent=2, ensure_ascii=False) + "\n"
    with replacing(path) as draft:  # \udce9, of a name that is no UTF-8, is JSON
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def print_table(results: Mapping[str, Any], sides: list[str]) -> None:
    """A short table: a row a metric, a column a side; then what the model costs. Few classes have rows of their own."""
    names = list(dict.fromkeys(name for side in sides for name in results[side]))
    if any(len(classes) > LISTED for classes in results["classes"].values()):
        names = [name for name in names if name.count("/") == 1]
    width = max(map(len, names)) + 2
    print("\n" + "".ljust(width) + "".join(side.rjust(9) for side in sides))
    for name in names:
        print(name.ljust(width) + "".join(f"{results[side].get(name, float('nan')):9.4f}" for side in sides))
    cost = f"{results['parameters'] / 1e6:.2f} M parameters, {results['madds'] / 1e9:.3f} B multiply-adds"
    sizes = {"x".join(map(str, size)) for size in results["sizes"].values()}
    print(f"{cost} at {' and '.join(sorted(sizes))}")
    if results.get("wall_seconds"):
        print(f"{amount(results['epochs'], 'epoch')} in {results['wall_seconds']:.0f} s")
