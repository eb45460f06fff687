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
    """One run: the settings that make its variant, its seed, and where it stands."""

    variant: str
    settings: dict[str, Any]
    seed: int
    folder: Path

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists()


def plan(study: Mapping[str, Any], folder: Path, *, tasks: Sequence[str]) -> list[Run]:
    """Every variant with every seed, seed by seed, so that a study cut short has compared all variants.

    Raises InputError where there is nothing to vary, or no seed.
    """
    vary, seeds = study["vary"], study["seeds"]
    if not vary or not all(isinstance(values, list) and values for values in vary.values()):
        raise InputError(f"study.vary={vary}: give each setting a list, as in study.vary.block=[plain,separable]")
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"study.seeds={seeds}: give a list of different numbers, as in study.seeds=[0,1,2]")
    runs = []
    for seed, values in itertools.product(seeds, itertools.product(*vary.values())):
        settings = dict(zip(vary, values, strict=True))
        name = variant_name(settings)
        place = runs_folder(folder, settings, tasks) / f"{_file_name(name)}_{seed}"
        runs.append(Run(name, settings, seed, place))
    return runs


def variant_name(settings: Mapping[str, Any]) -> str:
    """The value where one setting varies and its value says enough, else name=value of each."""
    if len(settings) == 1 and isinstance(value := next(iter(settings.values())), str):
        return value
    return " ".join(f"{key.rpartition('.')[2]}={override_value(value)}" for key, value in settings.items())


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text).strip("_")
