"""Backbones in other libraries: equal features there, back again, and refusals of what they cannot express."""

import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import mobilenet_v2

import mnv2_tasks
from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.blocks import Plain
from mnv2_tasks.errors import InputError
from mnv2_tasks.export.hub import write_backbone
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.model import Model
from mnv2_tasks.weights.layouts import timm_state, torchvision_state
from mnv2_tasks.weights.pretrained import fill_backbone


def make(head=Classifier, **settings):
    torch.manual_seed(1)
    backbone = MobileNetV2(**settings)
    model = Model(backbone, {"task": head(backbone.taps, 7)}, mean=[0.5] * 3, std=[0.5] * 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


IMAGE = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_torchvision_gives_the_same_logits_and_back(width, tmp_path):
    model = make(width=width)
    state = torchvision_state(model, {"width": width})
    theirs = mobilenet_v2(width_mult=width, num_classes=7).eval()
    theirs.load_state_dict(state, strict=True)
    with torch.no_grad():
        ours = model.heads["task"](model.backbone(IMAGE), (96, 96)).logits
        assert torch.equal(theirs(IMAGE), ours)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    back = MobileNetV2(width=width).eval()
    fill_backbone(back, tmp_path / "theirs.pth")
    with torch.no_grad():
        assert torch.equal(back(IMAGE)["c5x"], model.backbone(IMAGE)["c5x"])


@pytest.mark.parametrize(("width", "name"), [(1.0, "mobilenetv2_100"), (1.4, "mobilenetv2_140")])
def test_timm_gives_the_same_features(width, name):
    model = make(DeepLabV3, width=width)
    theirs = timm.create_model(name, features_only=True).eval()
    theirs.load_state_dict(timm_state(model, {"width": width}), strict=True)
    model.backbone.keep(["c1", "c2", "c3", "c4", "c5"])
    with torch.no_grad():
        ours = model.backbone(IMAGE)
        for mine, wanted in zip((ours[tap] for tap in ("c1", "c2", "c3", "c4", "c5")), theirs(IMAGE), strict=True):
            assert torch.equal(mine, wanted)


def test_smp_unet_takes_the_torchvision_file(tmp_path):
    import segmentation_models_pytorch as smp

    from mnv2_tasks.weights.adapters import as_smp_encoder

    model = make()
    unet = smp.Unet("mobilenet_v2", encoder_weights=None, classes=2).eval()
    state = {k: v for k, v in torchvision_state(model, {"width": 1.0}).items() if k.startswith("features.")}
    unet.encoder.load_state_dict(state, strict=True)
    with torch.no_grad():
        for mine, wanted in zip(as_smp_encoder(model.backbone)(IMAGE), unet.encoder(IMAGE), strict=True):
            assert torch.equal(mine, wanted)


def test_a_hub_folder_loads_strictly_and_says_what_it_is(tmp_path):
    model = make(DeepLabV3, width=0.5, output_stride=16)
    section = {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.5, "output_stride": 16, "mean": [0.5] * 3}
    settings = {"as": "hub", "backbone": section, "license": "cc-by-4.0", "ckpt": None, "data": {"own": {}}}
    write_backbone(model, settings, {"task": ("a",) * 7}, tmp_path)
    back = mnv2_tasks.load_backbone(tmp_path)
    with torch.no_grad():
        assert torch.equal(back(IMAGE)["c5"], model.backbone(IMAGE)["c5"])
    assert "license: cc-by-4.0" in (tmp_path / "README.md").read_text()
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["taps"]["c5"] == [160, 16] and set(load_file(tmp_path / "model.safetensors"))
    config["backbone"]["_target_"] = "os.system"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="not of this package"):
        mnv2_tasks.load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("settings", "section", "reason"),
    [
        ({"block": Plain}, {"width": 1.0}, "not inverted residuals"),
        ({"padding": "same"}, {"width": 1.0, "padding": "same"}, "padding is same"),
        ({"output_stride": 16}, {"width": 1.0, "output_stride": 16}, "output stride"),
        ({}, {"width": 1.0, "block": {"shortcut": "none"}}, "blocks differ"),
    ],
)
def test_what_torchvision_cannot_express_is_refused(settings, section, reason):
    with pytest.raises(InputError, match=reason):
        torchvision_state(make(**settings), section)


def test_a_pruned_backbone_is_no_torchvision_network():
    with pytest.raises(InputError, match="last convolution"):
        torchvision_state(make(DeepLabV3), {"width": 1.0})
