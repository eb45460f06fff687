"""AOTInductor: compiled ahead of time for this machine's processor, for servers that run PyTorch."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mnv2_tasks.export import Session
from mnv2_tasks.export.torch_export import KEY, session, trace

suffix = ".aoti"
extra = "export"
packages = ("torch",)
precisions = ("fp32",)
dynamic = ("batch", "height", "width")
layout = "nchw"
dtype = "uint8"
nms = "native"
masks = "argmax"


def write(
    graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
) -> None:
    import torch

    program = trace(graph, images, about)
    # It insists on the ending of a package.
    package = path.resolve().with_suffix(".aoti.pt2")
    metadata = {"aot_inductor.metadata": {KEY: json.dumps(about)}}
    torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=metadata)
    package.replace(path)


def read(path: Path, about: Mapping[str, Any], threads: int) -> Session:
    import torchvision  # noqa: F401  (its operators)

    return session(_load(path), threads)


def _load(path: Path) -> Any:
    import tempfile

    import torch

    with tempfile.TemporaryDirectory() as folder:  # as in `write`: it loads nothing of another ending
        package = Path(folder) / "model.pt2"
        package.symlink_to(path.resolve())
        return torch._inductor.aoti_load_package(str(package))


def embedded(path: Path) -> str | None:
    return _load(path).get_metadata().get(KEY)
