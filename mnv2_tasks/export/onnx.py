"""ONNX for ONNX Runtime (servers, phones, browsers): dynamic sizes, suppression in the graph, metadata in the file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnv2_tasks.export import Session

suffix = ".onnx"
extra = "onnx"
packages = ("onnx", "onnxscript", "onnxruntime")
precisions = ("fp32", "fp16", "int8")
dynamic = ("batch", "height", "width")
layout = "nchw"
dtype = "uint8"
nms = "native"
masks = "argmax"

KEY = "mnv2_tasks"  # of the metadata
LARGE = 640
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Clip", "GlobalAveragePool", "ReduceMean", "Concat")


def write(
    graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
) -> None:
    import onnx
    import torch

    from mnv2_tasks.export.torch_export import trace

    if {"height", "width"} & set(about["dynamic"]):  # large enough that no map is of one cell, which would stay so
        shape = (LARGE, LARGE, 3) if about["input"]["layout"] == "nhwc" else (images.shape[1], LARGE, LARGE)
        images = images.new_zeros((len(images), *shape))
    program = torch.onnx.export(
        trace(graph, images, about),
        (images,),
        dynamo=True,
        input_names=["images"],
        output_names=list(about["outputs"]),
        verbose=False,
    )
    assert program is not None
    about.pop("ranges", None)  # they are PyTorch's; ONNX takes any size
    program.save(str(path), external_data=False)
    model = onnx.load(str(path))
    names = inside(model)
    if precision == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        outside = [node.name for node in model.graph.node if node.name not in names]
        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=outside)
    onnx.helper.set_model_props(model, {KEY: json.dumps(about, ensure_ascii=False)})
    onnx.save(model, str(path))
    if precision == "int8":
        _quantize(path, calibration, [node.name for node in model.graph.node if node.name not in names])


def inside(model: Any) -> set[str]:
    """Names of the nodes that belong to the network, as the exporter noted where each came from."""
    found = set()
    for node in model.graph.node:
        scope = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
        if "'network'" in scope:
            found.add(node.name)
    return found


def _quantize(path: Path, calibration: Sequence[Tensor], outside: list[str]) -> None:
    """Per-channel int8 weights and uint8 activations by ONNX Runtime's static quantiser, ranges by min and max."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    kept = {prop.key: prop.value for prop in onnx.load(str(path)).metadata_props}
    prepared = path.with_suffix(".prepared.onnx")
    try:
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        there = {node.name for node in onnx.load(str(prepared)).graph.node}
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=[name for name in outside if name in there],
        )
    finally:
        prepared.unlink(missing_ok=True)
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, str(path))


def read(path: Path, about: Mapping[str, Any], threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def embedded(path: Path) -> str | None:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return next((prop.value for prop in model.metadata_props if prop.key == KEY), None)
