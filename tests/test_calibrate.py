"""Temperatures and thresholds: exact, kept in a checkpoint, and used wherever that goes."""

import json

import numpy as np
import pytest
import torch
from builders import CLASSES, CONFIG, save
from PIL import Image
from refusal import refused
from scipy.optimize import minimize_scalar

import mnv2_tasks
from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.heads.classifier import MultiLabel
from mnv2_tasks.kinds import MULTILABEL, Calibration
from mnv2_tasks.kinds.calibration import parse_calibrations, told
from mnv2_tasks.metrics.classification import MultiLabelMetric
from mnv2_tasks.metrics.detection import CocoMAP
from mnv2_tasks.metrics.temperature import fit_temperature, negative_log_likelihood
from mnv2_tasks.metrics.thresholds import at_threshold, best_threshold
from mnv2_tasks.weights.checkpoint import read_checkpoint, write_calibrated


@pytest.mark.parametrize("sharp", [0.3, 1.0, 4.0])
def test_the_temperature_is_that_of_the_least_likelihood(sharp):
    generator = np.random.default_rng(0)
    true = generator.normal(size=(400, 6))
    labels = np.array([generator.choice(6, p=np.exp(row) / np.exp(row).sum()) for row in true])
    logits = sharp * true
    found = fit_temperature(logits, labels, coolest=0.05, hottest=20)
    expected = minimize_scalar(
        lambda t: negative_log_likelihood(logits, labels, t), bounds=(0.05, 20), options={"xatol": 1e-9}
    )
    assert abs(found - expected.x) < 1e-5 * found and abs(found / sharp - 1) < 0.25
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(logits / found), torch.from_numpy(labels))
    assert abs(negative_log_likelihood(logits, labels, found) - float(theirs)) < 1e-12


def test_there_is_no_temperature_where_all_is_right_or_guessed():
    logits = np.eye(4)[[0, 1, 2, 3]]
    assert fit_temperature(logits, np.arange(4), coolest=0.05, hottest=20) is None
    assert fit_temperature(logits, np.array([1, 2, 3, 0]), coolest=0.05, hottest=20) is None


@pytest.mark.parametrize("precision", [None, 0.5, 0.8])
def test_thresholds_are_the_best_of_all(precision):
    generator = np.random.default_rng(1)
    for _ in range(50):
        count = int(generator.integers(1, 12))
        scores, right = generator.integers(1, 8, count) / 10, generator.random(count) < 0.5
        positives = int(right.sum() + generator.integers(0, 3))
        best = best_threshold(scores, right, positives, precision=precision)
        every = [at_threshold(scores, right, positives, value) for value in (0.05, *(np.arange(1, 8) / 10))]
        able = [one for one in every if positives and (precision is None or one.precision >= precision)]
        able = [one for one in able if (scores >= one.value).any()]
        assert (best is None) == (not able)
        if best is not None:
            assert best == at_threshold(scores, right, positives, best.value) and best.value not in scores
            key = "f1" if precision is None else "recall"
            assert getattr(best, key) == pytest.approx(max(getattr(one, key) for one in able))


def test_a_detectors_scores_are_matched_class_by_class():
    metric, scores = CocoMAP(("cat", "dog")), torch.tensor([0.5, 0.9, 0.8, 0.7, 0.6])
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10], [80, 80, 99, 99]])
    prediction = {"boxes": boxes, "scores": scores, "labels": torch.tensor([0, 0, 0, 1, 0])}
    truth = {
        "image_id": 3,
        "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [80, 80, 99, 99]]),
        "labels": torch.tensor([0, 1, 0]),
        "crowd": torch.tensor([False, False, True]),
        "area": torch.tensor([100.0, 100, 361]),
    }
    metric.update([prediction], [truth])
    metric.compute()
    (cats, right, there), (_, dogs, others) = metric.fitted_to()
    assert cats.tolist() == pytest.approx([0.9, 0.8, 0.5]) and right.tolist() == [
        True,
        False,
        False,
    ]  # the crowd is out
    assert (there, others) == (1, 1) and dogs.tolist() == [False]
    assert metric.confusion(np.array([0.85, 0.85])).sum() == 2  # one cat is right, the dog is missed


def test_several_labels_count_from_their_thresholds():
    metric = MultiLabelMetric(("a", "b"), (0.9, 0.1))
    logits, presence = torch.tensor([[1.0, -1.0], [3.0, -3.0]]), torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    metric.update(logits, presence, torch.tensor([0, 1]))
    assert float(metric.compute()["f1"]) == 1  # at 0.5: a wrong, b missed
    scores, truth, there = metric.fitted_to()[1]
    assert scores.tolist() == pytest.approx([1 / (1 + np.e)]) and truth.tolist() == [True] and there == 1
    least = torch.tensor([0.9, 0.1])
    line = MULTILABEL.line({"scores": logits[0].sigmoid()}, ("a", "b"), least=least)
    assert line["labels"] == ["b"] and line["label"] == "a"
    assert MULTILABEL.line({"scores": logits[0].sigmoid()}, ("a", "b"))["labels"] == ["a"]
    assert MultiLabel.calibration == Calibration()


