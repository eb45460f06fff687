"""A head of one's own is one file and one config, outside the package: it trains alone and with others."""

import json
import sys
from pathlib import Path

import pytest

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


def test_a_config_without_its_file_is_told_in_one_line(cli, monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "lraspp", raising=False)
    code, err = cli("train", "task=lraspp", *TINY, f"runs={tmp_path}", fails=True)
    assert code == 2 and "lraspp.LRASPP" in err and "PYTHONPATH" in err and len(err.strip().splitlines()) == 1, err
