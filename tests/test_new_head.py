"""A head of one's own is one file and one config, outside the package: it trains, is exported and predicts."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import mnv2_tasks

NEW = Path(__file__).with_name("new_head")  # lraspp.py, task/lraspp.yaml
TINY = (
    f"hydra.searchpath=[file://{NEW}]",
    "size=64",
    "backbone.width=0.35",
    "data.train=12",
    "data.val=6",
    "loader.batch_size=4",
    "loader.workers=0",
    "trainer.max_epochs=1",
    "examples=2",
)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "folder"), [("lraspp", "lraspp"), ("[classifier,lraspp]", "classifier+lraspp")])
def test_trains(cli, monkeypatch, tmp_path, task, folder):
    monkeypatch.syspath_prepend(NEW)  # as PYTHONPATH=<folder> does
    cli("train", f"task={task}", *TINY, f"runs={tmp_path}", "name=new")
    run = tmp_path / folder / "new"
    found = json.loads((run / "metrics.json").read_text())
    assert 0 <= found["val"]["lraspp/miou"] <= 1
    assert found["primaries"] == {name: {"lraspp": "miou", "classifier": "top1"}[name] for name in folder.split("+")}
    pictures = run if folder == "lraspp" else run / "lraspp"
    assert {"examples.png", "confusion.png", "iou.png"} <= {path.name for path in pictures.iterdir()}


@pytest.mark.slow
def test_is_exported_predicts_and_is_drawn_and_written(cli, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(NEW)
    cli("train", "task=lraspp", *TINY, f"runs={tmp_path}", "name=new")
    ckpt = tmp_path / "lraspp" / "new" / "checkpoints" / "best.ckpt"
    asked = [f"ckpt={ckpt}", "to=onnx", "trust=[lraspp]", "compile=false", "images=6", "tolerance=0.01"]
    cli("export", *asked, "loader.workers=0", f"runs={tmp_path}", "name=x")
    onnx = tmp_path / "export" / "x" / "model.onnx"
    row = json.loads((onnx.parent / "export.json").read_text())["files"][0]
    assert row["outputs"] == ["lraspp_mask"] and row["after"] == pytest.approx(row["before"], abs=0.01)

    picture = tmp_path / "a.png"
    Image.effect_noise((90, 60), 60).convert("RGB").save(picture)
    cli("predict", f"model={onnx}", f"source={picture}", "trust=[lraspp]", f"runs={tmp_path}", "name=p")
    folder = tmp_path / "predict" / "p"
    assert Image.open(folder / "masks" / "a.png").size == (90, 60)
    assert (folder / "pictures" / "a.png").exists()
    ours, theirs = (
        mnv2_tasks.load(file, trust=["lraspp"]).predict(picture)[0]["lraspp"]["mask"] for file in (ckpt, onnx)
    )
    assert torch.equal(theirs, torch.tensor(list(Image.open(folder / "masks" / "a.png").tobytes())).view(60, 90))
    assert (ours == theirs).float().mean() > 0.98


def test_a_config_without_its_file_is_told_in_one_line(cli, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "lraspp", raising=False)
    code, err = cli("train", "task=lraspp", *TINY, f"runs={tmp_path}", fails=True)
    assert code == 2 and "lraspp.LRASPP" in err and "PYTHONPATH" in err and len(err.strip().splitlines()) == 1, err
