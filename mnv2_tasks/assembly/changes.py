"""A run that goes on with other settings: they are composed as a new run's are, and what cannot act is refused."""

import io
import re
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mnv2_tasks.assembly.overrides import CONFIGS, PLACES, composing_error, setting_names
from mnv2_tasks.assembly.settings import settle_training
from mnv2_tasks.datasets.reading.classes import class_advice
from mnv2_tasks.errors import InputError, quote

if TYPE_CHECKING:
    from mnv2_tasks.datasets.datamodule import DataModule

Config = dict[str, Any]
ABSENT = object()  # a setting that there is not
REPLACED = {  # a group of configs/ -> the sections whose place its choice takes
    "backbone": "backbone",
    "block@backbone.block": "backbone.block",
    "optim": "optim",
    "trainer": "trainer",
    "balance": "balance",
    "logger": "logger",
    "callbacks": "callbacks",
    "task": "heads",
    "data": "data",
}
LEAVE = "leave it out"
ANEW = "leave it out, or start another run with backbone.weights={last}"
# Settings that a run keeps: (pattern of names, why, what to do).
OF_ITS_FOLDER = (
    (r"name|runs", "the run keeps its folder", "move the folder itself, and resume it at its new place"),
    (r"(study|search|matched|auto)(\..*)?", "it is one run", LEAVE),
    (r"heads\.\w+|heads\.\w+\._target_", "the folder is of a run with the heads that it has", ANEW),
)
# Settings that nothing can follow once an epoch was done.
OF_ITS_START = (
    (r"folds\..*", "the images that it has learnt from hang on it", ANEW),
    (r"seed", "the order of the images hangs on it", ANEW),
    (r"backbone\.(weights|match|match_to)|heads\.\w+\.boxes", "that is decided once, before the first step", ANEW),
    (r"backbone\.block\..*", "its weights were trained in the block that it has", ANEW),
    (r"optim\.optimizer\.(_target_|amsgrad|centered)", "last.ckpt holds another optimizer's state", ANEW),
    (r"trainer\.num_sanity_val_steps", "Lightning takes them before a new run alone", LEAVE),
)
NETWORK = ("backbone", "heads", "balance")
# What acts at the end of a run; not what would measure best.ckpt otherwise than it tells of itself.
OF_ITS_END = re.compile(
    rf"examples|test|intervals|baselines(\..*)?|loader\.(batch_size|workers)|trainer\.(accelerator|devices|strategy)"
    rf"|data\.(\w+\.)*({'|'.join(PLACES)})"
)
LIMITS = ("trainer.max_epochs", "trainer.max_steps", "trainer.max_time")


def compose_changes(own: Config, changes: list[str]) -> Config:
    """A run's own settings, then the changes as typed, composed by Hydra; a group's choice replaces its section.

    Raises InputError where they do not compose.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    store = ConfigStore.instance()
    store.store("own_settings", own)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = compose("resume", changes, return_hydra_config=True)
            choices = config.hydra.runtime.choices  # without those that are lists
            chosen = [section for group, section in REPLACED.items() if choices.get(group, "a list") is not None]
            if chosen:
                store.store("own_settings", _without(own, chosen))
            return settle_training(compose("resume", changes))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(composing_error(error, lambda: setting_names(OmegaConf.create(own)))) from error


def trusted(changes: list[str]) -> tuple[str, ...]:
    """The modules that `trust=[...]` names among the changes."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    named: Any = ()
    for change in changes:
        if re.match(r"\+*trust=", change):
            named = OverridesParser.create().parse_override(change).value()
    return tuple(map(str, named)) if isinstance(named, list) else (str(named),) if named else ()


def _without(own: Config, sections: list[str]) -> Config:
    remaining = deepcopy(own)
    for section in sections:
        if section == "backbone.block":
            remaining["backbone"]["block"] = {}
        elif section == "backbone":  # its block is a group of its own
            remaining["backbone"] = {"block": own["backbone"]["block"]}
        else:
            remaining[section] = {}
    return remaining


