"""Studies: the plan, the statistics, and the real command line, stopped in the middle and taken up again."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from places import ROOT
from scipy import stats

from mnv2_tasks.assembly.overrides import override_value
from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.jobs.choice import room_here
from mnv2_tasks.lab.study.plan import Run, plan, variant_name
from mnv2_tasks.lab.study.summary import paired_difference, summarise, write
from mnv2_tasks.visual.study_plots import pareto_front

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


def test_a_varied_task_has_its_runs_where_it_writes_them():
    runs = plan({"vary": {"task": ["unet", ["unet", "fpn"]]}, "seeds": [0]}, Path("f"), tasks=["deeplabv3"])
    assert [run.folder.parent.name for run in runs] == ["unet", "unet+fpn"]


@pytest.mark.parametrize("value", [{"dice": 0.5, "focal": [1, None]}, "it's a=b, {c}", True, None, [320, 0.5], "a.b/c"])
def test_varied_values_come_through_the_command_line(value):
    parsed = OverridesParser.create().parse_override(f"key={override_value(value)}")
    assert parsed.value() == value and not parsed.is_sweep_override()


def test_studies_keep_to_the_gpus_that_they_may_use(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert room_here(None, 9) == (2, ["0", "1"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5a")
    assert room_here(None, 9) == (2, ["2", "GPU-5a"])


def _finished(folder, variant, seed, **sides):
    """A run's files, as far as a study reads them: top-1, and mIoU where `sides` says so."""
    run = Run(variant, {"v": variant}, seed, folder / f"{variant}_{seed}")
    run.folder.mkdir()
    primaries = {head: {"classifier": "top1", "deeplabv3": "miou"}[head] for head in sides["val"]}
    named = {side: {f"{head}/{primaries[head]}": value for head, value in of.items()} for side, of in sides.items()}
    metrics = {"primaries": primaries, "parameters": 10, "madds": 100, **named}
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    (run.folder / "metrics.csv").write_text("epoch,val/score\n0,0.5\n")
    return run


def test_a_side_that_only_one_head_has_is_not_compared(tmp_path):
    sides = {"val": {"classifier": 0.5, "deeplabv3": 0.7}, "test": {"deeplabv3": 0.1}}
    found = summarise([_finished(tmp_path, "a", 0, **sides)])
    assert found["metric"] == "val mean of classifier/top1, deeplabv3/miou"
    assert found["variants"][0]["mean"] == pytest.approx(0.6) and found["tasks"] == ["classifier", "deeplabv3"]


def test_variants_with_other_heads_are_compared_by_their_own_metric(tmp_path):
    one = _finished(tmp_path, "a", 0, val={"classifier": 0.5})
    found = summarise([one, _finished(tmp_path, "b", 0, val={"deeplabv3": 0.7})])
    assert found["metric"] == "val top1 or miou" and found["variants"][1]["difference"]["mean"] == pytest.approx(0.2)


def test_differences_are_from_the_first_variant_though_its_first_run_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mnv2_tasks.lab.study.summary.latency_of", lambda run, config: 1.0)
    runs = [Run("a", {"v": "a"}, 0, tmp_path / "a_0"), _finished(tmp_path, "b", 0, val={"classifier": 0.5})]
    config = {"study": {"name": "s"}}
    write(config, runs, tmp_path)
    assert "no table" in capsys.readouterr().out and not (tmp_path / "study.json").exists()
    write(config, [*runs, _finished(tmp_path, "a", 1, val={"classifier": 0.4})], tmp_path)
    found = json.loads((tmp_path / "study.json").read_text())
    assert found["baseline"] == "a" and [variant["name"] for variant in found["variants"]] == ["a", "b"]


def test_paired_difference_is_scipys_paired_t_interval():
    rng = np.random.default_rng(0)
    a, b = (dict(enumerate(rng.random(5).tolist())) for _ in range(2))
    found = paired_difference(a, b)
    wanted = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high))
    assert paired_difference({0: 2.0, 1: 5.0}, {1: 4.0, 7: 1.0}) == {"mean": 1.0, "low": None, "high": None, "pairs": 1}


