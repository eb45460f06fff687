"""The runs of a study or a search as a W&B sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.files import write_settings

METHODS = ("grid", "random", "bayes")
FIRST_CUT = 3  # validations after which hyperband first ends the worst runs


def write_sweep(
    path: Path,
    section: Mapping[str, Any],
    overrides: Sequence[str],
    parameters: Mapping[str, Any],
    *,
    of: str = "study",
) -> None:
    """Write a sweep: `wandb sweep <path>`, then `wandb agent` on as many machines as there are.

    Args:
        path: of the file, in the folder of the study or the search.
        section: `study` or `search`, `of` which it is.
        overrides: settings of all runs, as typed.
        parameters: what varies, as W&B takes it.

    Raises InputError for a method that W&B has not.
    """
    sweep = {"method": "grid", "stop_early": False, **(section.get("sweep") or {})}
    method = sweep["method"]
    if method not in METHODS:
        raise InputError(f"{of}.sweep.method={method}: use {', '.join(METHODS[:-1])} or {METHODS[-1]}")
    without = [override for override in overrides if override.startswith("~")]  # no parameter of W&B's
    pairs = (one.split("=", 1) for one in overrides if not one.startswith(("logger=", "~")))
    fixed: dict[str, Any] = {key: {"value": value} for key, value in pairs}
    mark = {"study": "study.variant", "search": "search.trial"}[of]
    fixed |= {"logger": {"value": "wandb"}, mark: {"value": "sweep"}}
    content = {
        "program": "mnv2_tasks.train",
        "name": f"{section['name']} {path.parent.name}",
        "method": method,
        "metric": {"name": "val/score", "goal": "maximize"},
        **({"early_terminate": {"type": "hyperband", "min_iter": FIRST_CUT}} if sweep["stop_early"] else {}),
        "command": ["${interpreter}", "-m", "${program}", *without, "${args_no_hyphens}"],
        "parameters": {**fixed, **parameters},
    }
    write_settings(path, content)
