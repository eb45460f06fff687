"""CoreML for Apple's devices; it is written anywhere and runs on macOS alone."""

import logging
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.formats.torch_export import trace
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


KEY = "mnv2_tasks"


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="coremltools")
    import coremltools

    program, about = trace(graph, images, about)
    model = coremltools.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        outputs=[coremltools.TensorType(name=name) for name in about.outputs],
        minimum_deployment_target=coremltools.target.iOS17,
        compute_precision=getattr(coremltools.precision, "FLOAT16" if about.precision == "fp16" else "FLOAT32"),
    )
    model.user_defined_metadata[KEY] = about.as_json()
    model.license, model.version = about.model["license"], about.model["version"]
    model.save(str(path))
    return about


def read(path: Path, about: Metadata, threads: int) -> Session:
    if platform.system() != "Darwin":
        raise InputError(f"{path}: CoreML predicts on macOS alone; copy it there")
    import coremltools

    model = coremltools.models.MLModel(str(path))
    (name,) = model.input_description

    def run(images: np.ndarray) -> list[np.ndarray]:
        arrays = model.predict({name: images})
        return [arrays[output] for output in about.outputs]

    return run


def embedded(path: Path) -> str | None:
    import coremltools

    return coremltools.models.MLModel(str(path), skip_model_load=True).user_defined_metadata.get(KEY)


FORMAT = Format(
    suffix=".mlpackage",
    packages=("coremltools",),
    extra="coreml",
    write=write,
    read=read,
    embedded=embedded,
    precisions=("fp32", "fp16"),
    dtype="float32",
    nms="portable",
    concurrent=False,  # its documents do not say
    runs_here=lambda: platform.system() == "Darwin",
)
