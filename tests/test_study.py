"""Studies: the plan, the statistics, and the real command line, stopped in the middle and taken up again."""

import csv
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from mnv2_tasks.errors import InputError
from mnv2_tasks.plots.study import pareto_front
from mnv2_tasks.study import plan, variant_name
from mnv2_tasks.study.report import paired_difference

ROOT = Path(__file__).resolve().parents[1]
TINY = (
    "task=classifier",
    "size=32",
    "backbone.width=0.35",
    "backbone.stem_stride=1",
    "data.size=32",
    "data.train=24",
    "data.val=12",
    "loader.batch_size=8",
    "trainer.max_epochs=2",
    "examples=0",
)


def test_plan_is_every_variant_with_every_seed():
    study = {"name": "s", "vary": {"block": ["a", "b"], "size": [32, [32, 64]]}, "seeds": [3, 5]}
    runs = plan(study, Path("f"), tasks=["x", "y"])
    assert len(runs) == 8 and len({run.folder for run in runs}) == 8
    assert [run.seed for run in runs] == [3] * 4 + [5] * 4  # seed by seed
    assert runs[1].variant == "block=a size=[32,64]" and runs[1].folder.parent == Path("f/runs/x+y")
    assert variant_name({"block": "plain"}) == "plain"
    assert variant_name({"backbone.block.linear": True}) == "linear=true"
    for broken in ({"vary": {}}, {"vary": {"block": "plain"}}, {"seeds": []}, {"seeds": [1, 1]}):
        with pytest.raises(InputError, match="study"):
            plan({**study, **broken}, Path("f"), tasks=["x"])


def test_paired_difference_is_scipys_paired_t_interval():
    rng = np.random.default_rng(0)
    a, b = (dict(enumerate(rng.random(5).tolist())) for _ in range(2))
    found = paired_difference(a, b)
    wanted = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high))
    assert paired_difference({0: 2.0, 1: 5.0}, {1: 4.0, 7: 1.0}) == {"mean": 1.0, "low": None, "high": None, "pairs": 1}


def test_pareto_front():
    assert pareto_front([(1, 1), (2, 3), (2, 2), (3, 3), (4, 5)]) == [(1, 1), (2, 3), (4, 5)]


@pytest.mark.slow
def test_a_study_killed_in_the_middle_is_finished_without_repeating_a_run(tmp_path):
    vary = "study.vary={block: [inverted_residual, separable], backbone.width: [0.35]}"
    command = [sys.executable, "train.py", "-m", "study=blocks", *TINY, vary, "study.seeds=[0,1]", f"runs={tmp_path}"]
    folder = tmp_path / "study" / "blocks" / "classifier"
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished: list[Path] = []
    for _ in range(1200):
        if finished := sorted(folder.rglob("metrics.json")):
            break
        time.sleep(0.1)
    assert finished
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("metrics.json"))}
    time.sleep(0.5)  # its runs end with it
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stdout[-3000:] + out.stderr[-2000:]
    assert f"{len(before)} of 4 are finished already" in out.stdout
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    found = json.loads((folder / "study.json").read_text())
    assert [v["name"] for v in found["variants"]] == [
        "block=inverted_residual width=0.35",
        "block=separable width=0.35",
    ]
    assert found["equal_cost"] and found["metric"] == "val classifier/top1"
    for variant in found["variants"]:
        values = [json.loads(p.read_text())["val"]["classifier/top1"] for p in _metrics(folder, variant["name"])]
        assert sorted(variant["values"].values()) == sorted(values) and variant["mean"] == pytest.approx(
            np.mean(values)
        )
        assert variant["latency_ms"] > 0 and len(variant["curve"]) == 2
    assert found["variants"][1]["matched"]["to"] == "inverted_residual at width 0.35"
    assert len(list(csv.reader((folder / "study.csv").open()))) == 5
    assert "| block=separable width=0.35 |" in (folder / "study.md").read_text()
    assert {"curves.png", "pareto.png", "sweep.yaml"} <= {path.name for path in folder.iterdir()}
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert sweep["parameters"]["block"] == {"values": ["inverted_residual", "separable"]}
    assert sweep["parameters"]["study"] == {"value": "blocks"}
    other = subprocess.run([*command, "optim=adamw"], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2 and "other settings (optim=adamw)" in other.stderr


def _metrics(folder, name):
    return folder.glob(f"runs/classifier/{re.sub('[ =]', '_', name)}_*/metrics.json")


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path):
    vary = "study.vary={backbone.block.kernel_size: [3, 4]}"
    command = [sys.executable, "train.py", "study=blocks", "study.seeds=[0]", *TINY, vary, f"runs={tmp_path}"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert out.returncode == 2 and "1 of 2 runs failed" in out.stderr and "kernel_size" in out.stderr
    found = json.loads((tmp_path / "study" / "blocks" / "classifier" / "study.json").read_text())
    assert [v["name"] for v in found["variants"]] == ["kernel_size=3"]
