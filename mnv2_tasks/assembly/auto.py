"""`loader.batch_size=auto` and `optim.optimizer.lr=auto`: numbers in their place, once, before a run trains.

In this order, as a rate is for a batch. The numbers are settings from then on, and what was measured is beside them in
the `auto` section of config.yaml, which metrics.json repeats.
"""

import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.overrides import AUTO, value_of
from mnv2_tasks.errors import InputError, amount, suggest

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from mnv2_tasks.assembly.resolve import Resolved
    from mnv2_tasks.model import Model
    from mnv2_tasks.training.largest_batch import LargestBatch
    from mnv2_tasks.training.rate_range import RateRange
    from mnv2_tasks.training.trial import Trial

Config = dict[str, Any]
BATCH, RATE = "loader.batch_size", "optim.optimizer.lr"
STAND_IN: dict[str, float] = {
    BATCH: 2,
    RATE: 1.0,
}  # while the numbers are not known; a rate of 1 makes the groups' rates their factors
VARIABLE = "MNV2_TASKS_AUTO"  # tells the processes that Lightning starts what the first one has found
FEW = 10  # steps an epoch, below which a line says that they are few


def asked(config: Mapping[str, Any]) -> list[str]:
    """The settings that are `auto`. Raises InputError for one that is another word."""
    names = []
    for name in (BATCH, RATE):
        value = value_of(config, name)
        if value == AUTO:
            names.append(name)
        elif isinstance(value, str):
            raise InputError(f"{name}={value}: give a number, or {AUTO}{suggest(value, [AUTO]).partition('; --')[0]}")
    return names


def filled(config: Config, numbers: Mapping[str, float]) -> Config:
    """A copy with these numbers in the place of `auto`."""
    made = deepcopy(config)
    for name in asked(config):
        if name in numbers:
            *path, key = name.split(".")
            section = made
            for step in path:
                section = section[step]
            section[key] = numbers[name]
    return made


def kept(settings: Config, own: Mapping[str, Any]) -> Config:
    """The settings of a line that began a run, with what that run's `own` found in the place of `auto`."""
    found = own.get("auto") or {}
    made = filled(settings, {name: value_of(own, name) for name in found})
    return {**made, "auto": found} if found else made


def decide(resolved: "Resolved", model: "Model", trainer: "pl.Trainer", *, begun: bool) -> "Resolved":
    """The resolved settings with numbers in the place of `auto`, and lines that say how they were found.

    Args:
        model: of the run; what trains here is a copy.
        trainer: of the run, for its devices and precision.
        begun: whether the run goes on from a checkpoint.

    Raises InputError where nothing fits, nothing can be measured, or the rate of a run that has begun is to be found.
    """
    from pytorch_lightning.utilities.seed import isolate_rng

    from mnv2_tasks.assembly.trainer import is_started_by_another, starts_others

    names = asked(resolved.settings)
    if begun and RATE in names:
        raise InputError(
            f"resume={resolved.settings['resume']}: {RATE}={AUTO} is for the beginning of a run, with new weights; "
            "give a number, or leave it out"
        )
    if is_started_by_another():
        for name, facts in json.loads(os.environ[VARIABLE]).items():
            resolved = _with(resolved, name, facts)
        return resolved
    with isolate_rng():
        if BATCH in names:
            resolved = _find_batch(resolved, model, trainer)
        if RATE in names:
            resolved = _find_rate(resolved, model, trainer)
    if starts_others(trainer):
        os.environ[VARIABLE] = json.dumps({name: resolved.settings["auto"][name] for name in names})
    return resolved


