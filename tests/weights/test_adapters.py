"""Our trunk in other people's models: the same features, outputs and gradients as with their own, and training."""

import pytest
import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.weights.adapters import as_smp_encoder, as_torchvision_backbone
from mnv2_tasks.weights.layouts import backbone_state
from mnv2_tasks.weights.tensors import load_exactly


def randomise(model: nn.Module) -> None:
    """Norm statistics as after training: with those of a new model a wrong order of layers may go unseen."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)


def twin_of(encoder: nn.Module) -> MobileNetV2:
    """Our backbone with the weights of smp's "mobilenet_v2" encoder."""
    backbone = MobileNetV2()
    load_exactly(backbone, backbone_state(dict(encoder.state_dict()), "smp"), "smp", hint="")
    return backbone


def test_features_equal_those_of_smps_own_encoder():
    theirs = smp.encoders.get_encoder("mobilenet_v2").eval()
    randomise(theirs)
    ours = as_smp_encoder(twin_of(theirs)).eval()
    assert ours.out_channels == theirs.out_channels and ours.output_stride == theirs.output_stride
    for size in ((64, 64), (65, 97)):
        image = torch.randn(2, 3, *size)
        with torch.no_grad():
            for mine, wanted in zip(ours(image), theirs(image), strict=True):
                assert torch.equal(mine, wanted)


@pytest.mark.parametrize("make", [smp.Unet, smp.UnetPlusPlus, smp.FPN, smp.PSPNet, smp.Linknet, smp.MAnet])
def test_smp_models_give_the_same_with_our_encoder(make):
    settings = {"encoder_depth": 3} if make is smp.PSPNet else {}
    model = make("mobilenet_v2", encoder_weights=None, classes=3, **settings).eval()
    randomise(model)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(image)
        places = ("c1", "c2", "c3") if make is smp.PSPNet else ("c1", "c2", "c3", "c4", "c5x")
        model.encoder = as_smp_encoder(twin_of(model.encoder), taps=places).eval()
        assert torch.equal(model(image), wanted)


def test_other_taps_and_widths_take_a_decoder_of_their_channels():
    model = smp.FPN("mobilenet_v2", encoder_weights=None, classes=2)
    model.encoder = as_smp_encoder(MobileNetV2(0.35), taps=("c1", "c2", "c3", "c4", "c5"))
    model.decoder = FPNDecoder(model.encoder.out_channels)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())  # nothing is left that would stall several processes


def test_deeplabv3plus_trains_on_our_dilated_encoder():
    model = smp.DeepLabV3Plus("mobilenet_v2", encoder_weights=None, classes=2)
    model.encoder = as_smp_encoder(MobileNetV2(output_stride=16))
    assert model.encoder.output_stride == 16
    out = model(torch.randn(2, 3, 64, 64))
    assert out.shape == (2, 2, 64, 64)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def detector(**settings) -> FasterRCNN:
    torch.manual_seed(0)
    backbone = as_torchvision_backbone(MobileNetV2(0.35), fpn_channels=32, **settings)
    return FasterRCNN(backbone, num_classes=3, min_size=96, max_size=96, box_batch_size_per_image=16)


def test_torchvisions_faster_rcnn_predicts_and_learns():
    model = detector()
    levels = model.backbone(torch.rand(1, 3, 128, 192))
    assert [tuple(x.shape[1:]) for x in levels.values()] == [(32, 128 // s, 192 // s) for s in (4, 8, 16, 32, 64)]
    images = [torch.rand(3, 96, 96), torch.rand(3, 60, 96)]
    targets = [
        {"boxes": torch.tensor([[10.0, 10.0, 50.0, 40.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    totals = []
    for _ in range(6):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < totals[0]
    found = model.eval()(images)
    assert len(found) == 2 and set(found[0]) == {"boxes", "labels", "scores"}


def test_other_taps_take_other_anchors():
    backbone = as_torchvision_backbone(MobileNetV2(0.35), taps=("c4", "c5"), fpn_channels=32)
    anchors = AnchorGenerator(((32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 3)
    model = FasterRCNN(backbone, 2, min_size=64, max_size=64, rpn_anchor_generator=anchors).eval()
    assert len(model([torch.rand(3, 64, 64)])) == 1


@pytest.mark.parametrize("adapt", [as_smp_encoder, as_torchvision_backbone])
def test_unknown_taps_are_named(adapt):
    with pytest.raises(InputError, match="c9.*it has c1"):
        adapt(MobileNetV2(0.35), taps=("c2", "c9"))
