"""LiteRT (TensorFlow Lite) for phones, from PyTorch by litert-torch; int8 by ai-edge-quantizer."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


# What costs time and can be quantised by itself. Joining the levels of a detector is left out: it would make one scale
# of all levels' outputs.
QUANTIZED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MEAN", "AVERAGE_POOL_2D", "PAD")
ABOUT = "model.json"  # in the archive at the end of the file, where TFLite's metadata keeps its files


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    import litert_torch

    litert_torch.convert(graph, (images,)).export(str(path))
    if about.precision == "int8":
        path.write_bytes(_quantized(path, calibration))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(ABOUT, about.as_json())
    return about


def _quantized(path: Path, calibration: Sequence[Tensor]) -> bytes:
    """Per-channel int8 weights and int8 activations of the network alone.

    Ranges by min and max: the quantiser's own moving average clips them.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, qtyping, quantizer
    from ai_edge_quantizer.utils import qsv_utils

    from mnv2_tasks.export.graph import LITERT_OPERATIONS

    made = quantizer.Quantizer(str(path))
    for name in QUANTIZED:
        made.add_static_config(
            regex=LITERT_OPERATIONS,
            operation_name=qtyping.TFLOperationName[name],
            activation_num_bits=8,
            weight_num_bits=8,
        )
    signatures = Interpreter(model_path=str(path)).get_signature_list()
    ((signature, details),) = signatures.items()
    (name,) = details["inputs"]
    watching = calibrator.Calibrator(
        path.read_bytes(),
        mode=calibrator.CalibrationMode.CALIBRATION_PRESERVE_ALL_TENSORS,
        qsv_update_func=qsv_utils.min_max_update,
    )
    watching.calibrate({signature: [{name: batch.numpy()} for batch in calibration]}, made._recipe_manager)
    return bytes(made.quantize(watching.get_model_qsvs()).quantized_model)


def read(path: Path, about: Metadata, threads: int) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    (signature,) = interpreter.get_signature_list()
    runner = interpreter.get_signature_runner(signature)
    (name,) = runner.get_input_details()
    outputs = sorted(runner.get_output_details(), key=lambda output: int(output.rpartition("_")[2]))

    def run(images: np.ndarray) -> list[np.ndarray]:
        arrays = runner(**{name: images})
        return [arrays[output] for output in outputs]

    return run


def embedded(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        return archive.read(ABOUT).decode() if ABOUT in archive.namelist() else None


FORMAT = Format(
    suffix=".tflite",
    packages=("litert_torch", "ai_edge_litert", "ai_edge_quantizer"),
    extra="litert",
    write=write,
    read=read,
    embedded=embedded,
    precisions=("fp32", "int8"),
    layout="nhwc",
    nms="portable",
    concurrent=False,  # an interpreter holds its tensors
)
