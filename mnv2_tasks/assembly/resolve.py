"""What a command works with: its settings with all that follows from them decided, once, and said."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING

import yaml

from mnv2_tasks.assembly.build import Config, head_class, image_sizes, nameless_classes
from mnv2_tasks.assembly.equal_cost import Pass, match_width, reference_of
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import KINDS
from mnv2_tasks.model import Classes
from mnv2_tasks.training.parts import agreed_stride, strides_of
from mnv2_tasks.weights.trust import look_up

if TYPE_CHECKING:
    from mnv2_tasks.training.rate_range import RateRange


@dataclass(frozen=True)
class Resolved:
    """Settings that are decided, and what they were decided for; nothing changes them afterwards.

    settings: plain, as config.yaml and checkpoints have them.
    classes: {head: class names}.
    sizes: {data set: (H, W)}; of a command without data under "images".
    said: a line for each decision that one might not expect, for the caller to print.
    data: where the command reads any.
    rates: the range test behind `optim.optimizer.lr=auto`, where there was one.
    """

    settings: Config
    classes: Classes
    sizes: dict[str, tuple[int, int]]
    said: tuple[str, ...] = ()
    data: DataModule | None = None
    rates: "RateRange | None" = None


def resolve(
    settings: Config,
    read: Callable[[Config], DataModule] | None = None,
    *,
    classes: Classes | None = None,
    training: bool = False,
    said: Sequence[str] = (),
) -> Resolved:
    """Decide the output stride, what norms do, the depth of the images and the width that equal cost asks for.

    Args:
        settings: of `settings.settle`, of a checkpoint, or of a run that goes on; they stay as they are.
        read: makes the data; called after all that needs none, so that what cannot go together is said first.
        classes: those of a trained network; else the data's, or as many as `classes` in the settings says.
        training: whether the network is about to learn: then the order of heads, norms and depth are decided too.
        said: what was decided before, when the settings were composed.

    Raises InputError for settings that do not go together.
    """
    config, lines = deepcopy(settings), list(said)
    sizes = image_sizes(config)
    backbone = config["backbone"]
    if "output_stride" in backbone:
        backbone["output_stride"] = common_stride(config)
    data = None
    if training:
        if not config["resume"]:
            config["heads"] = in_order(config["heads"])
            check_expansion(config)
        backbone["freeze_norm"] = frozen_norms(config, lines)
    if read:
        data = read(config)
        if training and not config["depth"]:
            config["depth"] = find_depth(config, data, lines)
            data.scale_by(config["depth"])
    names = classes or (data.classes if data else nameless_classes(config))
    if backbone.get("match"):
        (size, *_) = sizes.values()
        config |= match_cost(config, names, data.passes if data else [(size, list(config["heads"]))], lines)
    return Resolved(config, names, sizes, tuple(lines), data)


def check_expansion(config: Config) -> None:
    """Raises InputError for an expansion that the trunk's block does not have."""
    section = config["backbone"]
    network, block = look_up(section["_target_"]), section.get("block")
    made = look_up(block["_target_"]) if block else getattr(network, "own_block", None)
    usual = signature(network).parameters.get("expansion")
    if usual and section.get("expansion", usual.default) != usual.default and not getattr(made, "expands", True):
        raise InputError(
            f"backbone.expansion={section['expansion']}: {getattr(made, '__name__', made)} has no expansion, so that "
            "it would be without effect; leave it out, or take block=inverted_residual"
        )


def in_order(heads: Config) -> Config:
    """Heads by kind, then by name: a network begins with the same weights however its tasks are listed."""

    def place(task: str) -> tuple[int, str]:
        kind, names = head_class(task, heads[task]).kind.name, list(KINDS)
        return names.index(kind) if kind in names else len(names), task

    return {task: heads[task] for task in sorted(heads, key=place)}


def common_stride(config: Config) -> int:
    """The output stride that was chosen, or one that every head works with.

    A head alone gets the one that it likes best. Together they get the finest of what each likes best, among those
    that all work with. Raises InputError where there is none, or where a head cannot do with what was chosen.
    """
    wishes = {task: head_class(task, head).strides for task, head in config["heads"].items()}
    chosen: int | None = config["backbone"]["output_stride"]
    if chosen is None:
        return agreed_stride(wishes)
    if chosen in (8, 16, 32) and any(chosen not in strides for strides in wishes.values()):
        raise InputError(f"backbone.output_stride={chosen}: {strides_of(wishes)}; choose another, or leave it out")
    return chosen


def frozen_norms(config: Config, lines: list[str]) -> bool:
    """What `backbone.freeze_norm` says; where it is null: true where several data sets meet trained weights.

    Each source passes through the trunk by itself, normalised by its own statistics, so that running ones fit none of
    the sources. Raises InputError for true without weights.
    """
    section = config["backbone"]
    frozen: bool | None = section.get("freeze_norm", False)  # configs of older runs do not have it: there norms learned
    if frozen and not section["weights"]:
        raise InputError("backbone.freeze_norm=true keeps the statistics of trained weights: give backbone.weights too")
    if frozen is None:
        frozen = bool(section["weights"]) and len(config["data"]) > 1
        if frozen:
            lines.append(
                "backbone: norms keep the statistics of its weights, as several data sets have none in common; "
                "backbone.freeze_norm=false lets them learn"
            )
    return frozen


def find_depth(config: Config, data: DataModule, lines: list[str]) -> int:
    """The bits that the values of 16-bit training images have, so that all images, later ones too, count alike."""
    depth = 16 if config["resume"] else data.find_depth() or 16  # runs from before there was a depth had 16
    if depth < 16:
        lines.append(f"16-bit files hold {depth}-bit values: scaled by {depth} bits")
    return depth


def match_cost(config: Config, classes: Classes, passes: Sequence[Pass], lines: list[str]) -> Config:
    """{"backbone": with the width at which it costs what `match_to` does at its width, "matched": what was chosen}.

    `match` is null from then on, so that it is chosen once.
    """
    section = config["backbone"]
    block = CONFIGS / "block" / f"{section['match_to']}.yaml"
    if not block.exists():
        known = ", ".join(sorted(path.stem for path in block.parent.glob("*.yaml")))
        raise InputError(f"backbone.match_to={section['match_to']}: no such block, of {known}")
    reference = reference_of(config, yaml.safe_load(block.read_text(encoding="utf-8")))
    found = match_width(config, reference, classes, passes, section["match"])
    whom = f"{section['match_to']} at width {section['width']:g}"
    lines.append(f"backbone: as many {section['match']} as {whom}: {found}")
    return {
        "backbone": {**section, "match": None, "width": found.width, "divisor": found.divisor},
        "matched": {"measure": section["match"], "to": whom, **found._asdict()},
    }
