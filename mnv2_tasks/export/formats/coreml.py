"""CoreML for Apple's devices; it is written anywhere and runs on macOS alone."""

import json
import logging
import platform
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import Session
from mnv2_tasks.export.formats.torch_export import trace

suffix = ".mlpackage"
extra = "coreml"
packages = ("coremltools",)
precisions = ("fp32", "fp16")
dynamic = ()
layout = "nchw"
dtype = "float32"
nms = "portable"
concurrent = False  # its documents do not say
masks = "argmax"
KEY = "mnv2_tasks"


def write(
    graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
) -> None:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="coremltools")
    import coremltools

    model = coremltools.convert(
        trace(graph, images, about).run_decompositions({}),
        convert_to="mlprogram",
        outputs=[coremltools.TensorType(name=name) for name in about["outputs"]],
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=getattr(coremltools.precision, "FLOAT16" if precision == "fp16" else "FLOAT32"),
    )
    model.user_defined_metadata[KEY] = json.dumps(about, ensure_ascii=False)
    model.license, model.version = about["license"], about["version"]
    model.save(str(path))


def read(path: Path, about: Mapping[str, Any], threads: int) -> Session:
    if platform.system() != "Darwin":
        raise InputError(f"{path}: CoreML predicts on macOS alone; copy it there")
    import coremltools

    model = coremltools.models.MLModel(str(path))
    (name,) = model.input_description

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = model.predict({name: images})
        return [found[output] for output in about["outputs"]]

    return run


def embedded(path: Path) -> str | None:
    import coremltools

    return coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata.get(KEY)
