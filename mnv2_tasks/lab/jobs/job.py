"""A run as a job of another engine: it starts the run's process, and started again it goes on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mnv2_tasks import processes

PATIENCE = 90  # seconds that a run has for its checkpoint when its job is about to end


@dataclass
class Job:
    """A call does the run and gives its exit code, on the machine of the call; one that is finished is left alone.

    Args:
        place: where the run's process starts, on a disk that all machines share; other paths are relative to it.
        folder: of the run.
        log: gets what the run prints.
        settings: of a run that begins.
        trust: modules that a run which goes on may build its parts from.
    """

    place: Path
    folder: Path
    log: Path
    settings: Sequence[str]
    trust: Sequence[str] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False, compare=False)

    def __call__(self) -> int:
        if (self.place / self.folder / "metrics.json").exists():
            return 0
        with (self.place / self.log).open("wb") as output:
            variables = environment()
            variables.pop("SLURM_NTASKS", None)  # the run starts the processes of its GPUs itself, whatever SLURM has
            self._process = process = processes.start(self.command(), output=output, env=variables, cwd=self.place)
        try:
            while process.poll() is None:
                time.sleep(0.2)
        finally:
            processes.stop(process)
        return process.returncode

    def command(self) -> list[str]:
        """What does the run: from its beginning, or on from its last checkpoint."""
        start, folder = [sys.executable, "-m", "mnv2_tasks.train"], self.place / self.folder
        if folder.exists():
            from mnv2_tasks.training.run_folder import checkpoints  # seconds, which a run that begins does without

            if checkpoints(folder):
                return [*start, f"resume={self.folder}", f"trust=[{','.join(self.trust)}]"]
            shutil.rmtree(folder)  # stopped before its first checkpoint
        return [*start, *self.settings]

    def checkpoint(self) -> Any:
        """What submitit queues anew where the job's time ends or another takes its place: this job, which goes on.

        The run writes a checkpoint after the step at hand.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            end = time.monotonic() + PATIENCE
            while self._process.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
        return DelayedSubmission(replace(self))


def environment() -> dict[str, str]:
    """Of a run's process: this one's, in which this package is found."""
    variables = dict(os.environ)
    places = [str(Path(__file__).resolve().parents[3]), *variables.get("PYTHONPATH", "").split(os.pathsep)]
    variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, places)))
    return variables


def last_line(log: Path) -> str:
    """What a run said last; where it told an error, that."""
    if not log.exists():
        return f"it left no {log}, which has to be on a disk that its machine shares with this one"
    lines: Iterator[str] = (
        line.strip() for line in re.split(r"[\r\n]", log.read_text(errors="replace", encoding="utf-8"))
    )
    texts = [line for line in lines if line]
    errors = [match[1] for line in texts if (match := re.search(r"(?:^|\])(error: .*)", line))]  # behind a progress bar
    return (errors or texts or ["it printed nothing"])[-1]


def clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
