"""What an older version wrote is of use: checkpoints, runs and exported files that name classes where they lay then."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import settled
from PIL import Image

import mnv2_tasks
from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.assembly.resume import resumed_config
from mnv2_tasks.export.formats import need
from mnv2_tasks.weights.moved_names import MOVED, new_name, with_new_names
from mnv2_tasks.weights.trust import look_up

# Of a run of version 0.1.0 with `task=[classifier,unet] size=64 backbone.width=0.35 data.train=16 data.val=8`: what its
# checkpoint holds besides tensors, its config.yaml, and the model.json of its export; and all that configs/ named then.
KEPT = Path(__file__).with_name("kept")
OLD = re.compile(rf"mnv2_tasks\.({'|'.join(re.escape(module) for module in MOVED)})\.")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The kept checkpoint, with tensors of a new network."""
    about = json.loads((KEPT / "checkpoint.json").read_text(encoding="utf-8"))
    model = build_model(with_new_names(about["config"]), about["classes"])
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 0, "global_step": 2, "mnv2_tasks": about}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_every_class_that_a_config_named_is_found():
    targets = (KEPT / "targets.txt").read_text(encoding="utf-8").split()
    assert {match[1] for target in targets if (match := OLD.match(target))} == set(MOVED)
    assert not [target for target in targets if look_up(new_name(target)) is None]


@pytest.mark.parametrize("target", ["torch.optim.SGD", "lraspp.LRASPP", "mnv2_tasks.heads.unet2.Unet", "balance.Fixed"])
def test_other_names_stay(target):
    assert new_name(target) == target


def test_names_are_found_at_any_depth_and_in_a_part_that_holds_itself():
    old, new = "mnv2_tasks.datasets.coco.Coco", "mnv2_tasks.datasets.formats.coco.Coco"
    part: dict = {"_target_": old, "sources": [{"_target_": old}], "note": old}
    part["again"] = part
    renamed = with_new_names({"data": part})["data"]
    assert renamed["_target_"] == renamed["sources"][0]["_target_"] == new and renamed["note"] == old
    assert renamed["again"] is renamed and part["_target_"] == old


def test_a_checkpoint_predicts(checkpoint):
    assert OLD.search((KEPT / "checkpoint.json").read_text(encoding="utf-8"))
    (found,) = mnv2_tasks.load(checkpoint).predict([torch.zeros(3, 70, 90, dtype=torch.uint8)])
    assert found["classifier"]["scores"].shape == (3,) and found["unet"]["mask"].shape == (70, 90)


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_on_its_data(cli, checkpoint, tmp_path):
    cli("evaluate", f"ckpt={checkpoint}", "loader.workers=0", "examples=0", f"runs={tmp_path}", "name=a")
    results = json.loads((tmp_path / "evaluate" / "a" / "metrics.json").read_text())
    assert {"classifier/top1", "unet/miou"} <= set(results["val"])


def test_a_run_has_the_settings_that_it_had():
    defaults = settled()
    before = yaml.safe_load((KEPT / "config.yaml").read_text(encoding="utf-8"))
    settings = resumed_config(KEPT, [], defaults)
    expected = with_new_names(before)
    expected |= {name: defaults[name] for name in ("checkpoint", "folds", "intervals", "test")}  # which it had not
    expected["trainer"] |= {name: defaults["trainer"][name] for name in ("max_steps", "max_time")}
    assert {**settings, "resume": None} == expected


@pytest.mark.slow
def test_a_run_goes_on(cli, tmp_path):
    pytest.importorskip("tensorboard")
    run = tmp_path / "a"
    run.mkdir()
    shutil.copy(KEPT / "config.yaml", run)
    cli("train", f"resume={run}")  # it was stopped in its first epoch
    last = run / "checkpoints" / "last.ckpt"
    held = torch.load(last, weights_only=True)
    held["mnv2_tasks"] = json.loads((KEPT / "checkpoint.json").read_text(encoding="utf-8"))
    torch.save(held, last)
    shutil.copy(KEPT / "config.yaml", run)
    cli("train", f"resume={run}", "trainer.max_epochs=2")
    assert json.loads((run / "metrics.json").read_text())["epochs"] == 2
    assert not OLD.search((run / "config.yaml").read_text(encoding="utf-8"))
    assert not OLD.search(repr(torch.load(last, weights_only=True)["mnv2_tasks"]))


def test_an_exported_file_predicts(cli, monkeypatch, tmp_path):
    onnx = pytest.importorskip("onnx")
    about = json.loads((KEPT / "model.json").read_text(encoding="utf-8"))
    graph = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.helper.set_model_props(graph, {"mnv2_tasks": json.dumps({**about, **about["files"]["model.onnx"]})})
    onnx.save(graph, str(tmp_path / "model.onnx"))
    outputs = [np.full((1, 3), 0.5, np.float32), np.zeros((1, 64, 64), np.uint8)]
    fixed = replace(need("onnx"), read=lambda *_: lambda images: outputs)
    monkeypatch.setattr("mnv2_tasks.export.formats.onnx.FORMAT", fixed)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    cli("predict", f"model={tmp_path / 'model.onnx'}", f"source={tmp_path / 'a.png'}", f"runs={tmp_path}", "name=b")
    assert (tmp_path / "predict" / "b" / "unet").is_dir()


def test_a_config_of_ones_own_may_name_classes_where_they_lay():
    config = settled("data.scenes._target_=mnv2_tasks.datasets.scenes.Scenes")
    assert config["data"]["scenes"]["_target_"] == "mnv2_tasks.datasets.formats.scenes.Scenes"
