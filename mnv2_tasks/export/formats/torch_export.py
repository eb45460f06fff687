"""`torch.export`'s .pt2, for PyTorch without this package: dynamic sizes, metadata in the file.

Loading one runs what it holds: pickles, expressions, guards. Its metadata is read without that.
"""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from mnv2_tasks.export.formats import Format, Session
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


KEY = "mnv2_tasks"


def dimensions(about: Metadata) -> dict[int, str] | None:
    """{axis of the input: its name} of what may vary; None where nothing does."""
    rows, columns = (2, 3) if about.input.layout == "nchw" else (1, 2)
    axes = {"batch": 0, "height": rows, "width": columns}
    return {axis: name for name, axis in axes.items() if name in about.dynamic} or None


def trace(graph: nn.Module, images: Tensor, about: Metadata) -> tuple[Any, Metadata]:
    """The graph as an ExportedProgram, and the metadata with the ranges in which its dimensions may vary.

    PyTorch holds a size to the range in which the layout of every feature map in memory stays of one kind: a level of
    the detector that has a single cell at the size traced has it over the whole range.
    """
    import torch

    axes = dimensions(about)
    if axes is None:
        with _out_of_place(graph):
            return _nameless(torch.export.export(graph, (images,))), about
    batch = torch.export.Dim("batch", min=1, max=64)
    auto = torch.export.Dim.AUTO
    shapes = {axis: batch if name == "batch" else auto(min=32, max=2048) for axis, name in axes.items()}
    with _out_of_place(graph):
        program = torch.export.export(graph, (images,), dynamic_shapes=(shapes,))
    (node,) = (node for node in program.graph.nodes if node.name == program.graph_signature.user_inputs[0])
    ranges: dict[str, tuple[int, int]] = {}
    for axis, name in axes.items():
        size = node.meta["val"].shape[axis]
        if not isinstance(size, int):
            limits = program.range_constraints[size.node.expr]
            ranges[name] = (int(limits.lower), int(limits.upper))
    return _nameless(program), replace(about, ranges=ranges, dynamic=tuple(ranges))


@contextmanager
def _out_of_place(graph: nn.Module) -> Iterator[None]:
    """Activations write to tensors of their own meanwhile.

    One in place is taken apart into hundreds of operations on sizes where these may vary, which makes a conversion to
    ONNX three times as long.
    """
    inplace: list[Any] = [module for module in graph.modules() if getattr(module, "inplace", False) is True]
    for module in inplace:
        module.inplace = False
    try:
        yield
    finally:
        for module in inplace:
            module.inplace = True


def _nameless(program: Any) -> Any:
    """Without the lines of source that each node came from: they name folders of the machine that exports."""
    import torch

    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    import torch

    program, about = trace(graph, images, about)
    torch.export.save(program, str(path), extra_files={KEY: about.as_json()})
    return about


def read(path: Path, about: Metadata, threads: int) -> Session:
    import torch
    import torchvision  # noqa: F401  (its operators)

    return session(torch.export.load(str(path)).module(), threads)


def session(module: Any, threads: int) -> Session:
    """A module of PyTorch's as a session. The threads are the process's, so they are put back after every run."""
    import torch

    def run(images: np.ndarray) -> list[np.ndarray]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                return [value.numpy() for value in module(torch.from_numpy(images))]
        finally:
            torch.set_num_threads(before)

    return run


def embedded(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.endswith(f"/extra/{KEY}"))
        return next((archive.read(name).decode() for name in names), None)


FORMAT = Format(
    suffix=".pt2",
    packages=("torch",),
    extra="export",
    write=write,
    read=read,
    embedded=embedded,
    dynamic=("batch", "height", "width"),
    concurrent=False,  # a run sets PyTorch's threads, which are the process's
    runs_code=True,
)
