"""ONNX for ONNX Runtime (servers, phones, browsers): dynamic sizes, suppression in the graph, metadata in the file."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


KEY = "mnv2_tasks"  # of the metadata
LARGE = 640
QUANTIZED = ("Conv", "Gemm", "MatMul", "Add", "Clip", "GlobalAveragePool", "ReduceMean", "Concat")


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    model, about = convert(graph, images, about)
    names = inside(model)
    outside = [node.name for node in model.graph.node if node.name not in names]
    strip(model)
    if about.precision == "fp16":
        model = half(model, outside)
    elif about.precision == "int8":
        model = _quantized(model, path, calibration, outside)
    save(model, path, about)
    return about


def convert(graph: "Graph", images: Tensor, about: Metadata) -> tuple[Any, Metadata]:
    """The graph as an ONNX model that still tells where each node came from (see `inside` and `strip`).

    Made once for all precisions: each gets a copy, and the metadata with what does vary.
    """
    key = (tuple(images.shape), images.dtype, about.dynamic)
    if key not in graph.converted:
        graph.converted[key] = _converted(graph, images, about)
    made, dynamic = graph.converted[key]
    model = type(made)()
    model.CopyFrom(made)
    return model, replace(about, dynamic=dynamic)


def _converted(graph: "Graph", images: Tensor, about: Metadata) -> tuple[Any, tuple[str, ...]]:
    """The model, and what varies. PyTorch's ranges are not told: ONNX takes any size."""
    import torch

    from mnv2_tasks.export.formats.torch_export import trace

    if {"height", "width"} & set(about.dynamic):  # large enough that no map is of one cell, which would stay so
        shape = (LARGE, LARGE, 3) if about.input.layout == "nhwc" else (images.shape[1], LARGE, LARGE)
        images = images.new_zeros((len(images), *shape))
    table = {}
    if graph.nms == "native":
        table = {suppression(): _suppression_in_onnx()}
        graph.native = suppress
    traced, about = trace(graph, images, about)
    program = torch.onnx.export(
        traced,
        (images,),
        dynamo=True,
        custom_translation_table=table,
        input_names=["images"],
        output_names=list(about.outputs),
        verbose=False,
    )
    assert program is not None
    return program.model_proto, about.dynamic


def suppress(boxes: Tensor, score: Tensor, limit: float, threshold: float) -> Tensor:
    """As `graph._native`, each image and class by itself, so that the time grows with their number alone."""
    return suppression()(boxes.reshape(*score.shape, 4), score, limit, threshold)


@cache
def suppression() -> Any:
    """The operator of PyTorch that stands for ONNX's NonMaxSuppression while a graph is traced."""
    import torch
    from torchvision.ops import nms

    @torch.library.custom_op("mnv2_tasks::suppress", mutates_args=())
    def run(boxes: Tensor, score: Tensor, limit: float, threshold: float) -> Tensor:
        """(B, K, k, 4) xyxy, (B, K, k) -> (B, K, k), 1 for the boxes kept of those with a score above the threshold."""
        keep = torch.zeros_like(score)
        for row, row_boxes, scores in zip(keep.flatten(0, 1), boxes.flatten(0, 1), score.flatten(0, 1), strict=True):
            able = torch.nonzero(scores > threshold)[:, 0]
            row[able[nms(row_boxes[able], scores[able], limit)]] = 1
        return keep

    @run.register_fake
    def _(boxes: Tensor, score: Tensor, limit: float, threshold: float) -> Tensor:
        return torch.empty_like(score)

    return torch.ops.mnv2_tasks.suppress.default


