"""ONNX Runtime's own format, for its small builds on phones: an export format of one's own, in one file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from mnv2_tasks.export.formats import Session, onnx

suffix = ".ort"
extra = "onnx"
packages = onnx.packages
precisions = ("fp32", "fp16")
dynamic = ("batch",)
layout = "nchw"
dtype = "uint8"
nms = "native"
concurrent = True
masks = "argmax"


def write(
    graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
) -> None:
    import onnxruntime

    with TemporaryDirectory() as folder:
        plain = Path(folder) / "model.onnx"
        onnx.write(graph, images, plain, precision=precision, calibration=calibration, about=about)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC  # for any processor
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])


def read(path: Path, about: Mapping[str, Any], threads: int) -> Session:
    return onnx.read(path, about, threads)


def embedded(path: Path) -> str | None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.get_modelmeta().custom_metadata_map.get(onnx.KEY)
