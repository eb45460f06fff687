"""What is typed on a command line, as Hydra composes it, and the composed config as plain settings."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError

from mnv2_tasks.errors import InputError, fail, suggest
from mnv2_tasks.weights.moved_names import with_new_names

PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next(  # a wheel has them inside, a clone beside the package
    (folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE / "configs"
)
PLACES = "root|file|images|masks|annotations|lists|labels"  # settings of a data set that tell where it lies
PATHS = re.compile(  # settings whose value is a path, a pattern of paths, an address or a name
    r"(\+*(?:source|model|ckpt|weights|resume|runs|name|photos|web_runtime|backbone\.weights|baselines\.\w+"
    rf"|data\.(?:\w+\.)*(?:{PLACES})))=(.*)"
)
RESUMES = re.compile(r"\+*resume=(?!null$|''$|\"\"$).+", re.IGNORECASE)


def typed() -> tuple[list[str], list[str]]:
    """What was typed on the command line: the settings, and those of Hydra itself."""
    from hydra.core.hydra_config import HydraConfig

    overrides = HydraConfig.get().overrides
    return list(overrides.task), list(overrides.hydra)


def typed_keys() -> list[str]:
    """The names of the settings on the command line."""
    return [override.lstrip("+").split("=")[0] for override in typed()[0]]


def expand(overrides: list[str]) -> list[str]:
    """`head.x` is the only head's x, `data.x` the only data set's, whatever their names; `settle` puts them there.

    `block=x` chooses the backbone's block; `study.vary={...}` takes the place of a study's own. Tasks named in
    `baselines.`, `assign.` and `balance.weights.` are added. Paths and addresses are quoted, for Hydra's grammar has no
    place for most of what file names may hold.
    """
    sweeps = bool({"-m", "--multirun"} & set(overrides))
    overrides = [_quoted(override, sweeps) for override in overrides]
    overrides = [re.sub(r"^block=", "block@backbone.block=", override) for override in overrides]
    overrides = [re.sub(r"^study\.vary=", "++study.instead=", override) for override in overrides]
    added = [re.sub(r"^(?=(baselines|assign|balance\.weights)\.[^=]*=)", "++", override) for override in overrides]
    return [re.sub(r"^(head|data)\.(?=[^=]*=)", r"++given.\1.", override) for override in added]


def set_aside(overrides: list[str]) -> list[str]:
    """Of a run that goes on, all changes are `changes`: it is that run's settings that they change, not a new one's."""
    if not any(map(RESUMES.fullmatch, overrides)) or any(one.startswith("++changes=") for one in overrides):
        return overrides
    if {"--cfg", "-c"} & set(overrides):
        fail("--cfg prints what a new run has; the settings of a run that goes on are in its config.yaml")
    remaining = [one for one in overrides if re.match(r"(?!~)[^=]*$|\+*resume=|hydra[./]", one)]
    changes = [one for one in overrides if one not in remaining or one.startswith("hydra.searchpath=")]
    return [*remaining, f"++changes=[{','.join(map(quoted, changes))}]"]


def _quoted(override: str, sweeps: bool) -> str:
    """A path as Hydra reads it, `~` as the home folder; null, lists, dictionaries, sweeps and what has quotes stay."""
    match = PATHS.fullmatch(override)
    if not match:
        return override
    key, value = match.groups()
    if re.fullmatch(r"""null|\[.*\]|\{.*:.*\}|'.*'|".*\"""", value, re.IGNORECASE) or (sweeps and "," in value):
        return override
    return f"{key}={quoted(os.path.expanduser(value))}"


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes any."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return str(QuotedString(text, Quote.double).with_quotes())


WANTED = {  # what a setting that has to be given is
    "model": "<a run's best.ckpt, or a file or folder that an export wrote>",
    "source": "<picture, folder, film or address>",
    "data.root": "<folder of the data set>",
}


