"""Settings of a command line as a file of the group `experiment`, in the form of configs/experiment."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mnv2_tasks.assembly.overrides import CONFIGS


def experiment_text(overrides: Sequence[str], settings: Mapping[str, Any], about: Sequence[str]) -> str:
    """The text of a file that does what these settings of a command line do, but for those of `beside`.

    Args:
        overrides: as typed; of a setting that stands twice, the last counts.
        settings: what they compose, which tells whose `head.x` and `data.x` are.
        about: lines of the comment on its top.
    """
    chosen: dict[str, Any] = {}
    values: dict[str, Any] = {}
    apart = beside(overrides)
    for override in map(OverridesParser.create().parse_override, (one for one in overrides if one not in apart)):
        name = override.key_or_group
        if (CONFIGS / name).is_dir():
            chosen["block@backbone.block" if name == "block" else override.get_key_element()] = override.value()
        else:
            _put(values, _whole_name(name, settings), override.value())
    own = [chosen.pop("experiment")] if chosen.get("experiment") else []
    defaults = [*own, *({f"override /{group}": choice} for group, choice in chosen.items())]
    content = {**({"defaults": [*defaults, "_self_"]} if defaults else {}), **values}
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return "\n".join(["# @package _global_", *(f"# {line}" for line in about), body])


def beside(overrides: Sequence[str]) -> list[str]:
    """What no such file can hold, and stays on the command line: `~preset`, `hydra.searchpath=`."""
    return [one for one in overrides if one.startswith(("~", "hydra."))]


def _whole_name(name: str, settings: Mapping[str, Any]) -> list[str]:
    """The keys that lead to a setting in the config: `head.x` is the only head's, `data.x` the only data set's."""
    section, *keys = name.split(".")
    if section not in ("head", "data"):
        return [section, *keys]
    place = "heads" if section == "head" else section
    owners = list(settings[place])
    return [place, *keys] if keys[0] in owners else [place, owners[0], *keys]


def _put(values: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    for key in keys[:-1]:
        values = values.setdefault(key, {})
    values[keys[-1]] = value
