"""W&B's offline files read back, of a run that was stopped twice: history, summary, tables, artifacts; and MLflow."""

import csv
import json
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.jobs.sweep import write_sweep
from mnv2_tasks.training import loggers, step_log
from mnv2_tasks.training.wandb_logger import STEP, WandbLogger
from mnv2_tasks.weights import artifacts
from mnv2_tasks.weights.checkpoint import read_checkpoint

TINY = (
    *("size=32", "backbone.width=0.35", "data.train=12", "data.val=6", "loader.batch_size=4", "loader.workers=0"),
    *(
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=2",
        "examples=2",
        "task=classifier",
        "logger.wandb.predictions=4",
    ),
)
LOGGERS = "logger=[wandb,mlflow]" if find_spec("mlflow") else "logger=wandb"
BLOCK, HEADER = 1 << 15, 7  # of a .wandb file, which is a LevelDB log behind seven bytes of its own


def records(folder: Path) -> Iterator[Any]:
    """The records of an offline folder, in W&B's own form."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("run-*.wandb")
    content, at, whole = path.read_bytes(), HEADER, b""
    while at + HEADER <= len(content):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", content[at : at + HEADER])
        whole += content[at + HEADER : at + HEADER + size]
        at += HEADER + size
        if kind in (1, 4):  # a whole record, or its last part
            yield Record.FromString(whole)
            whole = b""


def values(items: Any) -> dict[str, Any]:
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}


class Offline:
    """What an offline folder holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.artifacts: list[Any] = []
        for record in records(folder):
            self.history += [values(record.history.item)] if record.HasField("history") else []
            self.summary |= values(record.summary.update) if record.HasField("summary") else {}
            self.artifacts += [record.artifact] if record.HasField("artifact") else []
            if record.HasField("run"):
                self.run = record.run

    def table(self, name: str) -> dict[str, Any]:
        return json.loads((self.folder / "files" / self.summary[f"{name}.path"]).read_text(encoding="utf-8"))


def offline(folder: Path) -> list[Offline]:
    import wandb

    wandb.teardown()  # which waits until all is written; `finish` does not
    return [Offline(path) for path in sorted((folder / "wandb").glob("offline-run-*"))]


DONE: dict[str, Path] = {}


