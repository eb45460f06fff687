"""Delta-m and the comparison of a joint run with single-task runs."""

import json
import math

import pytest

from mnv2_tasks.errors import InputError
from mnv2_tasks.training.joint_gain import compare, delta_m, print_comparison, read_baselines
from mnv2_tasks.training.run_record import read_run

CLASSES = {"ssdlite": ["cat", "dog"], "deeplabv3": ["sky", "road", "car"]}


def metrics(values: dict[str, float], *, sides=("val", "test"), **costs) -> dict:
    """{"ssdlite/map": 0.5} -> what metrics.json of such a run holds."""
    primaries = dict(name.split("/") for name in values)
    found = {side: dict(values, **{f"{task}/loss": 1.0 for task in primaries}) for side in sides}
    return found | {"primaries": primaries, "classes": {task: CLASSES[task] for task in primaries}} | costs


def write(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def runs(tmp_path):
    cost = {"madds": 1000, "latency_ms": 4.0, "step_ms": 50.0}
    first = write(tmp_path / "det", metrics({"ssdlite/map": 0.4}, parameters=100, **cost))
    second = write(tmp_path / "seg", metrics({"deeplabv3/miou": 0.8}, parameters=300, **cost))
    return {"ssdlite": first, "deeplabv3": second / "metrics.json"}


def test_delta_m_by_hand():
    joint, single = {"a": 44.0, "b": 0.45, "c": 9.0}, {"a": 40.0, "b": 0.5, "c": 10.0}
    assert delta_m(joint, single) == pytest.approx((10 - 10 - 10) / 3)
    assert delta_m(single, single) == 0


@pytest.mark.parametrize(
    "joint, single",
    [({}, {}), ({"a": 1.0}, {}), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {"a": 0.0}), ({"a": 1.0}, {"a": math.nan})],
)
def test_delta_m_needs_baselines(joint, single):
    with pytest.raises(InputError):
        delta_m(joint, single)


def test_compare(runs, tmp_path, capsys):
    told = metrics({"ssdlite/map": 0.44, "deeplabv3/miou": 0.76}, parameters=150, madds=1200, step_ms=60.0)
    joint = read_run(write(tmp_path / "joint", told) / "metrics.json")
    found = compare(joint, runs)
    assert found["delta_m"] == pytest.approx({"val": 2.5, "test": 2.5})
    assert found["tasks"]["ssdlite"]["val"] == {
        "metric": "map",
        "joint": 0.44,
        "single": 0.4,
        "change": pytest.approx(10),
    }
    assert found["tasks"]["deeplabv3"]["test"]["change"] == pytest.approx(-5)
    assert found["cost"] == {  # the joint run's latency was not measured
        "parameters": {"joint": 150, "single": 400, "ratio": 0.375},
        "madds": {"joint": 1200, "single": 2000, "ratio": 0.6},
        "step_ms": {"joint": 60.0, "single": 100.0, "ratio": 0.6},
    }
    json.dumps(found)
    print_comparison(found)
    printed = capsys.readouterr().out
    for part in ("val ssdlite/map", "+10.00%", "-5.00%", "x   0.375", "delta-m on val: +2.50%"):
        assert part in printed


def test_test_counts_only_where_all_have_it(runs, tmp_path):
    runs["ssdlite"] = write(tmp_path / "valonly", metrics({"ssdlite/map": 0.4}, sides=("val",)))
    joint = write(tmp_path / "joint", metrics({"ssdlite/map": 0.4, "deeplabv3/miou": 0.8}))
    found = compare(read_run(joint / "metrics.json"), runs)
    assert found["delta_m"] == {"val": 0.0} and "test" not in found["tasks"]["deeplabv3"]
    assert found["cost"] == {}


def test_a_joint_metric_that_is_not_defined_is_no_error(runs, tmp_path):
    joint = metrics({"ssdlite/map": 0.4, "deeplabv3/miou": 0.8}, sides=("val",))
    joint["val"]["ssdlite/map"] = math.nan
    record = read_run(write(tmp_path / "joint", joint) / "metrics.json")
    assert math.isnan(compare(record, runs)["delta_m"]["val"])


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda runs, folder: runs.pop("ssdlite"), "none for ssdlite; add baselines.ssdlite="),
        (lambda runs, folder: runs.update(depth=folder), "baselines.depth: no such task"),
        (lambda runs, folder: runs.update(ssdlite=folder / "no"), "baselines.ssdlite=.*no metrics.json"),
        (lambda runs, folder: runs.update(ssdlite=runs["deeplabv3"]), "a run of deeplabv3; give a run of ssdlite"),
        (
            lambda runs, folder: runs.update(
                ssdlite=write(folder, metrics({"ssdlite/map": 0.4, "deeplabv3/miou": 0.8}))
            ),
            "a run of ssdlite and deeplabv3; give a run of ssdlite alone",
        ),
        (
            lambda runs, folder: runs.update(
                ssdlite=write(folder, metrics({"ssdlite/map": 0.4}) | {"classes": {"ssdlite": ["cat", "cow"]}})
            ),
            "classes are not .*cow, dog",
        ),
        (
            lambda runs, folder: runs.update(
                ssdlite=write(folder, metrics({"ssdlite/map": 0.4}) | {"classes": {"ssdlite": ["dog", "cat"]}})
            ),
            "another order",
        ),
        (lambda runs, folder: runs.update(ssdlite=write(folder, metrics({"ssdlite/map": 0.0}))), "map on val is 0"),
        (lambda runs, folder: runs.update(ssdlite=write(folder, {"val": {}})), "not the metrics of a run"),
        (lambda runs, folder: runs.update(ssdlite=write(folder, [1])), "not the metrics of a run"),
    ],
)
def test_bad_baselines(runs, tmp_path, change, words):
    change(runs, tmp_path / "other")
    with pytest.raises(InputError, match=words) as error:
        read_baselines(runs, CLASSES)
    assert "\n" not in str(error.value)


def test_a_broken_file(runs, tmp_path):
    (tmp_path / "cut.json").write_text('{"val": ')
    with pytest.raises(InputError, match="cut.json: line 1, column 9: not JSON") as error:
        read_baselines(runs | {"ssdlite": tmp_path / "cut.json"}, CLASSES)
    assert "\n" not in str(error.value)
