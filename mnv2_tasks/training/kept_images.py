"""What a run or an evaluation keeps of each image: `images/<task>.<side>.npz`, and the intervals that come of it."""

import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.reading.file_split import FileSplit
from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.files import replacing
from mnv2_tasks.metrics.bootstrap import intervals
from mnv2_tasks.metrics.box_results import Boxes
from mnv2_tasks.metrics.image_results import ImageResults, Labels, Masks, Presences, TellsImages

FOLDER = "images"
FORMS: dict[str, type[ImageResults]] = {"labels": Labels, "presences": Presences, "masks": Masks, "boxes": Boxes}


@dataclass(frozen=True)
class Kept:
    """The results of a task's images on a side.

    Attributes:
        names: (N,) of the images, in the order of `results`: paths below the folder that they share; numbers of
            images that are no files.
    """

    names: NDArray[np.str_]
    results: ImageResults


def place(folder: Path, task: str, side: str) -> Path:
    return folder / FOLDER / f"{task}.{side}.npz"


def check_count(count: Any) -> None:
    """Raises InputError where `intervals` is no number of drawings."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise InputError(f"intervals={count}: give a number of drawings, such as 1000, or 0 for no intervals")


def keep_images(
    metrics: Iterable[tuple[str, Any]], data: DataModule, side: str, folder: Path, *, count: int
) -> dict[str, tuple[float, float]]:
    """Write the results by image of a side that was just evaluated.

    Args:
        metrics: (task, its metric, computed). One that tells no images, as of a head of one's own, is left out.
        count: drawings of the bootstrap; 0: none.

    Returns:
        {"task/metric": (low, high)}, the 95% intervals.
    """
    ends: dict[str, tuple[float, float]] = {}
    for task, metric in metrics:
        source = data.source_of(task)
        if (split := data.split(source, side)) is None:
            continue
        if not isinstance(metric, TellsImages):
            if count:
                print(f"{task}: no intervals on {side}: its metric does not tell images apart (`by_image`)")
            continue
        results, all_names = metric.by_image(), image_names(split)
        names = [all_names[i] if all_names else f"{source} {side} {i}" for i in results.images.tolist()]
        _write(place(folder, task, side), Kept(np.array(names, np.str_), results))
        if count:
            ends |= {f"{task}/{name}": pair for name, pair in intervals(results, count).items()}
    return ends


def image_names(split: Any) -> list[str] | None:
    """The images' paths below the folder of the data, or the folder that they share; None where they are no files."""
    if hasattr(split, "file_name"):
        return [split.file_name(index) for index in range(len(split))]
    if not isinstance(split, FileSplit) or not len(split):
        return None
    paths = [split.path(index) for index in range(len(split))]
    shared = os.path.commonpath([path.parent for path in paths])
    return [path.relative_to(shared).as_posix() for path in paths]


def _write(path: Path, kept: Kept) -> None:
    form = next(name for name, kind in FORMS.items() if type(kept.results) is kind)
    arrays = {field.name: np.asarray(getattr(kept.results, field.name)) for field in fields(kept.results)}  # type: ignore[arg-type]
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, form=form, names=kept.names, **arrays)  # type: ignore[arg-type]


def read_images(path: Path) -> Kept | None:
    """What `keep_images` wrote; None where there is no such file. Raises InputError for a damaged one."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as held:
            form = FORMS[str(held["form"])]
            arrays = [held[field.name] for field in fields(form)]  # type: ignore[arg-type]
            results = form(*(int(array) if array.ndim == 0 else array for array in arrays))
            kept = Kept(held["names"], results)
        if len(kept.names) != len(results.images):
            raise ValueError("it has another number of names than of images")
        results.values(np.ones((1, len(kept.names)), np.int64))  # whether the arrays fit one another
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no results by image ({reason_of(error)}); evaluate the run again") from error
    return kept