def _find_batch(resolved: "Resolved", model: "Model", trainer: "pl.Trainer") -> "Resolved":
    from mnv2_tasks.training.largest_batch import find_largest

    data, strategy, world = resolved.data, trainer.strategy, trainer.world_size
    assert data is not None
    here = getattr(strategy, "parallel_devices", None) or [strategy.root_device]
    if strategy.root_device.type != "cpu" and _are_there(trainer):  # each looks at its own
        here = [strategy.root_device]
    largest = find_largest(_trial(resolved, model, trainer), data, devices=here, processes=world)
    size = int(_over_all(trainer, largest.size, "min"))
    facts = {"chosen": size, **asdict(largest), "line": [list(point) for point in largest.line.items()]}
    lines = [describe_batch(largest, size, world, data.shares(size, world))]
    steps = max(len(data.split(name, "train")) // (share * world) for name, share in data.shares(size, world).items())
    if steps < FEW:
        lines.append(f"{BATCH}={size} makes {amount(steps, 'step')} an epoch: a smaller number may learn better")
    return _with(resolved, BATCH, facts, *lines)


def _find_rate(resolved: "Resolved", model: "Model", trainer: "pl.Trainer") -> "Resolved":
    from mnv2_tasks.training.rate_range import find_rate

    assert resolved.data is not None
    trial = _trial(resolved, model, trainer)
    rates = find_rate(trial, resolved.data, averaged=lambda loss: _over_all(trainer, loss, "mean"))
    facts = {"chosen": rates.chosen, "steps": len(rates.rates), "least_at": rates.least_at, "clear": rates.clear}
    return replace(_with(resolved, RATE, facts, describe_rate(rates)), rates=rates)


def _trial(resolved: "Resolved", model: "Model", trainer: "pl.Trainer") -> "Trial":
    """Of a copy of the model, with a rate of 1, so that the groups' rates are their factors, and no schedule."""
    from mnv2_tasks.assembly import build
    from mnv2_tasks.training.trial import Trial

    assert resolved.data is not None
    config = filled(resolved.settings, STAND_IN)
    config["optim"]["optimizer"]["lr"] = 1.0
    config["optim"]["schedule"] = None
    return Trial(build.make_task(config, resolved.data, deepcopy(model)), trainer)


def _are_there(trainer: "pl.Trainer") -> bool:
    """Whether several processes of the run are at work, and do the same as this one."""
    from mnv2_tasks.assembly.trainer import starts_others

    return trainer.world_size > 1 and not starts_others(trainer)


def _over_all(trainer: "pl.Trainer", value: float, how: str) -> float:
    """The least, or the mean, of the processes that are at work."""
    import torch

    from mnv2_tasks.assembly.trainer import join

    if not _are_there(trainer):
        return value
    strategy = join(trainer)
    return float(strategy.reduce(torch.tensor(float(value), device=strategy.root_device), reduce_op=how))


def _with(resolved: "Resolved", name: str, facts: Mapping[str, Any], *lines: str) -> "Resolved":
    """With what was found for one setting, in the data too."""
    settings = filled(resolved.settings, {name: facts["chosen"]})
    settings["auto"] = {**(settings.get("auto") or {}), name: dict(facts)}
    if resolved.data and name == BATCH:
        resolved.data.take_batch_size(facts["chosen"])
    return replace(resolved, settings=settings, said=(*resolved.said, *lines))


def describe_batch(largest: "LargestBatch", size: int, world: int, shares: Mapping[str, int]) -> str:
    from mnv2_tasks.training.largest_batch import SHARE, megabytes

    line = " and ".join(f"{megabytes(taken)} of {count} images" for count, taken in largest.line.items())
    of = f", the least of {world} processes" if world > 1 else ""
    parts = f" ({', '.join(f'{count} of {source}' for source, count in shares.items())})" if len(shares) > 1 else ""
    return (
        f"{BATCH}={size}{of}{parts}: a step takes {line}, so {megabytes(largest.predicted)} of {largest.size}; it took "
        f"{megabytes(largest.measured)}, and {SHARE:.0%} of the {megabytes(largest.free)} that are free are aimed at"
    )


def describe_rate(rates: "RateRange") -> str:
    how = f"is least at {rates.least_at:.2g}" if rates.clear else "falls by less than it scatters: a grid tells more"
    return f"{RATE}={rates.chosen:g} of a range test of {len(rates.rates)} steps, whose loss {how} (lr_range.png)"
