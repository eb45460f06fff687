"""What a run or an evaluation leaves for people: pictures, curves, metrics.json, the table at the end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mnv2_tasks.callbacks import example_sheet, examples, read_rows
from mnv2_tasks.cost import madds, parameters
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.model import Model
from mnv2_tasks.tasks import MultiTask


def write_pictures(task: MultiTask, data: DataModule, split: str, folder: Path, *, count: int) -> None:
    """Example sheets and the heads' plots of the side that was evaluated last."""
    shown = examples(task, data, split, count) if count else []
    for name, head in task.model.heads.items():
        place = folder if len(task.model.heads) == 1 else folder / name
        place.mkdir(parents=True, exist_ok=True)
        if shown:
            example_sheet(task, name, shown, place / "examples.png")
        head.plot(task.metrics[name], task.classes[name], place)  # type: ignore[operator]


def write_curves(task: MultiTask, folder: Path) -> None:
    """Losses and scores over the epochs, from metrics.csv."""
    from mnv2_tasks.plots import plot_losses, plot_scores

    rows = read_rows(folder / "metrics.csv")
    if not rows:
        return
    names = [f"{name}/val/{curve}" for name, head in task.model.heads.items() for curve in head.curves]  # type: ignore[union-attr]
    plot_losses(rows, folder / "losses.png")
    plot_scores(rows, folder / "scores.png", names=names)


def model_cost(model: Model, size: tuple[int, int]) -> dict[str, int]:
    """{"parameters", "madds"} of one image through the whole model."""
    stem: Any = model.backbone.stem[0]
    image = torch.zeros((1, stem.in_channels, *size), dtype=torch.uint8, device=model.mean.device)
    return {"parameters": parameters(model), "madds": madds(model.eval(), image)}


def write_json(path: Path, values: Any) -> None:
    """Write in one move; NaN becomes null, which every reader understands."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return None if isinstance(value, float) and value != value else value

    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(plain(values), indent=2, ensure_ascii=False) + "\n")
    draft.replace(path)


def print_table(results: Mapping[str, Any], sides: list[str]) -> None:
    """A short table: a row a metric, a column a side; then what the model costs."""
    names = list(dict.fromkeys(name for side in sides for name in results[side]))
    width = max(map(len, names)) + 2
    print("\n" + "".ljust(width) + "".join(side.rjust(9) for side in sides))
    for name in names:
        print(name.ljust(width) + "".join(f"{results[side].get(name, float('nan')):9.4f}" for side in sides))
    cost = f"{results['parameters'] / 1e6:.2f} M parameters, {results['madds'] / 1e9:.3f} B multiply-adds"
    print(f"{cost} at {'x'.join(map(str, results['size']))}" if "size" in results else cost)
    if results.get("wall_seconds"):
        print(f"{results['epochs']} epochs in {results['wall_seconds']:.0f} s")
