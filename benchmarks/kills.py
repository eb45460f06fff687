"""Whether a killed run goes on as if nothing had happened: `python benchmarks/kills.py --kills 100`.

Each case is trained once in one go, and again by a process that gets SIGKILL at a random moment, up to three times, and
each time goes on with resume=; a quarter of the kills come while a checkpoint is written. The weights in training and
the averaged ones must be equal to the last bit, and metrics.csv but for its timings. Of each case it says how many runs
were equal, after how many kills, and, for one process, how many steps a kill lost at most: those since the checkpoint
that the run goes on from. Exit code 1 where a run differs, or lost more than lies between two checkpoints.

Processes are forked from one that has imported the libraries, but for the cases of two, which torchrun starts.
"""

import argparse
import csv
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
EVERY = 3  # steps between two checkpoints
TINY = ["size=64", "backbone.width=0.35", "data.train=48", "data.val=8", "loader.batch_size=4", "trainer.max_epochs=3"]
COMMON = [*TINY, "examples=0", f"checkpoint.every={EVERY}", "trainer.accelerator=cpu"]
JOINT = "task=[classifier,ssdlite,deeplabv3]"
CASES = {  # name -> what is typed, processes
    "classifier": (["task=classifier"], 1),
    "ssdlite, no workers": (["task=ssdlite", "loader.workers=0"], 1),
    "deeplabv3, 2 workers": (["task=deeplabv3", "loader.workers=2"], 1),
    "accumulated": (["task=ssdlite", "trainer.accumulate_grad_batches=2", "loader.workers=2"], 1),
    "joint": ([JOINT, "loader.workers=2"], 1),
    "joint, GradNorm": ([JOINT, "balance=gradnorm", "loader.workers=0"], 1),
    "joint, uncertainty": ([JOINT, "balance=uncertainty", "loader.workers=2"], 1),
    "two processes": (["task=ssdlite", "trainer.devices=2", "trainer.strategy=ddp"], 2),
    "two processes, joint": ([JOINT, "balance=gradnorm", "trainer.devices=2", "trainer.strategy=ddp"], 2),
}
TIMED = ("seconds", "step_ms", "images_per_second")


def train(arguments: list[str], log: Path, *, kill_in_write: bool = False) -> None:
    """In a child of its own: train.py, with what it says in a log file; killed while it writes a checkpoint, or not."""
    from mnv2_tasks.training.checkpoints import Checkpoints

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    steps, batch_end = os.open(steps_of(log), os.O_WRONLY | os.O_CREAT), Checkpoints.on_train_batch_end

    def noted(self, trainer, *arguments):
        os.pwrite(steps, b"%12d" % trainer.global_step, 0)
        batch_end(self, trainer, *arguments)

    Checkpoints.on_train_batch_end = noted
    if kill_in_write:
        written, choice = os.fsync, random.Random(os.getpid()).randrange(1, 8)

        def fsync(file: int) -> None:
            nonlocal choice
            choice -= 1
            if not choice:
                os.kill(os.getpid(), signal.SIGKILL)
            written(file)

        os.fsync = fsync
    sys.argv = ["train.py", *arguments]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
    os._exit(code)


def steps_of(log: Path) -> Path:
    """Where a run's process notes the step that it has done."""
    return log.with_suffix(".step")


def lost(folder: Path, log: Path) -> int:
    """The steps that a run had done, and has to do again; 0 where it notes none."""
    from mnv2_tasks.training.run_folder import checkpoints, read_last

    done = int(steps_of(log).read_bytes() or 0) if steps_of(log).exists() else 0
    _, kept = read_last(folder) if checkpoints(folder) else (None, None)
    return max(0, done - (kept["step"] if kept else 0))


