"""What a person typed on a command line: parsed by Hydra's own parser, and spelled as Hydra composes it."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig

from mnv2_tasks.errors import fail, suggest

PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(  # a wheel has them inside, a clone beside the package
    (folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE / "configs"
)
# Settings whose value is a path, a pattern of paths, an address or a name; of `data`, those that end so.
PATHS = (
    *("source", "model", "ckpt", "weights", "resume", "runs", "name", "out", "photos", "web_runtime"),
    "backbone.weights",
    "search.storage",
)
PLACES = ("root", "cache", "file", "images", "masks", "annotations", "lists", "labels")
AUTO = "auto"  # resume=auto: the run of this name where there is one, else a new one
ASIDE = "given."  # a section beside those of the configs, which `settings.settle` empties into them
OPEN = ("baselines.", "assign.", "balance.weights.")  # sections of tasks, whose names no config lists


@dataclass(frozen=True)
class Typed:
    """The settings of one command line as a person types them, and those of Hydra itself."""

    settings: tuple[str, ...]
    of_hydra: tuple[str, ...]
    changes: tuple[str, ...] = ()  # of a run that goes on: what is not of `settings`, spelled for Hydra

    @property
    def names(self) -> list[str]:
        return [text.partition("=")[0].lstrip("+") for text in self.settings]


def typed() -> Typed:
    """What was typed for the command that runs, or for this job of several (`-m`)."""
    overrides = HydraConfig.get().overrides
    settings = [override for text in overrides.task if (override := _parsed(text))]
    changes = [override.value() for override in settings if override.key_or_group == f"{ASIDE}changes"]
    return Typed(
        settings=tuple(_unspelled(override) for override in settings if override.key_or_group != f"{ASIDE}changes"),
        of_hydra=tuple(overrides.hydra),
        changes=tuple(map(str, changes[0])) if changes and isinstance(changes[0], list) else (),
    )


def expand(arguments: list[str]) -> list[str]:
    """The arguments of a command as Hydra composes them.

    `head.x` is the only head's x, `data.x` the only data set's, whatever their names; `study.vary={...}` and
    `search.space={...}` take the place of a study's or a search's own: `settings.settle` puts them there. `block=x`
    chooses the backbone's block. Tasks named in `baselines.`, `assign.` and `balance.weights.` are added.
    """
    sweeps = bool({"-m", "--multirun"} & set(arguments))
    return [_spelled(_quoted_path(argument, sweeps=sweeps)) for argument in arguments]


def with_paths(arguments: list[str]) -> list[str]:
    """The arguments, with those that are neither a setting nor an option as `paths=[...]`."""

    def is_path(argument: str) -> bool:
        return not re.match(r"-|[+~]*[\w.@]+=", argument) or os.path.exists(argument)

    paths = [argument for argument in arguments if is_path(argument)]
    others = [argument for argument in arguments if not is_path(argument)]
    return [*others, f"paths=[{','.join(map(quoted, paths))}]"] if paths else others


def set_aside(arguments: list[str]) -> list[str]:
    """Of a run that goes on, all changes are `changes`: it is that run's settings that they change, not a new one's."""
    resumes = [override for override in map(_parsed, arguments) if override and override.key_or_group == "resume"]
    if all(override.value() in (None, "", AUTO) for override in resumes):
        return arguments
    if {"--cfg", "-c"} & set(arguments):
        fail("--cfg prints what a new run has; the settings of a run that goes on are in its config.yaml")
    here = [override.input_line for override in resumes]
    remaining = [text for text in arguments if text in here or not _is_setting(text) or _is_of_hydra(text)]
    changes = [text for text in arguments if text not in remaining or text.startswith("hydra.searchpath=")]
    return [*remaining, f"++{ASIDE}changes=[{','.join(map(quoted, changes))}]"]


def value_of(settings: Mapping[str, Any], name: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes any."""
    return str(QuotedString(text, Quote.double).with_quotes())


def override_value(value: Any) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}: {override_value(inner)}' for key, inner in value.items())}}}"
    text = str(value)
    return text if re.fullmatch(r"[\w.+/-]*", text, re.ASCII) else quoted(text)


