"""Searches: the space, trials that are asked for, ended early, taken up again and shared, and the real command line."""

import csv
import json
import sys
import threading

import pytest
import yaml
from builders import jpeg, settled

from mnv2_tasks.assembly.settings import settle_anew
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_rows, write_json, write_rows
from mnv2_tasks.lab.search import ask_and_tell, outcome
from mnv2_tasks.lab.search.ask_and_tell import Runs, search_on
from mnv2_tasks.lab.search.space import Choices, Range, parse_space
from mnv2_tasks.lab.search.trials import Trials, parse_objective

SPACE = {"optim.optimizer.lr": [1e-4, 1e-1, "log"], "backbone.width": [0.35, 0.5, 1.0], "head.detections": [1, 100]}
CALM = {"optim.optimizer.lr": [1e-4, 1e-2, "log"], "backbone.width": [0.35, 1.0]}  # in which no run fails
EPOCHS = 6
TINY = (
    "task=classifier",
    "data=imagefolder",
    "size=32",
    "backbone.width=0.35",
    "backbone.stem_stride=1",
    "loader.batch_size=4",
    "trainer.max_epochs=1",
    "examples=0",
)


class Written:
    """A launcher without processes: each look at a run writes an epoch of it, whose score is that of its rate."""

    room, about, workers, pause = 2, "in the test", 0, 0.0

    def __init__(self, *, stops_after: int | None = None) -> None:
        self.begun: list[str] = []
        self.ended_early: list[str] = []
        self.stops_after = stops_after

    def start(self, job):
        self.begun.append(job.folder.name)
        job.folder.mkdir(parents=True, exist_ok=True)
        return job

    def ended(self, started):
        if self.stops_after == 0:
            raise KeyboardInterrupt
        self.stops_after = self.stops_after and self.stops_after - 1
        rate, width = (
            next(float(s.split("=")[1]) for s in started.settings if s.startswith(key))
            for key in ("optim.optimizer.lr=", "backbone.width=")
        )
        if rate > 0.05:
            started.log.write_text("reading\nerror: such a rate cannot be\n")
            return ""
        rows = read_rows(started.folder / "metrics.csv")
        rows.append({"epoch": len(rows), "val/score": rate * 10 * (1 + len(rows)) / EPOCHS})
        write_rows(started.folder / "metrics.csv", rows)
        if len(rows) < EPOCHS:
            return None
        record = {"primaries": {"ssdlite": "map"}, "parameters": 1e6 * width, "madds": 1e8 * width, "latency_ms": width}
        write_json(started.folder / "metrics.json", record)
        return ""

    def end(self, started):
        self.ended_early.append(started.folder.name)

    def leave(self, started):
        return "the same command does the others"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(ask_and_tell, "WAIT", 0.0)


def opened(folder, **changes):
    section = settled("search=default")["search"]
    section["sampler"] = {"_target_": "optuna.samplers.RandomSampler", "seed": 0}
    section["pruner"] |= {"n_startup_trials": 2, "n_warmup_steps": 1}
    section |= {"space": SPACE, **changes}
    return Trials(section, folder, name="s", settings=["a=1"], space=parse_space(section["space"]))


def states(trials):
    return [one.state.name for one in trials.all()]


def test_a_space_is_of_ranges_and_choices():
    space = parse_space(
        {**SPACE, "size": {"values": [64, 96]}, "block": ["plain", "classic"], "w": [0, 1.5], "n": [1, 8, "log"]}
    )
    assert space["optim.optimizer.lr"] == Range(1e-4, 1e-1, log=True) and space["w"] == Range(0, 1.5)
    assert space["backbone.width"] == Choices((0.35, 0.5, 1.0)) and space["size"] == Choices((64, 96))
    assert space["head.detections"].whole and not space["w"].whole
    kinds = {name: entry.parameter() for name, entry in space.items()}
    assert kinds["optim.optimizer.lr"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}
    assert kinds["head.detections"]["distribution"] == "int_uniform" and kinds["w"]["distribution"] == "uniform"
    assert kinds["n"]["distribution"] == "q_log_uniform_values" and kinds["size"] == {"values": ["64", "96"]}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, "give .low, high."),
        ([], "give .low, high."),
        ([0.1, 0.01], "from 0.1 to 0.01 is no range"),
        ([0.0, 1.0, "log"], "begins above 0"),
        ([0.1, 1.0, "lgo"], "after low and high stands log"),
        (["a"], "at least two choices"),
        (["a", "b", "a"], "twice"),
        ({"values": 3}, "at least two choices"),
        ({"min": 1, "max": 2}, "give .low, high."),
    ],
)
def test_an_entry_that_cannot_be_drawn_from_is_told(entry, words):
    with pytest.raises(InputError, match=f"search.space: lr.*{words}"):
        parse_space({"lr": entry})
    with pytest.raises(InputError, match="give the settings to search over"):
        parse_space({})


