"""The real command lines on tiny data: what a run leaves, resuming, loggers, precision, several processes."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image
from places import ROOT
from refusal import refused

from mnv2_tasks.training.checkpoints import Checkpoints
from mnv2_tasks.training.run_folder import open_folder

TINY = (
    "size=64",
    "backbone.width=0.35",
    "data.train=12",
    "data.val=6",
    "loader.batch_size=4",
    "loader.workers=0",
    "trainer.max_epochs=2",
    "examples=2",
)
FILES = {
    "config.yaml",
    "commands.txt",
    "report.html",
    "metrics.csv",
    "metrics.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "checkpoints/previous.ckpt",
    "losses.png",
    "scores.png",
    "precision_recall.csv",
    "precision_recall.png",
    "confusion.csv",
    "confusion.png",
    "examples.png",
    "worst.png",
    "images/ssdlite.val.npz",
}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def spawn(*arguments: str, **settings) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE, **settings)


def finished(tmp_path_factory, name: str, *settings: str, env=None) -> Path:
    """The folder of a run, which the first process of the tests that asks for it makes."""
    base = tmp_path_factory.getbasetemp()
    runs = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{runs}.lock"):
        if not runs.exists():
            process = spawn("train.py", *settings, f"runs={runs}", f"name={name}", stdout=subprocess.PIPE, env=env)
            out, err = process.communicate()
            assert process.returncode == 0, err
            assert "ssdlite/map_50" in out and "run folder" in out and "run ends in" in err + out
    return runs / "ssdlite" / name


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of two epochs, started as a person would; one serves all processes of the tests."""
    return finished(tmp_path_factory, "trained", *TINY)


@pytest.mark.slow
def test_a_run_leaves_its_folder(trained):
    assert files(trained) == FILES
    found = json.loads((trained / "metrics.json").read_text())
    assert 0 <= found["val"]["ssdlite/map"] <= 1
    assert found["classes"]["ssdlite"] == ["circle", "square", "triangle"]
    assert found["parameters"] > 1e5 and found["madds"] > 1e6 and found["images_per_second"] > 0
    assert found["wall_seconds"] > 0 and found["epochs"] == 2 and found["best_epoch"] in (0, 1)
    table = rows(trained)
    assert [(row["epoch"], row["step"]) for row in table] == [("0", "3"), ("1", "6")]
    assert all(float(row["ssdlite/train/loss"]) > 0 and float(row["ssdlite/val/loss"]) > 0 for row in table)
    page = (trained / "report.html").read_text(encoding="utf-8")
    typed = (trained / "commands.txt").read_text(encoding="utf-8").splitlines()
    assert len(typed) == 1 and typed[0][21:].startswith("python train.py size=64") and typed[0][21:] in page
    assert f"<dd>{found['val']['ssdlite/map']:.4f}<small>on val" in page and page.count("<img") == 6
    assert f"ckpt={trained}/checkpoints/best.ckpt" in page and found["contents"][0] in page


@pytest.mark.slow
def test_the_checkpoint_needs_nothing_else(trained):
    from mnv2_tasks.assembly.network import load_model

    model, checkpoint = load_model(trained / "checkpoints" / "best.ckpt")
    found = model.predict(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))["ssdlite"]
    assert len(found) == 2 and checkpoint["classes"]["ssdlite"][0] == "circle"


@pytest.mark.slow
def test_evaluate_repeats_the_runs_numbers(trained, cli, tmp_path):
    ckpt = trained / "checkpoints" / "best.ckpt"
    cli("evaluate", f"ckpt={ckpt}", f"runs={tmp_path}", "name=again", "loader.workers=0", "loader.batch_size=5")
    again = json.loads((tmp_path / "evaluate" / "again" / "metrics.json").read_text())
    first = json.loads((trained / "metrics.json").read_text())
    for name, value in first["val"].items():
        if "loss" not in name:  # a mean over batches, here of another size
            assert again["val"][name] == pytest.approx(value, abs=1e-6), name
    assert (again["parameters"], again["madds"]) == (first["parameters"], first["madds"])
    assert {"examples.png", "precision_recall.png", "confusion.png"} <= files(tmp_path / "evaluate" / "again")


KILLED = """# train.py that sends itself a signal, after an epoch or where another method of callbacks is called
import os, runpy, sys
from mnv2_tasks.training import callbacks, checkpoints
name, method, number = sys.argv[1:4]
owner = getattr(checkpoints, name, None) or getattr(callbacks, name)
whole = getattr(owner, method)
def once(self, first, *rest):
    path = str(first)
    if method == "replace" and not (path.endswith("last.ckpt") and os.path.exists(path.replace("last", "previous"))):
        return whole(self, first, *rest)
    after = method in ("on_train_epoch_end", "_save_within")
    if after:
        whole(self, first, *rest)
    os.kill(os.getpid(), int(number))
    if not after:
        return whole(self, first, *rest)
setattr(owner, method, once)
sys.argv = ["train.py", *sys.argv[4:]]
runpy.run_path("train.py", run_name="__main__")
"""


