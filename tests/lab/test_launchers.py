"""What does the runs of a study: a job's end and beginning, SLURM's queue, and what is missing or wrong."""

import os
import signal
import socket
import sys

import pytest

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.jobs.choice import choose_launcher
from mnv2_tasks.lab.jobs.job import Job
from mnv2_tasks.lab.jobs.launchers import OnRay, Submitit
from mnv2_tasks.lab.study.plan import Run
from mnv2_tasks.lab.study.runner import execute

SLURM = {
    "cluster": "slurm",
    "timeout_min": 60,
    "slurm_signal_delay_s": 120,
    "slurm_partition": "gpu",
    "gpus_per_node": 1,
    "mem_gb": None,
    "slurm_additional_parameters": {"requeue": True},
}
CHILD = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.getcwd(), os.environ.get("SLURM_NTASKS"), flush=True)
os.kill(os.getppid(), signal.SIGUSR2)
signal.pause()
"""


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # launchers set it, for their jobs to inherit
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def test_a_job_that_is_told_of_its_end_ends_its_run_and_is_queued_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(Job, "command", lambda _: [sys.executable, "-c", CHILD])
    monkeypatch.setenv("SLURM_NTASKS", "1")
    job, queued = Job(tmp_path, tmp_path / "run", tmp_path / "log.txt", ["a=1"], ["b"]), []
    before = signal.signal(signal.SIGUSR2, lambda *_: queued.append(job.checkpoint()))  # as submitit does
    try:
        assert job() == 7
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert queued[0].function == job and queued[0].function is not job
    assert (tmp_path / "log.txt").read_text().split() == [str(tmp_path), "None"]  # Lightning would take a task's place
    job.folder.mkdir()
    (job.folder / "metrics.json").touch()
    assert job() == 0  # it is finished


def test_a_job_begins_a_run_or_goes_on_with_it(tmp_path):
    job = Job(tmp_path, tmp_path / "run", tmp_path / "log.txt", ["a=1"], ["b"])
    assert job.command()[1:] == ["-m", "mnv2_tasks.train", "a=1"]
    (job.folder / "checkpoints").mkdir(parents=True)
    assert job.command()[3:] == ["a=1"] and not job.folder.exists()
    (job.folder / "checkpoints").mkdir(parents=True)
    (job.folder / "checkpoints" / "previous.ckpt").touch()
    assert job.command()[3:] == [f"resume={job.folder}", "trust=[b]"]


def test_jobs_of_slurm_stay_in_its_queue_and_the_same_command_waits_for_them(tmp_path, monkeypatch, capsys):
    """With stand-ins for SLURM's programs, which number the jobs and tell their states."""
    programs, states = tmp_path / "programs", tmp_path / "states"
    programs.mkdir()
    for name, script in (
        ("srun", ""),
        ("sbatch", f"echo >> {tmp_path}/calls; echo Submitted batch job $(wc -l < {tmp_path}/calls)"),
        ("sacct", f"cat {states}"),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    runs = [Run(name, {}, 0, tmp_path / "runs" / f"{name}_0") for name in "ab"]

    def study(*, stopped):
        launcher = Submitit(SLURM, None, tmp_path)
        if stopped:
            monkeypatch.setattr(launcher, "ended", lambda _: signal.raise_signal(signal.SIGINT))
        return execute(runs, lambda one: [f"name={one.variant}"], launcher, folder=tmp_path)

    states.write_text("JobID|State|NodeList\n1|PENDING|\n2|RUNNING|\n")
    for said in ("", "a_0: job 1 of before has not ended"):
        with pytest.raises(SystemExit):
            study(stopped=True)
        out, err = capsys.readouterr()
        assert said in out and "0 of 2 runs are finished; 2 jobs stay in the queue (scancel 1 2 ends them)" in err
        assert "the same command waits for them" in err
    script = (tmp_path / "jobs" / "1_submission.sh").read_text()
    for line in ("--requeue", "--signal=USR2@120", "--partition=gpu", "--time=60", "--gpus-per-node=1"):
        assert f"#SBATCH {line}\n" in script, script
    assert "#SBATCH --job-name=a_0\n" in script and f"{sys.executable} -u -m submitit.core._submit" in script
    states.write_text("JobID|State|NodeList\n1|CANCELLED|\n2|FAILED|\n3|OUT_OF_MEMORY|\n4|NODE_FAIL|\n")
    failed = study(stopped=False)
    assert [log.name for log in failed] == ["a_0.txt", "b_0.txt"]
    assert "job 3 has ended as OUT_OF_MEMORY" in next(iter(failed.values()))


def test_what_is_missing_or_wrong_is_told_in_a_line(tmp_path, monkeypatch):
    for section, words in (
        ({"cluster": "slurm"}, 'Could not detect "srun".*study.submitit.cluster=local'),
        ({"cluster": "local", "slurm_kos": "x"}, "Unknown argument 'kos'"),
        ({"cluster": "local", "timeout_min": "long"}, 'study.submitit: Parameter "timeout_min"'),
        ({"cluster": "local", "nodes": 2}, "study.submitit.nodes=2: a run is one task"),
    ):
        with pytest.raises(InputError, match=words):
            Submitit(section, None, tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(InputError, match="study.ray.address=127.0.0.1:.* give that of `ray start`"):
            OnRay({"address": f"127.0.0.1:{free.getsockname()[1]}"}, None)
    for study, words in (
        ({"launcher": "slurm", "jobs": None}, "study.launcher=slurm: use local, submitit or ray"),
        ({"launcher": "ray", "jobs": 0}, "study.jobs=0"),
    ):
        with pytest.raises(InputError, match=words):
            choose_launcher(study, tmp_path, 2)
    for name in ("submitit", "ray"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=rf"pip install 'mnv2_tasks\[{name}\]'"):
            choose_launcher({"launcher": name, "jobs": None, name: {}}, tmp_path, 2)
