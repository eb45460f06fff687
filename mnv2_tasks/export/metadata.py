"""What travels with an exported model: its classes, preprocessing, thresholds, config and training metrics."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mnv2_tasks import __version__
from mnv2_tasks.model import Classes, Model


def describe(model: Model, settings: Mapping[str, Any], classes: Classes, size: tuple[int, int]) -> dict[str, Any]:
    """What model.json tells of all files of one export."""
    thresholds = {task: asdict(head.decoding) for task, head in model.heads.items() if head.decoding is not None}
    return {
        "mnv2_tasks": __version__,
        "tasks": {task: head.kind.name for task, head in model.heads.items()},
        "primaries": {task: head.primary for task, head in model.heads.items()},
        "classes": {task: list(names) for task, names in classes.items()},
        "size": list(size),
        "fit": settings["fit"],
        "preprocessing": {
            "inside": "(x - mean) / std, with x in 0..1",
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "depth": settings.get("depth") or 16,
            "channels": "RGB" if len(model.mean) == 3 else "grey",
        },
        "thresholds": thresholds,
        "notes": one_view(model),
        "taps": {name: asdict(tap) for name, tap in model.backbone.taps.items()},
        "license": settings["license"] or "not stated",
        "version": __version__,
        "config": {"backbone": structure(settings["backbone"]), "heads": settings["heads"]},
        "metrics": trained_metrics(settings.get("ckpt")),
    }


def one_view(model: Model) -> list[str]:
    """A line for each head whose evaluation averages several views of an image: a graph looks at one."""
    return [
        f"{task}: the file looks at one view of an image and is compared with PyTorch on that; "
        "head.scales, head.flip and head.window stay behind"
        for task, head in model.heads.items()
        if head.has_views
    ]


def structure(section: Mapping[str, Any]) -> dict[str, Any]:
    """The `backbone` section of a config without what `assembly.build` takes, as the path of pretrained weights."""
    return {key: value for key, value in section.items() if key not in ("weights", "match", "match_to")}


def trained_metrics(ckpt: str | None) -> dict[str, Any]:
    """The metrics of the run that a checkpoint lies in; empty where there are none."""
    path = Path(ckpt).parent.parent / "metrics.json" if ckpt else None
    if path is None or not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    return {side: told[side] for side in ("val", "test") if side in told}