def _suppression_in_onnx() -> Any:
    """`suppression` as ONNX has it: every image and class is a batch entry of NonMaxSuppression."""
    from onnxscript import opset18

    op: Any = opset18  # its types know no constants

    def translate(boxes, score, limit: float, threshold: float):  # type: ignore[no-untyped-def]
        shape = op.Shape(score)  # B, K, k
        most = op.Shape(score, start=2, end=3)
        minus = op.Constant(value_ints=[-1])
        rows = op.Reshape(score, op.Concat(minus, most, axis=0))  # (B K, k)
        scores = op.Unsqueeze(rows, op.Constant(value_ints=[1]))
        corners = op.Reshape(boxes, op.Concat(minus, most, op.Constant(value_ints=[4]), axis=0))  # (B K, k, 4)
        best = op.NonMaxSuppression(
            corners,
            scores,
            most,
            op.Constant(value_floats=[limit]),
            op.Constant(value_floats=[threshold]),
        )  # (S, 3): entry, class, box
        place = op.Gather(best, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(best, start=0, end=1))
        nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(rows))
        return op.Reshape(op.ScatterND(nothing, place, ones), shape)

    return translate


def inside(model: Any) -> set[str]:
    """Names of the nodes that belong to the network, as the exporter noted where each came from."""
    from mnv2_tasks.export.graph import ONNX_SCOPE

    names = set()
    for node in model.graph.node:
        scope = next((prop.value for prop in node.metadata_props if prop.key == "pkg.torch.onnx.name_scopes"), "")
        if ONNX_SCOPE in scope:
            names.add(node.name)
    return names


def strip(model: Any) -> None:
    """Take out what the exporter noted of its own work: modules, signatures, and any folders of this machine."""
    for graph in (model.graph, *model.functions):
        for part in (graph, *graph.node, *graph.value_info, *getattr(graph, "initializer", ())):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")


def save(model: Any, path: Path, about: Metadata) -> None:
    """Write a model with `about` inside. Raises InputError where it is none by ONNX's own rules."""
    import onnx

    onnx.helper.set_model_props(model, {KEY: about.as_json()})
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker's, and those of shape inference
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not written, it is no valid ONNX ({reason}); try another precision=") from error
    onnx.save(model, str(path))


def half(model: Any, outside: list[str]) -> Any:
    """The model in float16, but for the named nodes, its inputs and its outputs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = convert_float_to_float16(model, keep_io_types=True, node_block_list=outside)
    OnnxModel.graph_topological_sort(model.graph)  # it leaves its casts at the end
    model.graph.ClearField("value_info")  # which still says float of what became half
    return model


def _quantized(model: Any, path: Path, calibration: Sequence[Tensor], outside: list[str]) -> Any:
    """Per-channel int8 weights and uint8 activations by ONNX Runtime's static quantiser, ranges by min and max.

    x86 processors without VNNI add pairs of 8-bit products in 16 bits. Where a sum goes over several channels its
    weights have seven bits, so that it cannot overflow; those of depthwise convolutions, added otherwise, keep eight.
    """
    import tempfile

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

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        plain, prepared, quantized = (str(Path(folder) / f"{name}.onnx") for name in ("plain", "prepared", "quantized"))
        onnx.save(model, plain)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        names = {node.name for node in onnx.load(prepared).graph.node}
        quantize_static(
            prepared,
            quantized,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"TensorQuantOverrides": _seven_bits(onnx.load(prepared))},
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=[name for name in outside if name in names],
        )
        return onnx.load(quantized)


def _seven_bits(model: Any) -> dict[str, list[dict[str, Any]]]:
    """ONNX Runtime's settings of the weights whose products are added in pairs."""
    shapes = {one.name: one.dims for one in model.graph.initializer}
    settings = {}
    for node in model.graph.node:
        weight = node.input[1] if node.op_type in ("Conv", "Gemm") else ""
        if weight in shapes and shapes[weight][1] > 1:
            turned = any(one.name == "transB" and one.i for one in node.attribute)
            settings[weight] = [{"axis": 0 if node.op_type == "Conv" or turned else 1, "reduce_range": True}]
    return settings


def read(path: Path, about: Metadata, threads: int) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def embedded(path: Path) -> str | None:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    return next((prop.value for prop in model.metadata_props if prop.key == KEY), None)


FORMAT = Format(
    suffix=".onnx",
    packages=("onnx", "onnxscript", "onnxruntime"),
    extra="onnx",
    write=write,
    read=read,
    embedded=embedded,
    precisions=("fp32", "fp16", "int8"),
    dynamic=("batch", "height", "width"),
    concurrent=True,  # ONNX Runtime's sessions are made for it
)