def cut(number: int, *settings: str, at: tuple[str, str] = ("Checkpoints", "on_train_epoch_end")) -> tuple[int, str]:
    """(exit code, errors) of a run that gets a signal after its first epoch, or where `at` says."""
    process = spawn("-c", KILLED, *at, str(int(number)), *settings, stdout=subprocess.DEVNULL)
    _, err = process.communicate()
    return process.returncode, err


def assert_same_runs(one: Path, other: Path) -> None:
    for straight, resumed in zip(rows(one), rows(other), strict=True):
        for name, value in straight.items():
            if name not in ("seconds", "images_per_second", "step_ms"):
                assert float(value) == pytest.approx(float(resumed[name]), nan_ok=True, abs=1e-12), name
    whole, again = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (one, other))
    # The averaged weights, and those in training.
    for state in ("state_dict", "current_model_state"):
        differ = [name for name, value in whole[state].items() if not torch.equal(value, again[state][name])]
        assert not differ, (state, differ)


DEFAULTS = tuple(setting for setting in TINY if not setting.startswith("loader.workers"))  # and dropout, and EMA


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "method"),
    [
        (("task=ssdlite",), "on_train_epoch_end"),
        (("task=[classifier,ssdlite,deeplabv3]", "balance=gradnorm", "checkpoint.every=1"), "_save_within"),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(cli, tmp_path, task, method):
    settings = (*DEFAULTS, *task, f"runs={tmp_path}")
    cli("train", *settings, "name=whole")
    assert cut(signal.SIGKILL, *settings, "name=cut", at=("Checkpoints", method))[0] == -signal.SIGKILL
    (whole,) = tmp_path.glob("*/whole")
    assert len(rows(whole)) == 2 and not (whole.with_name("cut") / "metrics.json").exists()
    cli("train", f"resume={whole.with_name('cut')}")
    assert files(whole) == files(whole.with_name("cut"))
    assert_same_runs(whole, whole.with_name("cut"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_a_run_with_what_is_there(cli, tmp_path, monkeypatch, name):
    number, before = getattr(signal, name), [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    whole = Checkpoints.on_train_epoch_end

    def stopped(*arguments):
        whole(*arguments)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(Checkpoints, "on_train_epoch_end", stopped)
    twice = "trainer.accumulate_grad_batches=2"  # two steps an epoch, and the third is whole after two batches
    code, err = cli("train", *TINY, twice, f"runs={tmp_path}", "name=a", fails=True)
    assert before == [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    folder = tmp_path / "ssdlite" / "a"
    line = f"stopped by {name}: 1 epoch done (step 3); python train.py resume={folder} goes on"
    assert code == 128 + number and err.strip().splitlines()[-1] == line and "Traceback" not in err


@pytest.mark.slow
def test_a_run_that_ended_before_its_first_checkpoint_is_begun_again(trained, cli, tmp_path):
    code, _ = cut(signal.SIGKILL, *TINY, f"runs={tmp_path}", "name=a", at=("AtStop", "__init__"))
    folder = tmp_path / "ssdlite" / "a"
    assert files(folder) == {"config.yaml", "commands.txt"} and code == -signal.SIGKILL
    another = {"resume": None, "runs": tmp_path, "heads": {"ssdlite": {}}, "name": "a"}
    refused(
        lambda: open_folder(another), f"a run of that name exists; choose another name=, or go on with resume={folder}"
    )
    out = cli("train", f"resume={folder}")[1]
    assert f"{folder}: no checkpoint was written: it starts from the beginning" in out
    assert_same_runs(trained, folder)


@pytest.mark.slow
def test_a_checkpoint_is_there_whole_or_as_it_was(trained, cli, tmp_path):
    code, _ = cut(signal.SIGKILL, *TINY, f"runs={tmp_path}", "name=a", at=("Path", "replace"))  # in the second epoch
    folder = tmp_path / "ssdlite" / "a"
    draft = folder / "checkpoints" / "last.ckpt.part"
    assert code == -signal.SIGKILL and draft.exists()
    out = cli("train", f"resume={folder}")[1]
    assert f"{draft}: not written to its end" in out and files(folder) == FILES
    assert_same_runs(trained, folder)


@pytest.mark.slow
def test_a_run_outlasts_the_reader_of_its_output(trained, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("train.py", *TINY, f"runs={tmp_path}", "name=a", stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert_same_runs(trained, tmp_path / "ssdlite" / "a")


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(trained, cli, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "longer")
    cli("train", f"resume={tmp_path / 'longer'}", "trainer.max_epochs=3")
    assert [float(row["epoch"]) for row in rows(tmp_path / "longer")] == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("trainer.precision=bf16-mixed", "head.loss=focal"),
        ("optim=rmsprop", "head.first_level=6", "early_stopping=1", "ema=null"),
        ("head.boxes=fit", "logger=tensorboard", "size=[64,96]", "backbone.output_stride=16"),
    ],
)
def test_options_train(cli, tmp_path, settings):
    cli("train", *TINY, f"runs={tmp_path}", "name=run", *settings)
    found = json.loads((tmp_path / "ssdlite" / "run" / "metrics.json").read_text())
    assert found["val"]["ssdlite/loss"] is not None
    if "logger=tensorboard" in settings:
        assert any("tensorboard/" in name for name in files(tmp_path / "ssdlite" / "run"))


@pytest.mark.slow
def test_wandb_stays_offline_and_asks_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    cli("train", *TINY, f"runs={tmp_path}", "name=run", "logger=wandb", "trainer.max_epochs=1")
    folder = tmp_path / "ssdlite" / "run"
    assert any("offline-run" in name for name in files(folder))
    assert any("media/images" in name and name.endswith(".png") for name in files(folder))
    assert (folder / "wandb_id.txt").read_text().strip()
    code, err = cli("train", *TINY, f"runs={tmp_path}", "logger=wandb", "logger.wandb.mode=online", fails=True)
    assert code == 2 and "wandb login" in err


TWO = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
SHARED = (*TINY, "data.train=24", "data.val=7", "checkpoint.every=1")  # three steps an epoch of two processes
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """A finished run of two processes that Lightning started."""
    return finished(tmp_path_factory, "two", *SHARED, *TWO, env=ONE_THREAD)


@pytest.mark.slow
def test_two_processes_make_one_run(two, cli, tmp_path):
    assert files(two) == FILES and len(list(two.parent.iterdir())) == 1
    assert [row["step"] for row in rows(two)] == ["3", "6"]
    ckpt = f"ckpt={two / 'checkpoints' / 'best.ckpt'}"
    arguments = (ckpt, f"runs={tmp_path}", "loader.workers=0")  # seven images on two: one is counted twice, or not
    cli("evaluate", *arguments, "name=one")
    process = spawn(
        "-m", "mnv2_tasks.evaluate", *arguments, "name=two", *TWO, stdout=subprocess.DEVNULL, env=ONE_THREAD
    )
    _, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    results = [json.loads((tmp_path / "evaluate" / n / "metrics.json").read_text())["val"] for n in ("one", "two")]
    trained = json.loads((two / "metrics.json").read_text())["val"]
    for name, value in results[0].items():
        if "loss" not in name:
            assert results[1][name] == (None if value is None else pytest.approx(value, abs=1e-6)), name
            assert trained[name] == results[1][name], name


DYING = """# train.py of which one process dies, after its fourth step, unless torchrun has started it once more
import os, runpy, signal, sys
from mnv2_tasks.training.checkpoints import Checkpoints
whole = Checkpoints.on_train_batch_end
def once(self, trainer, *rest):
    whole(self, trainer, *rest)
    again = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
    if trainer.global_rank == 1 and trainer.global_step == 4 and not again:
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.on_train_batch_end = once
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_torchrun_goes_on(two, tmp_path):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    elastic = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", str(script)]
    settings = (*SHARED, "trainer.accelerator=cpu", f"runs={tmp_path}", "name=a", "resume=auto")
    environment = {**ONE_THREAD, "PYTHONPATH": str(ROOT)}
    process = spawn(*elastic, *settings, stdout=subprocess.PIPE, env=environment)
    out, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    assert "exitcode: -9" in err and out.count("reading scenes") == 2
    assert files(tmp_path / "ssdlite" / "a") == FILES
    assert_same_runs(two, tmp_path / "ssdlite" / "a")


@pytest.mark.slow
def test_srun_on_two_machines_makes_one_run(two, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"NTASKS": 2, "NTASKS_PER_NODE": 1, "NNODES": 2, "JOB_ID": 7, "NODELIST": "127.0.0.1", "LOCALID": 0}
    environment = ONE_THREAD | {f"SLURM_{name}": str(value) for name, value in job.items()}
    environment |= {"SLURM_JOB_NAME": "train", "MASTER_PORT": str(port)}
    each = [{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)} for rank in (0, 1)]
    settings = ("train.py", *SHARED, "trainer.accelerator=cpu", f"runs={tmp_path}")  # its folder is named by the time
    machines = [spawn(*settings, stdout=subprocess.PIPE, env=environment | own) for own in each]
    said = [process.communicate() for process in machines]
    assert [process.returncode for process in machines] == [0, 0], said
    (folder,) = (tmp_path / "ssdlite").iterdir()
    assert files(folder) == FILES
    assert_same_runs(two, folder)


def test_torchrun_tells_how_many_machines_there_are(monkeypatch):
    from mnv2_tasks.assembly.trainer import launched

    environment = {"LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "a", "RANK": "0"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GROUP_RANK", "0")
    assert launched({"devices": "auto"}) == {"devices": 4, "num_nodes": 2} and launched({"devices": 1}) == {}


@pytest.mark.slow
def test_every_run_of_a_multirun_is_a_wandb_run(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tiny = [*TINY, "trainer.max_epochs=1", "examples=0", f"runs={tmp_path}", "task=classifier", "logger=wandb"]
    cli("train", "-m", *tiny, "seed=0,1")
    folders = [folder for folder in (tmp_path / "classifier").iterdir()]
    ids = {(folder / "wandb_id.txt").read_text() for folder in folders}
    assert len(folders) == len(ids) == 2
    for folder in folders:
        (run,) = (folder / "wandb").glob("offline-run-*")
        assert run.name.endswith((folder / "wandb_id.txt").read_text())
    code, err = cli("train", *tiny, "optim.optimizer.lr=1e9", "name=failed", fails=True)
    assert code == 2 and "diverged" in err
    import wandb

    assert wandb.run is None


JOINT = "task=[classifier,ssdlite,deeplabv3]"


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "gradnorm", "torchjd"])
def test_three_heads_train_on_one_trunk(cli, tmp_path, balance, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tiny = [*TINY, f"runs={tmp_path}", "loader.batch_size=6"]
    if balance == "fixed":  # compared with runs of each head
        for task in ("classifier", "ssdlite", "deeplabv3"):
            cli("train", *tiny, f"task={task}", "name=alone", "trainer.max_epochs=1", "examples=0")
        alone = [f"baselines.{task}={tmp_path}/{task}/alone" for task in ("classifier", "ssdlite", "deeplabv3")]
        cli("train", *tiny, JOINT, "name=run", "logger=wandb", "trainer.max_epochs=1", *alone)
    else:
        cli("train", *tiny, JOINT, "name=run", f"balance={balance}", "trainer.max_epochs=1")
    folder = tmp_path / "classifier+ssdlite+deeplabv3" / "run"
    found = json.loads((folder / "metrics.json").read_text())
    assert set(found["primaries"]) == {"classifier", "ssdlite", "deeplabv3"}
    assert {f"{task}/{name}" for task, name in found["primaries"].items()} <= set(found["val"])
    pictures = {f"{task}/{name}.png" for task in found["primaries"] for name in ("examples", "worst", "confusion")}
    assert pictures <= files(folder)
    assert found["latency_ms"] > 0 and found["step_ms"] > 0
    if balance == "fixed":
        assert found["joint"]["cost"]["madds"]["ratio"] < 1 and set(found["joint"]["tasks"]) == set(found["primaries"])
        assert sum("media/images" in name for name in files(folder)) >= 6
    else:
        table = rows(folder)
        weighed = {name for name in table[0] if name.startswith("balance/")}
        assert len(weighed) == (0 if balance == "torchjd" else 3)


@pytest.mark.slow
def test_three_heads_on_two_data_sets_and_two_processes(tmp_path):
    images = tmp_path / "images"
    for name, grey in (("dark", 40), ("light", 200)):
        (images / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (40, 50), (grey, grey, grey + i)).save(images / name / f"{name}{i}.png")
    settings = [*TINY, f"runs={tmp_path}", "name=two", JOINT, "data=[imagefolder,scenes]"]
    settings = [s.replace("data.", "data.scenes.") for s in settings] + [f"data.imagefolder.root={images}"]
    settings += ["trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.max_epochs=1"]
    settings += ["size={imagefolder: 48, scenes: 64}", "data.scenes.size=64"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = spawn("train.py", *settings, stdout=subprocess.PIPE, env=environment)
    _, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    found = json.loads((tmp_path / "classifier+ssdlite+deeplabv3" / "two" / "metrics.json").read_text())
    assert found["classes"]["classifier"] == ["dark", "light"] and found["sizes"]["imagefolder"] == [48, 48]
    assert 0 <= found["val"]["classifier/top1"] <= 1 and 0 <= found["val"]["deeplabv3/miou"] <= 1
