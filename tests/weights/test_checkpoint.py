"""Checkpoints and run folders of other versions, of strangers and of failing disks: taken, or refused in one line."""

import copy
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from builders import CLASSES, CONFIG, save
from refusal import refused

import mnv2_tasks
from mnv2_tasks.assembly.network import load_model
from mnv2_tasks.assembly.resume import resumed_config
from mnv2_tasks.training.callbacks import EpochLog
from mnv2_tasks.training.fitting import fit
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.weights.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def held(tmp_path_factory) -> dict:
    """What a checkpoint holds, of a version that did not tell its own."""
    path = save(tmp_path_factory.mktemp("held") / "a.ckpt", CONFIG)
    return torch.load(path, weights_only=True)


def written(path: Path, held: dict, change) -> Path:
    held = copy.deepcopy(held)
    change(held, held["mnv2_tasks"]["config"])
    torch.save(held, path)
    return path


def test_settings_that_an_older_version_did_not_have_get_their_defaults(tmp_path, held):
    def strip(held, config):
        del config["fit"], config["assign"], config["data"]
        for key in ("in_channels", "mean", "std", "output_stride"):
            del config["backbone"][key]

    path = written(tmp_path / "a.ckpt", held, strip)
    model, checkpoint = load_model(path)
    assert checkpoint["config"]["fit"] == "stretch" and checkpoint["config"]["backbone"]["output_stride"] == 32
    assert torch.equal(model.mean.flatten(), torch.full((3,), 0.5))  # the weights hold them
    assert mnv2_tasks.load(path).size == (64, 64)


def test_a_checkpoint_tells_its_version():
    checkpoint: dict = {}
    MultiTask.on_save_checkpoint(SimpleNamespace(classes=CLASSES, config=CONFIG, _trainer=None), checkpoint)  # type: ignore[arg-type]
    assert checkpoint["mnv2_tasks"]["version"] == mnv2_tasks.__version__


def deep(levels: int) -> list:
    node: list = []
    for _ in range(levels):
        node = [node]
    return node


def cyclic() -> list:
    node: list = []
    node.append(node)
    return node


