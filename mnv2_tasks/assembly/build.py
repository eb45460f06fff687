"""From a plain config to data, model and LightningModule."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.folds import Folds
from mnv2_tasks.errors import InputError, reason_of, suggest
from mnv2_tasks.model import Model
from mnv2_tasks.training.module import MultiTask, parameter_groups
from mnv2_tasks.training.run_folder import checkpoints
from mnv2_tasks.weights.pretrained import fill_backbone
from mnv2_tasks.weights.trust import look_up, untaken

Config = dict[str, Any]


def check_parts(config: Config) -> None:
    """Raises InputError for a callback, logger, optimizer or schedule that there is not, or that refuses its settings.

    Callbacks and loggers are looked up and not called; optimizer and schedule are tried on two parameters.
    """
    for section in ("callbacks", "logger"):
        for name, part in config[section].items():
            if part:
                _look_up_part(f"{section}.{name}", part)
    weight, bias = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 2), (2,)))
    optimizer = _try_part("optim.optimizer", config["optim"]["optimizer"], parameter_groups([weight, bias]))
    if config["optim"]["schedule"]:  # None keeps the rate
        _try_part("optim.schedule", config["optim"]["schedule"], optimizer, steps=100)


def _try_part(name: str, part: Any, *arguments: Any, **named: Any) -> Any:
    _look_up_part(name, part)
    try:
        return instantiate(part)(*arguments, **named)
    except Exception as error:  # whatever a class makes of a wrong value
        raise InputError(f"{name}: {reason_of(error)}") from error


def make_part(name: str, part: Any) -> Any:
    """What a part of the settings, such as a sampler, describes. Raises InputError where its class refuses it."""
    _look_up_part(name, part)
    try:
        return instantiate(part, _convert_="all")
    except Exception as error:  # whatever a class makes of a wrong value
        raise InputError(f"{name}: {reason_of(error)}") from error


def _look_up_part(name: str, part: Any) -> None:
    """Raises InputError where a part, or one within it, names no class, or has a setting that its class lacks."""
    if not isinstance(part, Mapping) or not isinstance(part.get("_target_"), str):
        raise InputError(f"{name}: give its class as {name}._target_=<class>")
    made = look_up(part["_target_"])
    if made is None:
        raise _no_class(name, part["_target_"])
    if unknown := untaken(part, made):
        known = inspect.signature(made).parameters
        raise InputError(f"{name}.{unknown[0]}: {made.__name__} has no such setting{suggest(unknown[0], known)}")
    for key, inner in part.items():
        if isinstance(inner, Mapping) and "_target_" in inner:
            _look_up_part(f"{name}.{key}", inner)


def image_sizes(config: Config) -> dict[str, tuple[int, int]]:
    """{source: (H, W)} from `size`: one side, [height, width], or {source: either}. Without data, of "images"."""
    size, sources = config["size"], list(config.get("data") or ["images"])
    if not isinstance(size, Mapping):
        size = dict.fromkeys(sources, size)
    elif set(size) != set(sources):
        raise InputError(f"size={dict(size)}: give one size, or one for each of {', '.join(sources)}")
    sizes = {}
    for source, side in size.items():
        pair = (side, side) if isinstance(side, int) else tuple(side or ())
        if len(pair) != 2 or not all(isinstance(side, int) and side >= 32 for side in pair):
            raise InputError(f"size is {side}: give one side or [height, width], each at least 32")
        sizes[source] = pair
    return sizes


def make_data(config: Config) -> DataModule:
    """The datamodule of a config's `data`, `loader` and `augment` sections, checked on the way."""
    augment = {kind: node for kind, node in (config.get("augment") or {}).items() if node and "_target_" in node}
    return DataModule(
        {name: instantiate(section, _convert_="all") for name, section in config["data"].items()},
        {task: head_class(task, head).kind for task, head in config["heads"].items()},
        sizes=image_sizes(config),
        assign=config["assign"],
        augment={kind: instantiate(node, _convert_="all") for kind, node in augment.items()},
        fit=config["fit"],
        channels=config["backbone"]["in_channels"],
        depth=config.get("depth") or 16,
        seed=config["seed"],
        folds=folds_of(config),
        **config["loader"],
    )


def folds_of(config: Config) -> Folds | None:
    """What `folds` says; None where nothing is cut, and of settings from before there were folds."""
    section = config.get("folds") or {}
    return Folds(**section) if section.get("count") is not None else None


def nameless_classes(config: Config) -> dict[str, tuple[str, ...]]:
    """As many classes of each head as `classes` says, where no data is read; null: as the paper's data sets have."""
    counts = {t: config.get("classes") or head_class(t, h).kind.published_classes for t, h in config["heads"].items()}
    return {task: ("",) * count for task, count in counts.items()}


def head_class(task: str, section: Mapping[str, Any]) -> Any:
    """The class that a head's `_target_` names."""
    target = section["_target_"]
    try:
        return get_class(target)
    except ImportError as error:
        raise _no_class(f"heads.{task}", target) from error


def _no_class(name: str, target: str) -> InputError:
    return InputError(f"{name}._target_={target}: there is no such class; correct it, or put its folder on PYTHONPATH")


def make_model(config: Config, data: DataModule) -> Model:
    """The model for this data: pretrained weights loaded, default boxes and class weights fitted where asked for."""
    torch.manual_seed(config["seed"])  # again: what reading the data drew is not in the weights
    model = build_model(config, data.classes)
    resumed = config.get("resume") and checkpoints(Path(config["resume"]))
    if not resumed and (told := fill_backbone(model.backbone, config["backbone"].get("weights"))):
        rank_zero_only(print)(f"backbone: {told}")
    for task, head in model.heads.items():
        if config["heads"][task].get("class_weights") == "balanced" and config["loader"]["balanced"]:
            raise InputError("loader.balanced and head.class_weights=balanced do the same twice: use one of them")
        if head.learns:
            try:
                told = head.learn_from(data.split(data.source_of(task), "train"))
            except InputError as error:
                raise InputError(f"{task}: {error}") from error
            rank_zero_only(print)(f"{task}: {told}")
    return model.to(memory_format=torch.channels_last)


def make_task(config: Config, data: DataModule, model: Model | None = None) -> MultiTask:
    """What trains: a `model` that was made before, or one that is made now."""
    balance = config["balance"]
    if "weights" in balance and balance["_target_"] != "mnv2_tasks.training.loss_balance.Fixed":
        raise InputError(f"balance.weights={balance['weights']}: they are of balance=fixed; leave out one of the two")
    return MultiTask(
        model or make_model(config, data),
        data.classes,
        config=config,
        optimizer=instantiate(config["optim"]["optimizer"]),
        schedule=instantiate(config["optim"]["schedule"]),
        balance=instantiate(balance)(tuple(config["heads"])),
        backbone_lr=config["optim"]["backbone_lr"],
    )
