"""MNN for phones, from our ONNX."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


# Not `MNN.tools`: importing that installs a package by pip, and holds code that reports to a remote host.
CONVERT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv)"


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    from mnv2_tasks.export.formats import onnx

    between = path.with_suffix(".between.onnx")
    try:
        source = onnx.write(graph, images, between, replace(about, precision="fp32"), ())
        about = replace(source, precision=about.precision)
        command = [sys.executable, "-c", CONVERT, "-f", "ONNX", "--modelFile", str(between), "--MNNModel", str(path)]
        command += ["--bizCode", "mnv2_tasks"] + (["--fp16"] if about.precision == "fp16" else [])
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    finally:
        between.unlink(missing_ok=True)
    if done.returncode or not path.exists():
        raise InputError(f"to=mnn: its converter failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return about


def read(path: Path, about: Metadata, threads: int) -> Session:
    import MNN

    runtime = MNN.nn.create_runtime_manager(({"backend": "CPU", "numThread": threads, "precision": "high"},))
    net = MNN.nn.load_module_from_file(str(path), ["images"], list(about.outputs), runtime_manager=runtime)

    def run(images: np.ndarray, keep: Any = runtime) -> list[np.ndarray]:
        tensor = MNN.expr.const(images, list(images.shape), MNN.expr.NCHW)
        return [np.array(value.read()) for value in net.forward([tensor])]

    return run


FORMAT = Format(
    suffix=".mnn",
    packages=("MNN", "onnx", "onnxscript", "onnxruntime"),
    extra="mnn",
    write=write,
    read=read,
    precisions=("fp32", "fp16"),
    dynamic=("batch", "height", "width"),
    dtype="float32",
    nms="portable",
    concurrent=False,  # a module holds its tensors, and its executor is the process's
)
