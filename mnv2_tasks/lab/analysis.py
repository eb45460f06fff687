"""`python -m mnv2_tasks.analysis what=[figure1,figure7,convolutions,memory,layers]`: tables, JSON and plots."""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu

if TYPE_CHECKING:
    from mnv2_tasks.assembly.resolve import Resolved


def main(config: Any) -> None:
    tune_for_cpu()
    from mnv2_tasks.assembly.overrides import typed
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.assembly.restore import resolve_trained, take_settings
    from mnv2_tasks.files import new_folder, write_json
    from mnv2_tasks.weights.checkpoint import read_trusted

    wanted = [config.what] if isinstance(config.what, str) else list(config.what)
    if unknown := set(wanted) - set(ANALYSES):
        raise InputError(f"what={sorted(unknown)[0]}: no such analysis, of {', '.join(ANALYSES)}")
    if "figure7" in wanted and not config.ckpt:
        raise InputError("figure7 compares a trained network with a fresh one: give ckpt=<a run's best.ckpt>")
    checkpoint = None
    if config.ckpt:
        checkpoint = read_trusted(config.ckpt, trust=tuple(config.trust))
        take_settings(config, checkpoint["config"], typed().names)
        resolved = resolve_trained(settle(config), checkpoint, data="figure7" in wanted)
    else:
        resolved = resolve(settle(config))
    settings = resolved.settings
    for line in resolved.said:
        print(line)
    folder = new_folder(Path(settings["runs"]) / "analysis", settings["name"])
    for what in wanted:
        print(f"analysis: {what}", flush=True)
        result = ANALYSES[what](resolved, checkpoint, folder)
        write_json(folder / f"{what}.json", result)
    print(f"analyses: {folder}")


def _figure1(resolved: "Resolved", checkpoint: Any, folder: Path) -> Any:
    import torch

    from mnv2_tasks.lab.figures.spiral import DIMENSIONS, reconstruction, spiral, through_relu
    from mnv2_tasks.visual.analysis_plots import plot_spiral

    results, points = reconstruction(), spiral()
    generator = torch.Generator().manual_seed(0)
    reconstructions = {
        str(n): through_relu(points, torch.randn(n, 2, generator=generator))[0].numpy() for n in DIMENSIONS
    }
    plot_spiral(
        points.numpy(), reconstructions, {n: row["error"] for n, row in results.items()}, folder / "figure1.png"
    )
    rows = [(n, f"{row['error']:.3f}", f"{row['lost']:.1%}") for n, row in results.items()]
    _print("Figure 1: a spiral after ReLU in n dimensions, mean of 200 embeddings", ("n", "error", "lost"), rows)
    return results


def _figure7(resolved: "Resolved", checkpoint: Any, folder: Path) -> Any:
    import torch

    from mnv2_tasks.assembly.network import build_model, build_told
    from mnv2_tasks.lab.figures.activations import INVERTIBLE, positive_channels
    from mnv2_tasks.samples import spread
    from mnv2_tasks.visual.analysis_plots import plot_positive
    from mnv2_tasks.weights.tensors import load_exactly

    settings, data = resolved.settings, resolved.data
    assert data is not None, "figure 7 is of images"
    where = f"{settings['ckpt']} ({checkpoint['writer']})"
    data.tell(["val"])
    (source, *_) = data.assigned
    images, _ = data.batch(source, "val", spread(data.split(source, "val"), settings["images"]))
    torch.manual_seed(settings["seed"])
    model = build_told(partial(build_model, settings, checkpoint["classes"]), where, checkpoint["state"])
    before = positive_channels(model, images, batch_statistics=True)
    load_exactly(model, checkpoint["state"], where, hint="the checkpoint and its config disagree")
    networks = {"before training": before, "after training": positive_channels(model, images)}
    plot_positive(networks, INVERTIBLE, folder / "figure7.png")
    rows = [
        (title, f"{_mean(rows, 'mean'):.3f}", f"{_mean(rows, 'std'):.3f}", f"{min(row['low'] for row in rows):.3f}")
        for title, rows in networks.items()
    ]
    _print("Figure 7: share of channels above 0, over the layers", ("network", "mean", "std", "least"), rows)
    return networks


