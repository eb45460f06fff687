"""What several tests share: the command lines run in this process, and the reference data, where there is any."""

import logging
import os
import runpy
import signal
import sys
from pathlib import Path

import pytest

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch: waiting threads soon sleep, as in the command lines
os.environ.setdefault("OMP_NUM_THREADS", "2")  # of processes that tests start: sums are in the order of this one's
import torch
from places import ROOT, SHARED

pytest.register_assert_rewrite("builders", "refusal")  # so that their asserts show values as those of tests do
torch.set_num_threads(2)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and hand that on


def pytest_runtest_logfinish() -> None:
    """What a library's handlers bound to the captured stream of a test that has ended goes to the real one."""
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            if getattr(vars(handler).get("stream"), "closed", False):
                handler.stream = sys.__stderr__  # setStream would flush the closed one


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no reference data beside the project")
    return SHARED


@pytest.fixture
def cli(monkeypatch, capfd):
    """cli("train" | "evaluate", *overrides) as from a shell; with fails=True -> (exit code, what it printed)."""

    def call(program: str, *overrides: str, fails: bool = False) -> tuple[int, str]:
        monkeypatch.chdir(ROOT)
        for name in ("LOCAL_RANK", "MNV2_TASKS_RUN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "argv", [program, *overrides])
        capfd.readouterr()
        code = 0
        try:
            if program == "train":
                runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
            else:
                runpy.run_module(f"mnv2_tasks.{program}", run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:  # Hydra's handler writes to this test's stdout, which later tests find closed
            for handler in [one for one in logging.root.handlers if type(one) is logging.StreamHandler]:
                logging.root.removeHandler(handler)
        out, err = capfd.readouterr()
        assert bool(code) == fails, out + err
        return code, err if fails else out

    return call