def test_objectives():
    assert parse_objective("score") == ["score"] and parse_objective(["score", "madds"]) == ["score", "madds"]
    for objective, words in (
        ("acc", "there is none of that name"),
        (["madds"], "score comes first"),
        ([], "score comes"),
    ):
        with pytest.raises(InputError, match=words):
            parse_objective(objective)


def test_bad_trials_end_early_failed_ones_are_told_and_the_rest_is_a_table(tmp_path, capsys):
    trials, launcher = opened(tmp_path), Written()
    runs = Runs(tmp_path, ["ssdlite"], ["shared=1"])
    search_on(trials, runs, launcher, most=16)
    counts = {state: states(trials).count(state) for state in ("COMPLETE", "PRUNED", "FAIL")}
    assert sum(counts.values()) == 16 and all(counts.values()) and len(launcher.ended_early) == counts["PRUNED"]
    out = capsys.readouterr().out
    assert out.count("ended early, at ") == counts["PRUNED"] and "FAILED: error: such a rate cannot be" in out
    for one in trials.all():
        if one.state.name == "PRUNED":
            assert 1 < len(one.intermediate_values) < EPOCHS
        if one.state.name == "COMPLETE":
            assert one.value == pytest.approx(one.params["optim.optimizer.lr"] * 10)
    config = {"search": {"name": "default"}, "heads": {"ssdlite": {}}}
    found = outcome.write(config, trials, runs, ["search=default", "task=ssdlite", "~preset"])
    scores = [row["score"] for row in found["best"]]
    assert scores == sorted(scores, reverse=True) and scores[0] == max(one.value or 0 for one in trials.all())
    assert found["counts"] == {
        "complete": counts["COMPLETE"],
        "ended early": counts["PRUNED"],
        "failed": counts["FAIL"],
    }
    assert len(list(csv.reader((tmp_path / "search.csv").open()))) == 17
    assert json.loads((tmp_path / "search.json").read_text())["best"][0]["name"] == found["best"][0]["name"]
    assert {"history.png", "parallel.png", "search.md", "report.html"} <= {path.name for path in tmp_path.iterdir()}


def test_the_best_is_an_experiment_file_that_does_what_the_trial_did(tmp_path, capsys):
    trials, runs = opened(tmp_path), Runs(tmp_path, ["ssdlite"], [])
    search_on(trials, runs, Written(), most=4)
    asked = ["search=default", "task=ssdlite", "data=coco", 'data.root="a b"', "block=plain", "head.nms=0.4"]
    config = {"search": {"name": "default"}, "heads": {"ssdlite": {}}}
    best = outcome.write(config, trials, runs, asked)["best"][0]
    assert "differs from the trial" not in capsys.readouterr().out
    text = (tmp_path / "configs" / "experiment" / "best.yaml").read_text(encoding="utf-8")
    assert (
        text.startswith("# @package _global_\n")
        and "experiment=best" in text
        and "override /block@backbone.block" in text
    )
    again = settle_anew([f"hydra.searchpath=[file://{tmp_path}/configs]", "experiment=best"])
    assert again["optim"]["optimizer"]["lr"] == best["settings"]["optim.optimizer.lr"]
    assert again["backbone"]["width"] == best["settings"]["backbone.width"] and again["data"]["coco"]["root"] == "a b"
    assert (
        again["heads"]["ssdlite"]["nms"] == 0.4
        and again["heads"]["ssdlite"]["detections"] == best["settings"]["head.detections"]
    )


