"""U-Net, FPN and DeepLabV3+ heads against segmentation_models.pytorch's own models, and their limits."""

import pytest
import segmentation_models_pytorch as smp
import torch

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.smp_decoders import FPN, DeepLabV3Plus, Unet
from mnv2_tasks.weights.adapters import as_smp_encoder

TAPS = ("c1", "c2", "c3", "c4", "c5")


def make(kind: type, stride: int = 32, **settings):
    torch.manual_seed(0)
    backbone = MobileNetV2(output_stride=stride)
    head = kind(backbone.taps, 3, **settings)
    return backbone.eval(), head.eval()


def smp_model(kind: type, channels: list[int]) -> torch.nn.Module:
    """smp's model with a decoder for our five taps."""
    model = {Unet: smp.Unet, FPN: smp.FPN, DeepLabV3Plus: smp.DeepLabV3Plus}[kind](
        "mobilenet_v2", encoder_weights=None, classes=3
    )
    plain = {
        Unet: lambda: type(model.decoder)(channels, (256, 128, 64, 32, 16)),
        FPN: lambda: type(model.decoder)(channels),
        DeepLabV3Plus: lambda: type(model.decoder)(
            channels, 5, 256, (12, 24, 36), output_stride=16, aspp_separable=True, aspp_dropout=0.5
        ),
    }
    model.decoder = plain[kind]()
    return model


@pytest.mark.parametrize(("kind", "stride"), [(Unet, 32), (FPN, 32), (DeepLabV3Plus, 16)])
def test_logits_equal_those_of_smps_model(kind, stride):
    backbone, head = make(kind, stride)
    encoder = as_smp_encoder(backbone, taps=TAPS)
    model = smp_model(kind, encoder.out_channels).eval()
    model.encoder = encoder
    model.decoder.load_state_dict(head.decoder.state_dict())
    model.segmentation_head[0].load_state_dict(head.logits.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(head(backbone(image), (64, 96)).logits, model(image))


@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.parametrize("size", [(65, 97), (32, 40)])
def test_unet_takes_any_size_and_stride(size, stride):
    backbone, head = make(Unet, stride)
    with torch.no_grad():
        assert head(backbone(torch.randn(1, 3, *size)), size).logits.shape == (1, 3, *size)


@pytest.mark.parametrize(("kind", "stride"), [(FPN, 32), (DeepLabV3Plus, 16)])
def test_sizes_that_do_not_fit_are_told(kind, stride):
    backbone, head = make(kind, stride)
    with torch.no_grad(), pytest.raises(InputError, match=rf"size=\[65, 96\].*multiples of {stride}"):
        head(backbone(torch.randn(1, 3, 65, 96)), (65, 96))


@pytest.mark.parametrize(
    ("kind", "stride", "settings", "words"),
    [
        (FPN, 16, {}, "output_stride=32"),
        (DeepLabV3Plus, 32, {}, "output_stride=16"),
        (Unet, 32, {"channels": (64, 32)}, "head.channels"),
        (FPN, 32, {"channels": 40}, "multiple of 32"),
        (Unet, 32, {"loss": "iou"}, "head.loss"),
        (Unet, 32, {"class_weights": "rare"}, "head.class_weights"),
        (Unet, 32, {"class_weights": (1.0, 2.0)}, "give 3"),
        (Unet, 32, {"class_weights": "balanced", "loss": "dice"}, "head.class_weights"),
        (DeepLabV3Plus, 16, {"rates": (6, 12)}, "head.rates"),
    ],
)
def test_bad_settings_name_the_fix(kind, stride, settings, words):
    with pytest.raises(InputError, match=words):
        make(kind, stride, **settings)


def test_class_weights_come_from_the_training_pixels_and_travel_along():
    head = make(Unet, class_weights="balanced")[1]
    assert "balanced" in head.balance(torch.tensor([900, 90, 10]))
    weights = head.mask_loss.class_weights
    assert weights[0] < weights[1] < weights[2]
    other = make(Unet, class_weights="balanced")[1]
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.mask_loss.class_weights, weights)
