"""Weights in: every layout and file type, and errors that say what to do; nothing in a file is executed."""

import io
import json
import os
import pickle
import urllib.error
import zipfile

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.weights.pretrained import fill_backbone
from mnv2_tasks.weights.tensors import read_state
from mnv2_tasks.weights.whole_models import fill_model


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    torch.manual_seed(0)
    return mobilenet_v2(width_mult=0.35)


def same(backbone: MobileNetV2, source: torch.nn.Module) -> bool:
    image = torch.rand(1, 3, 64, 64)
    return torch.equal(backbone.eval()(image)["c5x"], source.eval().features(image))


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_file_types(source, tmp_path, suffix):
    path = tmp_path / f"weights.{suffix}"
    state = source.state_dict()
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    elif suffix == "safetensors":
        save_file(state, path)
    else:
        np.savez(path, **{name: value.numpy() for name, value in state.items() if "num_batches" not in name})
    backbone = MobileNetV2(0.35)
    fill_backbone(backbone, path)
    assert same(backbone, source)


def test_layouts(source, tmp_path):
    first = MobileNetV2(0.35)
    torch.save(source.state_dict(), tmp_path / "torchvision.pth")
    fill_backbone(first, tmp_path / "torchvision.pth")
    for prefix in ("", "backbone.", "model.backbone."):
        state = {prefix + name: value for name, value in first.state_dict().items()}
        torch.save({"state_dict": {**state, "model.heads.x.weight": torch.zeros(1)}}, tmp_path / "ours.ckpt")
        second = MobileNetV2(0.35)
        fill_backbone(second, tmp_path / "ours.ckpt")
        assert same(second, source)
    theirs = timm.create_model("mobilenetv2_050").eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    third = MobileNetV2(0.5).eval()
    fill_backbone(third, tmp_path / "timm.pth")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(third(image)["c5x"], theirs.forward_features(image))


def test_a_trunk_without_its_last_layer_loads_too(source, tmp_path):
    torch.save(source.state_dict(), tmp_path / "w.pth")
    backbone = MobileNetV2(0.35)
    backbone.keep(["c5"])
    fill_backbone(backbone, tmp_path / "w.pth")
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(backbone.eval()(image)["c5"], source.eval().features[:-1](image))


def refused(backbone: MobileNetV2, path, *words: str) -> None:
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(InputError) as error:
        fill_backbone(backbone, path)
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in words), message
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_mismatches_say_what_would_fit(source, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path)
    refused(MobileNetV2(1.0), path, "w.pth", "stem.0.weight", "set backbone.width=0.35")
    refused(MobileNetV2(0.35, in_channels=1), path, "stem.0.weight", "set backbone.in_channels=3")
    state = source.state_dict()
    del state["features.4.conv.1.0.weight"]
    torch.save(state, path)
    refused(MobileNetV2(0.35), path, "1 tensors missing", "blocks.3.depthwise.0.weight")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code in a weights file was executed",))


def test_bad_files_are_named_and_never_executed(tmp_path, source):
    missing, junk, cut, code, other = (tmp_path / f"{n}.pth" for n in ("missing", "junk", "cut", "code", "other"))
    junk.write_bytes(b"not weights at all")
    torch.save(source.state_dict(), cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    code.write_bytes(pickle.dumps({"state_dict": Harmful()}))
    torch.save({"fc.weight": torch.zeros(2, 2)}, other)
    refused(MobileNetV2(0.35), missing, "missing.pth", "no such")
    for path in (junk, cut, code):
        refused(MobileNetV2(0.35), path, path.name)
    refused(MobileNetV2(0.35), other, "other.pth", "fc.weight")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    np.savez(tmp_path / "code.npz", x=np.array([Harmful()], dtype=object), allow_pickle=True)
    for name in ("cut.npz", "cut.safetensors", "code.npz"):
        refused(MobileNetV2(0.35), tmp_path / name, name)


def test_files_that_stand_for_far_more_than_they_hold_are_refused(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(2**25, np.uint8))  # 33 kB that unpack to 34 MB
    torch.save({"x": torch.zeros(1).expand(2**30)}, tmp_path / "expanded.pth")
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (tmp_path / "lie.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
        archive.writestr("x.npy", header.getvalue() + bytes(64))
    for name in ("zeros.npz", "expanded.pth", "lie.safetensors", "lie.npz"):
        refused(MobileNetV2(0.35), tmp_path / name, name)


def test_no_pipe_folder_or_device_is_a_weights_file(tmp_path):
    for suffix in ("pth", "npz", "safetensors"):
        (tmp_path / f"folder.{suffix}").mkdir()
        refused(MobileNetV2(0.35), tmp_path / f"folder.{suffix}", f"folder.{suffix}")
        if hasattr(os, "mkfifo"):
            os.mkfifo(tmp_path / f"pipe.{suffix}")
            refused(MobileNetV2(0.35), tmp_path / f"pipe.{suffix}", f"pipe.{suffix}", "a pipe or a device")
            (tmp_path / f"device.{suffix}").symlink_to("/dev/zero")
            refused(MobileNetV2(0.35), tmp_path / f"device.{suffix}", f"device.{suffix}", "a pipe or a device")


def test_whole_models_of_others_need_all_their_norm_statistics(tmp_path):
    model = build_model(WHOLE, {"classifier": ("a", "b", "c")})
    theirs = mobilenet_v2(width_mult=0.35, num_classes=3).state_dict()
    torch.save(theirs, tmp_path / "w.pth")
    fill_model(model, tmp_path / "w.pth")
    for statistic in ("running_mean", "running_var"):
        torch.save({n: v for n, v in theirs.items() if not n.endswith(statistic)}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=rf"w\.pth: .*52 tensors missing .*{statistic}"):
            fill_model(model, tmp_path / "w.pth")


WHOLE = {
    "backbone": {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.35, "mean": [0.5], "std": [0.5]},
    "heads": {"classifier": {"_target_": "mnv2_tasks.heads.classifier.Classifier", "_partial_": True}},
}


def test_imagenet_without_a_network_shows_the_way_out(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"backbone\.weights=<file>"):
        fill_backbone(MobileNetV2(), "imagenet")


def test_imagenet_is_torchvisions(monkeypatch):
    state = mobilenet_v2().state_dict()
    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", lambda *_, **__: state)
    backbone = MobileNetV2()
    fill_backbone(backbone, "imagenet")
    assert torch.equal(backbone.stem[0].weight, state["features.0.0.weight"])


def test_read_state_unwraps(tmp_path):
    torch.save({"model": {"module._orig_mod.a": torch.ones(1)}, "epoch": 3}, tmp_path / "w.pth")
    assert list(read_state(tmp_path / "w.pth")) == ["a"]
