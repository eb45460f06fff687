"""Where classes lie today that checkpoints, runs and exported files name by the path of an older version."""

from collections.abc import Mapping
from typing import Any

MOST_NESTED = 50  # sections within each other, of a config
# A module of an older version -> the one that holds its classes and functions now; both below the package.
MOVED = {
    "balance": "training.loss_balance",
    "loggers": "training.loggers",
    "schedules": "training.schedules",
    "heads.unet": "heads.smp_decoders",
    "datasets.masks": "datasets.formats.mask_folders",
    **{
        f"datasets.{name}": f"datasets.formats.{name}"
        for name in ("cityscapes", "coco", "imagefolder", "merged", "pets", "scenes", "torchvision_sets", "voc", "yolo")
    },
}


def with_new_names(config: Any, depth: int = 0, renamed: dict[int, Any] | None = None) -> Any:
    """A config, or a part of one, whose `_target_`s name what has moved by its new place; the others stay as they are.

    What is nested deeper than any config stays as it is, too. A part that stands in several places, or in itself, is
    renamed once; `renamed` holds such parts by their id.
    """
    renamed = {} if renamed is None else renamed
    if id(config) in renamed:
        return renamed[id(config)]
    if depth <= MOST_NESTED and isinstance(config, Mapping):
        section = renamed[id(config)] = {}
        for key, value in config.items():
            is_name = key == "_target_" and isinstance(value, str)
            section[key] = new_name(value) if is_name else with_new_names(value, depth + 1, renamed)
        return section
    if depth <= MOST_NESTED and isinstance(config, list):
        values = renamed[id(config)] = []
        values.extend(with_new_names(value, depth + 1, renamed) for value in config)
        return values
    return config


def new_name(target: str) -> str:
    """The path by which a class or function is found now: "mnv2_tasks.heads.unet.FPN" -> where FPN has gone."""
    module, _, name = target.rpartition(".")
    place = MOVED.get(module.removeprefix("mnv2_tasks."))
    return f"mnv2_tasks.{place}.{name}" if place and module.startswith("mnv2_tasks.") else target
