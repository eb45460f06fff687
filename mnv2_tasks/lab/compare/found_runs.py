"""Finished runs and evaluations in folders, studies and patterns of paths, and among those of W&B."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_text
from mnv2_tasks.lab.compare.wandb_runs import fetch
from mnv2_tasks.training.run_record import NAME, RunRecord, read_run
from mnv2_tasks.weights.artifacts import PREFIX


@dataclass(frozen=True)
class FoundRun:
    """A finished run, or an evaluation.

    Attributes:
        name: its folder below the one that all compared runs share.
        settings: of its config.yaml, of an evaluation its model's; None where that is not there.
        checkpoint: the file whose model was measured, where there is one.
    """

    name: str
    folder: Path
    record: RunRecord
    settings: dict[str, Any] | None
    checkpoint: Path | None

    @property
    def seed(self) -> int | None:
        return (self.settings or {}).get("seed")


def find(paths: Sequence[str], *, trust: Sequence[str], downloads: Path) -> tuple[list[FoundRun], list[str]]:
    """The runs in the order of the paths, each once, and a line for each that cannot be read.

    Args:
        paths: folders, at any depth in which runs lie; patterns with ** and *; `wandb:<entity>/<project>/<run>`.
        trust: modules that the settings of a W&B run may name.
        downloads: where what W&B tells is kept, a folder a run.

    Raises InputError for a path where there is nothing, and where fewer than two runs are found.
    """
    folders: list[Path] = []
    for path in map(str, paths):
        there = [fetch(path, downloads, trust=trust)] if path.startswith(PREFIX) else _below(path)
        folders += [folder for folder in there if folder not in folders]
    read: list[tuple[Path, RunRecord]] = []
    left_out = []
    for folder in folders:
        try:
            record = read_run(folder / NAME)
        except InputError as error:
            left_out.append(str(error))
            continue
        if record.metrics and record.primaries:
            read.append((folder, record))
        else:
            left_out.append(f"{folder / NAME}: it has no metrics of a side")
    if len(read) < 2:
        found = f"there {'is one' if read else 'are none'} in {', '.join(map(str, paths)) or 'nothing'}"
        raise InputError(f"compare: give two finished runs or more (folders with {NAME}); {found}")
    shared = Path(os.path.commonpath([folder.absolute().parent for folder, _ in read]))
    runs = []
    for folder, record in read:
        checkpoint = record.checkpoint(folder)
        of_run = checkpoint is not None and checkpoint.parent.name == "checkpoints"
        origin = checkpoint.parent.parent if checkpoint and of_run else folder
        runs.append(
            FoundRun(folder.absolute().relative_to(shared).as_posix(), folder, record, _settings(origin), checkpoint)
        )
    return runs, left_out


def _below(path: str) -> list[Path]:
    """The folders of runs at a path, a pattern of paths, or below these."""
    there = sorted(glob.glob(os.path.expanduser(path), recursive=True)) if not os.path.exists(path) else [path]
    if not there:
        raise InputError(
            f"{path}: there is nothing; give a folder of runs, a pattern, or wandb:<entity>/<project>/<run>"
        )
    found: dict[Path, None] = {}
    for place in map(Path, there):
        if place.is_dir():
            files = [file for file in sorted(place.rglob(NAME)) if not _is_fetched(file)]
            found |= dict.fromkeys(file.parent for file in files)
        elif place.name == NAME:
            found[place.parent] = None
    return list(found)


def _is_fetched(file: Path) -> bool:
    """Whether it is a run of W&B that an earlier comparison was given."""
    return (file.parent.parent.parent / "compare.json").exists()


def _settings(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.yaml"
    if not path.exists():
        return None
    fix = "restore it, or leave the run out"
    try:
        settings = yaml.safe_load(read_text(path, fix=fix))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}; {fix}") from error
    return settings if isinstance(settings, dict) else None