def _is_setting(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _is_of_hydra(argument: str) -> bool:
    override = _parsed(argument)
    return override is not None and override.is_hydra_override()


def _parsed(argument: str) -> Override | None:
    """None for an option, and for what Hydra's grammar does not take, which Hydra itself refuses in a moment."""
    if not _is_setting(argument):
        return None
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _quoted_path(argument: str, *, sweeps: bool) -> str:
    """A path in quotes, `~` as the home folder; null, lists, dictionaries, sweeps and what has quotes stay.

    The one step before the arguments are parsed: Hydra's grammar has no place for most of what the names of files and
    the addresses of cameras hold (spaces, brackets, commas, `=`, `?`), and a shell completes them without quotes.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    is_place = name.startswith("data.") and name.rpartition(".")[2] in PLACES
    is_path = is_place or name in PATHS or name.startswith("baselines.")
    if not equals or not is_path or value.lower() == "null" or (sweeps and "," in value):
        return argument
    ends = value[:1] + value[-1:] if len(value) > 1 else ""
    if ends in ("[]", "''", '""') or (ends == "{}" and ":" in value):
        return argument
    return f"{key}={quoted(os.path.expanduser(value))}"


def _spelled(argument: str) -> str:
    override = _parsed(argument)
    if override is None or override.type is not OverrideType.CHANGE or override.package is not None:
        return argument
    name = override.key_or_group
    if name == "block":
        return _text(replace(override, package="backbone.block"))
    if name.startswith(("head.", "data.")) or name in ("study.vary", "search.space"):
        return _text(replace(override, type=OverrideType.FORCE_ADD, key_or_group=ASIDE + name))
    if name.startswith(OPEN):
        return _text(replace(override, type=OverrideType.FORCE_ADD))
    return argument


def as_typed(text: str) -> str:
    """The setting of which `expand` makes this one; any other as it is."""
    override = _parsed(text)
    return _unspelled(override) if override else text


def _unspelled(override: Override) -> str:
    name = override.key_or_group.removeprefix(ASIDE)
    if (name, override.package) == ("block", "backbone.block"):
        return _text(replace(override, package=None))
    if override.is_force_add() and (name != override.key_or_group or name.startswith(OPEN)):
        return _text(replace(override, type=OverrideType.CHANGE, key_or_group=name))
    return str(override.input_line)


def _text(override: Override) -> str:
    """An override with another name, and its value as it was."""
    return f"{override.get_key_element()}={str(override.input_line).partition('=')[2]}"


def composing_error(error: Exception, known: Callable[[], Iterable[str]]) -> str:
    """What to tell a person of settings that Hydra cannot compose; `known` gives the names of those that there are."""
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return f"{error.override}: this value needs quotes, and the shell others around them: '{key}=\"{value}\"'"
    message = str(error)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if match := re.search(r"Could not override '([^']+)'", message):
        key = match[1]
        plus = f" (another of Lightning's is added with a plus: +{key}=<value>)" if key.startswith("trainer.") else ""
        return f"{key}: no such setting in the config{suggest(key, known())}{plus}"
    if match := re.search(r"Could not (?:load|find) '(\w+)/([^']+)'", message):
        group, name = match[1], match[2]
        choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
        return f"{group}={name}: no such choice, of {', '.join(choices)}{suggest(name, choices)}"
    return " ".join(line for line in lines if not line.startswith(("To append", "full_key", "object_type")))


def known_keys(config_name: str, arguments: Iterable[str]) -> Iterator[str]:
    """The names of the settings that there are with the choices of groups among the expanded arguments."""
    GlobalHydra.instance().clear()
    overrides = {text: override for text in arguments if (override := _parsed(text))}
    groups = [  # and where one's own choices of them lie
        text
        for text, override in overrides.items()
        if (CONFIGS / override.key_or_group).is_dir() or override.key_or_group == "hydra.searchpath"
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return setting_names(compose(config_name, groups))


def setting_names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings and sections of a config."""
    for key in node:
        yield f"{prefix}{key!s}"
        if isinstance(child := node._get_node(key), DictConfig):
            yield from setting_names(child, f"{prefix}{key!s}.")
