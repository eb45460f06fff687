"""The settings of a run that goes on: its config.yaml, read with care, and what is changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mnv2_tasks.assembly import auto
from mnv2_tasks.assembly.changes import compose_changes, trusted
from mnv2_tasks.errors import InputError, quote
from mnv2_tasks.files import read_text
from mnv2_tasks.version import __version__
from mnv2_tasks.weights.checkpoint import complete_backbone
from mnv2_tasks.weights.moved_names import with_new_names
from mnv2_tasks.weights.trust import refuse_foreign, refuse_unknown

Config = dict[str, Any]
PLAIN_SECTIONS = ("loader", "optim", "trainer")  # whose keys are the same in every run
DECIDED = ("output_stride", "freeze_norm")  # of the backbone, where they are null (see `resolve`)
MOST_CONFIG = 1 << 20  # bytes of a config.yaml


def resumed_config(folder: str | Path, changes: list[str], defaults: Config) -> Config:
    """The config of a run to be continued, with changes as on the command line, such as trainer.max_epochs=40.

    What its version did not have yet is as `defaults`, the config of a new run, says. Raises InputError where the file
    is damaged, or asks for anything but this package's parts and those of the modules that `trust=[...]` names.
    """
    path = Path(folder) / "config.yaml"
    if not path.exists():
        raise InputError(
            f"resume={folder}: no run to continue there (config.yaml is needed, and checkpoints/last.ckpt)"
        )
    fix = "correct it, or take the config.yaml of a copy"
    try:
        own = with_new_names(yaml.safe_load(read_text(path, fix=fix, most=MOST_CONFIG)))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}; {fix}") from error
    if not isinstance(own, dict):
        raise InputError(f"{path}: holds no settings; {fix}")
    _fill(own, {**defaults, "trust": []}, path, "")
    own.pop("photos", None)  # of experiment=pets3: runs once kept what only its interpolations read
    own["backbone"] = complete_backbone(own["backbone"])
    own |= {"trust": [], "resume": str(folder)}  # what is trusted is said now
    refuse_foreign(own, path, trust=trusted(changes))
    refuse_unknown(own, path)
    known = (*defaults, "trust", "matched", "auto", "study", "search")
    if unknown := [key for key in own if key not in known]:
        fix = "take it out, or use the version that wrote it"
        raise InputError(f"{path}: this version ({__version__}) has no setting {quote(unknown[0])}; {fix}")
    for name, mark in (("study", "variant"), ("search", "trial")):
        section = own.get(name)
        if section and (not isinstance(section, dict) or section.get(mark) is None):  # it would start commands
            raise InputError(f"{path}: its {name} section is no run's, but a whole {name}'s; set {name} to null")
    try:
        return {**compose_changes(own, changes), "resume": str(folder)}
    except InputError as error:
        if changes:
            raise
        raise InputError(f"{path}: {error}") from error


def as_begun(settings: Config, own: Config) -> Config:
    """The settings of the line that began a run, composed once more, with what the run's `own` settings decided then.

    So only what is typed otherwise now is a change.
    """
    decided = {key: own["backbone"][key] for key in DECIDED if settings["backbone"].get(key) is None}
    if own.get("matched"):
        decided |= {key: own["backbone"][key] for key in ("match", "width", "divisor")}
    heads = {task: settings["heads"][task] for task in [*own["heads"], *settings["heads"]] if task in settings["heads"]}
    kept: Config = {key: own[key] for key in ("resume", "matched", "study", "search") if key in own}
    settings = auto.kept(settings, own)
    depth = settings["depth"] or own["depth"]
    return {**settings, **kept, "backbone": {**settings["backbone"], **decided}, "heads": heads, "depth": depth}


def _fill(own: dict[str, Any], defaults: Mapping[str, Any], path: Path, prefix: str) -> None:
    """Put the defaults where `own` lacks a setting. Raises InputError for one of another type than its default."""
    for key, default in defaults.items():
        name, value = f"{prefix}{key}", own.setdefault(key, default)
        if name == "optim.schedule" and value is None:  # the rate stays as it is
            continue
        if isinstance(default, Mapping) and not isinstance(value, dict):
            raise InputError(f"{path}: {name} is {quote(value)}, not a section of settings; correct it")
        if isinstance(default, Mapping) and key in PLAIN_SECTIONS:
            _fill(value, default, path, f"{name}.")
        elif isinstance(default, (int, float)) and isinstance(value, (str, list, dict)) and key != "size":
            raise InputError(f"{path}: {name} is {quote(value)}, not a number or true or false; correct it")