def settle(config: DictConfig) -> dict[str, Any]:
    """The config as a plain, resolved dict, with what `expand` set aside in its place.

    Raises InputError for a setting that there is not, or one that is missing.
    """
    given = config.get("given") or {}
    OmegaConf.set_struct(config, False)
    config.pop("given", None)
    for name, plural in (("head", "heads"), ("data", "data")):
        for key, value in (given.get(name) or {}).items():
            if plural not in config:
                raise InputError(f"{name}.{key}: no such setting in the config; --cfg job prints every setting")
            _put(config[plural], str(key), value, name)
        sections: DictConfig = config.get(plural) or OmegaConf.create()
        for key in [key for key in sections if not OmegaConf.is_missing(sections, key)]:
            if not isinstance(sections[key], DictConfig):  # it came with a plus
                value = sections.pop(key)
                _put(sections, str(key), value, name)
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except InterpolationToMissingValueError as error:
        missing = [str(error).splitlines()[0].rpartition(" ")[2]]
    if missing:
        lacking = re.sub(r"^data\.\w+\.", "data.", missing[0]) if len(config.get("data") or ()) == 1 else missing[0]
        raise InputError(f"{lacking} is not given: add {lacking}={WANTED.get(lacking, '<value>')} to the command")
    plain = with_new_names(OmegaConf.to_container(config, resolve=True))
    assert isinstance(plain, dict)
    if (study := plain.get("study")) and "instead" in study:
        study["vary"] = study.pop("instead")
    return {str(key): value for key, value in plain.items()}


def settle_training(config: DictConfig) -> dict[str, Any]:
    """`settle`, without an experiment's own settings at the top level: its interpolations alone read them.

    Raises InputError for one that nothing reads.
    """
    written, plain, known = OmegaConf.to_yaml(config), settle(config), training_settings()
    for name in [name for name in plain if name not in known]:
        if not re.search(rf"\$\{{{re.escape(name)}\b", written):
            raise InputError(f"{name}: no such setting in the config{suggest(name, known)}")
        plain.pop(name)
    return plain


def training_settings() -> set[str]:
    """The settings of training at the top level."""
    train, common = (yaml.safe_load((CONFIGS / f"{n}.yaml").read_text(encoding="utf-8")) for n in ("train", "common"))
    groups = {str(group) for entry in train["defaults"] if isinstance(entry, dict) for group in entry}
    others = {"heads", "size", "matched"}  # of configs/task, and what `backbone.match` found
    names = {*train, *common, *others} | {group for group in groups if group.isidentifier()}
    return names - {"defaults", "hydra", "task", "experiment"}


def _put(sections: DictConfig, key: str, value: Any, name: str) -> None:
    """Set `key` of the only section, or settings of the section called `key`."""
    if key in sections.keys():  # noqa: SIM118  (a `???` is not `in` the section itself)
        if not isinstance(value, DictConfig):
            raise InputError(f"{name}.{key}={value}: give one of its settings, as in {name}.{key}.<setting>=<value>")
        for inner in map(str, value):
            _set(sections[key], inner, value[inner], f"{name}.{key}.{inner}", key)
    elif len(sections) == 1:
        (only,) = sections
        _set(sections[only], key, value, f"{name}.{key}", str(only))
    else:
        raise InputError(f"{name}.{key}: there are several; write {name}.<{'|'.join(map(str, sections))}>.{key}")


def _set(section: DictConfig, key: str, value: Any, written: str, owner: str) -> None:
    if key not in section.keys():  # noqa: SIM118
        raise InputError(f"{written}: {owner} has no such setting{suggest(key, map(str, section))}")
    if isinstance(value, DictConfig) and isinstance(section._get_node(key), DictConfig):
        section[key] = OmegaConf.merge(section[key], value)
    else:
        section[key] = value


def composing_error(error: Exception, known: Callable[[], Iterable[str]]) -> str:
    """What to tell a person of settings that Hydra cannot compose; `known` gives the names of those that there are."""
    from hydra.errors import OverrideParseException

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


def known_keys(config_name: str) -> Iterator[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    groups = [
        a for a in sys.argv[1:] if re.match(r"^(backbone|block|optim|task|data|experiment|balance|logger|trainer)=", a)
    ]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return setting_names(compose(config_name, groups))


def setting_names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings and sections of a config."""
    for key in node:
        yield f"{prefix}{key!s}"
        if isinstance(child := node._get_node(key), DictConfig):
            yield from setting_names(child, f"{prefix}{key!s}.")
