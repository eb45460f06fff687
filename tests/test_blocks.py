"""The blocks that the inverted residual is compared with: equal to others' where there are others, and one contract."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck

from mnv2_tasks.backbone import MobileNetV1, MobileNetV2
from mnv2_tasks.blocks import Classic, InvertedResidual, Plain, Separable, conv_bn
from mnv2_tasks.complexity import madds, parameters
from mnv2_tasks.errors import InputError

BLOCKS = {
    "inverted": InvertedResidual,
    "nonlinear": lambda *a, **k: InvertedResidual(*a, **k, linear=False),
    "wide shortcut": lambda *a, **k: InvertedResidual(*a, **k, shortcut="expansion"),
    "no shortcut": lambda *a, **k: InvertedResidual(*a, **k, shortcut="none"),
    "5x5": lambda *a, **k: InvertedResidual(*a, **k, kernel_size=5, activation="hard_swish"),
    "separable": Separable,
    "plain": Plain,
    "classic": Classic,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_meets_one_contract(name):
    for stride, dilation, out in ((1, 1, 16), (2, 1, 24), (1, 2, 16), (1, 1, 24)):
        block = BLOCKS[name](16, out, stride=stride, expansion=6, dilation=dilation, layer=conv_bn)
        x = torch.rand(2, 16, 15, 18)
        hidden = block.expand(x)
        assert hidden.shape == (2, block.hidden_channels, 15, 18)
        y = block.project(hidden, x)
        assert y.shape == (2, out, -(-15 // stride), -(-18 // stride))
        y.square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_declared_taps_are_real_with_every_block(name, output_stride):
    backbone = MobileNetV2(0.35, output_stride, block=BLOCKS[name]).eval()
    _check_taps(backbone)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_declared_taps_of_mobilenet_v1_are_real(output_stride):
    _check_taps(MobileNetV1(0.25, output_stride).eval())


def _check_taps(backbone):
    found = backbone(torch.rand(1, 3, 65, 96))
    assert set(found) == set(backbone.taps)
    for name, tap in found.items():
        declared = backbone.taps[name]
        assert tap.shape[1:] == (declared.channels, -(-65 // declared.stride), -(-96 // declared.stride)), name


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [32, 64])
def test_classic_equals_torchvision(stride, channels):
    torch.manual_seed(0)
    down = None
    if stride != 1 or channels != 64:
        down = nn.Sequential(nn.Conv2d(channels, 64, 1, stride, bias=False), nn.BatchNorm2d(64))
    theirs = Bottleneck(channels, 16, stride, down).train()
    ours = Classic(channels, 64, stride=stride, activation="relu").train()
    state = {}
    for i, layer in enumerate(("conv1", "conv2", "conv3")):
        state |= {f"layers.{i}.0.{k}": v for k, v in getattr(theirs, layer).state_dict().items()}
        state |= {f"layers.{i}.1.{k}": v for k, v in getattr(theirs, f"bn{i + 1}").state_dict().items()}
    state |= {f"joined.{k}": v for k, v in (down.state_dict().items() if down else ())}
    ours.load_state_dict(state)
    x = torch.rand(2, channels, 9, 9)
    assert torch.equal(ours(x), theirs(x))


def test_mobilenet_v1_equals_timm():
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv1_100", num_classes=0, global_pool="").eval()
    ours = MobileNetV1().eval()
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    # The same layers in the same order: tensors are matched by place.
    values = iter(v for k, v in theirs.state_dict().items())
    ours.load_state_dict({name: next(values) for name in ours.state_dict()})
    assert next(values, None) is None
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5
    x = torch.rand(1, 3, 64, 64)
    assert (ours(x)["c5"] - theirs(x)).abs().max() == 0.0


def test_mobilenet_v1_costs_what_its_paper_prints():
    with torch.device("meta"):
        backbone = MobileNetV1().eval()
        cost = madds(backbone, torch.empty(1, 3, 224, 224)) + 1024 * 1000
    assert round(cost / 1e6) == 569 and round((parameters(backbone, folded=True) + 1024 * 1000) / 1e6, 1) == 4.2


def test_what_the_variants_change():
    torch.manual_seed(0)
    x = torch.rand(2, 16, 8, 8)
    published, narrow = InvertedResidual(16, 16), InvertedResidual(16, 16, shortcut="none")
    narrow.load_state_dict(published.state_dict())
    published.eval(), narrow.eval()
    assert torch.allclose(published(x), narrow(x) + x)
    wide = InvertedResidual(16, 16, shortcut="expansion").eval()
    wide.load_state_dict(published.state_dict())
    hidden = wide.expand(x)
    assert torch.allclose(wide(x), wide.linear(hidden + wide.depthwise(hidden)))
    activated = InvertedResidual(16, 16, linear=False).eval()
    assert (activated(x) - x).min() >= 0  # what is added to the shortcut has passed ReLU6
    counts = {
        name: parameters(BLOCKS[name](16, 16)) for name in ("inverted", "nonlinear", "wide shortcut", "no shortcut")
    }
    assert len(set(counts.values())) == 1
    assert MobileNetV2(expansion=4).blocks[5].hidden_channels == 4 * 32
    assert MobileNetV2(expansion=4).blocks[0].hidden_channels == 32
    assert MobileNetV2(0.3, divisor=1).taps["c3"].channels == 10


def test_zero_init_never_silences_a_block_for_good():
    for name, block in BLOCKS.items():
        backbone = MobileNetV2(0.35, block=block, zero_init_residual=True).train()
        optimizer = torch.optim.SGD(backbone.parameters(), 0.1)
        for _ in range(2):
            optimizer.zero_grad()
            backbone(torch.rand(2, 3, 64, 64))["c5x"].square().mean().backward()
            optimizer.step()
        assert all(p.grad is not None and p.grad.any() for p in backbone.blocks[2].parameters() if p.ndim > 1), name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shortcut": "wide"}, "shortcut"),
        ({"kernel_size": 4}, "kernel_size"),
        ({"activation": "relu7"}, "relu6"),
    ],
)
def test_bad_settings_name_the_fix(settings, words):
    with pytest.raises(InputError, match=words):
        InvertedResidual(16, 16, **settings)
