"""U-Net, FPN and DeepLabV3+: decoders of segmentation_models.pytorch on our taps."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor, nn

from mnv2_tasks.backbone import Tap
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Taps, segmenter
from mnv2_tasks.heads.mask_losses import Rule
from mnv2_tasks.heads.segmenter import MaskLoss
from mnv2_tasks.samples import resize


class Outputs(NamedTuple):
    logits: Tensor  # (B, K, H, W) float32, at the size of the input


class Decoded(segmenter.Segmenter):
    """A decoder, a convolution to the classes, and bilinear upsampling to the input, as smp's models join them.

    Args:
        decoder: [the image, then the taps of `needs`] -> (B, channels, h, w).
        channels, kernel_size: of the maps before the last convolution, and of that convolution.
        multiple: sides of the input must be multiples of it, since the decoder doubles its maps.
        loss, class_weights: see `MaskLoss`.
    """

    needs: tuple[str, ...]
    strides: tuple[int, ...]

    def __init__(
        self,
        decoder: nn.Module,
        channels: int,
        num_classes: int,
        *,
        kernel_size: int,
        multiple: int,
        loss: str | Mapping[str, float],
        class_weights: Rule | Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.multiple = multiple
        self.logits = nn.Conv2d(channels, num_classes, kernel_size, padding=kernel_size // 2)
        self.mask_loss = MaskLoss(num_classes, loss, class_weights)
        initialize_decoder(self.decoder)
        initialize_head(self.logits)

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        if size[0] % self.multiple or size[1] % self.multiple:
            raise InputError(
                f"size={list(size)}: {type(self).__name__} needs sides that are multiples of {self.multiple}"
            )
        first = taps[self.needs[0]]
        image = first.new_zeros(()).expand(1, 1, *size)  # decoders ask for nothing of it but its size
        decoded = self.decoder([image, *(taps[name] for name in self.needs)])
        return Outputs(resize(self.logits(decoded).float(), size, align_corners=True))


class Unet(Decoded):
    """U-Net (arXiv 1505.04597): upsampled step by step, each joined with the tap of its size, to the full size.

    Args:
        taps, num_classes: what the backbone declares; classes with the background, where there is one.
        channels: of the five steps, from coarse to fine.
        loss, class_weights: see `MaskLoss`.
    """

    needs = ("c1", "c2", "c3", "c4", "c5")
    strides = (32, 16, 8)

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        channels: Sequence[int] = (256, 128, 64, 32, 16),
        loss: str | Mapping[str, float] = "cross_entropy",
        class_weights: Rule | Sequence[float] | None = None,
    ) -> None:
        if len(channels) != len(self.needs):
            raise InputError(f"head.channels is {list(channels)}: give {len(self.needs)}, one a step")
        decoder = UnetDecoder(_channels(taps, self.needs), tuple(channels))
        super().__init__(
            decoder, channels[-1], num_classes, kernel_size=3, multiple=1, loss=loss, class_weights=class_weights
        )


class FPN(Decoded):
    """A feature pyramid whose levels are upsampled and added up (arXiv 1901.02446): the whole at stride 4.

    Args:
        taps, num_classes: what the backbone declares; classes with the background, where there is one.
        pyramid_channels, channels: of the pyramid's levels, and of the maps that are added up (a multiple of 32).
        dropout: of whole channels of their sum.
        loss, class_weights: see `MaskLoss`.
    """

    needs = ("c2", "c3", "c4", "c5")
    strides = (32,)

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        pyramid_channels: int = 256,
        channels: int = 128,
        dropout: float = 0.2,
        loss: str | Mapping[str, float] = "cross_entropy",
        class_weights: Rule | Sequence[float] | None = None,
    ) -> None:
        steps = [taps[name].stride / taps["c2"].stride for name in self.needs]
        if steps != [1, 2, 4, 8]:
            raise InputError("head FPN doubles every level: use backbone.output_stride=32")
        if channels % 32:
            raise InputError(f"head.channels is {channels}: use a multiple of 32, for its group norm")
        decoder = FPNDecoder(
            _channels(taps, self.needs),
            pyramid_channels=pyramid_channels,
            segmentation_channels=channels,
            dropout=dropout,
        )
        multiple = taps["c5"].stride
        super().__init__(
            decoder, channels, num_classes, kernel_size=1, multiple=multiple, loss=loss, class_weights=class_weights
        )


class DeepLabV3Plus(Decoded):
    """Pyramid pooling on c5, upsampled and refined with c2, at stride 4 (arXiv 1802.02611).

    Args:
        taps, num_classes: what the backbone declares; classes with the background, where there is one.
        channels: of every hidden layer.
        rates: dilations of the pyramid pooling.
        separable: convolutions of the pyramid pooling.
        dropout: after it.
        loss, class_weights: see `MaskLoss`.
    """

    needs = ("c1", "c2", "c5")  # smp's decoder takes the tap of stride 4 by its place behind the image and c1
    strides = (16, 8)

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        channels: int = 256,
        rates: Sequence[int] = (12, 24, 36),
        separable: bool = True,
        dropout: float = 0.5,
        loss: str | Mapping[str, float] = "cross_entropy",
        class_weights: Rule | Sequence[float] | None = None,
    ) -> None:
        step = taps["c5"].stride // taps["c2"].stride
        if step not in (2, 4):
            raise InputError("head DeepLabV3Plus upsamples by 4 or 2: use backbone.output_stride=16 or 8")
        if len(rates) != 3:
            raise InputError(f"head.rates is {list(rates)}: give three")
        decoder = DeepLabV3PlusDecoder(
            _channels(taps, self.needs),
            encoder_depth=5,
            out_channels=channels,
            atrous_rates=tuple(rates),
            output_stride=16 if step == 4 else 8,
            aspp_separable=separable,
            aspp_dropout=dropout,
        )
        multiple = taps["c5"].stride
        super().__init__(
            decoder, channels, num_classes, kernel_size=1, multiple=multiple, loss=loss, class_weights=class_weights
        )


def _channels(taps: dict[str, Tap], needs: Sequence[str]) -> list[int]:
    """Of what a decoder is given: the image, whose channels none looks at, then the taps."""
    return [3, *(taps[name].channels for name in needs)]
