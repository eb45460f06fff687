"""Training to its end, from its beginning or a checkpoint."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError, one_line, reason_of
from mnv2_tasks.training.callbacks import EpochLog, callbacks_of
from mnv2_tasks.training.module import MultiTask

Config = dict[str, Any]


def fit(trainer: pl.Trainer, task: MultiTask, data: DataModule, last: Path | None) -> bool:
    """Train, from where the checkpoint `last` stopped; False where no epoch was left.

    Raises InputError where no run can go on from that file.
    """
    try:
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        return _started(trainer) or trainer.strategy.launcher is not None  # whose processes may keep the callbacks
    except MisconfigurationException as error:  # parts that do not go together
        raise InputError(f"trainer: {reason_of(error)}") from error
    except Exception as error:  # whatever a damaged state leads to
        if last is None or _started(trainer) or one_line(error):
            raise
        raise InputError(
            f"{last}: no run can go on from it ({reason_of(error)}); put a copy in its place, or start another run "
            f"with backbone.weights={last}"
        ) from error


def _started(trainer: pl.Trainer) -> bool:
    return any(isinstance(callback, EpochLog) and callback.started for callback in callbacks_of(trainer))
