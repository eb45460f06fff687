"""AOTInductor: compiled ahead of time for this machine's processor, for servers that run PyTorch.

Loading one runs its machine code. Its metadata is read without that. It holds the folders of this machine that the
compiler was called with.
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from mnv2_tasks.export.formats import Session, torch_export
from mnv2_tasks.export.formats.torch_export import KEY, session, trace
from mnv2_tasks.export.metadata import Metadata

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph


def write(graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]) -> Metadata:
    import torch

    program, about = trace(graph, images, about)
    # It insists on the ending of a package.
    package = path.resolve().with_suffix(".aoti.pt2")
    metadata = {"aot_inductor.metadata": {KEY: json.dumps(about.as_dict())}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=metadata)
    package.replace(path)
    return about


def read(path: Path, about: Metadata, threads: int) -> Session:
    import tempfile

    import torch
    import torchvision  # noqa: F401  (its operators)

    with tempfile.TemporaryDirectory() as folder:  # as in `write`: it loads nothing of another ending
        package = Path(folder) / "model.pt2"
        package.symlink_to(path.resolve())
        return session(torch._inductor.aoti_load_package(str(package)), threads)


def embedded(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        names = (name for name in archive.namelist() if name.endswith(".wrapper_metadata.json"))
        return next((json.loads(archive.read(name)).get(KEY) for name in names), None)


# What it can do is what torch_export can, from which it is made.
FORMAT = replace(torch_export.FORMAT, suffix=".aoti", write=write, read=read, embedded=embedded)