@pytest.fixture
def run(cli, tmp_path_factory, monkeypatch) -> Path:
    """A run that was stopped in the middle of its second epoch, and of its third; all tests look at the same."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ARTIFACT_DIR", str(tmp_path_factory.getbasetemp() / "artifacts"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path_factory.getbasetemp() / "data"))
    if "run" in DONE:
        return DONE["run"]
    runs = tmp_path_factory.mktemp("runs")
    folder = runs / "classifier" / "a"
    whole = step_log.StepLog.on_train_batch_end
    for stop in (5, 8, None):

        def stopped(self, trainer, *rest, at=stop):
            whole(self, trainer, *rest)
            if trainer.global_step == at:
                raise SystemExit(9)

        monkeypatch.setattr(step_log.StepLog, "on_train_batch_end", stopped)
        start = [f"resume={folder}"] if folder.exists() else [*TINY, f"runs={runs}", "name=a", LOGGERS]
        cli("train", *start, "logger.wandb.log_model=true", fails=stop is not None)
    monkeypatch.setattr(step_log.StepLog, "on_train_batch_end", whole)
    DONE["run"] = folder
    return folder


@pytest.mark.slow
def test_a_run_that_was_stopped_twice_has_one_history(run):
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        epochs = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    *before, last = offline(run)
    assert len(before) == 2 and all((one.folder / f"run-{one.run.run_id}.wandb.synced").exists() for one in before)
    assert {one.run.run_id for one in (*before, last)} == {(run / "wandb_id.txt").read_text(encoding="utf-8")}
    steps = [row[STEP] for row in last.history]
    assert steps == sorted(steps) and [row["_step"] for row in last.history] == list(range(len(steps)))
    assert [row[STEP] for row in last.history if "step/loss" in row] == [1, 3, 5, 7]
    single = {"step/classifier/cross_entropy", "step/lr", "step/gradient_norm", "step/ms", "step/images_per_second"}
    assert all(single <= set(row) for row in last.history if "step/loss" in row)
    for epoch in epochs:
        sent: dict[str, float] = {}
        for row in last.history:
            sent |= row if row.get("epoch") == epoch["epoch"] else {}
        assert sent[STEP] == epoch.pop("step") - 1
        assert {name: sent[name] for name in epoch} == pytest.approx(epoch, nan_ok=True)
    assert last.summary["val/score"] == {"max": pytest.approx(max(epoch["val/score"] for epoch in epochs))}
    assert last.summary["classifier/val/loss"] == {"min": pytest.approx(min(e["classifier/val/loss"] for e in epochs))}


@pytest.mark.slow
def test_what_a_run_found_stands_in_its_summary_tables_and_artifacts(run, cli, tmp_path):
    last = offline(run)[-1]
    record = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    for name, value in record["val"].items():
        assert last.summary[f"val/{name}"] == pytest.approx(value)
    for name in ("parameters", "madds", "latency_ms", "best_epoch", "images_per_second"):
        assert last.summary[name] == pytest.approx(record[name])
    pictures = {name.removesuffix(".path") for name in last.summary if name.startswith("pictures/")}
    assert {"pictures/confusion", "pictures/examples", "pictures/worst", "pictures/losses"} <= pictures
    found = last.table("predictions/classifier")
    losses = [row[-1] for row in found["data"]]
    assert found["columns"] == ["name", "image", "truth", "prediction", "loss"] and len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert sum(row[-1] for row in last.table("charts/classifier/confusion_table")["data"]) == 6
    assert [row[0] for row in last.table("classes/classifier")["data"]] == ["circle", "square", "triangle"]
    (data,) = (one for one in last.artifacts if one.type == "dataset")
    assert data.use_after_commit and json.loads(data.metadata)["images"] == {"train": 12, "val": 6}
    models = {alias: one for one in last.artifacts if one.type == "model" for alias in one.aliases if alias != "latest"}
    about = json.loads(models["best"].metadata)
    assert set(models) == {"best", "last"} and about["classes"] == {"classifier": ["circle", "square", "triangle"]}
    assert about["metrics"]["val"] == pytest.approx(record["val"]) and about["config"]["size"] == 32
    cli(
        *("evaluate", f"ckpt={run / 'checkpoints' / 'best.ckpt'}", f"runs={tmp_path}", "name=b", "loader.workers=0"),
        *("examples=0", "logger=wandb", "logger.wandb.log_model=true", "logger.wandb.predictions=0"),
    )
    (again,) = offline(tmp_path / "evaluate" / "b")
    assert again.summary["val/classifier/top1"] == pytest.approx(record["val"]["classifier/top1"])
    (used,) = (one for one in again.artifacts if one.type == "model")
    assert again.run.job_type == "evaluate" and used.use_after_commit and used.digest == models["best"].digest


@pytest.mark.slow
def test_mlflow_has_the_same_numbers_and_pictures(run):
    pytest.importorskip("mlflow")
    (place,) = (path.parent for path in (run / "mlruns").rglob("artifacts") if path.is_dir())
    record = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    *_, (_, value, _) = (line.split() for line in (place / "metrics/val/classifier/top1").read_text().splitlines())
    assert float(value) == pytest.approx(record["val"]["classifier/top1"])
    assert len((place / "metrics/classifier/val/top1").read_text().splitlines()) == 3
    assert (place / "metrics/step/gradient_norm").exists() and (place / "artifacts/confusion.png").exists()


def test_the_environment_and_other_options_reach_the_run(tmp_path, monkeypatch):
    names = "PROJECT=p ENTITY=e RUN_GROUP=g NAME=n TAGS=a,b JOB_TYPE=j RUN_ID=i7 MODE=offline".split()
    for name, value in [*(pair.split("=") for pair in names), ("DIR", str(tmp_path / "other"))]:
        monkeypatch.setenv(f"WANDB_{name}", value)
    (tmp_path / "other").mkdir()
    with loggers.closing_wandb():
        loggers.wandb(str(tmp_path), init={"notes": "by night"})
    (found,) = offline(tmp_path / "other")
    run = found.run
    assert (run.project, run.entity, run.run_group, run.display_name) == ("p", "e", "g", "n")
    assert (sorted(run.tags), run.job_type, run.run_id, run.notes) == (["a", "b"], "j", "i7", "by night")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": {"settings": {"base_url": "https://example.org"}}}, "logger.wandb.init.settings: give them as"),
        ({"init": {"mode": "online"}}, "logger.wandb.init.mode: it is set otherwise"),
        ({"init": {"note": "x"}}, "logger.wandb.init.note: wandb.init has no such option"),
        ({"watch": "weights"}, "logger.wandb.watch is 'weights'"),
        ({"registry": "r/c"}, "logger.wandb.registry: there is nothing to link"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, monkeypatch, settings, message):
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match=message):
        loggers.wandb(str(tmp_path), **settings)


def test_runs_that_differ_in_the_seed_alone_are_of_one_group():
    settings = {"heads": {"a": {}}, "optim": {"lr": 0.1}, "seed": 0, "name": None}
    assert loggers._group(settings) == loggers._group({**settings, "seed": 3, "name": "b"})
    assert loggers._group(settings) != loggers._group({**settings, "optim": {"lr": 0.2}})


def test_an_online_run_that_goes_on_is_sent_no_step_twice(tmp_path):
    sent: list[dict[str, float]] = []
    logger = WandbLogger(tmp_path, mode="online", save_dir=str(tmp_path))
    logger._experiment = SimpleNamespace(  # type: ignore[assignment]
        id="x", disabled=False, offline=False, resumed=True, summary={STEP: 4}, log=sent.append
    )
    logger.start()
    for step in (1, 3):
        logger.log_metrics({"step/loss": step}, step)
    epochs = [{"epoch": 0, "step": 3, "val/score": 0.1}, {"epoch": 1, "step": 6, "val/score": 0.2}]
    logger.send_history(epochs, 6)
    logger.log_metrics({"step/loss": 7}, 7)
    logger.send_history(epochs)  # once is enough
    assert sent == [{"epoch": 1, "val/score": 0.2, STEP: 5}, {"step/loss": 7, STEP: 7}]


@pytest.mark.slow
def test_a_checkpoint_is_read_from_an_artifact(run, tmp_path, monkeypatch):
    import wandb

    class Api:
        def artifact(self, name: str) -> SimpleNamespace:
            assert name == "e/p/model:best"
            return SimpleNamespace(download=lambda: str(tmp_path))

    monkeypatch.setattr(artifacts, "_fetched", {})
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(InputError, match="no one is logged in to W&B"):
        read_checkpoint("wandb:e/p/model:best")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "Api", Api)
    (tmp_path / "model.ckpt").write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    (tmp_path / "config.yaml").write_text("{}", encoding="utf-8")
    assert read_checkpoint("wandb:e/p/model:best")["config"]["size"] == 32
    assert artifacts.artifact_of(tmp_path / "model.ckpt") == "e/p/model:best"
    with pytest.raises(InputError, match="has no file 'other.onnx'.*config.yaml, model.ckpt"):
        artifacts.local_file("wandb:e/p/model:best/other.onnx")
    with pytest.raises(InputError, match="give wandb:<entity>/<project>/<name>:<alias>"):
        artifacts.local_file("wandb:e/p/model")


def test_a_sweep_names_its_metric_and_its_method(tmp_path):
    study = {"name": "s", "sweep": {"method": "bayes"}}
    write_sweep(tmp_path / "sweep.yaml", study, [], {"block": {"values": ["a", "b"]}})
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text(encoding="utf-8"))
    assert sweep["method"] == "bayes" and sweep["metric"] == {"name": "val/score", "goal": "maximize"}
    assert "early_terminate" not in sweep
    study["sweep"] = {"stop_early": True}
    write_sweep(tmp_path / "sweep.yaml", study, [], {"block": {"values": ["a", "b"]}})
    sweep = yaml.safe_load((tmp_path / "sweep.yaml").read_text(encoding="utf-8"))
    assert sweep["method"] == "grid" and sweep["early_terminate"]["type"] == "hyperband"
    study["sweep"] = {"method": "bays"}
    with pytest.raises(InputError, match="study.sweep.method=bays: use grid, random or bayes"):
        write_sweep(tmp_path / "sweep.yaml", study, [], {"block": {"values": ["a", "b"]}})
