"""The backbone in other people's models: as an encoder of segmentation_models.pytorch, and in torchvision's detectors.

Both take images normalised as the backbone's weights want them, and both drop the layers that none of `taps` needs.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mnv2_tasks.backbone import MobileNetV2


class SmpEncoder(nn.Module):
    """What segmentation_models.pytorch asks of an encoder: `out_channels`, `output_stride`, and a list of features.

    forward: (B, C, H, W) -> [the image, then the taps from fine to coarse]
    """

    def __init__(self, backbone: MobileNetV2, taps: tuple[str, ...]) -> None:
        super().__init__()
        backbone.keep(taps)
        stem = backbone.stem[0]
        self.backbone = backbone
        self.taps = taps
        self.out_channels = [stem.in_channels, *(backbone.taps[name].channels for name in taps)]
        self.output_stride = backbone.taps[taps[-1]].stride

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.backbone(x)
        return [x, *(features[name] for name in self.taps)]


def as_smp_encoder(backbone: MobileNetV2, *, taps: Sequence[str] = ("c1", "c2", "c3", "c4", "c5x")) -> SmpEncoder:
    """The backbone as `model.encoder` of any segmentation_models.pytorch model.

    The default taps are the places, and at width 1 the channels, of smp's own "mobilenet_v2", so that its models take
    the encoder as they are, and with equal weights give equal outputs at output stride 32 (below, smp starts to
    dilate one block earlier):

        model = smp.Unet("mobilenet_v2", encoder_weights=None, classes=21)
        model.encoder = as_smp_encoder(MobileNetV2())

    Other taps (with c5 for c5x the last convolution is spared) and widths need a decoder for their channels:

        model.encoder = as_smp_encoder(MobileNetV2(0.5), taps=("c1", "c2", "c3", "c4", "c5"))
        model.decoder = UnetDecoder(model.encoder.out_channels, (256, 128, 64, 32, 16))

    Args:
        taps: one a halving, from fine to coarse; three or four make an encoder of that depth. smp's DeepLabV3+ wants
            a backbone of output stride 16 or 8.
    """
    return SmpEncoder(backbone, tuple(taps))


class TorchvisionBackbone(nn.Module):
    """The backbone with a feature pyramid (arXiv 1612.03144), as torchvision's detectors want it.

    forward: (B, C, H, W) -> {"0": finest, "1", ..., "pool": half the coarsest}, each with `out_channels` channels
    """

    def __init__(self, backbone: MobileNetV2, taps: tuple[str, ...], channels: int) -> None:
        super().__init__()
        backbone.keep(taps)
        self.backbone = backbone
        self.taps = taps
        self.out_channels = channels
        widths = [backbone.taps[name].channels for name in taps]
        self.fpn = FeaturePyramidNetwork(widths, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        return self.fpn({str(level): features[name] for level, name in enumerate(self.taps)})


def as_torchvision_backbone(
    backbone: MobileNetV2, *, taps: Sequence[str] = ("c2", "c3", "c4", "c5"), fpn_channels: int = 256
) -> TorchvisionBackbone:
    """The backbone with a feature pyramid, for the detectors of torchvision.models.detection:

        model = FasterRCNN(as_torchvision_backbone(MobileNetV2()), num_classes=91)

    Four taps and the pooled level fit torchvision's default anchors; with others give it an anchor generator and a
    `MultiScaleRoIAlign` of one's own. These models normalise images with ImageNet's mean and deviation by themselves.
    """
    return TorchvisionBackbone(backbone, tuple(taps), fpn_channels)