def test_a_calibrated_checkpoint_predicts_and_exports_what_it_says(cli, tmp_path):
    pytest.importorskip("onnxruntime")
    path = save(tmp_path / "best.ckpt", CONFIG)
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.heads.classifier.linear.bias"] = torch.tensor([0.0, 1.0, 3.0])
    torch.save(content, path)
    before = path.read_bytes()
    calibrated = write_calibrated(path, {"classifier": Calibration(temperature=0.5)})
    assert calibrated.name == "best.calibrated.ckpt" and path.read_bytes() == before
    assert write_calibrated(calibrated, {"classifier": Calibration(temperature=2.0)}) == calibrated  # the copy's copy
    assert read_checkpoint(calibrated)["calibrations"] == {"classifier": Calibration(temperature=2.0)}
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    plain, ours = (mnv2_tasks.load(one).predict(picture)[0]["classifier"]["scores"] for one in (path, calibrated))
    expected = (plain.log() / 2).softmax(0)
    assert torch.allclose(ours, expected, atol=1e-6) and not torch.allclose(ours, plain, atol=1e-5)
    cli("export", f"ckpt={calibrated}", "to=[onnx]", f"runs={tmp_path}", "name=e", "proof=false")
    exported = mnv2_tasks.load(tmp_path / "export" / "e" / "model.onnx")
    assert torch.allclose(exported.predict(picture)[0]["classifier"]["scores"], expected, atol=1e-5)
    about = json.loads((tmp_path / "export" / "e" / "model.json").read_text(encoding="utf-8"))
    assert about["calibration"] == {"classifier": {"temperature": 2.0, "thresholds": None}}


def test_the_command_fits_what_heads_have(cli, tmp_path):
    heads = {
        "classifier": CONFIG["heads"]["classifier"],
        "ssdlite": {"_target_": "mnv2_tasks.heads.ssdlite.SSDLite", "_partial_": True, "score_threshold": 0.0},
    }
    torch.manual_seed(0)
    classes = {task: CLASSES["classifier"] for task in heads}
    config = {**CONFIG, "heads": heads}
    state = build_model(config, {task: tuple(names) for task, names in classes.items()}).state_dict()
    path = tmp_path / "best.ckpt"
    about = {"config": config, "classes": classes}
    torch.save({"state_dict": {f"model.{n}": v for n, v in state.items()}, "mnv2_tasks": about, "epoch": 0}, path)
    said = cli("calibrate", f"ckpt={path}", f"runs={tmp_path}", "name=c", "loader.workers=0")[1]
    assert "ssdlite: thresholds of best F1" in said and "best.calibrated.ckpt" in said
    numbers = json.loads((tmp_path / "calibrate" / "c" / "calibration.json").read_text(encoding="utf-8"))
    kept = read_checkpoint(tmp_path / "best.calibrated.ckpt")["calibrations"]
    assert kept["classifier"].temperature == numbers["classifier"]["temperature"]
    assert list(kept["ssdlite"].thresholds) == [row["threshold"] for row in numbers["ssdlite"]["thresholds"]]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    calibrated = mnv2_tasks.load(tmp_path / "best.calibrated.ckpt")
    (ours,), (plain,) = (one.predict(tmp_path / "a.png") for one in (calibrated, mnv2_tasks.load(path)))
    least = torch.tensor(kept["ssdlite"].thresholds)[plain["ssdlite"]["labels"]]
    assert torch.equal(ours["ssdlite"]["scores"], plain["ssdlite"]["scores"][plain["ssdlite"]["scores"] >= least])
    calibrated.choose(score=0.0)
    assert len(calibrated.predict(tmp_path / "a.png")[0]["ssdlite"]["scores"]) == len(plain["ssdlite"]["scores"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["ckpt=model.onnx"], "an exported file keeps what it has"),
        (["ckpt=a.ckpt", "precision=90"], "precision=90: use a number above 0"),
        ([], "ckpt is not given"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_line(cli, tmp_path, override, words):
    _, said = cli("calibrate", *override, f"runs={tmp_path}", fails=True)
    assert said.startswith("error: ") and words in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1], "its calibration"),
        ({"other": {}}, "its calibration"),
        ({"classifier": 3}, "of classifier is 3"),
        ({"classifier": {"temperature": float("nan")}}, "its temperature of classifier"),
        ({"classifier": {"thresholds": [0.5]}}, "not one a class"),
        ({"classifier": {"thresholds": [0.5, "x", 0.5]}}, "hold 'x'"),
    ],
)
def test_a_files_calibration_is_checked(content, words):
    classes = {"classifier": ("a", "b", "c")}
    refused(lambda: parse_calibrations(content, classes), words)
    whole = {"classifier": Calibration(1.5, (0.1, 0.2, 0.3))}
    assert parse_calibrations(json.loads(json.dumps(told(whole))), classes) == whole
    assert parse_calibrations(None, classes) == {}
