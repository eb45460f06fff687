"""Train: `mnv2 train task=ssdlite data=coco data.root=<folder>`; `--cfg job` prints every setting."""

import os
import time
from pathlib import Path

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import AUTO, typed
from mnv2_tasks.assembly.settings import settle, settle_training
from mnv2_tasks.assembly.suggestions import describe_suggestions
from mnv2_tasks.errors import InputError, one_line, reason_of
from mnv2_tasks.machine import tune_for_cpu


def main(config) -> None:  # type: ignore[no-untyped-def]
    began = time.monotonic()
    tune_for_cpu()
    from pytorch_lightning.utilities import rank_zero_only

    found = None
    if config.resume == AUTO:
        found = found_run(config)
        config.resume = None
    # A wrong setting is told before anything heavy is imported.
    said = () if config.resume else describe_suggestions(config)
    settings = None if config.resume else settle_training(config)
    from mnv2_tasks.assembly import changes
    from mnv2_tasks.assembly.resume import as_begun, resumed_config
    from mnv2_tasks.assembly.trainer import agree, make_trainer
    from mnv2_tasks.lab.search import ask_and_tell
    from mnv2_tasks.lab.study import runner
    from mnv2_tasks.training import loggers
    from mnv2_tasks.training.fitting import fit
    from mnv2_tasks.training.results import finish, print_start
    from mnv2_tasks.training.run_folder import has_begun, open_folder, stoppable

    before, changed = None, {}
    if settings is None:
        typed_changes, defaults = list(typed().changes), settle(config)
        settings = resumed_config(config.resume, typed_changes, defaults)
        before = resumed_config(config.resume, [change for change in typed_changes if "trust=" in change], defaults)
        changed = changes.refuse_fixed(before, settings, begun=has_begun(Path(config.resume)))
    elif found:
        before = resumed_config(found, [], settings)
        settings = as_begun(settings, before)
        changed = changes.refuse_fixed(before, settings, begun=has_begun(Path(found)))
    if runner.wanted(settings):
        runner.run(settings)
        return
    if ask_and_tell.wanted(settings):
        ask_and_tell.run(settings)
        return
    heads = list(settings["heads"])
    resolved, task, last, trainer = prepare(settings, before, said)
    settings, data = resolved.settings, resolved.data
    for change in changes.describe(changed):
        rank_zero_only(print)(f"from now on: {change}")
    folder = agree(trainer, lambda: open_folder(settings, heads))
    with stoppable(folder, code=settings["checkpoint"]["exit_code"]) as stop, loggers.closing_wandb():
        trainer = make_trainer(settings, folder, stop)
        if trainer.is_global_zero:
            print_start(task, data, folder)
            if resolved.rates:
                resolved.rates.write(folder)
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
        if not fit(trainer, task, data, last):
            changes.refuse_idle(folder, changed)
        finish(task, data, settings, folder, began=began, make_trainer=lambda: make_trainer(settings, None, stop))


def found_run(config) -> str | None:  # type: ignore[no-untyped-def]
    """The folder of the run that these settings name, where it has begun: a job started again needs no other line."""
    if not config.name:
        raise InputError(f"resume={AUTO}: give name=<name>, by which the run is found when the same line starts again")
    folder = Path(config.runs) / "+".join(config.heads) / str(config.name)
    return str(folder) if (folder / "config.yaml").exists() else None


def prepare(settings, before=None, said=()):  # type: ignore[no-untyped-def]
    """The settings and data resolved, LightningModule, checkpoint to go on from, and Trainer as yet without a folder.

    Before there is one, all that is wrong is said. `before`: the settings that a run had until now, if it goes on;
    `said`: what was decided when they were composed.
    """
    try:
        return _prepare(settings, before, said)
    except Exception as error:  # whatever a damaged setting leads to
        line, path = one_line(error), f"{settings['resume']}/config.yaml"
        own = settings["resume"] and before in (None, settings)  # what the run's own settings lead to
        if not own or (line and os.path.exists(line.partition(": ")[0])):  # it names its file itself
            raise
        raise InputError(f"{path}: {line or f'it makes no run ({reason_of(error)}); correct it'}") from error


def _prepare(settings, before, said):  # type: ignore[no-untyped-def]
    from pytorch_lightning import seed_everything
    from pytorch_lightning.utilities import rank_zero_only

    from mnv2_tasks.assembly import auto, build, changes
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.assembly.trainer import make_trainer
    from mnv2_tasks.training import joint_gain
    from mnv2_tasks.training.kept_images import check_count
    from mnv2_tasks.training.run_folder import read_last
    from mnv2_tasks.weights.tensors import check_fit

    seed_everything(settings["seed"], verbose=False)
    last, checkpoint = read_last(Path(settings["resume"])) if settings["resume"] else (None, None)
    if before is not None and checkpoint is not None:
        changes.refuse_ended(before, settings, epochs=checkpoint["epochs"], steps=checkpoint["step"] or 0)
    build.check_parts(auto.filled(settings, auto.STAND_IN))
    check_count(settings["intervals"])
    trainer = make_trainer(settings, None)  # its settings are checked before data is read

    def read(settings):  # type: ignore[no-untyped-def]
        for name, section in settings["data"].items():
            place = f" in {section['root']}" if section.get("root") else ""
            rank_zero_only(print)(f"reading {name}{place}", flush=True)
        data = build.make_data(auto.filled(settings, auto.STAND_IN))
        data.tell(("train", "val", "test"))
        return data

    resolved = resolve(settings, read, training=True, said=said)
    settings, data = resolved.settings, resolved.data
    for line in resolved.said:
        rank_zero_only(print)(line)
    data.check_training()
    if checkpoint is not None:
        changes.refuse_classes(checkpoint["classes"], data.classes)
        if before is not None:
            changes.refuse_lost(before, settings, data)
    if settings["baselines"]:
        joint_gain.read_baselines(settings["baselines"], data.classes)
    model = build.make_model(settings, data)
    if auto.asked(settings):
        known = len(resolved.said)
        resolved = auto.decide(resolved, model, trainer, begun=checkpoint is not None)
        settings = resolved.settings
        for line in resolved.said[known:]:
            rank_zero_only(print)(line)
    task = build.make_task(settings, data, model)
    if checkpoint is not None:
        check_fit(task.model, checkpoint["state"], str(last), hint="its run's config.yaml tells of another network")
    return resolved, task, last, trainer


if __name__ == "__main__":
    command(main, "train")
