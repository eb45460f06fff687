"""What an exported file tells of the model in it, checked: enough to predict with it, without building the network."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from mnv2_tasks.datasets.transforms import Fit
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.export.metadata import Metadata
from mnv2_tasks.kinds import Calibration, Decoding, Kind, kind_named
from mnv2_tasks.kinds.calibration import parse_calibrations
from mnv2_tasks.weights.moved_names import with_new_names
from mnv2_tasks.weights.trust import class_names, refuse_foreign_names, writer


@dataclass(frozen=True)
class ExportedModel:
    """The tasks of an exported file, and the images that it takes."""

    kinds: dict[str, Kind]  # of each task
    classes: dict[str, tuple[str, ...]]
    decodings: dict[str, Decoding]  # of the detectors among the tasks
    calibrations: dict[str, Calibration]  # of those that have one; temperatures are in the graph
    size: tuple[int, int]  # (H, W)
    fit: Fit  # how images come to that size
    channels: int
    depth: int | None  # bits that the values of 16-bit files use
    built_in: bool  # whether the graph itself suppresses boxes


def exported_model(path: Path, about: Metadata, *, trust: Collection[str] = ()) -> ExportedModel:
    """The model that the file `path` holds, from what it tells of itself: `about`, as `read_about` gives it.

    Raises InputError for what is damaged or missing, a file of taps, and a config that names what is neither of this
    package nor of the modules in `trust`, though nothing is built from it.
    """
    model, channels = about.model, about.input.channels
    where, taps, preprocessing = f"{path} ({writer(model)})", model.get("taps"), model.get("preprocessing")
    if isinstance(taps, Mapping) and set(about.outputs) <= set(taps):
        raise InputError(f"{path}: it gives taps ({', '.join(about.outputs)}); export it with what=model")
    try:
        if not isinstance(model["config"], Mapping):
            raise InputError("its config is no dictionary")
        kinds, config = _kinds(model["tasks"]), with_new_names(model["config"])
        names = class_names(model["classes"], kinds, of="tasks")
        classes = {task: names[task] for task in kinds}
        decodings = {
            task: _decoding(model.get("thresholds"), config, task) for task, kind in kinds.items() if kind.scored
        }
        calibrations = parse_calibrations(model.get("calibration"), classes)
        fit = model.get("fit", config.get("fit", "stretch"))
        if fit not in get_args(Fit):
            raise InputError(f"its fit is {quote(fit)}")
        if channels not in (1, 3):
            raise InputError(f"its images have {channels} channels, not 3, or 1 in grey")
        if silent := [task for task in kinds if not any(name.startswith(f"{task}_") for name in about.outputs)]:
            raise InputError(f"no output is of {silent[0]}")
    except KeyError as error:
        raise InputError(f"{where}: its metadata is damaged: it has no {error.args[0]}; export it again") from error
    except InputError as error:
        raise InputError(f"{where}: its metadata is damaged: {error}; export it again") from error
    refuse_foreign_names(config, where, trust=trust)
    return ExportedModel(
        kinds,
        classes,
        decodings,
        calibrations,
        size=about.size,
        fit=fit,
        channels=channels,
        depth=preprocessing.get("depth") if isinstance(preprocessing, Mapping) else None,
        built_in=about.nms != "app",
    )


def _kinds(tasks: Any) -> dict[str, Kind]:
    if not isinstance(tasks, Mapping) or not tasks:
        raise InputError(f"its tasks are {quote(tasks)}")
    return {str(task): kind_named(name) for task, name in tasks.items()}


def _decoding(thresholds: Any, config: Mapping[str, Any], task: str) -> Decoding:
    """Of a detector: as the file tells, then as its head was made, for files that do not tell all."""
    file_settings = thresholds.get(task) if isinstance(thresholds, Mapping) else None
    heads = config.get("heads")
    head_settings = heads.get(task) if isinstance(heads, Mapping) else None
    values: dict[str, Any] = {}
    for field in fields(Decoding):
        for source in (file_settings, head_settings):
            if isinstance(source, Mapping) and field.name in source:
                values.setdefault(field.name, source[field.name])
    for name, value in values.items():
        whole = name in ("candidates", "detections")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 <= value <= 1e6:
            raise InputError(f"its {name} of {task} is {quote(value)}")
    return Decoding(**values)
