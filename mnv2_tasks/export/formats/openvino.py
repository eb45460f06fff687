"""OpenVINO for Intel and Arm processors, from our ONNX; int8 by its own NNCF."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


KEY = "mnv2_tasks"


def _import() -> Any:
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    os.environ.setdefault("CI", "1")  # its telemetry holds still under continuous integration: no id in the home folder
    import openvino

    return openvino


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    from mnv2_tasks.export.formats import onnx

    openvino = _import()
    between = path.with_suffix(".between.onnx")
    try:
        source, about = onnx.convert(graph, images, about)
        inside = onnx.inside(source)
        onnx.strip(source)
        onnx.save(source, between, about)
        model = openvino.convert_model(str(between))
    finally:
        between.unlink(missing_ok=True)
    if about.precision == "int8":
        model = _quantized(model, calibration, inside)
    model.set_rt_info(json.dumps(about.as_dict()), KEY)
    openvino.save_model(model, str(path), compress_to_fp16=about.precision == "fp16")
    return about


def _quantized(model: Any, calibration: Sequence[Tensor], inside: set[str]) -> Any:
    """NNCF's int8, with weights of seven bits: x86 processors without VNNI add pairs of 8-bit products in 16 bits."""
    import nncf

    kinds = {"Constant", "Parameter", "Result"}
    outside = [
        op.friendly_name
        for op in model.get_ops()
        if op.get_type_name() not in kinds and op.friendly_name.split("/")[0] not in inside
    ]
    return nncf.quantize(
        model,
        nncf.Dataset([batch.numpy() for batch in calibration]),
        subset_size=len(calibration),
        target_device=nncf.TargetDevice.CPU,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
        ignored_scope=nncf.IgnoredScope(names=outside, validate=False),
    )


def read(path: Path, about: Metadata, threads: int) -> Session:
    openvino = _import()
    # f32, fp16 weights or not: else it calculates in bf16 where the processor has that.
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(images: np.ndarray) -> list[np.ndarray]:
        request = model.create_infer_request()
        return [np.array(value) for value in request.infer([images], share_inputs=True).to_tuple()]

    return run


def embedded(path: Path) -> str | None:
    model = _import().Core().read_model(str(path))
    return str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else None


FORMAT = Format(
    suffix=".xml",
    packages=("openvino", "nncf", "onnx", "onnxscript", "onnxruntime"),
    extra="openvino",
    write=write,
    read=read,
    embedded=embedded,
    precisions=("fp32", "fp16", "int8"),
    dynamic=("batch", "height", "width"),
    concurrent=True,  # every call has an infer request of its own
)
