"""From a plain config to data, model and LightningModule; what cannot go together is refused here."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from hydra.utils import get_class, instantiate
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError, reason_of, suggest
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.training.module import MultiTask, parameter_groups
from mnv2_tasks.weights.pretrained import load_backbone
from mnv2_tasks.weights.trust import look_up, untaken

if TYPE_CHECKING:
    from mnv2_tasks.assembly.equal_cost import Pass

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
    """{source: (H, W)} from `size`: one side, [height, width], or {source: either}."""
    given, sources = config["size"], list(config["data"])
    if not isinstance(given, Mapping):
        given = dict.fromkeys(sources, given)
    elif set(given) != set(sources):
        raise InputError(f"size={dict(given)}: give one size, or one for each of {', '.join(sources)}")
    found = {}
    for source, size in given.items():
        pair = (size, size) if isinstance(size, int) else tuple(size)
        if len(pair) != 2 or not all(isinstance(side, int) and side >= 32 for side in pair):
            raise InputError(f"size is {size}: give one side or [height, width], each at least 32")
        found[source] = pair
    return found


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
        **config["loader"],
    )


def decide_on_depth(config: Config, data: DataModule) -> None:
    """Fill in `depth` where it is null: from the training images, so that all images, later ones too, count alike."""
    if config.get("depth"):
        return
    depth = 16 if config["resume"] else data.find_depth() or 16  # runs from before there was a depth had 16
    if depth < 16:
        rank_zero_only(print)(f"16-bit files hold {depth}-bit values: scaled by {depth} bits")
    config["depth"] = depth
    data.scale_by(depth)


def nameless_classes(config: Config) -> dict[str, tuple[str, ...]]:
    """As many classes of each head as `classes` says, where no data is read; null: as the paper's data sets have."""
    counts = {t: config["classes"] or head_class(t, h).kind.published_classes for t, h in config["heads"].items()}
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


def agree_on_stride(config: Config) -> None:
    """Fill in `backbone.output_stride` where it is not given: one that every head works with.

    A head alone gets the one that it likes best. Together they get the finest of what each likes best, among those
    that all work with. Raises InputError where there is none, or where a head cannot do with what was given.
    """
    wishes = {task: head_class(task, head).strides for task, head in config["heads"].items()}
    told = "; ".join(f"{task} works with {', '.join(map(str, strides))}" for task, strides in wishes.items())
    given = config["backbone"]["output_stride"]
    common = set.intersection(*(set(strides) for strides in wishes.values()))
    if given is None:
        if not common:
            raise InputError(f"backbone.output_stride: the heads cannot agree on one ({told}); train them apart")
        likes = [strides[0] for strides in wishes.values() if strides[0] in common]
        config["backbone"]["output_stride"] = min(likes or common)
    elif given in (8, 16, 32) and given not in common:
        raise InputError(f"backbone.output_stride={given}: {told}; choose another, or leave it out")


def decide_on_norms(config: Config) -> None:
    """Fill in `backbone.freeze_norm` where it is null: true where several data sets meet trained weights.

    Each source passes through the trunk by itself, normalised by its own statistics, so that running ones fit none of
    the sources. Raises InputError for true without weights.
    """
    section = config["backbone"]
    if section.get("freeze_norm", False) is None:  # configs of older runs do not have it: there norms learned
        section["freeze_norm"] = bool(section["weights"]) and len(config["data"]) > 1
        if section["freeze_norm"]:
            rank_zero_only(print)(
                "backbone: norms keep the statistics of its weights, as several data sets have none in common; "
                "backbone.freeze_norm=false lets them learn"
            )
    elif section.get("freeze_norm") and not section["weights"]:
        raise InputError("backbone.freeze_norm=true keeps the statistics of trained weights: give backbone.weights too")


def match_cost(config: Config, classes: Classes, passes: Sequence["Pass"]) -> None:
    """Where `backbone.match` asks for it: set the width at which this network costs what `match_to` does at its width.

    What was chosen is printed and kept as `matched`; `match` is null from then on, so that it is chosen once.
    """
    from mnv2_tasks.assembly.equal_cost import match_width, reference_of

    section = config["backbone"]
    if not section["match"]:
        return
    block = CONFIGS / "block" / f"{section['match_to']}.yaml"
    if not block.exists():
        known = ", ".join(sorted(path.stem for path in block.parent.glob("*.yaml")))
        raise InputError(f"backbone.match_to={section['match_to']}: no such block, of {known}")
    reference = reference_of(config, yaml.safe_load(block.read_text(encoding="utf-8")))
    found = match_width(config, reference, classes, passes, section["match"])
    told = f"{section['match_to']} at width {section['width']:g}"
    rank_zero_only(print)(f"backbone: as many {section['match']} as {told}: {found}")
    config["matched"] = {"measure": section["match"], "to": told, **found._asdict()}
    section |= {"match": None, "width": found.width, "divisor": found.divisor}


def make_model(config: Config, data: DataModule) -> Model:
    """The model for this data: pretrained weights loaded, default boxes and class weights fitted where asked for."""
    torch.manual_seed(config["seed"])
    model = build_model(config, data.classes)
    if not (config.get("resume") and (Path(config["resume"]) / "checkpoints" / "last.ckpt").exists()):  # brings its own
        if told := load_backbone(model.backbone, config["backbone"].get("weights")):
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


def make_task(config: Config, data: DataModule) -> MultiTask:
    balance = config["balance"]
    if "weights" in balance and balance["_target_"] != "mnv2_tasks.training.loss_balance.Fixed":
        raise InputError(f"balance.weights={balance['weights']}: they are of balance=fixed; leave out one of the two")
    decide_on_norms(config)
    return MultiTask(
        make_model(config, data),
        data.classes,
        config=config,
        optimizer=instantiate(config["optim"]["optimizer"]),
        schedule=instantiate(config["optim"]["schedule"]),
        balance=instantiate(balance)(tuple(config["heads"])),
        backbone_lr=config["optim"]["backbone_lr"],
    )