def test_a_study_of_equal_costs_shows_values_in_place_of_a_front(tmp_path, monkeypatch):
    monkeypatch.setattr("mnv2_tasks.lab.study.summary.latency_of", lambda run, config: 1.0)
    runs = [_finished(tmp_path, name, seed, val={"classifier": 0.5}) for seed in (0, 1) for name in "ab"]
    (tmp_path / "pareto.png").touch()  # of a time when fewer runs were finished
    write({"study": {"name": "s"}}, runs, tmp_path)
    assert (tmp_path / "values.png").stat().st_size and not (tmp_path / "pareto.png").exists()
    table = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "there is no pareto.png" in table and "over 2 seeds; differences from a, paired by seed" in table
    metrics = json.loads((runs[1].folder / "metrics.json").read_text())
    (runs[1].folder / "metrics.json").write_text(json.dumps({**metrics, "madds": 200}))
    write({"study": {"name": "s"}}, runs[:2], tmp_path)
    assert (tmp_path / "pareto.png").stat().st_size and not (tmp_path / "values.png").exists()
    table = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "of one seed" in table and "±" not in table and "paired" not in table and "seed(s)" not in table


def test_pareto_front():
    assert pareto_front([(1, 1), (2, 3), (2, 2), (3, 3), (4, 5)]) == [(1, 1), (2, 3), (4, 5)]


KILLED = """# train.py that kills itself where the first of its runs has ended; they hold its output open
import functools, os, runpy, subprocess, sys, types
from mnv2_tasks import processes
own = {"Popen": functools.partial(subprocess.Popen, pass_fds=[os.dup(1)])}
processes.subprocess = types.SimpleNamespace(**{**vars(subprocess), **own})
processes.stop = lambda process: os.kill(os.getpid(), 9)
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_study_killed_in_the_middle_is_finished_without_repeating_a_run(cli, tmp_path):
    vary = "study.vary={block: [inverted_residual, separable], backbone.width: [0.35]}"
    asked = ["-m", "study=blocks", *TINY, vary, "study.seeds=[0]", f"runs={tmp_path}", "study.jobs=2"]
    folder = tmp_path / "study" / "blocks" / "classifier"
    killed = subprocess.Popen([sys.executable, "-c", KILLED, *asked], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    killed.communicate()  # until its runs have ended, too
    assert killed.returncode == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("metrics.json"))}
    assert before
    assert f"{len(before)} of 2 are finished already" in cli("train", *asked)[1]
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
    assert len(list(csv.reader((folder / "study.csv").open()))) == 3
    assert "| block=separable width=0.35 |" in (folder / "study.md").read_text()
    assert {"curves.png", "values.png", "sweep.yaml"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "pareto.png").exists()
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    assert sweep["parameters"]["block"] == {"values": ["inverted_residual", "separable"]}
    assert sweep["parameters"]["study"] == {"value": "blocks"}
    code, err = cli("train", *asked, "optim=adamw", fails=True)
    assert code == 2 and "other settings (optim=adamw)" in err


@pytest.mark.slow
def test_a_head_of_ones_own_can_be_studied(cli, monkeypatch, tmp_path):
    new = ROOT / "tests" / "new_head"
    settings = ["task=lraspp", f"hydra.searchpath=[file://{new}]", *TINY[1:-1], "examples=0", "trainer.max_epochs=1"]
    vary = "study.vary={head.channels: [16, 24]}"
    monkeypatch.syspath_prepend(new)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(new), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
    cli("train", "-m", "study=width_resolution", *settings, vary, "study.seeds=[0]", f"runs={tmp_path}")
    found = json.loads((tmp_path / "study" / "width_resolution" / "lraspp" / "study.json").read_text())
    assert [v["name"] for v in found["variants"]] == ["channels=16", "channels=24"]


def _metrics(folder, name):
    return folder.glob(f"runs/classifier/{re.sub('[ =]', '_', name)}_*/metrics.json")


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on_with_every_launcher(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # launchers set it, for their jobs to inherit
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    vary = "study.vary={backbone.block.kernel_size: [3, 4]}"
    tables = []
    for launcher in ("local", "submitit", "ray"):
        runs = tmp_path / launcher
        engine = [f"study.launcher={launcher}", "study.submitit.cluster=local"]
        code, err = cli("train", "study=blocks", "study.seeds=[0]", *TINY, vary, f"runs={runs}", *engine, fails=True)
        assert code == 2 and "1 of 2 runs failed, first kernel_size_4_0.txt" in err and "use an odd number" in err
        tables.append(json.loads((runs / "study" / "blocks" / "classifier" / "study.json").read_text()))
        assert tables[-1]["variants"][0].pop("latency_ms") > 0
    assert tables[0] == tables[1] == tables[2] and [v["name"] for v in tables[0]["variants"]] == ["kernel_size=3"]
