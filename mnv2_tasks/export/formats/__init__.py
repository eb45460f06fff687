"""The formats of exported models, a module each with its one `FORMAT`; another module here is another format."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.metadata import Layout, Masks, Metadata, Suppression

if TYPE_CHECKING:
    from mnv2_tasks.export.graph import Graph

FORMATS = tuple(module.name for module in iter_modules(__path__))
Session = Callable[[np.ndarray], list[np.ndarray]]  # images, as the graph takes them -> its outputs, in their order


class Writer(Protocol):
    def __call__(
        self, graph: "Graph", images: Tensor, path: Path, about: Metadata, calibration: Sequence[Tensor]
    ) -> Metadata:
        """Write the graph, traced with `images`, in `about.precision`, with the metadata inside where it can be.

        Returns what the file tells: of `about.dynamic` what does vary. calibration: batches like `images`, for int8.
        """


def nothing_inside(path: Path) -> str | None:
    return None


@dataclass(frozen=True)
class Format:
    """A format: what it can do, and the functions that write and read it; heavy imports stay inside of these."""

    suffix: str  # of the file, or the folder, that it writes
    packages: tuple[str, ...]  # that it imports, for writing and for running
    extra: str  # of pyproject.toml: pip install 'mnv2_tasks[<extra>]'
    write: Writer
    read: Callable[[Path, Metadata, int], Session]  # a file, what it tells and threads -> it in its own runtime
    embedded: Callable[[Path], str | None] = nothing_inside  # the JSON of the metadata inside a file
    precisions: tuple[str, ...] = ("fp32",)
    dynamic: tuple[str, ...] = ()  # what of batch, height and width may vary
    batch: int | None = None  # images at a time, where no other number goes
    layout: Layout = "nchw"  # of the input where none is asked for
    dtype: str = "uint8"  # of the input where none is asked for: uint8, or float32 in 0..1
    masks: Masks = "argmax"  # what segmenters give where nothing else is asked for; logits where it lacks argmax
    nms: Suppression = "native"  # suppression that it has (see `graph.Graph`)
    concurrent: bool = False  # whether one session serves several threads at once; if not, its calls take turns
    runs_code: bool = False  # whether a file holds code that loading runs, which nothing can check beforehand
    runs_here: Callable[[], bool] = lambda: True  # whether this system has its runtime


def get_format(name: str) -> Format:
    """Raises InputError for an unknown one."""
    if name not in FORMATS:
        raise InputError(f"to={name}: no such format, of {', '.join((*FORMATS, 'web'))}")
    target = import_module(f"{__name__}.{name}").FORMAT
    assert isinstance(target, Format)
    return target


def need(name: str) -> Format:
    """`get_format`, for use: raises InputError where its packages are not installed."""
    from importlib.util import find_spec

    target = get_format(name)
    missing = [package for package in target.packages if find_spec(package) is None]
    if missing:
        raise InputError(f"to={name} needs {', '.join(missing)}: pip install 'mnv2_tasks[{target.extra}]'")
    return target


def format_of(path: Path) -> str:
    """The format of an exported file, by its name. Raises InputError."""
    for name in FORMATS:
        if path.name.endswith(get_format(name).suffix):
            return name
    known = ", ".join(get_format(name).suffix for name in FORMATS)
    raise InputError(f"{path}: not an exported model (they end in {known}) nor a checkpoint (.ckpt)")
