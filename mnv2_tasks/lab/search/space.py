"""The space of a search: what each setting may be, for Optuna to draw from, and for a W&B sweep."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.overrides import override_value
from mnv2_tasks.errors import InputError, quote

if TYPE_CHECKING:
    from optuna import Trial

FORMS = "give [low, high], [low, high, log], a list of choices, or {values: [two, numbers]}"


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, whole ones where both are; `log`: evenly in their logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def first(self) -> float:
        return self.low

    def suggest(self, trial: "Trial", name: str) -> Any:
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def of(self, kept: Any) -> Any:
        """The value, of what Optuna keeps of it."""
        return kept

    def parameter(self) -> dict[str, Any]:
        """As a W&B sweep has it."""
        kind = ("q_log_uniform_values" if self.whole else "log_uniform_values") if self.log else "uniform"
        kind = "int_uniform" if self.whole and not self.log else kind
        return {"distribution": kind, "min": self.low, "max": self.high}


@dataclass(frozen=True)
class Choices:
    """One of several values of any kind; Optuna knows them as a command line has them."""

    values: tuple[Any, ...]

    @property
    def first(self) -> Any:
        return self.values[0]

    def suggest(self, trial: "Trial", name: str) -> Any:
        return self.of(trial.suggest_categorical(name, list(map(override_value, self.values))))

    def of(self, kept: Any) -> Any:
        """The value, of what Optuna keeps of it."""
        return next(value for value in self.values if override_value(value) == kept)

    def parameter(self) -> dict[str, Any]:
        """As a W&B sweep has it."""
        return {"values": list(map(override_value, self.values))}


Space = Mapping[str, Range | Choices]  # {setting: what it may be}


def parse_space(space: Any) -> dict[str, Range | Choices]:
    """`search.space` as it stands in the settings. Raises InputError for an entry that cannot be drawn from."""
    if not isinstance(space, Mapping) or not space:
        example = "search.space={optim.optimizer.lr: [1e-4, 1e-1, log], backbone.width: [0.35, 0.5, 1.0]}"
        raise InputError(f"search.space={quote(space)}: give the settings to search over, as in {example}")
    return {str(name): _entry(f"search.space: {name}", entry) for name, entry in space.items()}


def draw(trial: "Trial", space: Space) -> dict[str, Any]:
    """A value for each setting; of a trial that has been drawn before, as far as it was, the same again."""
    return {name: entry.suggest(trial, name) for name, entry in space.items()}


def drawn_before(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The settings of a trial, of what Optuna keeps of them."""
    return {name: space[name].of(value) for name, value in params.items()}


def shown(value: Any) -> str:
    """A value as people read it, a number with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else override_value(value)


def _entry(name: str, entry: Any) -> Range | Choices:
    if isinstance(entry, Mapping) and list(entry) == ["values"]:
        return _choices(name, entry["values"])
    if not isinstance(entry, list) or not entry:
        raise InputError(f"{name}={quote(entry)}: {FORMS}")
    *ends, last = entry
    if len(ends) == 2 and all(map(_is_number, ends)) and isinstance(last, str):
        if last != "log":
            raise InputError(f"{name}={quote(entry)}: after low and high stands log, or nothing")
        return _range(name, ends[0], ends[1], log=True)
    if len(entry) == 2 and all(map(_is_number, entry)):
        return _range(name, entry[0], entry[1])
    return _choices(name, entry)


def _range(name: str, low: float, high: float, *, log: bool = False) -> Range:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"{name}: from {low} to {high} is no range; give the lower end first")
    if log and low <= 0:
        raise InputError(f"{name}: a range in the logarithm begins above 0, not at {low}")
    return Range(low, high, log)


def _choices(name: str, values: Any) -> Choices:
    if not isinstance(values, list) or len(values) < 2:
        raise InputError(f"{name}={quote(values)}: give at least two choices, or give the setting itself")
    texts = list(map(override_value, values))
    if len(set(texts)) < len(texts):
        raise InputError(f"{name}={quote(values)}: a choice stands there twice")
    return Choices(tuple(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
