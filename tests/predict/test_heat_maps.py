"""Heat maps: the arithmetic of LayerCAM, and where each head's evidence comes from."""

import numpy as np
import pytest
import torch
from builders import HEAD_CLASSES, batch, make
from PIL import Image
from refusal import refused

import mnv2_tasks
from mnv2_tasks.heads.faster_rcnn import FasterRCNN
from mnv2_tasks.model import Model
from mnv2_tasks.predict.heat_maps import fused, heat_maps, layer_cam, taps_for

CLASSES = {**HEAD_CLASSES, "multilabel": tuple("abcd"), "focal": HEAD_CLASSES["ssdlite"]}


def whole(task, prediction):
    return prediction


def test_layer_cam_by_hand():
    activation = torch.tensor([[[[1.0, 2.0]], [[3.0, 1.0]]]])  # two channels, one row of two places
    gradient = torch.tensor([[[[0.5, -1.0]], [[1.0, 2.0]]]])
    assert layer_cam(activation, gradient).tolist() == [[[3.5, 2.0]]]  # 0.5 1 + 1 3; 0 2 + 2 1
    maps = fused([torch.tensor([[[3.5, 2.0]]]), torch.tensor([[[0.0, 1.0], [0.5, 3.0]]])], (2, 2))
    halves = torch.tensor([[[1.0, 1 / 3], [1 + 1 / 6, 1.0]]]) / 2  # the means, still from 1/6
    assert torch.allclose(maps, (halves - 1 / 6) / (7 / 12 - 1 / 6), atol=1e-5)


def test_layer_cam_is_that_of_grad_cam():
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, image = make("classifier"), batch(1)
    inner = model.backbone

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model(images)["classifier"].logits

    layers = [inner.blocks[6].expand, inner.blocks[13].expand, inner.last]
    taps = ("c3x", "c4x", "c5x")
    ours = heat_maps(with_taps(model, *taps), image, CLASSES, taps, whole)["classifier"]
    with grad_cam.LayerCAM(model=Logits(), target_layers=layers) as theirs:
        expected = theirs(input_tensor=image.float() / 255, targets=[ClassifierOutputTarget(ours.label)])
    assert np.abs(ours.heat.numpy() - expected[0]).max() < 1e-4


def with_taps(model, *taps):
    model.backbone.keep([*model.backbone.kept, *taps])
    return model


@pytest.mark.parametrize("task", ["classifier", "multilabel", "ssdlite", "focal", "deeplabv3"])
def test_evidence_is_the_score_that_is_predicted(task):
    model, image = with_taps(make(task), "c3x", "c4x"), batch(1)
    head, outputs = model.heads[task], model(image)[task]
    prediction = head.predict(outputs)[0]
    label = head.kind.leading(prediction, CLASSES[task])
    evidence = head.evidence(outputs, prediction, label)
    if "boxes" in prediction:
        expected = prediction["scores"][prediction["labels"] == label].sum()
        assert len(prediction["scores"]) > 5
    elif task == "deeplabv3":
        expected = outputs.logits[0, label][outputs.logits[0].argmax(0) == label].sum()
    else:
        expected = outputs.logits[0].max()
    assert torch.allclose(evidence, expected, rtol=1e-5) and evidence.requires_grad
    heat = heat_maps(model, image, CLASSES, ("c3x", "c4x"), whole)[task].heat
    assert heat.shape == image.shape[2:] and float(heat.min()) == 0 and 0.99 < float(heat.max()) <= 1


def test_the_regions_of_faster_rcnn_are_found_again():
    backbone = make("classifier").backbone
    head = FasterRCNN(backbone.taps, 3, channels=16, hidden=16)
    model = Model(backbone, {"rcnn": head}, mean=[0.5] * 3, std=[0.2] * 3).eval()
    torch.nn.init.normal_(model.heads["rcnn"].roi_heads.box_predictor.cls_score.weight, std=3.0)
    outputs = model(batch(1))["rcnn"]
    prediction = model.heads["rcnn"].predict(outputs)[0]
    label = int(prediction["labels"][0])
    expected = prediction["scores"][prediction["labels"] == label].sum()
    assert torch.allclose(model.heads["rcnn"].evidence(outputs, prediction, label), expected, rtol=1e-5)


def test_what_does_not_depend_on_a_tap_or_shows_nothing_has_an_empty_map():
    model, image = with_taps(make("deeplabv3", "ssdlite"), "c5x"), batch(1)

    def nothing(task, prediction):
        return {name: values[:0] for name, values in prediction.items()} if task == "ssdlite" else prediction

    maps = heat_maps(model, image, CLASSES, ("c5x",), nothing)  # DeepLabv3 looks at c5, before it
    assert not maps["deeplabv3"].heat.any() and maps["deeplabv3"].label is not None
    assert not maps["ssdlite"].heat.any() and maps["ssdlite"].label is None


def test_maps_lie_beside_the_pictures(cli, checkpoint, tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    Image.fromarray(generator.integers(0, 256, (300, 420, 3), np.uint8)).save(tmp_path / "in" / "a.png")
    path = checkpoint("ssdlite", "deeplabv3", fit="pad")
    command = ("predict", f"model={path}", f"source={tmp_path / 'in'}", f"runs={tmp_path}", "name=p", "explain=true")
    assert "explain: heat maps of c3x, c4x, c5x" in cli(*command)[1]
    for task in ("ssdlite", "deeplabv3"):
        place = tmp_path / "predict" / "p" / task / "pictures"
        assert Image.open(place / "a.explain.png").size == Image.open(place / "a.png").size or task == "deeplabv3"
    _, said = cli(*command[:-2], "name=q", "explain=[c9]", fails=True)
    assert said.startswith("error: explain=c9: the backbone has no tap c9; it has c1, c1x, ") and said.count("\n") == 1
    _, said = cli(*command[:-2], "name=q", "explain=3", fails=True)
    assert "explain=3: use true" in said and not (tmp_path / "predict" / "q").exists()


def test_exported_files_have_none(checkpoint):
    predictor = mnv2_tasks.load(checkpoint("classifier"))
    assert taps_for(predictor, True) == ("c3x", "c4x", "c5x")
    predictor.model = None  # as that of an exported file
    refused(lambda: taps_for(predictor, True), "explain", "exported file", "checkpoint")
