"""`mnv2 compare`: rows of runs, what is significant and why not, pictures, the page, and runs of W&B."""

import csv
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from builders import CONFIG, save

from mnv2_tasks.assembly.overrides import with_paths
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import write_rows, write_settings
from mnv2_tasks.lab.compare import wandb_runs
from mnv2_tasks.training.kept_images import place, read_images
from mnv2_tasks.training.run_record import RunRecord


def run(folder: Path, value: float | None, *, seed: int = 0, width: float = 0.5, side: str = "val") -> Path:
    """The folder of a finished run, as far as tables need it."""
    folder.mkdir(parents=True)
    write_settings(folder / "config.yaml", {"seed": seed, "name": folder.name, "backbone": {"width": width}})
    write_rows(
        folder / "metrics.csv", [{"epoch": e, "classifier/val/top1": e / 4, "val/score": e / 4} for e in range(3)]
    )
    metrics = {side: {"classifier/top1": value, "classifier/loss": 1.0}}
    costs = {"parameters": 1e6 * width, "madds": 1e7 * width, "latency_ms": 2.0, "epochs": 3, "wall_seconds": 9.0}
    RunRecord(metrics=metrics, primaries={"classifier": "top1"}, classes={"classifier": ["a"]}, **costs).write(folder)
    return folder


def test_runs_that_differ_by_the_seed_are_one_row(tmp_path, cli):
    for seed, (narrow, wide) in enumerate([(0.50, 0.60), (0.54, 0.66)]):
        run(tmp_path / "in" / f"narrow_{seed}", narrow, seed=seed)
        run(tmp_path / "in" / "deeper" / f"wide_{seed}", wide, seed=seed, width=1.0)
    run(tmp_path / "in" / "elsewhere", 0.9, side="train")
    (tmp_path / "in" / "hurt").mkdir()
    (tmp_path / "in" / "hurt" / "metrics.json").write_text("{")
    out = cli("compare", f"{tmp_path}/in", "baseline=narrow_0", f"runs={tmp_path}", "name=c")[1]
    assert "5 runs in 2 rows, on val" in out
    found = json.loads((tmp_path / "compare" / "c" / "compare.json").read_text())
    narrow, wide = found["rows"]
    assert (narrow["seeds"], wide["seeds"], found["baseline"]) == ([0, 1], [0, 1], "narrow_0")
    top1 = wide["metrics"]["classifier/top1"]
    assert top1["mean"] == pytest.approx(0.63) and top1["values"] == {"0": 0.6, "1": 0.66}
    assert top1["difference"]["mean"] == pytest.approx(0.11) and top1["difference"]["pairs"] == 2
    assert [row["settings"] for row in found["rows"]] == [{"backbone.width": 0.5}, {"backbone.width": 1.0}]
    assert "no results by image of val" in found["same_images"][0]["why"]
    told = "\n".join(found["not_shown"])
    assert "hurt/metrics.json: line 1" in told and "elsewhere: not evaluated on val" in told
    with (tmp_path / "compare" / "c" / "compare.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["classifier/top1"] for row in table] == ["0.5", "0.54", "0.6", "0.66"]
    files = {path.name for path in (tmp_path / "compare" / "c").iterdir()}
    assert {"compare.md", "report.html", "curves.png", "pareto.png"} <= files
    page = (tmp_path / "compare" / "c" / "report.html").read_text()
    assert '<td class="number" data-value="0.63">0.6300</td>' in page and "paired by seed" in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)


def test_what_cannot_be_compared_is_said(tmp_path, cli):
    one = run(tmp_path / "in" / "one", 0.5)
    assert "give two finished runs or more" in cli("compare", str(one), fails=True)[1]
    assert "there is nothing" in cli("compare", str(one), f"{tmp_path}/not", fails=True)[1]
    two = run(tmp_path / "in" / "two", 0.5, side="test")
    assert "val: 1" in cli("compare", str(one), str(two), fails=True)[1]
    pattern = f"{tmp_path}/in/*"
    assert "baseline=three: none of the runs" in cli("compare", pattern, "baseline=three", fails=True)[1]
    assert "intervals=-1" in cli("compare", pattern, "intervals=-1", fails=True)[1]
    assert "basline: no such setting" in cli("compare", pattern, "basline=x", fails=True)[1]
    assert with_paths(["a", "b=c", "d/e=f", "--cfg", "+g.h=1"]) == ["b=c", "--cfg", "+g.h=1", 'paths=["a","d/e=f"]']