STRANGE = {  # what is changed -> words of the refusal
    "a newer setting": (lambda h, c: c["heads"]["classifier"].update(newer=3), ("newer=3", "9.9.9", "use the version")),
    "a newer class": (
        lambda h, c: c["heads"]["classifier"].update(_target_="mnv2_tasks.heads.classifier.V2"),
        ("classifier.V2", "9.9.9", "use the version"),
    ),
    "no weights": (lambda h, c: h.pop("state_dict"), ("no state_dict", "9.9.9")),
    "no classes": (lambda h, c: h["mnv2_tasks"].pop("classes"), ("no classes",)),
    "classes in a text": (lambda h, c: h["mnv2_tasks"].update(classes={"classifier": "abc"}), ("not a list of names",)),
    "classes of numbers": (
        lambda h, c: h["mnv2_tasks"].update(classes={"classifier": [1, 2]}),
        ("not a list of names",),
    ),
    "no heads": (lambda h, c: c.pop("heads"), ("no heads",)),
    "a huge width": (lambda h, c: c["backbone"].update(width=1e308), ("1e+308",)),
    "no width": (lambda h, c: c["backbone"].update(width=float("nan")), ("nan",)),
    "width of a text": (lambda h, c: c["backbone"].update(width="wide"), ("builds no model",)),
    "another width": (lambda h, c: c["backbone"].update(width=1.0), ("does not fit", "another shape")),
    "a million times as wide": (lambda h, c: c["backbone"].update(width=1e6), ("does not fit",)),
    "a huge number": (lambda h, c: c["heads"]["classifier"].update(dropout=10**400), ("the number",)),
    "assign": (lambda h, c: c.update(assign=[1]), ("assign",)),
    "size": (lambda h, c: c.update(size=[32, 10**9]), ("size",)),
    "fit": (lambda h, c: c.update(fit="tight"), ("fit",)),
    "nested deep": (lambda h, c: c["heads"]["classifier"].update(x=deep(300)), ("nested too deep",)),
    "nested in itself": (lambda h, c: c["heads"]["classifier"].update(x=cyclic()), ("nested too deep",)),
    "data in itself": (lambda h, c: c.update(data=cyclic()), ("nested too deep",)),
    "a version of 100,000 characters": (
        lambda h, c: h["mnv2_tasks"].update(version="x" * 100_000, classes=3),
        ("classes",),
    ),
    "no tensors": (lambda h, c: h.update(state_dict={"model.mean": "x"}), ("state_dict",)),
    "tensors without values": (
        lambda h, c: h["state_dict"].update({"model.mean": torch.empty(3, 1, 1, device="meta")}),
        ("plain arrays",),
    ),
    "sparse tensors": (
        lambda h, c: h["state_dict"].update({"model.mean": torch.zeros(3, 1, 1).to_sparse()}),
        ("plain arrays",),
    ),
    "one value for a billion": (lambda h, c: h["state_dict"].update(x=torch.zeros(1).expand(10**9)), ("stand for",)),
    "another project's": (
        lambda h, c: h.pop("mnv2_tasks") and h.update({"pytorch-lightning_version": "2.5"}),
        ("another Lightning project's",),
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_checkpoint_is_refused(tmp_path, held, name):
    change, words = STRANGE[name]
    versioned = {**held, "mnv2_tasks": {**held["mnv2_tasks"], "version": "9.9.9"}}
    path = written(tmp_path / "a.ckpt", versioned, change)
    refused(lambda: mnv2_tasks.load(path), "a.ckpt", *words)


def test_no_pipe_folder_or_text_is_a_checkpoint(tmp_path):
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.ckpt")
    for name in ("folder", "text", "model"):
        refused(lambda name=name: read_checkpoint(tmp_path / f"{name}.ckpt"), f"{name}.ckpt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.ckpt")
        refused(lambda: mnv2_tasks.load(tmp_path / "pipe.ckpt"), "pipe.ckpt", "no regular file")


def resumable(folder: Path, config: dict) -> Path:
    (folder / "checkpoints").mkdir(exist_ok=True)
    save(folder / "checkpoints" / "last.ckpt", CONFIG)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


RUNS = {
    "a newer setting": (lambda c: c.update(newer=3), ("newer", "use the version")),
    "a newer setting of a class": (lambda c: c["optim"]["optimizer"].update(newer=3), ("newer=3", "use the version")),
    "a section that is none": (lambda c: c.update(backbone=3), ("backbone", "not a section")),
    "a number that is none": (lambda c: c["trainer"].update(max_epochs="many"), ("max_epochs", "not a number")),
    "interpolations": (lambda c: c["data"]["scenes"].update(size="${oc.env:HOME}"), ("write the value",)),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_strange_run_is_not_resumed(tmp_path, run_config, name):
    config, (change, words) = copy.deepcopy(run_config), RUNS[name]
    change(config)
    refused(lambda: resumed_config(resumable(tmp_path, config), [], run_config), "config.yaml", *words)


def test_a_run_of_an_older_version_is_resumed(tmp_path, run_config):
    config = copy.deepcopy(run_config)
    for key in ("fit", "assign", "ema", "examples", "trust"):
        del config[key]
    for key in ("in_channels", "mean", "std", "divisor", "match"):
        del config["backbone"][key]
    settings = resumed_config(resumable(tmp_path, config), ["trainer.max_epochs=7"], run_config)
    assert settings["fit"] == "stretch" and settings["trainer"]["max_epochs"] == 7
    assert settings["backbone"]["in_channels"] == 3 and settings["backbone"]["divisor"] == 8


def test_a_state_that_no_run_can_go_on_from_is_refused(tmp_path):
    class Failing:
        callbacks = [EpochLog(tmp_path / "metrics.csv")]

        def fit(self, *_, **__):
            raise KeyError("optimizer_states")

    last = tmp_path / "last.ckpt"
    go_on = lambda last: fit(Failing(), None, None, last)  # type: ignore[arg-type]  # noqa: E731
    refused(lambda: go_on(last), "last.ckpt", "optimizer_states", "backbone.weights=")
    with pytest.raises(KeyError):
        go_on(None)
    Failing.callbacks[0].started = True  # an error of training itself
    with pytest.raises(KeyError):
        go_on(last)