def differences(before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """{dotted name: (before, after)} of the settings that differ; ABSENT for one that there is not."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found |= differences(old, new, f"{prefix}{key}.")
        elif old != new or isinstance(old, bool) != isinstance(new, bool):
            found[f"{prefix}{key}"] = old, new
    return found


def changed(before: Config, after: Config) -> dict[str, tuple[Any, Any]]:
    """`differences` of a run's settings and the same with changes; where it lies and what is trusted are none."""
    return differences(before, {**after, "resume": before.get("resume"), "trust": before.get("trust")})


def describe(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """A text for each of the `differences`."""
    return [f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in changes.items()]


def refuse_fixed(before: Config, after: Config, *, begun: bool = True) -> dict[str, tuple[Any, Any]]:
    """What is `changed`. Raises InputError for a setting that nothing can follow in the middle of a run.

    begun: whether an epoch was done, so that there is a last.ckpt to go on from.
    """
    changes = changed(before, after)
    kept: tuple[tuple[str, str, str], ...] = OF_ITS_FOLDER
    if begun:
        kept += OF_ITS_START
        if not _is_ours(before["optim"]["schedule"], after["optim"]["schedule"]):
            kept += ((r"optim\..*", "last.ckpt holds the rates, which no schedule of this package sets", ANEW),)
    for name, (old, new) in changes.items():
        fixed = [(why, fix) for pattern, why, fix in kept if re.fullmatch(pattern, name)]
        if fixed:
            raise refusal(after["resume"], name, old, new, *fixed[0])
    return changes


def limit_reached(trainer: Mapping[str, Any], epochs: int, steps: int) -> str | None:
    """Which setting of a config's `trainer` section ends a run that has done so much; None where it goes on."""
    for limit, done in zip(LIMITS, (epochs, steps), strict=False):
        most = trainer.get(limit.removeprefix("trainer."))
        if isinstance(most, int) and 0 <= most <= done:
            return limit
    return None


def refuse_ended(before: Config, after: Config, *, epochs: int, steps: int) -> None:
    """Raises InputError for a change that only further epochs would show, where a run has had all of its own."""
    limit = limit_reached(after["trainer"], epochs, steps)
    if limit is None:
        return
    names = list(changed(before, after))
    if limit_reached(before["trainer"], epochs, steps) and any(name in LIMITS for name in names):
        done = f"{epochs} epochs and {steps} steps"
        raise InputError(f"resume={after['resume']}: the run has ended already, after {done}; give {limit} more")
    refuse_idle(after["resume"], names, limit)


def refuse_idle(folder: str | Path, names: Iterable[str], limit: str = LIMITS[0]) -> None:
    """Raises InputError for a changed setting that does not act at the end of a run, of one that has no epoch left."""
    for name in names:
        if not OF_ITS_END.fullmatch(name) and name not in LIMITS:
            raise InputError(
                f"resume={folder}: the run has ended, and no epoch is left for {name} to act on; "
                f"{limit}=<more> goes on, and mnv2_tasks.evaluate measures best.ckpt with other settings"
            )


def refuse_lost(before: Config, after: Config, data: "DataModule") -> None:
    """Raises InputError for a change of what only the beginning of a network takes: last.ckpt would bring it back.

    Also for one of a transform that this data does not have.
    """
    changes = differences(before, after)
    used = {data.augmented_as(source) for source in data.sources}
    for name, (old, new) in changes.items():
        if (match := re.match(r"augment\.(\w+)", name)) and match[1] not in used:
            raise refusal(after["resume"], name, old, new, f"its images take those of {', '.join(used)}", LEAVE)
    changes = {name: values for name, values in changes.items() if name.partition(".")[0] in NETWORK}
    if not changes:
        return
    first = _beginning(before, data)
    for name, (old, new) in changes.items():
        try:
            alone = _beginning(_with(before, name, new), data)
        except Exception:  # it needs the others
            continue
        if why := _differ(first, alone):
            raise refusal(after["resume"], name, old, new, why, ANEW)
    if why := _differ(first, _beginning(after, data)):
        name, (old, new) = next(iter(changes.items()))
        raise refusal(after["resume"], name, old, new, why, ANEW)


def refuse_classes(learned: Mapping[str, tuple[str, ...]], classes: Mapping[str, tuple[str, ...]]) -> None:
    """Raises InputError where the data has other classes than those that a run's network was trained on."""
    for task, names in classes.items():
        if tuple(learned.get(task, names)) != tuple(names):
            raise InputError(
                f"data: {task} was trained on the classes {quote(list(learned[task]))}, and this data has "
                f"{quote(list(names))}; {class_advice(learned[task], names) or 'give the data of those classes'}, or "
                "start another run"
            )


def refusal(folder: str, name: str, old: Any, new: Any, why: str, fix: str) -> InputError:
    fix = fix.format(last=f"{folder}/checkpoints/last.ckpt")
    return InputError(f"resume={folder}: {name} was {_shown(old)} and cannot become {_shown(new)}: {why}; {fix}")


def _is_ours(*schedules: Mapping[str, Any] | None) -> bool:
    return all(
        schedule and str(schedule["_target_"]).startswith("mnv2_tasks.training.schedules.") for schedule in schedules
    )


def _shown(value: Any) -> str:
    return "not there" if value is ABSENT else "null" if value is None else quote(value)


def _with(config: Config, name: str, value: Any) -> Config:
    changed = deepcopy(config)
    node, (*path, key) = changed, name.split(".")
    for step in path:
        node = node[step]
    if value is ABSENT:
        node.pop(key)
    else:
        node[key] = value
    return changed


def _beginning(config: Config, data: "DataModule") -> tuple[dict[str, torch.Tensor], list[int]]:
    """The tensors that a new run of a config begins with, and the sizes of its optimizer's groups."""
    from mnv2_tasks.assembly import build

    with redirect_stdout(io.StringIO()):
        task = build.make_task(config, data)
    return task.state_dict(), [len(group["params"]) for group in task.groups()]


def _differ(first: tuple[dict[str, torch.Tensor], list[int]], second: tuple[dict[str, torch.Tensor], list[int]]) -> str:
    tensors, others = first[0], second[0]
    for name in [*tensors, *(name for name in others if name not in tensors)]:
        if name not in tensors or name not in others or not torch.equal(tensors[name], others[name]):
            return f"it is for the beginning, and last.ckpt holds {name.removeprefix('model.')} as it was"
    return "" if first[1] == second[1] else "last.ckpt holds the optimizer's state of other layers"
