"""Children end with their parent, and their own children with them, whatever ends the parent."""

import os
import signal
import subprocess
import sys

import pytest
from places import ROOT

# The grandchild stands for a loader's worker. Both hold the pipe open as long as they live.
GRANDCHILD = "import signal, sys; pipe = open(sys.argv[1], 'w'); pipe.write('g'); pipe.flush(); signal.pause()"
CHILD = f"""
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Lightning's handler does in effect
pipe = open(sys.argv[1], "w")
subprocess.Popen([sys.executable, "-c", {GRANDCHILD!r}, sys.argv[1]])
from mnv2_tasks import processes
processes.end_with_parent()
pipe.write("c")
pipe.flush()
signal.pause()
"""
PARENT = f"""
import os, signal, subprocess, sys
from mnv2_tasks import processes
process = processes.start([sys.executable, "-c", {CHILD!r}, sys.argv[1]], output=subprocess.DEVNULL, env=os.environ)
if sys.argv[2] == "stops":
    sys.stdin.read(1)
    processes.stop(process)
    print(process.returncode)
else:
    process.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, None])
def test_children_end_with_their_parent(tmp_path, end):
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", PARENT, str(tmp_path / "pipe"), "stops" if end is None else "waits"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        pipe = os.open(tmp_path / "pipe", os.O_RDONLY)  # waits for the child
        heard = b""
        while len(heard) < 2:
            heard += os.read(pipe, 10)
        if end is None:
            assert parent.communicate(b"x")[0].strip() == b"-9"
        else:
            parent.send_signal(end)
        assert sorted(heard) == sorted(b"cg") and os.read(pipe, 10) == b""  # once nobody holds it open any more
        os.close(pipe)


def test_others_are_left_alone(monkeypatch):
    from mnv2_tasks import processes

    monkeypatch.delenv(processes.VARIABLE, raising=False)
    monkeypatch.setattr("threading.Thread", None)
    processes.end_with_parent()
