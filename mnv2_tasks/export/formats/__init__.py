"""Trained models for other runtimes: what is written, how each format loads it back, and proof that it is the same."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError

FORMATS = ("onnx", "torch_export", "aoti", "executorch", "openvino", "litert", "coreml", "ncnn", "mnn")  # a file each
CODE = ("torch_export", "aoti")  # whose files hold code that loading runs: nothing can check it beforehand
Session = Callable[[np.ndarray], list[np.ndarray]]  # images, as the graph takes them -> its outputs, in their order


class Format(Protocol):
    """What a module of this package, one a format, has. Heavy imports stay inside of its functions."""

    suffix: str  # of the file, or the folder, that it writes
    extra: str  # of pyproject.toml: pip install -e '.[<extra>]'
    packages: tuple[str, ...]  # that it imports, for writing and for running
    precisions: tuple[str, ...]
    dynamic: tuple[str, ...]  # what of batch, height and width may vary
    layout: str  # of the input where none is asked for: nchw or nhwc
    dtype: str  # of the input where none is asked for: uint8, or float32 in 0..1
    masks: str  # what segmenters give where nothing else is asked for: argmax, or logits where it lacks that
    concurrent: bool  # whether one session serves several threads at once; if not, the calls of a format take turns
    nms: str  # suppression that it has: native, portable or app (see `graph.Graph`)

    def write(
        self, graph: Any, images: Tensor, path: Path, *, precision: str, calibration: Sequence[Tensor], about: dict
    ) -> None:
        """Write the graph, traced with `images` (dynamic where about["dynamic"]), with `about` inside where it can be.

        calibration: batches like `images`, for int8.
        """

    def read(self, path: Path, about: Mapping[str, Any], threads: int) -> Session:
        """Load what `write` wrote, in its own runtime."""

    def embedded(self, path: Path) -> str | None:
        """The JSON of `about` that travels inside the file; None where the format has no place for it."""


def get_format(name: str) -> Format:
    """The module of a format. Raises InputError for an unknown one."""
    if name not in FORMATS:
        raise InputError(f"to={name}: no such format, of {', '.join((*FORMATS, 'web'))}")
    return cast(Format, import_module(f"mnv2_tasks.export.formats.{name}"))


def need(name: str) -> Format:
    """`get_format`, for use: raises InputError where its packages are not installed."""
    from importlib.util import find_spec

    target = get_format(name)
    missing = [package for package in target.packages if find_spec(package) is None]
    if missing:
        raise InputError(f"to={name} needs {', '.join(missing)}: pip install -e '.[{target.extra}]' in the clone")
    return target


def format_of(path: Path) -> str:
    """The format of an exported file, by its name. Raises InputError."""
    for name in FORMATS:
        if path.name.endswith(get_format(name).suffix):
            return name
    known = ", ".join(get_format(name).suffix for name in FORMATS)
    raise InputError(f"{path}: not an exported model (they end in {known}) nor a checkpoint (.ckpt)")
