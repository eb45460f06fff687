"""Processes that end with the one that started them, however that one ends: the runs of a study."""

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

VARIABLE = "MNV2_TASKS_CHILD"  # set for a process whose standard input its parent holds open


def start(command: Sequence[str], *, output: IO[Any] | int, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
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
