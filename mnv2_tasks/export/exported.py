"""An exported file as a network to call: what its metadata says, and images fed in the form that it wants."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export import CODE, Session, format_of, need

ABOUT = "model.json"  # beside the files


class Exported:
    """A file that `python -m mnv2_tasks.export` wrote, in its own runtime.

    Call it with images (B, C, H, W) uint8 -> {output name: array}, as `about["outputs"]` names them.

    Raises InputError where the file is none of ours, cut short, or its runtime is not installed; and where loading it
    runs code that it holds (`CODE`), unless its format is named in `trust`.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, trust: Collection[str] = ()) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{path}: no such file; check the path")
        self.name = format_of(self.path)
        target = need(self.name)
        if self.name in CODE and self.name not in trust:
            raise InputError(f"{path}: loading it runs code in it; if you trust the file, say so: trust=[{self.name}]")
        try:
            self.about: dict[str, Any] = read_about(self.path)
            self.session: Session = target.read(self.path, self.about, threads)
        except InputError:
            raise
        except Exception as error:  # every runtime has its own
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(
                f"{path}: {self.name} cannot read it ({reason}); export it again, or copy it again"
            ) from error

    def feed(self, images: Tensor) -> np.ndarray:
        """(B, C, H, W) uint8 in the layout and type that the graph takes."""
        return as_input(images, self.about["input"]).numpy()

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        about = self.about
        (height, width), batch = images.shape[2:], about["input"]["shape"][0]
        if {"height", "width"}.isdisjoint(about["dynamic"]) and [height, width] != about["size"]:
            raise InputError(
                f"{self.path}: takes images of {' x '.join(map(str, about['size']))}, not {height} x {width}"
            )
        if "batch" in about["dynamic"]:
            return self._named(self.session(self.feed(images)))
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            short = batch - len(part)
            filled = part if not short else part[[*range(len(part)), *([0] * short)]]
            parts.append([value[: len(part)] for value in self.session(self.feed(filled))])
        return self._named([np.concatenate(column) for column in zip(*parts, strict=True)])

    def _named(self, values: list[np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.about["outputs"], values, strict=True))


def as_input(images: Tensor, form: dict[str, Any]) -> Tensor:
    """(B, C, H, W) uint8 -> the same in `form["layout"]` and `form["dtype"]`, floats in 0..1."""
    if form["layout"] == "nhwc":
        images = images.permute(0, 2, 3, 1)
    if form["dtype"] == "float32":
        images = images.float() / 255
    return images.contiguous()


def read_about(path: Path) -> dict[str, Any]:
    """What model.json beside an exported file says of it, or else the file itself. Raises InputError."""
    beside = path.parent / ABOUT
    try:
        if beside.is_file():
            told = json.loads(beside.read_text(encoding="utf-8"))
            if path.name in told.get("files", {}):
                return {**told, **told["files"][path.name]}
        text = need(format_of(path)).embedded(path)
    except (ValueError, KeyError) as error:
        raise InputError(f"{beside}: cannot be read ({error}); export the model again") from error
    if not text:
        raise InputError(f"{path}: it does not say what it is: keep {ABOUT} beside it, as the export wrote it")
    return json.loads(text)
