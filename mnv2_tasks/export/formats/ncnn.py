"""ncnn for phones and small boards, by pnnx: batches of one; suppression and argmax are left to the app."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    import contextlib
    import os
    import shutil
    import tempfile
    import warnings

    import pnnx
    import torch

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        here = os.getcwd()
        try:
            os.chdir(folder)  # it litters where it stands
            with torch.no_grad():
                pnnx.export(graph, "model.pt", inputs=(images,), fp16=about.precision == "fp16")
        finally:
            os.chdir(here)
        parts = [Path(folder) / f"model.ncnn.{part}" for part in ("param", "bin")]
        if not all(part.exists() for part in parts):
            raise InputError("to=ncnn: pnnx could not convert this model; its messages stand above")
        for part in parts:
            shutil.copy(part, weights_of(path) if part.suffix == ".bin" else path)
    return about


def weights_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".param") + ".bin")


def read(path: Path, about: Metadata, threads: int) -> Session:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    if about.precision == "fp32":
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
    if net.load_param(str(path)) or net.load_model(str(weights_of(path))):
        raise InputError(f"{path}: ncnn cannot read it; it may be cut short: copy it again, with its .bin")

    def run(images: np.ndarray) -> list[np.ndarray]:
        rows = []
        for image in images:
            with net.create_extractor() as extractor:
                extractor.input("in0", ncnn.Mat(np.ascontiguousarray(image)).clone())
                arrays = []
                for i in range(len(about.outputs)):
                    status, value = extractor.extract(f"out{i}")
                    if status or value.empty():  # NumPy would read what is not there
                        raise RuntimeError(f"ncnn gives no output {i}: a layer of the model is not supported there")
                    arrays.append(np.array(value))
                rows.append(arrays)
        return [np.stack(column) for column in zip(*rows, strict=True)]

    return run


FORMAT = Format(
    suffix=".ncnn.param",  # and .ncnn.bin beside it
    packages=("ncnn", "pnnx"),
    extra="ncnn",
    write=write,
    read=read,
    precisions=("fp32", "fp16"),
    dtype="float32",
    masks="logits",
    nms="app",
    concurrent=False,  # its pool of threads is the process's
    batch=1,
)