def start(arguments: list[str], processes: int, log: Path, *, kill_in_write: bool = False) -> int:
    """The process id of a training."""
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        with log.open("a", encoding="utf-8") as file:
            child = subprocess.Popen(
                [*command, "train.py", *arguments], cwd=ROOT, stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        return child.pid
    pid = os.fork()
    if not pid:
        os.setsid()
        try:
            train(arguments, log, kill_in_write=kill_in_write)
        finally:
            os._exit(70)
    return pid


def ended(pid: int, seconds: float) -> int | None:
    """The exit status, or None where it still runs after so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.01)
    return None


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{n: v for n, v in row.items() if n not in TIMED} for row in csv.DictReader(file)]


def difference(one: Path, other: Path) -> str:
    """What is not equal in two runs; "" for nothing."""
    left, right = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (one, other))
    for state in ("state_dict", "current_model_state"):
        differ = [name for name, value in left[state].items() if not torch.equal(value, right[state][name])]
        if differ:
            return f"{len(differ)} of {len(left[state])} tensors of {state}"
    for before, after in zip(rows(one), rows(other), strict=True):
        for name, value in before.items():
            if value != after[name]:
                return f"{name} of epoch {before['epoch']}: {value}, {after[name]}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=CASES)
    args = parser.parse_args()
    import mnv2_tasks.training.checkpoints  # noqa: F401  (before forking)
    import mnv2_tasks.training.results  # noqa: F401

    torch.set_num_threads(1)
    os.chdir(ROOT)
    choice, base = random.Random(args.seed), Path(tempfile.mkdtemp())
    cases = {args.only: CASES[args.only]} if args.only else CASES
    whole, took = {}, {}
    for name, (settings, processes) in cases.items():
        began = time.monotonic()
        typed = [*COMMON, *settings, f"runs={base / name.replace(' ', '_').replace(',', '')}", "name=whole"]
        status = ended(start(typed, processes, base / "whole.log"), 900)
        assert status == 0, (name, (base / "whole.log").read_text(encoding="utf-8")[-3000:])
        took[name] = time.monotonic() - began
        (whole[name],) = base.glob(f"{name.replace(' ', '_').replace(',', '')}/*/whole")
        print(f"{name}: in one go {took[name]:.1f} s", flush=True)
    kills, runs, bad, results = 0, 0, 0, {name: [0, 0, 0, 0] for name in cases}
    while kills < args.kills:
        name = list(cases)[runs % len(cases)]
        settings, processes = cases[name]
        folder = whole[name].with_name(f"cut{runs}")
        log = base / f"{runs}.log"
        runs += 1
        for _ in range(choice.choice((1, 2, 3))):
            again = (folder / "config.yaml").exists()
            typed = [f"resume={folder}"] if again else [
                *COMMON, *settings, f"runs={folder.parents[1]}", f"name={folder.name}",
            ]  # fmt: skip
            in_write = processes == 1 and choice.random() < 0.25
            pid = start(typed, processes, log, kill_in_write=in_write)
            wait = 900 if in_write else choice.uniform(0.2, 1) * took[name]
            status = ended(pid, wait)
            if status is None:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                if processes > 1:
                    ours = f"name={folder.name}|resume={re.escape(str(folder))}"
                    subprocess.run(["pkill", "-KILL", "-f", ours], check=False)
                    time.sleep(0.5)
                kills += 1
            elif os.WIFSIGNALED(status):
                kills += 1
            else:
                assert status == 0, (name, log.read_text(encoding="utf-8")[-3000:])
                break
            results[name][1] += 1
            results[name][3] = max(results[name][3], lost(folder, log))
        if not (folder / "metrics.json").exists():
            again = (folder / "config.yaml").exists()
            typed = [f"resume={folder}"] if again else [
                *COMMON, *settings, f"runs={folder.parents[1]}", f"name={folder.name}",
            ]  # fmt: skip
            status = ended(start(typed, processes, log), 900)
            assert status == 0, (name, log.read_text(encoding="utf-8")[-3000:])
        found = difference(whole[name], folder)
        results[name][0] += not found
        results[name][2] += 1
        bad += bool(found)
        print(f"{name} {folder.name}: {found or 'equal'} ({kills} kills)", flush=True)
        if not found:
            shutil.rmtree(folder)
    for name, (equal, killed, total, steps) in results.items():
        at_most = "" if cases[name][1] > 1 else f", at most {steps} steps lost"
        print(f"{name}: {equal} of {total} equal, {killed} kills{at_most}")
        bad += steps > EVERY
    if not bad:
        shutil.rmtree(base)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
