"""Trunks and heads as a Python user names them, classes or partials of classes, and as a checkpoint describes them."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from mnv2_tasks.errors import InputError, quote

Part = Callable[..., Any]  # a class, or functools.partial of one with plain settings


def agreed_stride(wishes: Mapping[str, Sequence[int]]) -> int:
    """The output stride of a trunk: the finest of those that each head likes best, and that all work with.

    wishes: {task: the strides that its head works with, the best first}. Raises InputError where they share none.
    """
    common = set.intersection(*map(set, wishes.values()))
    if not common:
        raise InputError(
            f"backbone.output_stride: the heads cannot agree on one ({strides_of(wishes)}); train them apart"
        )
    return min([strides[0] for strides in wishes.values() if strides[0] in common] or common)


def strides_of(wishes: Mapping[str, Sequence[int]]) -> str:
    """The same as words, for a message."""
    return "; ".join(f"{task} works with {', '.join(map(str, strides))}" for task, strides in wishes.items())


def class_of(part: Part) -> Any:
    return part.func if isinstance(part, partial) else part


def settings_of(part: Part) -> dict[str, Any]:
    """{name: value} that a part is given."""
    if not isinstance(part, partial):
        return {}
    return dict(signature(part.func).bind_partial(*part.args, **part.keywords).arguments)


def section(part: Part, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What rebuilds a part from a checkpoint: its import path and all its settings as plain values, its defaults too.

    A default that changes later changes no older checkpoint so.
    """
    made = class_of(part)
    defaults = {name: p.default for name, p in signature(made).parameters.items() if p.default is not p.empty}
    settings = {**defaults, **(settings_of(part) if settings is None else settings)}
    place = f"{made.__module__}.{made.__qualname__}"
    return {"_target_": place, **{name: plain(value, f"{place}: {name}") for name, value in settings.items()}}


def plain(value: Any, where: str) -> Any:
    """A setting as a checkpoint holds it. Raises InputError for what has no such form."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(one, where) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [plain(one, where) for one in value]
    if callable(value) and hasattr(made := class_of(value), "__qualname__"):  # such as a trunk's block
        given = {name: plain(one, where) for name, one in settings_of(value).items()}
        return {"_target_": f"{made.__module__}.{made.__qualname__}", "_partial_": True, **given}
    raise InputError(f"{where}={quote(value)}: give numbers, strings, lists, or classes and partials of them")
