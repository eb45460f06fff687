"""Files from elsewhere name what is to be built: only this package's own is, and modules that the person trusts.

A checkpoint, a model.json, a run's config.yaml and a Hub folder hold a config, whose `_target_`s Hydra would import and
call, whatever they are. Here each is looked up, and what may be called is told by the section that it stands in.
"""

import ast
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from torch import nn, optim

from mnv2_tasks.errors import InputError, quote, shorten
from mnv2_tasks.version import __version__
from mnv2_tasks.weights.moved_names import MOST_NESTED

Check = Callable[[Any], bool]
_STRATEGIES = "pytorch_lightning.strategies"
_CALLBACKS = tuple(
    f"pytorch_lightning.callbacks.{name}"
    for name in ("early_stopping", "gradient_accumulation_scheduler", "lr_monitor", "model_summary", "timer")
)
_LOGGERS = "mnv2_tasks.training.loggers"
LOGGERS = ("wandb", "tensorboard", "mlflow")


def _is_class(base: type, *modules: str) -> Check:
    return lambda thing: inspect.isclass(thing) and issubclass(thing, base) and _within(thing.__module__, modules)


def _is_public(*modules: str) -> Check:
    """A public class or function that a module defines, for it to be built from."""
    return lambda thing: (
        (inspect.isclass(thing) or inspect.isfunction(thing))
        and _within(thing.__module__, modules)
        and not thing.__name__.startswith("_")
    )


def _is_data(thing: Any) -> bool:
    """A data set of this package, or a function that is annotated to return one."""
    if not _is_public("mnv2_tasks.datasets")(thing):
        return False
    made = thing if inspect.isclass(thing) else get_type_hints(thing).get("return")
    return inspect.isclass(made) and callable(getattr(made, "split", None))


def _is_logger(thing: Any) -> bool:
    return inspect.isfunction(thing) and thing.__name__ in LOGGERS and _is_public(_LOGGERS)(thing)


def _is_trainer(thing: Any) -> bool:
    """Lightning's Trainer, or a strategy that it takes."""
    return inspect.isclass(thing) and (
        thing.__module__ == "pytorch_lightning.trainer.trainer" or _within(thing.__module__, (_STRATEGIES,))
    )


def _is_callback(thing: Any) -> bool:
    """One of Lightning's callbacks that watch or end a training, and write and delete no files."""
    from pytorch_lightning.callbacks import Callback

    return _is_class(Callback, *_CALLBACKS)(thing)


_NETWORK = _is_class(nn.Module, "mnv2_tasks", "torch.nn")


# Section of a config -> the modules that a target may be looked up in, and what it has to be.
ALLOWED: dict[str, tuple[tuple[str, ...], Check]] = {
    "backbone": (("mnv2_tasks", "torch.nn"), _NETWORK),
    "heads": (("mnv2_tasks", "torch.nn"), _NETWORK),
    "data": (("mnv2_tasks.datasets",), _is_data),
    "augment": (("mnv2_tasks.datasets.transforms",), _is_public("mnv2_tasks.datasets.transforms")),
    "optimizer": (("torch.optim", "timm.optim"), _is_class(optim.Optimizer, "torch.optim", "timm.optim")),
    "schedule": (("mnv2_tasks.training.schedules",), _is_public("mnv2_tasks.training.schedules")),
    "balance": (
        ("mnv2_tasks.training.loss_balance", "torchjd.aggregation"),
        _is_class(nn.Module, "mnv2_tasks.training.loss_balance", "torchjd"),
    ),
    "logger": ((_LOGGERS,), _is_logger),
    "callbacks": (("pytorch_lightning.callbacks",), _is_callback),
    "trainer": (("pytorch_lightning",), _is_trainer),
}


BEFORE = ("weights", "match", "match_to")  # settings of a trunk that are done with before it is built
APART = {"backbone": ("mean", "std", *BEFORE)}  # that others than the class take


def writer(about: Any) -> str:
    """What a file tells of the version that wrote it, for a message."""
    version = about.get("version") if isinstance(about, Mapping) else None
    if isinstance(version, str):
        return f"written by mnv2_tasks {shorten(version, 20)}"
    return "of an early version of mnv2_tasks"


def class_names(classes: Any, tasks: Collection[str], *, of: str) -> dict[str, tuple[str, ...]]:
    """The class names that a file tells of its tasks, which it calls `of`.

    Raises InputError, without the file's name, where they are of another form.
    """
    if not isinstance(classes, Mapping) or set(classes) != set(tasks):
        raise InputError(f"its classes are not those of its {of}")
    for task, names in classes.items():
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"its classes of {task} are {quote(names)}, not a list of names")
    return {task: tuple(names) for task, names in classes.items()}


def refuse_foreign(config: Mapping[str, Any], where: object, *, trust: Collection[str] = ()) -> None:
    """Refuse a config, read from the file `where`, that names anything but what its sections may be built from.

    Names count where they are defined, not where they can be reached. Interpolations, which read the environment, are
    refused as well. Nothing is called, and no module but this package's, PyTorch's and trusted ones is imported.
    Raises InputError.
    """
    _refuse(config, where, lambda section, target: _may(target, ALLOWED.get(section), trust))