def test_a_search_that_was_killed_goes_on_with_the_trials_that_ran(tmp_path, capsys):
    never = {"pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 99}}
    never["space"] = CALM
    with pytest.raises(SystemExit):
        search_on(opened(tmp_path, **never), Runs(tmp_path, ["x"], []), Written(stops_after=15), most=6)
    assert "trials have ended; the same command does the others" in capsys.readouterr().err
    trials = opened(tmp_path, **never)
    cut = [one for one in trials.all() if one.state.name == "RUNNING"]
    assert len(cut) == 2 and all(one.intermediate_values for one in cut)
    launcher = Written()
    search_on(trials, Runs(tmp_path, ["x"], []), launcher, most=6)
    assert launcher.begun[:2] == [f"trial_{one.number:04d}" for one in cut] and len(states(trials)) == 6
    assert [trials.all()[one.number].params for one in cut] == [one.params for one in cut]
    assert (
        "RUNNING" not in states(trials) and len({str(one.params) for one in trials.all()}) == 6
    )  # none is drawn again
    search_on(opened(tmp_path, **never), Runs(tmp_path, ["x"], []), launcher, most=7)  # and longer
    assert launcher.begun[-1] == "trial_0006"


def test_two_runners_of_one_folder_never_do_the_same_trial(tmp_path):
    launchers = [Written(), Written()]
    for launcher in launchers:
        launcher.pause = 0.1  # seconds between two looks: one alone is not through before the other has begun

    def runner(trials, launcher):
        search_on(trials, Runs(tmp_path, ["x"], []), launcher, most=11)

    threads = [threading.Thread(target=runner, args=[opened(tmp_path), launcher]) for launcher in launchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begun = [name for launcher in launchers for name in launcher.begun]
    assert sorted(begun) == [f"trial_{number:04d}" for number in range(11)] and all(one.begun for one in launchers)


def test_two_folders_share_a_database_and_not_their_trials(tmp_path, capsys):
    storage = f"sqlite:///{tmp_path}/search.db"
    with pytest.raises(SystemExit):
        search_on(
            opened(tmp_path / "a", storage=storage, space=CALM),
            Runs(tmp_path / "a", ["x"], []),
            Written(stops_after=3),
            most=4,
        )
    trials, launcher = opened(tmp_path / "b", storage=storage, space=CALM), Written()
    search_on(trials, Runs(tmp_path / "b", ["x"], []), launcher, most=4)
    assert launcher.begun == ["trial_0002", "trial_0003"] and "2 trials of another folder" in capsys.readouterr().out
    assert trials._ask(4) is None and len(trials.all()) == 4  # another folder's runner took the last place
    back = Written()
    search_on(opened(tmp_path / "a", storage=storage, space=CALM), Runs(tmp_path / "a", ["x"], []), back, most=4)
    assert back.begun == ["trial_0000", "trial_0001"] and "RUNNING" not in states(trials)
    search_on(trials, Runs(tmp_path / "b", ["x"], []), launcher, most=5)
    assert launcher.begun[2:] == ["trial_0005"] and len(trials.all()) == 5


def test_several_objectives_have_a_front_and_no_pruner(tmp_path, monkeypatch):
    monkeypatch.setattr(outcome, "latency_of", lambda folder, trust: 7.0)
    trials, launcher = opened(tmp_path, objective=["score", "latency_ms"]), Written()
    runs = Runs(tmp_path, ["ssdlite"], [])
    search_on(trials, runs, launcher, most=8)
    assert not launcher.ended_early and not trials.prunes
    found = outcome.write(
        {"search": {"name": "default"}, "heads": {"ssdlite": {}}}, trials, runs, ["search=default", "task=ssdlite"]
    )
    names = {row["name"] for row in found["best"]}
    assert names == {f"trial_{one.number:04d}" for one in trials.study.best_trials}
    assert {path.stem for path in (tmp_path / "configs" / "experiment").iterdir()} == {"best", *names}
    assert (tmp_path / "pareto.png").exists() and "The front of score against latency_ms" in (
        tmp_path / "search.md"
    ).read_text()
    rows = [{"score": s, "madds": m} for s, m in ((1, 1), (2, 3), (2, 2), (0, 4), (3, 3), (2, 2))]
    assert outcome.front(rows, ["score", "madds"]) == [rows[0], rows[2], rows[4], rows[5]]


def test_what_is_missing_or_wrong_is_told_in_a_line(tmp_path, monkeypatch):
    opened(tmp_path)
    with pytest.raises(InputError, match=r"holds a search with other settings \(search.objective"):
        opened(tmp_path, objective=["score", "madds"])
    with pytest.raises(InputError, match="holds a search with other settings .search.space"):
        opened(tmp_path, space={"size": {"values": [32, 64]}})
    for changes, words in (
        ({"sampler": {"_target_": "optuna.samplers.TPESample"}}, "search.sampler._target_=.*no such class"),
        (
            {"sampler": {"_target_": "optuna.samplers.TPESampler", "sed": 1}},
            "search.sampler.sed: TPESampler has no such",
        ),
        ({"pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": -1}}, "search.pruner: "),
        ({"storage": "postgresql"}, "search.storage: not the address of a database"),
        ({"storage": "nosuch://me:secret@host/x"}, r"search.storage=nosuch://me:\*\*\*@host/x"),
    ):
        with pytest.raises(InputError, match=words) as told:
            opened(tmp_path / "b", **changes)
        assert "secret" not in str(told.value)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'mnv2_tasks\[search\]'"):
        opened(tmp_path)


def test_a_search_of_which_all_trials_fail_says_why(tmp_path):
    trials = opened(tmp_path, space={"optim.optimizer.lr": [0.06, 0.1], "backbone.width": [0.35, 1.0]})
    runs = Runs(tmp_path, ["x"], [])
    search_on(trials, runs, Written(), most=3)
    with pytest.raises(InputError, match="all 3 trials failed, first trial_0000: error: such a rate cannot be"):
        outcome.write({"search": {"name": "s"}, "heads": {}}, trials, runs, [])


@pytest.mark.parametrize("name", ["classifier", "ssdlite", "deeplabv3"])
def test_the_spaces_of_the_heads_are_of_settings_that_there_are(name):
    space = parse_space(settled(f"search={name}", f"task={name}")["search"]["space"])
    for end in ("low", "high"):
        ends = [getattr(entry, end, None) if isinstance(entry, Range) else entry.values[-1] for entry in space.values()]
        drawn = [f"{key}={ask_and_tell.override_value(value)}" for key, value in zip(space, ends, strict=True)]
        settle_anew([f"search={name}", f"task={name}", *drawn])


@pytest.mark.slow
def test_a_search_on_the_command_line_leaves_test_alone_until_the_best_is_trained_anew(cli, tmp_path):
    for place in (tmp_path / "data" / side / name for side in ("train", "val", "test") for name in "ab"):
        place.mkdir(parents=True)
        for number in range(4):
            (place / f"{number}.jpg").write_bytes(jpeg())
    asked = ["-m", "search=default", *TINY, f"data.root={tmp_path}/data", f"runs={tmp_path}", "search.trials=1"]
    space = "search.space={optim.optimizer.lr: [1e-3, 1e-2, log], head.dropout: [0, 0.5]}"
    _, out = cli("train", *asked, space, "search.retrain=1")
    folder = tmp_path / "search" / "default" / "classifier"
    assert "[1/1] trial_0000 score " in out
    trial = json.loads((folder / "runs" / "classifier" / "trial_0000" / "metrics.json").read_text())
    assert "val" in trial and "test" not in trial
    own = yaml.safe_load((folder / "runs" / "classifier" / "trial_0000" / "config.yaml").read_text())
    assert own["search"] == {"name": "default", "trial": "trial_0000"} and own["test"] is False
    found = json.loads((folder / "search.json").read_text())
    assert found["best"][0]["settings"]["head.dropout"] == own["heads"]["classifier"]["dropout"]
    longer = json.loads((folder / "runs" / "classifier" / "trial_0000_1_epochs" / "metrics.json").read_text())
    assert "val" in longer and "test" in longer
    code, err = cli("train", *asked, "search.space={optim.optimizer.lrr: [1e-3, 1e-2]}", fails=True)
    assert code == 2 and "search.space: optim.optimizer.lrr: no such setting" in err
