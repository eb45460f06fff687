"""The composed config as plain settings, each in its place."""

import re
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from mnv2_tasks.assembly.auto import asked
from mnv2_tasks.assembly.overrides import ASIDE, CONFIGS, composing_error, expand, known_keys
from mnv2_tasks.assembly.suggestions import suggested
from mnv2_tasks.errors import InputError, suggest
from mnv2_tasks.weights.moved_names import with_new_names

OmegaConf.register_new_resolver("suggested", suggested, replace=True)  # before any of configs/ is read
WANTED = {  # what a setting that has to be given is
    "model": "<a run's best.ckpt, or a file or folder that an export wrote>",
    "source": "<picture, folder, film or address>",
    "out": "<new folder, or s3://...>",
    "data.root": "<folder of the data set>",
}


def settle(config: DictConfig) -> dict[str, Any]:
    """The config as a plain dict without interpolations, with what `overrides.expand` set aside in its place.

    Raises InputError for a setting that there is not, or one that is missing.
    """
    OmegaConf.set_struct(config, False)
    given = config.pop(ASIDE.rstrip("."), {})
    for group, name, example in (("study", "vary", "blocks"), ("search", "space", "default")):
        if group in given:
            if not config.get(group):
                raise InputError(f"{group}.{name}: choose what it takes the place of, as in {group}={example}")
            config[group][name] = given[group][name]
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
    return {str(key): value for key, value in plain.items() if key != "suggests"}  # what is taken of it is in its place


def settle_training(config: DictConfig) -> dict[str, Any]:
    """`settle`, without an experiment's own settings at the top level: its interpolations alone read them.

    Of a search, one of its trials keeps the names alone.
    Raises InputError for one that nothing reads.
    """
    written, plain, known = OmegaConf.to_yaml(config), settle(config), training_settings()
    for name in [name for name in plain if name not in known]:
        if not re.search(rf"\$\{{{re.escape(name)}\b", written):
            raise InputError(f"{name}: no such setting in the config{suggest(name, known)}")
        plain.pop(name)
    if plain.get("search") and plain["search"].get("trial") is not None:
        plain["search"] = {key: plain["search"][key] for key in ("name", "trial")}
    asked(plain)
    return plain


def settle_anew(arguments: list[str]) -> dict[str, Any]:
    """The settings of another command line of `train`. Raises InputError where it does not compose."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    expanded = expand(arguments)
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return settle_training(compose("train", expanded))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(composing_error(error, lambda: known_keys("train", expanded))) from error


def training_settings() -> set[str]:
    """The settings of training at the top level."""
    train, common = (yaml.safe_load((CONFIGS / f"{n}.yaml").read_text(encoding="utf-8")) for n in ("train", "common"))
    groups = {str(group) for entry in train["defaults"] if isinstance(entry, dict) for group in entry}
    others = {"heads", "matched", "auto"}  # of configs/task; what `backbone.match` and `auto` found
    names = {*train, *common, *others} | {group for group in groups if group.isidentifier()}
    return names - {"defaults", "hydra", "task", "experiment", "suggests"}


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