def refuse_foreign_names(config: Mapping[str, Any], where: object, *, trust: Collection[str] = ()) -> None:
    """`refuse_foreign`, for a file of which nothing is built: it does not import this package's networks either.

    What `backbone` and `heads` name has to be a class in the text of a module of this package, or of the modules named
    in `trust`.
    """

    def may(section: str, target: str) -> bool:
        module, _, name = target.rpartition(".")
        if section in ("backbone", "heads") and _is_plain(target) and _within(module, (*trust, "mnv2_tasks")):
            return _within(module, tuple(trust)) or name in _classes_of(module)
        return _may(target, ALLOWED.get(section), trust)

    _refuse(config, where, may)


def _refuse(config: Mapping[str, Any], where: object, may: Callable[[str, str], bool]) -> None:
    for section, node in _sections(config):
        for part in _parts(node, where, section):
            target = part["_target_"]
            if not may(section, str(target)):
                if _is_plain(str(target)) and _within(str(target), ("mnv2_tasks",)) and look_up(str(target)) is None:
                    raise InputError(
                        f"{where}: its {section} section asks for {quote(target)}, which this version "
                        f"({__version__}) does not have; use the version that wrote the file"
                    )
                module = str(target).rpartition(".")[0]
                raise InputError(
                    f"{where}: its {section} section asks to build {quote(target)}, which is not of this package"
                    + (f"; if you trust the file, say so with trust=[{module}]" if _is_plain(module) else "")
                )


def refuse_unknown(config: Mapping[str, Any], where: object) -> None:
    """Refuse a setting that the class which it is for does not take: a newer version's, or a slip.

    For a config that `refuse_foreign` lets pass, read from the file `where`. Raises InputError.
    """
    for section, node in _sections(config):
        for part in _parts(node, where, section):
            made = look_up(str(part["_target_"]))
            for key in untaken(part, made):
                if key not in APART.get(section, ()):
                    raise InputError(
                        f"{where}: its {section} section has {key}={quote(part[key])}, a setting that {made.__name__} "
                        f"of this version ({__version__}) does not have; use the version that wrote the file, or take "
                        "the setting out"
                    )


def _classes_of(module: str) -> set[str]:
    """The classes that a module of this package defines, from its text alone."""
    place = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    text = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
    if text is None:
        return set()
    body = ast.parse(text.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.ClassDef)}


def untaken(part: Mapping[str, Any], made: Any) -> list[str]:
    """The settings of a part of a config that the class or function which it is for does not take."""
    try:
        taken = inspect.signature(made).parameters
    except (TypeError, ValueError):  # written in C
        return []
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return []
    return [key for key in part if key not in taken and not str(key).startswith("_")]


def foreign_modules(config: Mapping[str, Any]) -> list[str]:
    """The modules, beyond what `refuse_foreign` allows, that a config of the person's own names: what it trusts."""
    targets = {
        (section, str(part["_target_"]))
        for section, node in _sections(config)
        for part in _parts(node, "the config", section)
    }
    return sorted(
        {target.rpartition(".")[0] for section, target in targets if not _may(target, ALLOWED.get(section), ())}
    )


def without_downloads(node: Any) -> Any:
    """A file's `data` section: it may tell where data lies, but not have any brought there."""
    if isinstance(node, Mapping):
        node = {key: without_downloads(child) for key, child in node.items()}
        target = look_up(str(node["_target_"])) if "_target_" in node else None
        if target is not None and "download" in inspect.signature(target).parameters:
            node["download"] = False
        return node
    return [without_downloads(child) for child in node] if isinstance(node, (list, tuple)) else node


def _sections(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The sections of a config; of `optim`, its parts."""
    for section, node in config.items():
        if section == "optim" and isinstance(node, Mapping) and "_target_" not in node:
            yield from ((str(part), child) for part, child in node.items())
        else:
            yield str(section), node


def _parts(node: Any, where: object, section: object, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """Every mapping with a `_target_` in a node, at any depth."""
    if depth > MOST_NESTED:
        raise InputError(f"{where}: its {section} section is nested too deep; export or train the model again")
    if isinstance(node, str) and "${" in node:
        raise InputError(f"{where}: its {section} section holds {quote(node)}: write the value in place of ${{...}}")
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for key, child in node.items():
            yield from _parts(str(key), where, section, depth + 1)
            yield from _parts(child, where, section, depth + 1)
    elif isinstance(node, (list, tuple)):
        for child in node:
            yield from _parts(child, where, section, depth + 1)


def _may(target: str, place: tuple[tuple[str, ...], Check] | None, trust: Collection[str]) -> bool:
    if not _is_plain(target):
        return False
    if _within(target.rpartition(".")[0], tuple(trust)):
        thing = look_up(target)
        if thing is None:
            raise InputError(f"{target}: there is no such class; correct trust, or put its folder on PYTHONPATH")
        return _within(str(getattr(thing, "__module__", "")), tuple(trust))
    if place is None or not _within(target, place[0]):
        return False
    return place[1](look_up(target))


def look_up(target: str) -> Any:
    """What a dotted name means, or None: its longest part that is a module is imported, the rest are attributes."""
    from importlib import import_module

    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            thing: Any = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                continue
            raise InputError(f"{target}: {name} needs {error.name}, which is not installed; install it") from error
        for part in parts[length:]:
            thing = getattr(thing, part, None)
        return thing
    return None


def _within(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _is_plain(target: str) -> bool:
    return all(part.isidentifier() for part in target.split("."))
