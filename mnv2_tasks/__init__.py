"""One MobileNetV2 trunk, many heads: classification, detection and segmentation with PyTorch Lightning."""

import logging
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnv2_tasks.version import __version__ as __version__

# Before a library imports matplotlib: the first run of all would say that it lists fonts.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from pathlib import Path

    from mnv2_tasks.backbone import MobileNetV2 as MobileNetV2
    from mnv2_tasks.datasets.datamodule import DataModule as DataModule
    from mnv2_tasks.predict.predictor import Predictor
    from mnv2_tasks.training.module import MultiTask as MultiTask
    from mnv2_tasks.training.tasks import ClassifierTask as ClassifierTask
    from mnv2_tasks.training.tasks import DeepLabV3Task as DeepLabV3Task
    from mnv2_tasks.training.tasks import JointTask as JointTask
    from mnv2_tasks.training.tasks import SSDLiteTask as SSDLiteTask

PLACES = {  # imported when they are asked for: `import mnv2_tasks` alone loads no PyTorch
    "ClassifierTask": "mnv2_tasks.training.tasks",
    "DataModule": "mnv2_tasks.datasets.datamodule",
    "DeepLabV3Task": "mnv2_tasks.training.tasks",
    "JointTask": "mnv2_tasks.training.tasks",
    "MobileNetV2": "mnv2_tasks.backbone",
    "MultiTask": "mnv2_tasks.training.module",
    "SSDLiteTask": "mnv2_tasks.training.tasks",
}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})


def load(
    path: "str | Path",
    *,
    size: tuple[int, int] | None = None,
    device: str = "cpu",
    threads: int | None = None,
    trust: Sequence[str] = (),
) -> "Predictor":
    """A model to predict with, from a checkpoint or an exported file.

    Args:
        path: best.ckpt, model.onnx, model.tflite, ...
        size, device, threads, trust: see `mnv2_tasks.predict.predictor.Predictor`.
    """
    from mnv2_tasks.predict.predictor import Predictor

    return Predictor(path, size=size, device=device, threads=threads, trust=trust)


def load_backbone(where: str) -> "MobileNetV2":
    """A backbone, in eval mode, from a folder that `what=backbone as=hub` wrote, or from the Hugging Face Hub.

    It maps images (B, 3, H, W), normalised as its config.json tells, to {tap: (B, C, h, w)}.
    """
    from mnv2_tasks.export.hub import read_hub

    return read_hub(where)
