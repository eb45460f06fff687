"""Equal cost: the width at which a network costs what another does, so that an ablation compares like with like."""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.blocks import ACTIVATIONS
from mnv2_tasks.complexity import madds, parameters
from mnv2_tasks.errors import InputError
from mnv2_tasks.model import Classes

Pass = tuple[tuple[int, int], Collection[str]]  # an input's (H, W), and the tasks that one forward serves
Measure = Literal["madds", "parameters"]
TOLERANCE = 0.02  # of the cost to be met
CLOSE = 0.01  # from here on, finer channel counts are not tried
STEPS = 1000  # widths in 1
UNCOUNTED: tuple[Any, ...] = (nn.BatchNorm2d, *ACTIVATIONS.values())


class Matched(NamedTuple):
    """What `match_width` chose: the width, and the number that its channels are multiples of."""

    width: float
    divisor: int
    cost: int
    wanted: int

    def __str__(self) -> str:
        return (
            f"width {self.width:g}, channels in multiples of {self.divisor}: {self.cost / 1e6:.2f} M, "
            f"{self.off:+.2%} from {self.wanted / 1e6:.2f} M"
        )

    @property
    def off(self) -> float:
        return self.cost / self.wanted - 1


def cost(config: Mapping[str, Any], classes: Classes, passes: Sequence[Pass]) -> dict[str, int]:
    """{"parameters", "madds"} of a config's whole model, over one image of each pass; nothing is computed."""
    with torch.device("meta"):
        model = build_model(config, classes).eval()
        channels = config["backbone"].get("in_channels", 3)
        images = [(torch.empty(1, channels, *size, dtype=torch.uint8), tasks) for size, tasks in passes]
    weights = parameters(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, UNCOUNTED):  # no multiply-adds, yet most of the time of a pass on no data
                setattr(module, name, nn.Identity())
    return {"parameters": weights, "madds": sum(madds(model, image, list(tasks)) for image, tasks in images)}


def match_width(
    config: Mapping[str, Any], reference: Mapping[str, Any], classes: Classes, passes: Sequence[Pass], measure: Measure
) -> Matched:
    """The width at which `config`'s model costs what `reference`'s does, heads included, within 2%.

    A width that already does is left as it is. Channel counts are multiples of 8 where that comes close enough, else
    of 4, 2 or 1: in steps of 8 a narrow network's cost jumps by more than 2%.

    Args:
        config, reference: plain configs with `backbone` and `heads`.
        passes: the input sizes that the cost is counted at, and the tasks of each.
        measure: "madds" or "parameters".

    Raises InputError where no width comes within 2%.
    """
    if measure not in ("madds", "parameters"):
        raise InputError(f"backbone.match is {measure!r}: use madds, parameters or null")
    wanted = cost(reference, classes, passes)[measure]

    def at(width: float, divisor: int) -> Matched:
        changed = {**config, "backbone": {**config["backbone"], "width": width, "divisor": divisor}}
        return Matched(width, divisor, cost(changed, classes, passes)[measure], wanted)

    best = at(config["backbone"]["width"], config["backbone"]["divisor"])
    for divisor in (8, 4, 2, 1):
        below, above = 1, 8 * STEPS  # widths in thousandths; the cost never falls as they grow
        choice = best
        while abs(best.off) > CLOSE and above - below > 1:
            guess = round(STEPS * choice.width * (wanted / choice.cost) ** 0.5)  # it grows about as the square
            choice = at((guess if below < guess < above else (below + above) // 2) / STEPS, divisor)
            best = min(best, choice, key=lambda one: abs(one.off))
            if choice.off <= 0:
                below = round(STEPS * choice.width)
            else:
                above = round(STEPS * choice.width)
    if abs(best.off) > TOLERANCE:
        raise InputError(f"backbone.match={measure}: no width comes within {TOLERANCE:.0%}; the closest is {best}")
    return best


def reference_of(config: Mapping[str, Any], block: Mapping[str, Any]) -> dict[str, Any]:
    """The config of MobileNetV2 with another block at the same width, all else being equal."""
    changed = deepcopy(dict(config))
    changed["backbone"] |= {"_target_": "mnv2_tasks.backbone.MobileNetV2", "block": dict(block)}
    changed["backbone"] |= {"expansion": 6, "divisor": 8}
    return changed
