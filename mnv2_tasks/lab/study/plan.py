"""Which runs a study has: every variant with every seed."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnv2_tasks.assembly.overrides import override_value
from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.jobs.run_settings import runs_folder


class Run(NamedTuple):
    """One run: the settings that make its variant, its seed, where it stands, and which of how many folds is val."""

    variant: str
    settings: dict[str, Any]
    seed: int
    folder: Path
    fold: int | None = None
    folds: int | None = None

    @property
    def repeat(self) -> int:
        """What tells it from the other runs of its variant: its seed, or its seed and fold as a number."""
        return self.seed if self.fold is None or self.folds is None else self.seed * self.folds + self.fold

    @property
    def named(self) -> str:
        return f"{self.variant}, seed {self.seed}{'' if self.fold is None else f', fold {self.fold}'}"

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists()


def plan(study: Mapping[str, Any], folder: Path, *, tasks: Sequence[str]) -> list[Run]:
    """Every variant with every seed and fold, seed by seed, so that a study cut short has compared all variants.

    Raises InputError where there is nothing to vary, or no seed.
    """
    vary, seeds, folds = study["vary"], study["seeds"], study.get("folds")
    if folds is not None and (not isinstance(folds, int) or folds < 2):
        raise InputError(f"study.folds={folds}: give a number of folds, at least 2, or null")
    if not (vary or folds) or not all(isinstance(values, list) and values for values in vary.values()):
        raise InputError(f"study.vary={vary}: give each setting a list, as in study.vary.block=[plain,separable]")
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"study.seeds={seeds}: give a list of different numbers, as in study.seeds=[0,1,2]")
    runs = []
    parts: list[int | None] = [*range(folds)] if folds else [None]
    for seed, fold, values in itertools.product(seeds, parts, itertools.product(*vary.values())):
        settings = dict(zip(vary, values, strict=True))
        heads = runs_folder(folder, settings, tasks)
        name = variant_name(settings) or heads.name
        number = f"{seed}" if fold is None else f"{seed}_fold_{fold}"
        place = heads / f"{_file_name(name)}_{number}"
        runs.append(Run(name, settings, seed, place, fold, folds))
    return runs


def variant_name(settings: Mapping[str, Any]) -> str:
    """The value where one setting varies and its value says enough, else name=value of each."""
    if len(settings) == 1 and isinstance(value := next(iter(settings.values())), str):
        return value
    return " ".join(f"{key.rpartition('.')[2]}={override_value(value)}" for key, value in settings.items())


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
