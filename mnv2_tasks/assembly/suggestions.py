"""What the tasks and data sets of a config suggest: `${suggested:size}` in configs/ stands for what is taken of it.

A suggestion stands in the config's `suggests` section, under task or data and the name of who makes it. A data set's is
taken rather than a task's, as its images are what they are. Of several it is the largest size and width, so that no
task has less than it works with, and the smallest batch, for which there is memory. Their order does not matter, and
what a command line or an experiment says is stronger.
"""

from collections.abc import Iterable
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mnv2_tasks.assembly.overrides import CONFIGS

SETTINGS = {"size": "size", "batch_size": "loader.batch_size", "width": "backbone.width"}


def suggested(name: str, default: Any = None, *, _root_: DictConfig) -> Any:
    """What is taken of the suggestions for a setting; `default` where there is none."""
    voices = _voices(_root_, "data", name) or _voices(_root_, "task", name)
    return (min if name == "batch_size" else max)(voices.values(), key=_amount, default=default)


def describe_suggestions(config: DictConfig, names: Iterable[str] = (*SETTINGS, "optim")) -> tuple[str, ...]:
    """A line for each setting that is a suggestion, where another would have it otherwise."""
    lines = [_describe_optimizer(config)] if "optim" in names else []
    for name in [name for name in SETTINGS if name in names]:
        section, _, key = SETTINGS[name].rpartition(".")
        if not OmegaConf.is_interpolation(OmegaConf.select(config, section) if section else config, key):
            continue  # somebody chose it
        of_data, of_tasks = _voices(config, "data", name), _voices(config, "task", name)
        taken = suggested(name, _root_=config)
        if any(value != taken for value in (*of_data.values(), *of_tasks.values())):
            voices = ", ".join(f"{who} {value}" for who, value in {**of_tasks, **of_data}.items())
            lines.append(f"{SETTINGS[name]}={taken} of what is suggested: {voices}")
    return tuple(filter(None, lines))


def _describe_optimizer(config: DictConfig) -> str:
    """A task suggests one by `override /optim`, which all heads of a run then learn with."""
    voices = _voices(config, "task", "optim")
    others = [str(task) for task in OmegaConf.select(config, "suggests.task") or () if task not in voices]
    for task, choice in voices.items():
        section = yaml.safe_load((CONFIGS / "optim" / f"{choice}.yaml").read_text(encoding="utf-8"))
        if others and section["optimizer"]["_target_"] == config.optim.optimizer._target_:
            return f"optim={choice}, as {task} suggests, for {', '.join(others)} too"
    return ""


def _voices(config: DictConfig, kind: str, name: str) -> dict[str, Any]:
    suggestions = OmegaConf.select(config, f"suggests.{kind}") or {}
    return {str(who): suggestions[who][name] for who in suggestions if name in suggestions[who]}


def _amount(value: Any) -> float:
    """A number, or the area of a size."""
    return float(value[0] * value[1]) if OmegaConf.is_list(value) else float(value)
