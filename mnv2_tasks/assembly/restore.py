"""Settings, data and model of a checkpoint, or of foreign weights and the settings for them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, one_line, reason_of, shorten
from mnv2_tasks.weights.artifacts import PREFIX, local_file

if TYPE_CHECKING:
    from mnv2_tasks.assembly.resolve import Resolved
    from mnv2_tasks.model import Model


def need_model(config: Any) -> None:
    """The config's checkpoint as a file, which may be a W&B artifact's; to be called before anything takes time.

    Raises InputError where neither a checkpoint nor weights are given.
    """
    if not config.ckpt and not config.weights:
        raise InputError("ckpt is not given: add ckpt=<a run's best.ckpt>, or weights=<file> and the model's settings")
    if str(config.ckpt).startswith(PREFIX):
        config.ckpt = str(local_file(config.ckpt))


def assemble(config: Any, typed: list[str], *, data: bool = True) -> "tuple[Resolved, Model]":
    """The resolved settings and the model in eval mode, of `ckpt`, or of `weights` and the settings.

    `typed` are the names of the settings on the command line. Without `data`, a checkpoint does without its data set.
    """
    from mnv2_tasks.assembly import build
    from mnv2_tasks.assembly.network import build_model, restore_model
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.assembly.suggestions import describe_suggestions
    from mnv2_tasks.weights.checkpoint import read_trusted
    from mnv2_tasks.weights.whole_models import fill_model

    if config.ckpt:
        checkpoint = read_trusted(config.ckpt, trust=tuple(config.trust))
        take_settings(config, checkpoint["config"], typed)
        resolved = resolve_trained(settle(config), checkpoint, data=data)
        if resolved.data:
            take_classes(config.ckpt, resolved.data, checkpoint["classes"])
        return resolved, restore_model(resolved.settings, checkpoint, config.ckpt)
    said = describe_suggestions(config, ("size", "width"))
    resolved = resolve(settle(config), build.make_data, said=said)
    assert resolved.data is not None
    model = build.make_model(resolved.settings, resolved.data)
    fill_model(model, config.weights, classes=resolved.classes, build=partial(build_model, resolved.settings))
    return resolved, model.eval()


def restored(ckpt: str, *, trust: Sequence[str] = ()) -> "tuple[Resolved, Model]":
    """`assemble` of a checkpoint with nothing else on the command line, as `mnv2 evaluate ckpt=<file>` has it."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("evaluate")
    config.ckpt, config.trust = str(ckpt), list(trust)
    return assemble(config, ["ckpt"])


def resolve_trained(settings: dict[str, Any], checkpoint: Mapping[str, Any], *, data: bool) -> "Resolved":
    """The settings of a checkpoint, resolved, and its data. Raises InputError where they make none."""
    from mnv2_tasks.assembly.build import make_data
    from mnv2_tasks.assembly.resolve import resolve

    try:
        return resolve(settings, make_data if data else None, classes=checkpoint["classes"])
    except Exception as error:  # whatever a damaged setting leads to
        if one_line(error):
            raise
        raise InputError(
            f"{settings['ckpt']} ({checkpoint['writer']}): its settings make no {'data set' if data else 'network'} "
            f"({reason_of(error)}); give data=<data set>, or use the version that wrote the file"
        ) from error


def take_settings(config: Any, trained: dict[str, Any], given: list[str]) -> None:
    """What the checkpoint was trained with, but for what is given on the command line."""
    from omegaconf import OmegaConf

    from mnv2_tasks.weights.trust import without_downloads

    OmegaConf.set_struct(config, False)
    asked = {key: OmegaConf.select(config, key) for key in given if key.startswith("backbone.")}
    for key in ("heads", "backbone"):
        config[key] = trained[key]
    for key, value in asked.items():
        OmegaConf.update(config, key, value)
    if "data" not in given:
        if not isinstance(trained.get("data"), Mapping):
            raise InputError(f"{config.ckpt}: it does not tell its data set; give data=<data set>")
        config.data = without_downloads(trained["data"])
    for key in ("size", "fit", "assign"):
        if key not in given and not (key == "size" and isinstance(trained.get("size"), Mapping) and "data" in given):
            config[key] = trained[key]
    if not {"data", "folds.count", "folds.number", "folds.groups"} & set(given) and trained.get("folds"):
        config.folds = trained["folds"]
    if "depth" not in given:
        config.depth = trained.get("depth") or 16


def take_classes(ckpt: str, data: Any, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Number the data's classes as the model does, which may know others besides.

    Raises InputError where the data has classes that the model does not know.
    """
    from pytorch_lightning.utilities import rank_zero_only

    from mnv2_tasks.datasets.reading.classes import class_advice
    from mnv2_tasks.datasets.reading.renumbered import Renumbered
    from mnv2_tasks.errors import amount

    for task, trained in classes.items():
        there, source = data.classes[task], data.source_of(task)
        if trained == there:
            continue
        known = amount(len(trained), "class", "classes")
        if others := [name for name in there if name not in trained]:
            fix = class_advice(trained, there) or "evaluate on data of its classes, or train on this data"
            raise InputError(
                f"{ckpt}: {task} is for {known} ({shorten(', '.join(trained), 100)}), and the data has {len(there)}, "
                f"such as {shorten(', '.join(others), 100)}; {fix}"
            )
        data.sources[source] = Renumbered(data.sources[source], data.tasks[task].name, trained)
        if len(there) < len(trained):
            rank_zero_only(print)(f"{source}: it has {len(there)} of the model's {known}")
