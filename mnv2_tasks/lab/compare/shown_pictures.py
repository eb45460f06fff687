"""The same images as several models see them: those on which the models differ most, predicted anew."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnv2_tasks.assembly.restore import restored
from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.compare.found_runs import FoundRun
from mnv2_tasks.lab.compare.rows import Row
from mnv2_tasks.lab.compare.significance import aligned, apart
from mnv2_tasks.training.example_pictures import Example, examples
from mnv2_tasks.training.kept_images import Kept, image_names, place, read_images
from mnv2_tasks.training.module import MultiTask

MOST = 4  # models side by side
SURE = 0.5  # score of the boxes that a caption counts


@dataclass(frozen=True)
class Shown:
    """A written picture: the truth, then what each model predicts, and in words what each got wrong."""

    path: Path
    caption: str


def show(
    rows: Sequence[Row], side: str, task: str, folder: Path, *, count: int, trust: Sequence[str]
) -> tuple[list[Shown], list[str]]:
    """`count` images on which the first runs of at most four rows differ most, and a line for what is not shown.

    Only rows whose images are the first one's, and whose checkpoint and data are there, are among them.
    """
    if not count:
        return [], []
    models, said = _alike(rows, side, task)
    if len(models) < 2:
        return [], [*said, f"{task}: no pictures side by side, which needs two runs with results on the same images"]
    results = [aligned(kept, models[0][1]) for _, kept in models]
    quality = np.stack([one.quality() for one in results])  # (models, images)
    picked = _most_apart(quality, count)
    columns: list[tuple[Row, list[Example], Any, tuple[str, ...]]] = []
    for (row, _), one in zip(models, results, strict=True):
        names = models[0][1].names[picked].tolist()
        try:
            module, pictures = _predict(row.first, side, task, one.images[picked].tolist(), names, trust)
        except InputError as error:
            said.append(f"{row.name}: not among the pictures of {task}: {error}")
            continue
        columns.append((row, pictures, module.model.heads[task].kind, module.classes[task]))
    if len(columns) < 2:
        return [], [*said, f"{task}: no pictures side by side: fewer than two models could predict them"]
    shares = {row.name: values for (row, _), values in zip(models, quality, strict=True)}
    folder.mkdir(parents=True, exist_ok=True)
    shown = [
        _write(
            columns,
            i,
            folder / f"{task}_{i + 1}.png",
            task,
            models[0][1].names[index],
            {n: v[index] for n, v in shares.items()},
        )
        for i, index in enumerate(picked.tolist())
    ]
    return shown, said


def _alike(rows: Sequence[Row], side: str, task: str) -> tuple[list[tuple[Row, Kept]], list[str]]:
    """At most four rows with results on the images of the first one that has any, and a line for the others."""
    models: list[tuple[Row, Kept]] = []
    said = []
    for row in rows:
        if task not in row.record.primaries:
            continue
        try:
            kept = read_images(place(row.first.folder, task, side))
        except InputError:
            kept = None  # the verdicts say so
        if kept is None or row.first.checkpoint is None:
            what = "results by image" if kept is None else "checkpoint"
            said.append(f"{row.name}: not among the pictures of {task}: it has no {what}")
        elif models and (why := apart((row.first, kept), (models[0][0].first, models[0][1]), task)):
            said.append(f"{row.name}: not among the pictures of {task}: {why}")
        elif len(models) == MOST:
            said.append(f"{row.name}: not among the pictures of {task}, which show {MOST} models")
        else:
            models.append((row, kept))
    return models, said


def _most_apart(quality: Any, count: int) -> Any:
    """The places of the images, most apart first; of those as far apart, the worse ones first."""
    known = np.flatnonzero(~np.isnan(quality).any(0))
    distance, middle = np.ptp(quality[:, known], axis=0), quality[:, known].mean(0)
    return known[np.lexsort([middle, -distance])[:count]]


def _predict(
    run: FoundRun, side: str, task: str, indices: list[int], names: list[str], trust: Sequence[str]
) -> tuple[MultiTask, list[Example]]:
    """Raises InputError where the checkpoint or its data is not as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        resolved, model = restored(str(run.checkpoint), trust=trust)
    data = resolved.data
    assert data is not None
    source = data.source_of(task)
    split = data.split(source, side)
    if split is None or max(indices) >= len(split):
        raise InputError(f"{source} has no such images on {side} any more")
    if (now := image_names(split)) is not None and [now[index] for index in indices] != names:
        raise InputError(f"{source}: its images have changed since")
    module = MultiTask(model, data.classes)
    return module, examples(module, data, source, side, indices)


def _write(
    columns: Sequence[tuple[Row, list[Example], Any, tuple[str, ...]]],
    i: int,
    path: Path,
    task: str,
    name: str,
    shares: dict[str, float],
) -> Shown:
    from mnv2_tasks.visual.side_by_side import side_by_side

    _, first, kind, classes = columns[0]
    seen = first[i].seen
    shown = [("truth", kind.draw(first[i].image, first[i].targets[task], classes, seen=seen))]
    words: list[str] = []
    for row, pictures, own, known in columns:
        one = pictures[i]
        sides = {"ground_truth": one.targets[task], "predictions": one.predictions[task]}
        truth, found = own.words(sides, known, least=SURE)
        words = words or [f"truth: {truth}"]
        words.append(f"{row.name}: {found} ({shares[row.name]:.2f})")
        shown.append((row.name, own.draw(one.image, one.predictions[task], known, seen=one.seen)))
    side_by_side(shown).save(path)
    return Shown(path, f"{name}. {'; '.join(words)}")
