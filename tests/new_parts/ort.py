"""ONNX Runtime's own format, for its small builds on phones: an export format of one's own, in one file."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from mnv2_tasks.export.formats import Format, onnx
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import Metadata


def write(graph: Graph, images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    import onnxruntime

    with TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        about = onnx.write(graph, images, plain, about, calibration)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # for any processor
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
    return about


def embedded(path: Path) -> str | None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map.get(onnx.KEY)


FORMAT = Format(
    suffix=".ort",
    packages=onnx.FORMAT.packages,
    extra="onnx",
    write=write,
    read=onnx.read,
    embedded=embedded,
    precisions=("fp32", "fp16"),
    dynamic=("batch",),
    concurrent=True,
)
