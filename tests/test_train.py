"""The real command lines on tiny data: what a run leaves, resuming, loggers, precision, several processes."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
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
    "metrics.csv",
    "metrics.json",
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "losses.png",
    "scores.png",
    "precision_recall.png",
    "confusion.png",
    "examples.png",
    "worst.png",
}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def spawn(*arguments: str, **settings) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True, stderr=subprocess.PIPE, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of two epochs, started as a person would."""
    runs = tmp_path_factory.mktemp("runs")
    process = spawn("train.py", *TINY, f"runs={runs}", "name=whole", stdout=subprocess.PIPE)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert "ssdlite/map_50" in out and "run folder" in out and "run ends in" in err + out
    return runs / "ssdlite" / "whole"


@pytest.mark.slow
def test_a_run_leaves_its_folder(trained):
    assert files(trained) == FILES
    found = json.loads((trained / "metrics.json").read_text())
    assert 0 <= found["val"]["ssdlite/map"] <= 1
    assert found["classes"]["ssdlite"] == ["circle", "square", "triangle"]
    assert found["parameters"] > 1e5 and found["madds"] > 1e6 and found["images_per_second"] > 0
    assert found["wall_seconds"] > 0 and found["epochs"] == 2 and found["best_epoch"] in (0, 1)
    table = rows(trained)
    assert [float(row["epoch"]) for row in table] == [0, 1]
    assert all(float(row["ssdlite/train/loss"]) > 0 and float(row["ssdlite/val/loss"]) > 0 for row in table)


@pytest.mark.slow
def test_the_checkpoint_needs_nothing_else(trained):
    from mnv2_tasks.model import load_model

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


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(trained, tmp_path):
    process = spawn("train.py", *TINY, f"runs={tmp_path}", "name=cut", stdout=subprocess.DEVNULL)
    folder = tmp_path / "ssdlite" / "cut"
    for _ in range(20_000):
        if (folder / "metrics.csv").exists() and (folder / "checkpoints" / "last.ckpt").exists():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    last_epoch_done = len(rows(folder)) == 2  # then only the end is left, which works with the averaged weights
    if (folder / "metrics.json").exists():
        pytest.skip("the run was over before it could be killed")
    again = spawn("train.py", f"resume={folder}", stdout=subprocess.DEVNULL)
    _, err = again.communicate()
    assert again.returncode == 0, err
    assert files(folder) == FILES
    for straight, resumed in zip(rows(trained), rows(folder), strict=True):
        for name, value in straight.items():
            if name not in ("seconds", "images_per_second", "step_ms"):
                assert float(value) == pytest.approx(float(resumed[name]), nan_ok=True, abs=1e-12), name
    whole, cut = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (trained, folder))
    # The averaged weights, and those in training.
    for state in ("state_dict",) if last_epoch_done else ("state_dict", "current_model_state"):
        differ = [name for name, value in whole[state].items() if not torch.equal(value, cut[state][name])]
        assert not differ, (state, differ)


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


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path):
    two = ("trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu")
    settings = [*TINY, "data.val=7", f"runs={tmp_path}", "name=two", *two]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = spawn("train.py", *settings, stdout=subprocess.PIPE, env=environment)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-2000:]
    folder = tmp_path / "ssdlite" / "two"
    assert files(folder) == FILES and len(list((tmp_path / "ssdlite").iterdir())) == 1
    assert len(rows(folder)) == 2
    ckpt = f"ckpt={folder / 'checkpoints' / 'best.ckpt'}"
    results = []
    for name, more in (("one", ()), ("two", two)):  # seven images on two processes: one is counted twice, or not
        arguments = ("-m", "mnv2_tasks.evaluate", ckpt, f"runs={tmp_path}", f"name={name}", "loader.workers=0", *more)
        process = spawn(*arguments, stdout=subprocess.DEVNULL, env=environment)
        assert process.wait(timeout=300) == 0, process.stderr.read()[-2000:]
        results.append(json.loads((tmp_path / "evaluate" / name / "metrics.json").read_text())["val"])
    trained = json.loads((folder / "metrics.json").read_text())["val"]
    for name, value in results[0].items():
        if "loss" not in name:
            assert results[1][name] == pytest.approx(value, abs=1e-6, nan_ok=True) if value is not None else True, name
            assert trained[name] == results[1][name], name


JOINT = "task=[classifier,ssdlite,deeplabv3]"


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["fixed", "uncertainty", "gradnorm", "torchjd"])
def test_three_heads_train_on_one_trunk(cli, tmp_path, balance, monkeypatch):
    import wandb

    wandb.finish()  # of a test before: a process has one run at a time
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
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-2000:]
    found = json.loads((tmp_path / "classifier+ssdlite+deeplabv3" / "two" / "metrics.json").read_text())
    assert found["classes"]["classifier"] == ["dark", "light"] and found["sizes"]["imagefolder"] == [48, 48]
    assert 0 <= found["val"]["classifier/top1"] <= 1 and 0 <= found["val"]["deeplabv3/miou"] <= 1
