"""What is fitted to a trained head on images that it was not trained on, and travels with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mnv2_tasks.errors import InputError, quote

COOLEST, HOTTEST = 0.05, 20.0  # temperatures


@dataclass(frozen=True)
class Calibration:
    """How the scores of a head are to be read.

    temperature: what logits are divided by before the softmax. thresholds: one a class, from which a score counts;
    None: as without calibration.
    """

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None


def told(calibrations: Mapping[str, Calibration]) -> dict[str, dict[str, Any]]:
    """{task: its calibration} as files hold it."""
    return {
        task: {**asdict(one), "thresholds": None if one.thresholds is None else list(one.thresholds)}
        for task, one in calibrations.items()
    }


def parse_calibrations(content: Any, classes: Mapping[str, tuple[str, ...]]) -> dict[str, Calibration]:
    """The calibration of each task of a file that tells of some; {} of one that tells of none.

    Raises InputError, without the file's name, where it is of another form.
    """
    if content is None:
        return {}
    if not isinstance(content, Mapping) or not set(content) <= set(classes):
        raise InputError(f"its calibration is {quote(content)}, not one of its heads")
    return {str(task): _parse(task, one, len(classes[task])) for task, one in content.items()}


def _parse(task: str, content: Any, classes: int) -> Calibration:
    if not isinstance(content, Mapping):
        raise InputError(f"its calibration of {task} is {quote(content)}")
    temperature, thresholds = content.get("temperature", 1.0), content.get("thresholds")
    if not _is_number(temperature) or not COOLEST <= temperature <= HOTTEST:
        raise InputError(f"its temperature of {task} is {quote(temperature)}")
    if thresholds is None:
        return Calibration(float(temperature))
    if not isinstance(thresholds, (list, tuple)) or len(thresholds) != classes:
        raise InputError(f"its thresholds of {task} are {quote(thresholds)}, not one a class")
    if wrong := [value for value in thresholds if not _is_number(value) or not 0 <= value <= 1]:
        raise InputError(f"its thresholds of {task} hold {quote(wrong[0])}")
    return Calibration(float(temperature), tuple(map(float, thresholds)))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
