"""How processes end: with the one that started them, in order on a signal, and without the reader of their output."""

import io
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

VARIABLE = "MNV2_TASKS_CHILD"  # set for a process whose standard input its parent holds open


class Stop:
    """Takes SIGINT, SIGTERM, SIGHUP and SIGUSR1 as a wish to stop, in `number`; the second of its kind stops at once.

    What the process was told to ignore (nohup, a shell's &) stays ignored.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.saved = 0  # the step of the last checkpoint
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        if threading.current_thread() is threading.main_thread():  # elsewhere Python takes no signals
            for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._wish)
        return self

    def take_again(self) -> None:
        """Once a library has put handlers of its own before these."""
        for number in self._before:
            signal.signal(number, self._wish)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _wish(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, self._before[number])


class Lasting(io.TextIOWrapper):
    """Standard output or error that falls silent when its reader goes, as `head` does: the work goes on."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def start(
    command: Sequence[str], *, output: IO[Any] | int, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """A child with its loaders in a process group of its own; `output` gets what it prints.

    Nothing is ever written to its standard input. The system closes that when this process ends, by SIGKILL as well,
    and then the child ends all of its group: on every system, and without a moment in which it could be missed.
    """
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**env, VARIABLE: "1"},
        cwd=cwd,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a child, where it still runs, and wait until it has ended."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def end_with_parent() -> None:
    """In a child: end it and its group when its parent has ended; nothing in a process that `start` did not start.

    What a run has on disk is whole at every moment, so that it may be killed.
    """
    if os.environ.pop(VARIABLE, None) is not None:
        threading.Thread(target=_wait_and_end, daemon=True).start()


def _wait_and_end() -> None:
    while os.read(0, 1024):
        pass
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
