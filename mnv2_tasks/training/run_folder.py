"""The folder of a run: opened, found again, and told of when a signal ends the run."""

import shlex
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import new_folder, read_rows, write_settings
from mnv2_tasks.machine import command_line
from mnv2_tasks.processes import Stop
from mnv2_tasks.training.checkpoints import DRAFT, LAST, PREVIOUS

Config = dict[str, Any]


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
    with (folder / "commands.txt").open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {command_line()}\n")
    return folder


@contextmanager
def stoppable(folder: Path, *, code: int | None = None) -> Iterator[Stop]:
    """A signal ends what is within after the batch at hand, with a line on what is there, and `code`.

    None: 128 + the signal's number.
    """
    with Stop() as stop:
        try:
            yield stop
        except SystemExit:
            if stop.number is None:
                raise
    if stop.number is not None:
        epochs = len(read_rows(folder / "metrics.csv")) if (folder / "checkpoints" / LAST).exists() else 0
        at = f" (step {stop.saved})" if stop.saved else ""
        rank_zero_only(print)(
            f"stopped by {signal.Signals(stop.number).name}: {amount(epochs, 'epoch')} done{at}; "
            f"python train.py {shlex.quote(f'resume={folder}')} goes on",
            file=sys.stderr,
        )
        raise SystemExit(128 + stop.number if code is None else code)


def has_begun(folder: Path) -> bool:
    """Whether a run has something to go on from, or has done an epoch."""
    return bool(checkpoints(folder)) or (folder / "metrics.csv").exists()


def checkpoints(folder: Path) -> list[Path]:
    """Those to go on from, the newest first."""
    paths = [folder / "checkpoints" / name for name in (LAST, PREVIOUS)]
    return [path for path in paths if path.exists()]


def read_last(folder: Path) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """The newest whole checkpoint, as `read_checkpoint` gives it; (None, None) where a run has none.

    Says what it found, if not a whole one. Raises InputError where none is whole, or a run that has done an epoch has
    lost them.
    """
    from mnv2_tasks.weights.checkpoint import read_checkpoint

    draft = folder / "checkpoints" / f"{LAST}{DRAFT}"
    if draft.exists():
        rank_zero_only(print)(f"{draft}: not written to its end, and left aside: the one before counts")
    if not has_begun(folder):
        rank_zero_only(print)(f"{folder}: no checkpoint was written: it starts from the beginning")
        return None, None
    newest, *others = checkpoints(folder) or [folder / "checkpoints" / LAST]
    try:
        return newest, read_checkpoint(newest)
    except InputError as error:
        for path in others:
            try:
                checkpoint = read_checkpoint(path)
            except InputError:
                continue
            rank_zero_only(print)(f"{error}; {path.name} is whole: it goes on from there, step {checkpoint['step']}")
            return path, checkpoint
        raise
