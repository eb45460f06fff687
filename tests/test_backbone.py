"""The trunk: equal to torchvision's and timm's, and what it declares is what it gives."""

import pytest
import timm
import torch
from torchvision.models import mobilenet_v2
from torchvision.models.feature_extraction import create_feature_extractor

from mnv2_tasks.backbone import MobileNetV2, Tap, round_channels
from mnv2_tasks.blocks import SamePadConv2d
from mnv2_tasks.errors import InputError
from mnv2_tasks.weights.layouts import backbone_state
from mnv2_tasks.weights.pretrained import fill_backbone

WIDTHS = (0.35, 0.5, 0.75, 1.0, 1.4)
# Our taps, by the nodes of torchvision's network that they must equal.
NODES = {
    "features.1": "c1",
    "features.3": "c2",
    "features.6": "c3",
    "features.13": "c4",
    "features.14.conv.0": "c4x",
    "features.17": "c5",
    "features.18": "c5x",
}


def fill_norms(module: torch.nn.Module) -> None:
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_equals_torchvision(width, training):
    torch.manual_seed(0)
    theirs = mobilenet_v2(width_mult=width)
    fill_norms(theirs)
    ours = MobileNetV2(width)
    ours.load_state_dict(backbone_state(theirs.state_dict(), "torchvision"), strict=True)
    theirs.train(training), ours.train(training)
    image = torch.rand(2, 3, 97, 128)
    features = create_feature_extractor(theirs, train_return_nodes=NODES, eval_return_nodes=NODES).train(training)
    wanted, found = features(image), ours(image)
    for name, tap in wanted.items():
        assert (found[name] - tap).abs().max() == 0.0, name


