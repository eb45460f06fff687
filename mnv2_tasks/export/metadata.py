"""What travels with an exported model: how its file is called, its classes, preprocessing, thresholds and metrics."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import read_json
from mnv2_tasks.kinds.calibration import Calibration, told
from mnv2_tasks.version import __version__
from mnv2_tasks.weights.trust import BEFORE

if TYPE_CHECKING:  # an exported file predicts without the network
    from mnv2_tasks.model import Classes, Model

Layout = Literal["nchw", "nhwc"]
Masks = Literal["argmax", "logits"]
Suppression = Literal["native", "portable", "app"]
MOST = 2**14  # pixels of a side, and images at a time
FIX = "export the model again"


@dataclass(frozen=True)
class InputForm:
    """The images that a graph takes."""

    layout: Layout
    dtype: str  # uint8, or float32 in 0..1
    shape: tuple[int, int, int, int]  # in that layout; of the batch and the sides, those that it was traced with
    name: str = "images"

    @property
    def channels(self) -> int:
        return self.shape[1 if self.layout == "nchw" else 3]


@dataclass(frozen=True)
class Metadata:
    """What an exported file tells of itself, inside it or in the model.json beside it, which holds all of an export.

    `model` is what `describe` gives, of the model that the file holds; `exported_model` checks it, for a file that
    somebody else wrote may say anything there. The other fields are of the file alone, and checked.
    """

    model: Mapping[str, Any]
    size: tuple[int, int]  # (H, W)
    input: InputForm
    outputs: tuple[str, ...]  # names, in their order
    dynamic: tuple[str, ...]  # what of batch, height and width may vary
    format: str = ""
    precision: str = ""
    candidates: Mapping[str, int] | None = None  # {detector: boxes of each class that go into suppression}
    nms: Suppression = "native"
    ranges: Mapping[str, tuple[int, int]] | None = None  # of what may vary, where the format has limits
    sha256: str | None = None

    def of_file(self) -> dict[str, Any]:
        """The fields of the file alone, as JSON; those that are None are left out."""
        values = {
            field.name: getattr(self, field.name) for field in fields(self) if field.name not in ("model", "size")
        }
        return {name: value for name, value in values.items() if value is not None} | {"input": asdict(self.input)}

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {**self.model, "size": list(self.size), **self.of_file()}

    def as_json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False)


def parse_metadata(content: Any, path: Path) -> Metadata:
    """What the file `path` tells of itself. Raises InputError where a field is missing or not of its form."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: what it tells of itself is {quote(content)}; {FIX}")
    forms = {
        "size": lambda value: _is_shape(value, 2),
        "outputs": _is_names,
        "dynamic": _is_names,
        "input": _is_input,
        "format": lambda value: isinstance(value, str),
        "precision": lambda value: isinstance(value, str),
        "nms": lambda value: value in ("native", "portable", "app"),
    }
    for key in ("size", "outputs", "dynamic", "input"):
        if key not in content:
            raise InputError(f"{path}: what it tells of itself has no {key}; {FIX}")
    for key, fits in forms.items():
        if key in content and not fits(content[key]):
            raise InputError(f"{path}: what it tells as its {key} is {quote(content[key])}; {FIX}")
    form = content["input"]
    names = {field.name for field in fields(Metadata)} - {"model"}
    return Metadata(
        model={key: value for key, value in content.items() if key not in names},
        size=(content["size"][0], content["size"][1]),
        input=InputForm(form["layout"], form["dtype"], cast(tuple[int, int, int, int], tuple(form["shape"]))),
        outputs=tuple(content["outputs"]),
        dynamic=tuple(content["dynamic"]),
        **{
            key: content[key]
            for key in ("format", "precision", "candidates", "nms", "ranges", "sha256")
            if key in content
        },
    )


def _is_shape(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(type(n) is int and 1 <= n <= MOST for n in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_input(value: Any) -> bool:
    named = isinstance(value, dict) and value.get("layout") in ("nchw", "nhwc")
    return named and value.get("dtype") in ("uint8", "float32") and _is_shape(value.get("shape"), 4)


def describe(model: "Model", settings: Mapping[str, Any], classes: "Classes") -> dict[str, Any]:
    """What model.json tells of all files of one export."""
    thresholds = {task: asdict(head.decoding) for task, head in model.heads.items() if head.decoding is not None}
    return {
        "mnv2_tasks": __version__,
        "tasks": {task: head.kind.name for task, head in model.heads.items()},
        "primaries": {task: head.primary for task, head in model.heads.items()},
        "classes": {task: list(names) for task, names in classes.items()},
        "fit": settings["fit"],
        "preprocessing": {
            "inside": "(x - mean) / std, with x in 0..1",
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
            "depth": settings.get("depth") or 16,
            "channels": "RGB" if len(model.mean) == 3 else "grey",
        },
        "thresholds": thresholds,
        # Temperatures are in the graph; scores to compare with thresholds, one a class, are what it gives.
        "calibration": told({task: h.calibration for task, h in model.heads.items() if h.calibration != Calibration()}),
        "notes": one_view(model),
        "taps": {name: asdict(tap) for name, tap in model.backbone.taps.items()},
        "license": settings["license"] or "not stated",
        "version": __version__,
        "config": {"backbone": structure(settings["backbone"]), "heads": settings["heads"]},
        "metrics": trained_metrics(settings.get("ckpt")),
    }


def one_view(model: "Model") -> list[str]:
    """A line for each head whose evaluation averages several views of an image: a graph looks at one."""
    return [
        f"{task}: the file looks at one view of an image and is compared with PyTorch on that; "
        "head.scales, head.flip and head.window stay behind"
        for task, head in model.heads.items()
        if head.has_views
    ]


def structure(section: Mapping[str, Any]) -> dict[str, Any]:
    """The `backbone` section of a config without what `assembly.build` takes, as the path of pretrained weights."""
    return {key: value for key, value in section.items() if key not in BEFORE}


def trained_metrics(ckpt: str | None) -> dict[str, Any]:
    """The metrics of the run that a checkpoint lies in; empty where there are none."""
    path = Path(ckpt).parent.parent / "metrics.json" if ckpt else None
    if path is None or not path.is_file():
        return {}
    metrics = read_json(path, fix="delete it, or export a checkpoint that lies elsewhere")
    return {side: metrics[side] for side in ("val", "test") if isinstance(metrics, dict) and side in metrics}
