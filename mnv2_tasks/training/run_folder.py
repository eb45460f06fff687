"""The folder of a run: opened, found again, and told of when a signal ends the run."""

import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import new_folder, read_rows, write_settings
from mnv2_tasks.processes import Stop
from mnv2_tasks.training.callbacks import DRAFT

Config = dict[str, Any]
LAST = "last.ckpt"


def open_folder(config: Config, tasks: Iterable[str] = ()) -> Path:
    """Where the run writes: runs/<task>/<name or time>, its own folder again when it is resumed.

    `tasks`: as the folder names them, where that is not the order of the heads.

    Called once everything that can be wrong with the input has been checked, so that nothing half-written stays. A new
    run has its config.yaml from here on, and can be resumed wherever it ends; a resumed one's is changed by `Settings`.
    """
    if config["resume"]:
        folder = Path(config["resume"])
    else:
        base = Path(config["runs"]) / "+".join(tasks or config["heads"])
        try:
            folder = new_folder(base, config["name"])
        except InputError as error:
            old = base / str(config["name"])
            if not (old / "config.yaml").exists():
                raise
            raise InputError(
                f"{old}: a run of that name exists; choose another name=, or go on with resume={old}"
            ) from error
        write_settings(folder / "config.yaml", config)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def stoppable(folder: Path) -> Iterator[Stop]:
    """A signal ends what is within after the batch at hand, with a line on what is there, and 128 + its number."""
    with Stop() as stop:
        try:
            yield stop
        except SystemExit:
            if stop.number is None:
                raise
    if stop.number is not None:
        epochs = len(read_rows(folder / "metrics.csv")) if (folder / "checkpoints" / LAST).exists() else 0
        rank_zero_only(print)(
            f"stopped by {signal.Signals(stop.number).name}: {amount(epochs, 'epoch')} done; "
            f"python train.py {shlex.quote(f'resume={folder}')} goes on",
            file=sys.stderr,
        )
        raise SystemExit(128 + stop.number)


def has_begun(folder: Path) -> bool:
    """Whether a run has done an epoch."""
    return (folder / "checkpoints" / LAST).exists() or (folder / "metrics.csv").exists()


def last_checkpoint(folder: Path) -> Path | None:
    """From where a run goes on; None where it ended before its first epoch did. Says what it found, if not a whole one.

    A run that has lost its last.ckpt has results of its own; then the path is of no file.
    """
    last = folder / "checkpoints" / LAST
    draft = Path(f"{last}{DRAFT}")
    if draft.exists():
        rank_zero_only(print)(f"{draft}: not written to its end, and left aside: the one before counts")
    if has_begun(folder):
        return last
    rank_zero_only(print)(f"{folder}: none of its epochs was done: it starts from the beginning")
    return None