def test_training_steps_equal_torchvision():
    torch.manual_seed(0)
    theirs = mobilenet_v2(width_mult=0.5).train()
    ours = MobileNetV2(0.5).train()
    ours.load_state_dict(backbone_state(theirs.state_dict(), "torchvision"))
    image = torch.rand(4, 3, 64, 64)
    theirs.features(image).square().mean().backward()
    ours(image)["c5x"].square().mean().backward()
    assert torch.equal(ours.stem[0].weight.grad, theirs.features[0][0].weight.grad)
    again = backbone_state(theirs.state_dict(), "torchvision")  # running statistics too
    assert all(torch.equal(value, again[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_equals_timm(output_stride):
    torch.manual_seed(0)
    # timm shrinks the last convolution's input only from width 1.1 on; at 1.0 the structures are the same.
    theirs = timm.create_model("mobilenetv2_100", output_stride=output_stride).eval()
    fill_norms(theirs)
    ours = MobileNetV2(output_stride=output_stride).eval()
    ours.load_state_dict(backbone_state(theirs.state_dict(), "timm"), strict=True)
    image = torch.rand(2, 3, 96, 128)
    assert (ours(image)["c5x"] - theirs.forward_features(image)).abs().max() == 0.0


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("width", [0.35, 1.0, 1.4])
def test_declared_taps_are_real(width, output_stride, padding):
    backbone = MobileNetV2(width, output_stride, padding=padding).eval()
    for height, width_ in ((64, 96), (65, 33)):
        for name, tap in backbone(torch.rand(1, 3, height, width_)).items():
            declared = backbone.taps[name]
            assert tap.shape[1:] == (
                declared.channels,
                -(-height // declared.stride),
                -(-width_ // declared.stride),
            ), name


def test_taps_of_the_paper():
    taps = MobileNetV2().taps
    assert {name: taps[name] for name in ("c1", "c2", "c3", "c4", "c4x", "c5", "c5x")} == {
        "c1": Tap(16, 2),
        "c2": Tap(24, 4),
        "c3": Tap(32, 8),
        "c4": Tap(96, 16),
        "c4x": Tap(576, 16),
        "c5": Tap(320, 32),
        "c5x": Tap(1280, 32),
    }
    assert MobileNetV2(0.5).taps["c5x"].channels == 1280
    assert MobileNetV2(1.4).taps["c5x"].channels == 1792


def test_rounded_channels():
    assert [round_channels(c) for c in (8.4, 11.2, 33.6, 1, 44.8)] == [8, 16, 32, 8, 48]
    assert all(round_channels(c) >= 0.9 * c for c in range(8, 2000))


@pytest.mark.parametrize("size", [9, 10, 33, 64])
def test_same_padding_is_tensorflows(size):
    conv = SamePadConv2d(2, 3, 3, 2)
    image = torch.rand(1, 2, size, size)
    before = size % 2  # 0 before and 1 after on even sizes, 1 and 1 on odd ones
    padded = torch.nn.functional.pad(image, (before, 1, before, 1))
    assert torch.equal(conv(image), torch.nn.functional.conv2d(padded, conv.weight, conv.bias, stride=2))


def test_both_paddings_agree_on_odd_sizes():
    torch.manual_seed(0)
    same, symmetric = MobileNetV2(0.35, padding="same").eval(), MobileNetV2(0.35).eval()
    symmetric.load_state_dict(same.state_dict())
    image = torch.rand(1, 3, 97, 161)  # 32 k + 1
    assert torch.equal(same(image)["c5x"], symmetric(image)["c5x"])


def test_dilation_keeps_the_weights():
    coarse, fine = MobileNetV2(0.35).eval(), MobileNetV2(0.35, 8).eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(coarse(image)["c3"], fine(image)["c3"])


def test_keep_prunes_what_nothing_uses():
    backbone = MobileNetV2(0.35)
    backbone.keep(["c3", "c5"])
    taps = backbone(torch.rand(2, 3, 64, 64))
    assert set(taps) == {"c3", "c5"} and backbone.last is None
    sum(tap.sum() for tap in taps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())
    backbone.keep(["c3"])
    assert len(backbone.blocks) == 6
    with pytest.raises(InputError, match="no tap"):
        backbone.keep(["c9"])


def test_weights_start_as_published():
    weights = MobileNetV2().blocks[12].linear[0].weight
    assert weights.std().item() == pytest.approx(0.09 * 0.88, rel=0.02)  # truncated at two deviations
    assert weights.abs().max() <= 0.18


def test_bad_settings_name_the_fix():
    for settings in ({"output_stride": 4}, {"padding": "valid"}, {"width": 0}):
        with pytest.raises(InputError, match="backbone"):
            MobileNetV2(**settings)


def test_shared_imagenet_weights_load_with_both_paddings(shared):
    path = shared / "weights" / "mobilenet_v2_1.0_imagenet.npz"
    for padding in ("same", "symmetric"):
        backbone = MobileNetV2(padding=padding).eval()
        fill_backbone(backbone, path)
        assert backbone(torch.rand(1, 3, 96, 96))["c5x"].isfinite().all()


def test_zero_init_residual_starts_blocks_as_the_identity():
    backbone = MobileNetV2(0.35, zero_init_residual=True).eval()
    x = torch.rand(1, 8, 8, 8)
    block = backbone.blocks[2]
    assert block.shortcut and torch.equal(block(x), x)


def test_frozen_layers_stay_as_they_are():
    backbone = MobileNetV2(0.35, freeze_to="c2").train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], 0.1)
    backbone(torch.rand(2, 3, 64, 64))["c5x"].sum().backward()
    optimizer.step()
    for name, value in backbone.state_dict().items():
        frozen = name.startswith(("stem.", "blocks.0.", "blocks.1.", "blocks.2."))
        if frozen or "weight" in name:
            assert torch.equal(value, before[name]) == frozen, name
    with pytest.raises(InputError, match="freeze_to"):
        MobileNetV2(freeze_to="c9")


def test_frozen_norms_train_as_they_evaluate_and_keep_their_statistics():
    backbone = MobileNetV2(0.35, freeze_norm=True)
    images, before = torch.rand(2, 3, 64, 64), {n: b.clone() for n, b in backbone.named_buffers()}
    for norm in backbone.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            assert norm.weight.requires_grad and norm.bias.requires_grad
    trained = backbone.train()(images)["c5x"]
    trained.sum().backward()
    assert torch.equal(trained, backbone.eval()(images)["c5x"])
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
    assert all(parameter.grad is not None for parameter in backbone.parameters())