@pytest.fixture
def evaluated(tmp_path, cli) -> Path:
    """Two evaluations of one network with other weights, on the same images, and one on others."""
    data = {"scenes": {**CONFIG["data"]["scenes"], "val": 12}}
    for seed, name in enumerate(("one", "two", "three")):
        torch.manual_seed(seed)
        other = {"scenes": {**data["scenes"], "seed": 1}} if name == "three" else data
        path = save(tmp_path / f"{name}.ckpt", {**CONFIG, "data": other})
        cli(
            "evaluate",
            f"ckpt={path}",
            f"runs={tmp_path}",
            f"name={name}",
            "intervals=100",
            "loader.workers=0",
            "examples=0",
        )
    return tmp_path / "evaluate"


def test_models_on_the_same_images(evaluated, cli):
    found = json.loads((evaluated / "one" / "metrics.json").read_text())
    kept = read_images(place(evaluated / "one", "classifier", "val"))
    whole = kept.results.values(np.ones((1, len(kept.names)), int))
    assert whole["top1"][0] == pytest.approx(found["val"]["classifier/top1"], abs=1e-12)
    low, high = found["intervals"]["val"]["classifier/top1"]
    assert 0 <= low <= found["val"]["classifier/top1"] <= high <= 1
    names = [str(evaluated / name) for name in ("one", "two", "three")]
    out = cli("compare", *names, f"runs={evaluated.parent}", "name=c", "examples=2")[1]
    assert "two against one, classifier/top1: " in out and "100 drawings" not in out and "1,000 drawings" in out
    assert "three against one, classifier/top1: not told by images (the images are called alike" in out
    folder = evaluated.parent / "compare" / "c"
    verdicts = json.loads((folder / "compare.json").read_text())["same_images"]
    assert verdicts[0]["difference"]["low"] <= verdicts[0]["difference"]["value"] <= verdicts[0]["difference"]["high"]
    assert len(list((folder / "pictures").iterdir())) == 2
    page = (folder / "report.html").read_text()
    assert page.count("<figcaption>scenes val") == 2 and "three: not among the pictures of classifier" in page
    path = place(evaluated / "one", "classifier", "val")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"classifier.val.npz: no results by image"):
        read_images(path)


def test_a_run_of_wandb(tmp_path, monkeypatch):
    heads = {"classifier": {"_target_": "mnv2_tasks.heads.classifier.Classifier", "_partial_": True}}
    api = SimpleNamespace(
        id="abc",
        config={"seed": 3, "backbone": CONFIG["backbone"], "heads": heads},
        summary={"val/classifier/top1": 0.5, "parameters": 7, "madds": 8.0, "epochs": 2, "_wandb": {"runtime": 1}},
        scan_history=lambda: [{"epoch": 0, "val/score": 0.4, "note": "x"}, {"loss": 1.0}],
    )
    monkeypatch.setattr(wandb_runs, "logged_in", lambda: True)
    monkeypatch.setattr("wandb.Api", lambda: SimpleNamespace(run=lambda path: {"me/it/abc": api}[path]))
    folder = wandb_runs.fetch("wandb:me/it/abc", tmp_path)
    found = json.loads((folder / "metrics.json").read_text())
    assert (found["val"], found["primaries"]) == ({"classifier/top1": 0.5}, {"classifier": "top1"})
    assert found["epochs"] == 2 and (folder / "metrics.csv").read_text().split() == ["epoch,val/score", "0,0.4"]
    with pytest.raises(InputError, match="wandb:me/it/other: it cannot be read"):
        wandb_runs.fetch("wandb:me/it/other", tmp_path)
    api.config["heads"] = {"classifier": {"_target_": "os.system"}}
    with pytest.raises(InputError, match=r"os\.system"):
        wandb_runs.fetch("wandb:me/it/abc", tmp_path)
