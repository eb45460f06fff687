"""What the runs of a study or a search are told, and that a folder holds runs of the same settings alone."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.assembly.overrides import as_typed, quoted, typed
from mnv2_tasks.errors import InputError


def common_overrides(of: str = "study") -> list[str]:
    """The settings of the command line of a study, or a search, that hold for every run of it."""
    command, pattern = typed(), re.compile(rf"^\+*({of}\.|name=|runs=|resume=|hydra\.)")
    places = [override for override in command.of_hydra if override.startswith("hydra.searchpath=")]
    return [*places, *(override for override in command.settings if not pattern.match(override))]


def settings_for_each(
    config: Mapping[str, Any], overrides: Sequence[str], folder: Path, *, group: str, workers: int | None
) -> list[str]:
    """`overrides`, and what else all runs are told: their folder, W&B group, and loader processes as there are cores.

    workers: of each run; None: the run asks its machine.
    """
    settings = [*overrides, f"runs={quoted(str(folder / 'runs'))}"]
    if "wandb" in config["logger"]:
        settings.append(f"logger.wandb.group={quoted(group)}")
    if workers is not None and not any(override.startswith("loader.workers=") for override in overrides):
        settings.append(f"loader.workers={workers}")
    return settings


def runs_folder(folder: Path, settings: Mapping[str, Any], tasks: Sequence[str]) -> Path:
    """Where the runs with these heads stand: those that the settings name, else the command's own `tasks`."""
    task = settings.get("task", list(tasks))
    return folder / "runs" / "+".join([task] if isinstance(task, str) else task)


def refuse_others(where: object, of: str, before: Sequence[str], now: Sequence[str]) -> None:
    """Raises InputError where a study, or a search, was begun with other settings: its runs would be mixed in."""
    before = list(map(as_typed, before))  # those of older versions stand as Hydra composed them
    if sorted(before) != sorted(now):
        changed = ", ".join(sorted(set(before) ^ set(now)))
        raise InputError(
            f"{where}: holds a {of} with other settings ({changed}); give this one a name=, or remove that folder"
        )
