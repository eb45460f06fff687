"""Evaluate a checkpoint, or a model of foreign weights: `python -m mnv2_tasks.evaluate ckpt=<file> data=...`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import typed
from mnv2_tasks.assembly.restore import assemble, need_model, take_classes, take_settings
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu


def main(config: Any) -> None:
    need_model(config)
    tune_for_cpu()
    from pytorch_lightning import seed_everything
    from pytorch_lightning.utilities import rank_zero_only

    from mnv2_tasks.assembly.logging_to import logging_to
    from mnv2_tasks.assembly.trainer import agree, make_trainer
    from mnv2_tasks.complexity import forward_ms
    from mnv2_tasks.files import new_folder
    from mnv2_tasks.training.kept_images import check_count, keep_images
    from mnv2_tasks.training.logged_results import log_results
    from mnv2_tasks.training.module import MultiTask
    from mnv2_tasks.training.results import evaluate, print_table, record_of, write_pictures
    from mnv2_tasks.training.run_report import write_run_report
    from mnv2_tasks.training.wandb_artifacts import use_checkpoint, use_data
    from mnv2_tasks.training.wandb_logger import WandbLogger

    check_count(config.intervals)
    names = typed().names
    if config.ckpt and Path(config.ckpt).suffix != ".ckpt":
        evaluate_exported(config, names)
        return
    resolved, model = assemble(config, names)
    settings, data = resolved.settings, resolved.data
    assert data is not None
    for line in resolved.said:
        rank_zero_only(print)(line)
    seed_everything(settings["seed"], verbose=False)
    split = settings["split"]
    data.tell([split])
    task = MultiTask(model, data.classes)
    trainer = make_trainer(settings, None)
    folder = agree(trainer, lambda: new_folder(Path(settings["runs"]) / "evaluate", settings["name"]))
    metrics = {split: evaluate(task, data, trainer, split)}
    if not trainer.is_global_zero:
        return
    ends = keep_images(task.metrics.items(), data, split, folder, count=settings["intervals"])
    record = replace(
        record_of(metrics, model, data, task.classes),
        intervals={split: ends} if ends else None,
        latency_ms=forward_ms(model, data.passes),
        model=str(config.ckpt or config.weights),
    )
    record.write(folder)
    write_pictures(task, data, split, folder, count=settings["examples"])
    with logging_to(settings, folder, job_type="evaluate") as loggers:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                use_data(logger, data, settings["data"])
                use_checkpoint(logger, config.ckpt or config.weights)
        log_results(loggers, record, folder, task=task, data=data, split=split)
    write_run_report(folder, record, settings)
    print_table(record)
    print(f"results: {folder}")


def evaluate_exported(config: Any, names: list[str]) -> None:
    """The metrics of an exported file, through its own runtime. The data set is not in the file: it is asked for."""
    from mnv2_tasks.assembly.build import make_data
    from mnv2_tasks.assembly.logging_to import logging_to
    from mnv2_tasks.assembly.network import build_model, build_told
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.export.compare import Proof
    from mnv2_tasks.export.report import batches
    from mnv2_tasks.files import new_folder
    from mnv2_tasks.predict.predictor import Predictor
    from mnv2_tasks.training.kept_images import keep_images
    from mnv2_tasks.training.logged_results import log_results
    from mnv2_tasks.training.results import print_table, record_of
    from mnv2_tasks.training.run_report import write_run_report
    from mnv2_tasks.weights.checkpoint import checked_config
    from mnv2_tasks.weights.trust import refuse_foreign, refuse_unknown, writer

    predictor = Predictor(config.ckpt, trust=tuple(config.trust))
    network = predictor.exported
    assert network is not None, "a checkpoint is evaluated otherwise"
    about, where = network.about.model, f"{config.ckpt} ({writer(network.about.model)})"
    try:
        made, classes = checked_config({**about, "config": {**about["config"], "fit": predictor.fit}})
    except (InputError, KeyError) as error:
        raise InputError(f"{where}: its metadata is damaged: {error}; export it again") from error
    refuse_foreign(made, where, trust=tuple(config.trust))
    refuse_unknown({key: made[key] for key in ("backbone", "heads")}, where)
    model = build_told(partial(build_model, made, classes), where).eval()  # for its metrics and its cost
    for task, calibration in predictor.calibrations.items():
        model.heads[task].calibration = calibration
    trained = {**made, "size": list(network.about.size), "fit": predictor.fit, "depth": predictor.depth}
    take_settings(config, trained, [*names, "data"])
    resolved = resolve(settle(config), make_data, classes=predictor.classes)
    settings, data = resolved.settings, resolved.data
    assert data is not None
    split = settings["split"]
    data.tell([split])
    take_classes(config.ckpt, data, predictor.classes)
    folder = new_folder(Path(settings["runs"]) / "evaluate", settings["name"])
    proof = Proof(network, model, predictor.classes)
    for images, targets in batches(data, split, None):
        proof.count(network(images), targets)
    metrics = {f"{task}/{key}": float(v) for task in proof.heads for key, v in proof.metrics[task].compute().items()}
    ends = keep_images(proof.metrics.items(), data, split, folder, count=settings["intervals"])
    record = record_of({split: metrics}, model, data, predictor.classes)
    record = replace(record, intervals={split: ends} if ends else None, model=str(config.ckpt))
    record.write(folder)
    with logging_to(settings, folder, job_type="evaluate") as loggers:
        log_results(loggers, record, folder)
    write_run_report(folder, record, settings)
    print_table(record)
    print(f"results: {folder}")


if __name__ == "__main__":
    command(main, "evaluate")
