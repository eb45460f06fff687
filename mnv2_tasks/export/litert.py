"""LiteRT (TensorFlow Lite) for phones, from PyTorch by litert-torch; int8 by ai-edge-quantizer."""

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnv2_tasks.export import Session

suffix = ".tflite"
extra = "litert"
packages = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")
precisions = ("fp32", "int8")
dynamic = False
layout = "nhwc"
dtype = "uint8"
nms = True

ABOUT = "model.json"  # in the archive at the end of the file, where TFLite's metadata keeps its files


def write(
    graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
) -> None:
    import litert_torch

    litert_torch.convert(graph, (images,)).export(str(path))
    if precision == "int8":
        path.write_bytes(_quantized(path, calibration))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(ABOUT, json.dumps(about, ensure_ascii=False))


def _quantized(path: Path, calibration: Sequence[Tensor]) -> bytes:
    """Per-channel int8 weights and int8 activations, ranges by min and max: its moving average clips them."""
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.algorithms.utils import qsv_utils  # noqa: F401

    raise NotImplementedError(recipe, quantizer, calibration)


def read(path: Path, about: Mapping[str, Any], threads: int) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    (signature,) = interpreter.get_signature_list()
    runner = interpreter.get_signature_runner(signature)
    (name,) = runner.get_input_details()
    outputs = sorted(runner.get_output_details(), key=lambda output: int(output.rpartition("_")[2]))

    def run(images: np.ndarray) -> list[np.ndarray]:
        found = runner(**{name: images})
        return [found[output] for output in outputs]

    return run


def embedded(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(ABOUT).decode() if ABOUT in archive.namelist() else None
