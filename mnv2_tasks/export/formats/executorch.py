"""ExecuTorch with XNNPACK: PyTorch's own runtime for phones and small devices."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.formats.torch_export import trace
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    if about.precision == "int8":
        graph = _quantized(graph, images, calibration)
    program, about = trace(graph, images, about)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    with path.open("wb") as file:
        lowered.write_to_file(file)
    return about


def _quantized(graph: "Graph", images: Tensor, calibration: Sequence[Tensor]) -> "Graph":
    """The graph with per-channel int8 weights and int8 activations by PT2E.

    Of the network alone, which is exported by itself for it. Ranges by min and max: the quantiser's own histograms
    clip them. It measures what goes into ReLU6 apart from what comes out; both get the latter's range. Only these
    operations, or joining a detector's levels would put one scale on all of them, and the default boxes would be
    rounded.
    """
    import copy
    from dataclasses import replace

    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    class Quantized(torch.nn.Module):
        def __init__(self, network: Any, heads: Any) -> None:
            super().__init__()
            self.network = network
            self.model = SimpleNamespace(heads=dict(heads))  # heads: for their settings alone

        def forward(self, x: Tensor) -> Any:
            return self.network(x)

    def fed(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2) if graph.layout == "nhwc" else x

    aten = torch.ops.aten
    stock = get_symmetric_quantization_config(is_per_channel=True)
    ranges = replace(stock.input_activation, observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12))
    settings = replace(stock, input_activation=ranges, output_activation=ranges)
    quantizer = XNNPACKQuantizer().set_filter_function(
        lambda node: node.target is not aten.add.Tensor or node.meta["val"].dim() == 4  # shortcuts, no default boxes
    )
    for operation in (aten.conv2d.default, aten.linear.default, aten.adaptive_avg_pool2d.default, aten.add.Tensor):
        quantizer.set_operator_type(operation, settings)
    observed = prepare_pt2e(torch.export.export(graph.network, (fed(images),)).module(), quantizer)
    with torch.no_grad():
        for batch in calibration:
            observed(fed(batch))
    for node in observed.graph.nodes:
        if node.target in (aten.hardtanh.default, aten.hardtanh_.default):
            before, *limits = node.args
            observer = observed.get_submodule(before.target)
            observer.min_val.clamp_(*limits)
            observer.max_val.clamp_(*limits)
    whole: Any = copy.deepcopy(graph)
    whole.network = Quantized(convert_pt2e(observed), whole.network.model.heads)
    return whole


_pool = {"threads": 0, "made": 0}  # ExecuTorch has one for the process, and a loaded method keeps a pointer to it


def read(path: Path, about: Metadata, threads: int) -> Session:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime, Verification

    program = Runtime.get().load_program(path, verification=Verification.InternalConsistency)
    mine: dict[str, Any] = {"made": -1}

    def run(images: np.ndarray) -> list[np.ndarray]:
        if _pool["threads"] != threads:
            portable_lib._unsafe_reset_threadpool(threads)
            _pool.update(threads=threads, made=_pool["made"] + 1)
        if mine["made"] != _pool["made"]:  # never loaded, or for a pool that is no more
            mine.update(method=program.load_method("forward"), made=_pool["made"])
        return [value.numpy() for value in mine["method"].execute([torch.from_numpy(images)])]

    run(np.zeros(about.input.shape, about.input.dtype))  # a file that is cut short shows it here
    return run


FORMAT = Format(
    suffix=".pte",
    packages=("executorch",),
    extra="executorch",
    write=write,
    read=read,
    precisions=("fp32", "int8"),
    nms="app",  # in its portable kernels, which XNNPACK does not replace, suppression takes seconds an image
    concurrent=False,  # a method holds its buffers, and the pool of threads is the process's
)
