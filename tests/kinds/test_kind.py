"""What the kinds say of predictions and exported files is enough to predict with a file: no network, no framework."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import HEAD_CLASSES, HEAD_CONFIGS, batch, make
from PIL import Image
from places import ROOT
from refusal import refused

import mnv2_tasks
from mnv2_tasks.export.exported_model import ExportedModel, exported_model
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import InputForm, Metadata, describe, parse_metadata
from mnv2_tasks.export.session import as_input
from mnv2_tasks.kinds import DETECTION, KINDS, SEGMENTATION, Decoding

TASKS = ("ssdlite", "classifier", "deeplabv3")
NEVER = ("pytorch_lightning", "lightning", "hydra", "omegaconf", "mnv2_tasks.backbone", "mnv2_tasks.heads")
NEVER += ("mnv2_tasks.model", "mnv2_tasks.weights.tensors", "mnv2_tasks.weights.checkpoint", "torchmetrics")


def about(model, graph, size=(96, 128)) -> Metadata:
    """What an exported file of `model` tells of itself."""
    backbone = {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.35}
    settings = {
        "backbone": backbone,
        "heads": {task: HEAD_CONFIGS[task] for task in model.heads},
        "fit": "pad",
        "license": None,
    }
    told = describe(model, settings, {task: tuple(HEAD_CLASSES[task]) for task in model.heads})
    form = InputForm("nchw", "uint8", (1, 3, *size))
    return Metadata(told, size, form, tuple(graph.outputs), ("batch",), "onnx", "fp32", nms=graph.nms)


@pytest.fixture(scope="module", params=["native", "app"])
def exported(request, tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """(an ONNX file, the model in it), with suppression inside, or left to the app."""
    pytest.importorskip("onnxruntime")
    from mnv2_tasks.export.formats import onnx

    model = make(*TASKS)
    graph, path = Graph(model, nms=request.param).eval(), tmp_path_factory.mktemp(request.param) / "model.onnx"
    told = about(model, graph)
    onnx.write(graph, as_input(batch(2), told.input), path, told, [])
    return path, model


def test_a_file_predicts_and_draws_without_network_or_framework(exported, tmp_path):
    path, model = exported
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(tmp_path / "a.png")
    code = (
        "import sys, torch, mnv2_tasks\n"
        "from mnv2_tasks.predict.predictor import as_image\n"
        f"predictor, image = mnv2_tasks.load({str(path)!r}), {str(tmp_path / 'a.png')!r}\n"
        "(found,) = predictor.predict(image)\n"
        "assert len(predictor.draw(as_image(image), found)) == 3\n"
        f"torch.save(found, {str(tmp_path / 'found.pt')!r})\n"
        f"print([name for name in sys.modules if name.startswith({NEVER!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    found = torch.load(tmp_path / "found.pt")
    predictor = mnv2_tasks.load(path)
    seen = (85, 128)
    rows = model.predict(
        predictor.prepare(torch.from_numpy(np.array(Image.open(tmp_path / "a.png"))).permute(2, 0, 1))[None]
    )
    for task, kind in predictor.kinds.items():
        wanted = kind.restore(rows[task][0], seen, (60, 90))
        assert set(found[task]) == set(wanted)
        for name, value in wanted.items():
            if name == "mask":
                assert (found[task][name] == value).float().mean() > 0.99
            else:
                torch.testing.assert_close(found[task][name], value, atol=1e-2, rtol=1e-3)


def test_the_command_writes_a_files_predictions_without_lightning(exported, tmp_path):
    path, _ = exported
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['predict', 'model={path}', 'source={tmp_path / 'a.png'}', 'runs={tmp_path}', 'name=p']\n"
        "runpy.run_module('mnv2_tasks.predict', run_name='__main__')\n"
        "print([name for name in sys.modules if name.startswith(('pytorch_lightning', 'mnv2_tasks.heads'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    folder = tmp_path / "predict" / "p"
    assert json.loads((folder / "ssdlite" / "detections.json").read_text()) is not None
    assert (folder / "classifier" / "labels.csv").read_text().startswith("file,label,score,v,w,x,y,z")
    assert (folder / "deeplabv3" / "masks" / "a.png").exists() and (folder / "ssdlite" / "pictures" / "a.png").exists()


def test_what_a_file_leaves_to_the_app_can_be_chosen(exported):
    path, _ = exported
    predictor, image = mnv2_tasks.load(path), np.zeros((96, 128, 3), np.uint8)
    predictor.choose(score=0.5)
    if predictor.exported.about.nms == "native":
        refused(lambda: predictor.choose(iou=0.4), "iou=0.4", "built in", "nms=false")
        refused(lambda: predictor.choose(score=0.001), "score=0.001", "0.01 built in")
        return
    (few,) = predictor.predict(image)
    predictor.choose(score=0.0, iou=1.0)
    (many,) = predictor.predict(image)
    assert predictor.decodings["ssdlite"].nms == 1.0
    assert float(many["ssdlite"]["scores"].min()) >= float(few["ssdlite"]["scores"].min())
    assert len(many["ssdlite"]["scores"]) == 100


DAMAGED = {  # what is changed -> words of the refusal
    "no tasks": (lambda a: a.pop("tasks"), "no tasks"),
    "tasks of a text": (lambda a: a.update(tasks="detection"), "its tasks are 'detection'"),
    "another kind": (
        lambda a: a["tasks"].update(ssdlite="depth"),
        "'depth' is no kind of annotation, of classification",
    ),
    "a kind of a list": (lambda a: a["tasks"].update(ssdlite=["detection"]), "is no kind of annotation"),
    "classes of another task": (lambda a: a["classes"].update(other=["a"]), "classes are not those of its tasks"),
    "classes in a text": (lambda a: a["classes"].update(ssdlite="abc"), "not a list of names"),
    "a fit": (lambda a: a.update(fit="tight"), "its fit is 'tight'"),
    "channels": (lambda a: a["input"].update(shape=[1, 4, 96, 128]), "its images have 4 channels"),
    "no config": (lambda a: a.pop("config"), "no config"),
    "a config of a list": (lambda a: a.update(config=[]), "its config is no dictionary"),
    "a threshold of a text": (lambda a: a["thresholds"]["ssdlite"].update(nms="0.5"), "its nms of ssdlite is '0.5'"),
    "half a detection": (
        lambda a: a["thresholds"]["ssdlite"].update(detections=0.5),
        "its detections of ssdlite is 0.5",
    ),
    "no output": (lambda a: a.update(outputs=["other_scores"]), "no output is of ssdlite"),
}


@pytest.fixture(scope="module")
def told() -> dict:
    model = make("ssdlite")
    return json.loads(about(model, Graph(model, nms="app")).as_json())


def of_file(told: dict) -> ExportedModel:
    path = Path("model.onnx")
    return exported_model(path, parse_metadata(told, path))


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_metadata_is_told_in_a_line(told, name):
    change, words = DAMAGED[name]
    damaged = copy.deepcopy(told)
    change(damaged)
    refused(
        lambda: exported_model(Path("model.onnx"), parse_metadata(damaged, Path("model.onnx"))),
        "model.onnx (written by",
        "metadata is damaged",
        words,
    )


def test_files_that_do_not_tell_all_of_a_detector_have_what_its_head_was_made_with(told):
    old = copy.deepcopy(told)
    del old["thresholds"]["ssdlite"]["candidates"]  # as version 0.1 wrote it
    assert of_file(old).decodings["ssdlite"] == Decoding()
    old["config"]["heads"]["ssdlite"] = {**old["config"]["heads"]["ssdlite"], "candidates": 50, "nms": 0.1}
    assert of_file(old).decodings["ssdlite"] == Decoding(candidates=50)


def test_kinds_are_named_as_files_name_them():
    assert list(KINDS) == ["classification", "multilabel", "detection", "segmentation"]
    assert all(kind.name == name for name, kind in KINDS.items())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_batch_of_nothing_known_has_every_field(kind):
    sample = {**kind.fill({}, (20, 30), 3), "image": torch.zeros(3, 20, 30)}
    targets = kind.collate([{**sample, **kind.originals(sample)}] * 2, whole=True)
    assert set(kind.fields) <= set(targets) and all(len(values) == 2 for values in targets.values())


def test_boxes_come_back_to_the_original_and_stay_in_it():
    row = {"boxes": torch.tensor([[8.0, 8, 40, 40], [0, 0, 64, 64]]), "scores": torch.ones(2)}
    found = DETECTION.restore(row, (32, 64), (64, 64))
    assert found["boxes"].tolist() == [[8, 16, 40, 64], [0, 0, 64, 64]]


def test_predictions_are_read_back_from_their_lines():
    boxes = {"boxes": torch.tensor([[1.0, 2, 3, 5]]), "scores": torch.tensor([0.5]), "labels": torch.tensor([1])}
    again = DETECTION.from_line(json.loads(json.dumps(DETECTION.line(boxes, ("a", "b")))), None)
    assert all(torch.equal(again[name], value) for name, value in boxes.items())
    mask = {"mask": torch.randint(0, 3, (5, 7), dtype=torch.uint8)}
    line = SEGMENTATION.line(mask, ("a", "b", "c"), picture="masks/a.png")
    assert line == {"mask": "masks/a.png"}
    assert torch.equal(SEGMENTATION.from_line(line, SEGMENTATION.picture(mask))["mask"], mask["mask"])