def _convolutions(resolved: "Resolved", checkpoint: Any, folder: Path) -> Any:
    from mnv2_tasks.lab.figures.convolutions import table
    from mnv2_tasks.visual.analysis_plots import LABELS, plot_convolutions

    costs = table()
    plot_convolutions(costs, folder / "convolutions.png")
    rows = [
        (
            row["channels"],
            *(f"{row[f'{name}_counted'] / 1e6:.2f}" for name in LABELS),
            f"{row['separable_to_standard']:.4f}",
            f"{row['one_over_n_plus_one_over_k2']:.4f}",
        )
        for row in costs
    ]
    titles = ("N", *LABELS.values(), "separable / standard", "1/N + 1/k^2")
    _print("3x3 on 56 x 56, N channels in and out: M multiply-adds, counted (formulas in the JSON)", titles, rows)
    return costs


def _memory(resolved: "Resolved", checkpoint: Any, folder: Path) -> Any:
    from mnv2_tasks.backbone import MobileNetV1, MobileNetV2
    from mnv2_tasks.lab.figures.layers import materialized

    maps = {network.__name__: materialized(network) for network in (MobileNetV1, MobileNetV2)}
    sides = next(iter(maps.values()))
    rows = [
        (f"{side} x {side}", *(f"{f[side][0]} / {f[side][1] / 1e3:.0f} kB" for f in maps.values())) for side in sides
    ]
    rows.append(("most", *(f"{max(size for _, size in f.values()) / 1e3:.0f} kB" for f in maps.values())))
    _print("Table 3: channels / memory between blocks, 16-bit floats", ("map", *maps), rows)
    return {name: {str(side): list(pair) for side, pair in f.items()} for name, f in maps.items()}


def _layers(resolved: "Resolved", checkpoint: Any, folder: Path) -> Any:
    import torch

    from mnv2_tasks.assembly.network import build_model, build_told
    from mnv2_tasks.lab.figures.layers import layers
    from mnv2_tasks.visual.analysis_plots import plot_layers

    settings = resolved.settings
    (size, *_) = resolved.sizes.values()
    with torch.device("meta"):
        where = f"{settings['ckpt']} ({checkpoint['writer']})" if checkpoint else ""
        build = partial(build_model, settings, resolved.classes)
        table = layers(build_told(build, where) if where else build(), size)
    plot_layers(table, folder / "layers.png")
    columns = list(dict.fromkeys(name for row in table for name in row))
    with (folder / "layers.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
    rows: list[tuple[Any, ...]] = [
        (
            row["name"],
            f"{row['in']} -> {row['out']}",
            "x".join(map(str, row["output"])),
            f"{row['parameters'] / 1e3:.1f}",
            f"{row['madds'] / 1e6:.2f}",
            f"{row['memory'] / 1e3:.0f}",
            row.get("receptive_field", "-"),
        )
        for row in table
    ]
    rows.append(
        (
            "all",
            "",
            "",
            *(f"{sum(r[k] for r in table) / u:.2f}" for k, u in (("parameters", 1e3), ("madds", 1e6))),
            "",
            "",
        )
    )
    titles = ("layer", "channels", "output", "parameters, k", "madds, M", "memory, kB", "receptive field")
    _print(f"Layers at {size[0]} x {size[1]}", titles, rows)
    return table


ANALYSES: dict[str, Callable[["Resolved", Any, Path], Any]] = {
    "figure1": _figure1,
    "figure7": _figure7,
    "convolutions": _convolutions,
    "memory": _memory,
    "layers": _layers,
}


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)


def _print(title: str, titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    texts = [list(map(str, row)) for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    print(f"\n{title}")
    for row in texts:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
