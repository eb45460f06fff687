"""Which networks fit a budget: `python -m mnv2_tasks.budget params=1M madds=100M latency_ms=20 size_mb=1 task=ssdlite`.

The candidates are the cells of the published width x resolution grid at every output stride that the heads work with,
the best expected first: by the ImageNet top-1 that the grid has for the cell, then by the finer stride.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu

LIMITS = {"params": "parameters", "madds": "madds", "latency_ms": "latency_ms", "size_mb": "size_mb"}
UNITS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9}


def number(name: str, value: Any) -> float:
    """1M, 500k, 0.3B or a plain number. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kMBG]?)", str(value))
    if not match or float(match[1]) <= 0:
        raise InputError(f"{name}={value}: give a number above 0, such as 500k, 1M or 0.3B")
    return float(match[1]) * UNITS[match[2]]


def candidates(config: Mapping[str, Any], strides: list[int], size: tuple[int, int]) -> list[dict[str, Any]]:
    """[{width, size (H, W), output_stride, imagenet_top1}], the best expected first.

    A cell of the grid at R pixels stands for `size` x R / 224, in multiples of 32 where the given size is one; of cells
    that come to the same size the best stands for all. The order is the grid's for other networks too, whose own top-1
    nobody published: it is None.
    """
    from mnv2_tasks.lab.paper import GRID_TOP1

    def scaled(side: int, pixels: int) -> int:
        wanted = side * pixels / 224
        return max(32, round(wanted / 32) * 32 if side % 32 == 0 else round(wanted))

    grid = [(top1, width, pixels) for width, row in GRID_TOP1.items() for pixels, top1 in row.items()]
    cells: dict[tuple[float, tuple[int, ...], int], float] = {}
    for top1, width, pixels in sorted(grid, reverse=True):
        for stride in sorted(strides):
            cells.setdefault((width, tuple(scaled(side, pixels) for side in size), stride), top1)
    known = _published(config)
    return [
        {"width": w, "size": list(s), "output_stride": stride, "imagenet_top1": top1 if known else None}
        for (w, s, stride), top1 in cells.items()
    ]


def _published(config: Mapping[str, Any]) -> bool:
    """Whether the backbone is MobileNetV2 as the grid has it, but for its width and output stride."""
    from mnv2_tasks.assembly.equal_cost import reference_of

    backbone = config["backbone"]
    block = yaml.safe_load((CONFIGS / "block" / "inverted_residual.yaml").read_text(encoding="utf-8"))
    return backbone["stem_stride"] == 2 and backbone == reference_of(config, block)["backbone"]


def fits(costs: Mapping[str, float], limits: Mapping[str, float]) -> bool:
    return all(costs[LIMITS[name]] <= most for name, most in limits.items() if LIMITS[name] in costs)


def main(config: Any) -> None:
    tune_for_cpu()
    from mnv2_tasks.assembly import build, equal_cost
    from mnv2_tasks.assembly.network import build_model
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.complexity import forward_ms
    from mnv2_tasks.files import new_folder, write_json

    settings = settle(config)
    limits = {name: number(name, settings[name]) for name in LIMITS if settings[name] is not None}
    if not limits:
        raise InputError(f"no budget is given: add one of {', '.join(f'{name}=<most>' for name in LIMITS)}")
    wishes = [set(build.head_class(task, head).strides) for task, head in settings["heads"].items()]
    stride = settings["backbone"]["output_stride"]
    strides = [stride] if stride else sorted(set.intersection(*wishes))
    if settings["backbone"]["match"]:
        raise InputError("backbone.match: the widths are the grid's here; leave it out")
    resolved = resolve(settings)  # says so where there is no stride for all heads
    settings, classes = resolved.settings, resolved.classes
    (size, *_) = resolved.sizes.values()
    folder = new_folder(Path(settings["runs"]) / "budget", settings["name"])
    fitting: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    cells = candidates(settings, strides, size)
    print(
        f"budget: counting {len(cells)} networks of the grid, and timing here those that fit; a minute or two",
        flush=True,
    )
    for cell in cells:
        changes = {"width": cell["width"], "output_stride": cell["output_stride"]}
        changed = {**settings, "backbone": {**settings["backbone"], **changes}}
        passes = [((cell["size"][0], cell["size"][1]), list(settings["heads"]))]
        network = cell | equal_cost.cost(changed, classes, passes)
        network["size_mb"] = network["parameters"] * settings["bytes"] / 1e6
        if fits(network, limits):  # only then is it worth measuring
            network["latency_ms"] = forward_ms(build_model(changed, classes).eval(), passes)
        (fitting if fits(network, limits) else others).append(network)
    write_json(folder / "budget.json", {"limits": limits, "fitting": fitting})
    exclusions = _exclusions(others, limits)
    if not fitting:
        raise InputError(f"nothing of the grid fits ({exclusions}); {_closest(others, limits)}; raise a limit")
    _print(fitting, settings["heads"])
    print(f"{len(fitting)} of {len(cells)} fit ({exclusions or 'no limit excludes any'})")
    print(f"results: {folder}")


def _exclusions(others: list[dict[str, Any]], limits: Mapping[str, float]) -> str:
    """How many networks each limit excludes, by itself; what is timed is what fits the others."""
    parts = []
    for name, most in limits.items():
        over = sum(row.get(LIMITS[name], 0) > most for row in others)
        where = ", as measured on this machine," if name == "latency_ms" else ""
        if over:
            parts.append(f"{name}={most:,.10g}{where} excludes {over}")
    return "; ".join(parts)


def _closest(others: list[dict[str, Any]], limits: Mapping[str, float]) -> str:
    def excess(costs: Mapping[str, float]) -> float:
        return max(costs[LIMITS[n]] / most for n, most in limits.items() if LIMITS[n] in costs)

    best = min(others, key=excess)
    over = [f"{n}={best[LIMITS[n]]:.4g}" for n, most in limits.items() if best.get(LIMITS[n], 0) > most]
    return f"width {best['width']} at {'x'.join(map(str, best['size']))} comes closest, with {', '.join(over)}"


def _print(fitting: list[dict[str, Any]], tasks: Mapping[str, Any]) -> None:
    print(f"{'+'.join(tasks)}: what fits, the best expected first (ImageNet top-1 of the published grid)")
    titles = ("width", "size", "stride", "top-1", "parameters", "madds", "size", "latency")
    print(" ".join(title.rjust(11) for title in titles))
    for row in fitting:
        cells = (
            f"{row['width']:g}",
            "x".join(map(str, row["size"])),
            f"{row['output_stride']}",
            "-" if row["imagenet_top1"] is None else f"{row['imagenet_top1']:.1f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['madds'] / 1e6:.1f} M",
            f"{row['size_mb']:.2f} MB",
            f"{row['latency_ms']:.2f} ms",
        )
        print(" ".join(cell.rjust(11) for cell in cells))
