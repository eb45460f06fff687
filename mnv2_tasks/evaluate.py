"""Evaluate a checkpoint, or a model of foreign weights: `python -m mnv2_tasks.evaluate ckpt=<file> data=...`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from mnv2_tasks.cli import command, one_line, settle, tune_for_cpu
from mnv2_tasks.errors import InputError, reason_of, shorten


def main(config: Any) -> None:
    need_model(config)
    tune_for_cpu()
    from hydra.core.hydra_config import HydraConfig
    from pytorch_lightning import seed_everything

    from mnv2_tasks import report, run
    from mnv2_tasks.folders import new_folder
    from mnv2_tasks.tasks import MultiTask

    given = [override.lstrip("+").split("=")[0] for override in HydraConfig.get().overrides.task]
    if config.ckpt and Path(config.ckpt).suffix != ".ckpt":
        evaluate_exported(config, given)
        return
    settings, data, model, _ = assemble(config, given)
    seed_everything(settings["seed"], verbose=False)
    split = settings["split"]
    data.tell([split])
    task = MultiTask(model, data.classes)
    trainer = run.make_trainer(settings, None)
    folder = run.agree(trainer, lambda: new_folder(Path(settings["runs"]) / "evaluate", settings["name"]))
    results: dict[str, Any] = {split: run.evaluate(task, data, trainer, split)}
    if not trainer.is_global_zero:
        return
    results |= {**run.describe(task, data), "model": str(config.ckpt or config.weights)}
    report.write_json(folder / "metrics.json", results)
    report.write_pictures(task, data, split, folder, count=settings["examples"])
    report.print_table(results, [split])
    print(f"results: {folder}")


def need_model(config: Any) -> None:
    """Raises InputError where neither a checkpoint nor weights are given; to be called before anything takes time."""
    if not config.ckpt and not config.weights:
        raise InputError("ckpt is not given: add ckpt=<a run's best.ckpt>, or weights=<file> and the model's settings")


def evaluate_exported(config: Any, given: list[str]) -> None:
    """The metrics of an exported file, through its own runtime. The data set is not in the file: it is asked for."""
    from mnv2_tasks import report, wiring
    from mnv2_tasks.export.proof import Proof
    from mnv2_tasks.export.report import batches
    from mnv2_tasks.folders import new_folder
    from mnv2_tasks.model import build_model, build_told, checked_config
    from mnv2_tasks.predictor import Predictor
    from mnv2_tasks.trust import refuse_foreign, refuse_unknown, writer

    predictor = Predictor(config.ckpt, trust=tuple(config.trust))
    network = predictor.exported
    assert network is not None, "a checkpoint is evaluated otherwise"
    about, where = network.about, f"{config.ckpt} ({writer(network.about)})"
    try:
        made, classes = checked_config({**about, "config": {**about["config"], "fit": predictor.fit}})
    except (InputError, KeyError) as error:
        raise InputError(f"{where}: its metadata is damaged: {error}; export it again") from error
    refuse_foreign(made, where, trust=tuple(config.trust))
    refuse_unknown({key: made[key] for key in ("backbone", "heads")}, where)
    model = build_told(partial(build_model, made, classes), where).eval()  # for its metrics and its cost
    trained = {**made, "size": about["size"], "fit": predictor.fit, "depth": predictor.depth}
    take_settings(config, trained, [*given, "data"])
    settings = settle(config)
    data, split = wiring.make_data(settings), settings["split"]
    data.tell([split])
    take_classes(config.ckpt, data, predictor.classes)
    folder = new_folder(Path(settings["runs"]) / "evaluate", settings["name"])
    proof = Proof(network, model, predictor.classes)
    for images, targets in batches(data, split, None):
        proof.count(network(images), targets)
    found = {f"{task}/{key}": float(v) for task in proof.heads for key, v in proof.metrics[task].compute().items()}
    results: dict[str, Any] = {
        split: found,
        "model": str(config.ckpt),
        "classes": {t: list(n) for t, n in predictor.classes.items()},
    }
    results |= {**report.model_cost(model, data.passes), "sizes": {n: list(s) for n, s in data.sizes.items()}}
    report.write_json(folder / "metrics.json", results)
    report.print_table(results, [split])
    print(f"results: {folder}")


def assemble(config: Any, given: list[str], *, data: bool = True) -> tuple[dict[str, Any], Any, Any, Any]:
    """(settings, datamodule, model in eval mode, {task: class names}) of `ckpt`, or of `weights` and the settings.

    `given` are the keys of the command line. Without `data`, a checkpoint does without its data set: it is None.
    """
    from mnv2_tasks import wiring
    from mnv2_tasks.model import build_model, fill_model, read_trusted
    from mnv2_tasks.weights import load_model

    if config.ckpt:
        checkpoint = read_trusted(config.ckpt, trust=tuple(config.trust))
        take_settings(config, checkpoint["config"], given)
        settings = settle(config)
        found = trained_data(settings, f"{config.ckpt} ({checkpoint['writer']})") if data else None
        if found:
            take_classes(config.ckpt, found, checkpoint["classes"])
        return settings, found, fill_model(settings, checkpoint, config.ckpt), checkpoint["classes"]
    settings = settle(config)
    wiring.agree_on_stride(settings)
    found = wiring.make_data(settings)
    wiring.match_cost(settings, found.classes, found.passes)
    model = wiring.make_model(settings, found)
    load_model(model, config.weights, classes=found.classes, build=partial(build_model, settings))
    return settings, found, model.eval(), found.classes


def trained_data(settings: dict[str, Any], where: str) -> Any:
    """The datamodule of settings that the checkpoint `where` brought. Raises InputError where they make none."""
    from mnv2_tasks import wiring

    try:
        return wiring.make_data(settings)
    except Exception as error:  # whatever a damaged setting leads to
        if one_line(error):
            raise
        raise InputError(
            f"{where}: its settings make no data set ({reason_of(error)}); give data=<data set>, or use the version "
            "that wrote the file"
        ) from error


def take_settings(config: Any, trained: dict[str, Any], given: list[str]) -> None:
    """What the checkpoint was trained with, but for what is given on the command line."""
    from omegaconf import OmegaConf

    from mnv2_tasks.trust import without_downloads

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
    if "depth" not in given:
        config.depth = trained.get("depth") or 16


def take_classes(ckpt: str, data: Any, classes: Mapping[str, tuple[str, ...]]) -> None:
    """Number the data's classes as the model does, which may know others besides.

    Raises InputError where the data has classes that the model does not know.
    """
    from pytorch_lightning.utilities import rank_zero_only

    from mnv2_tasks.datasets.classes import class_advice
    from mnv2_tasks.datasets.listing import amount
    from mnv2_tasks.datasets.renumbered import Renumbered

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


if __name__ == "__main__":
    command(main, "evaluate")
