"""DeepLabv3-lite: per-pixel classes from the backbone's last bottleneck (section 6.3 of the paper)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnv2_tasks.backbone import Tap
from mnv2_tasks.blocks import Norm, conv_bn
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Taps, Targets, segmenter
from mnv2_tasks.heads.mask_losses import Rule
from mnv2_tasks.heads.segmenter import MaskLoss
from mnv2_tasks.heads.views import Views, predict_logits
from mnv2_tasks.samples import resize

RATES = (6, 12, 18)  # of ASPP at output stride 16; twice that at 8 (arXiv 1706.05587, section 4)


class Outputs(NamedTuple):
    logits: Tensor  # (B, K, H, W) float32, at the size of the input
    auxiliary: Tensor | None = None  # the same, of the auxiliary layers; in training alone


class DeepLabV3(segmenter.Segmenter):
    """A 1x1 convolution beside image pooling, joined by another, then a linear 1x1 to the classes; then upsampled.

    Targets, batched: mask (B, H, W) uint8, 255 where unknown; for `update` whole and whole_size too.

    Args:
        taps, num_classes: what the backbone declares; classes with the background, where there is one.
        channels: of the three hidden layers.
        aspp: None (the paper's light head), or atrous spatial pyramid pooling of "separable" or "full" convolutions.
        skips: taps finer than c5, the coarsest first, whose own linear 1x1 prediction is added to the logits at their
            stride, as in FCN (arXiv 1411.4038, section 4.2): edges and thin things for next to no cost. Those after
            expansion (c4x, c3x, c2x) have six times the channels to read from.
        dropout: before the last layer.
        loss, class_weights: see `MaskLoss`.
        auxiliary: weight of the loss of a second, shallower prediction from `auxiliary_tap`; 0: none.
        merge: for a head that was trained on more classes: the trained classes that make up each class of the data,
            whose probabilities are added up.
        scales, flip, window, overlap: views that `infer` averages in evaluation (see `views.Views`).
        align_corners: how the logits are upsampled; true for weights that were trained so (TensorFlow's).
        norm_eps, norm_momentum: as in the backbone.
    """

    needs: tuple[str, ...] = ("c5",)
    strides = (16, 8, 32)

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        channels: int = 256,
        aspp: Literal["separable", "full"] | None = None,
        skips: Sequence[str] = (),
        dropout: float = 0.1,
        loss: str | Mapping[str, float] = "cross_entropy",
        class_weights: Rule | Sequence[float] | None = None,
        auxiliary: float = 0.0,
        auxiliary_tap: str = "c4",
        merge: Sequence[Sequence[int]] | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: Sequence[int] | None = None,
        overlap: float = 0.33,
        align_corners: bool = False,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if aspp not in (None, "separable", "full"):
            raise InputError(f"head.aspp is {aspp!r}: use null, separable or full")
        if window is not None and (len(window) != 2 or min(window) < 32):
            raise InputError(f"head.window is {list(window)}: give [height, width] of at least 32, or null")
        trained = num_classes if merge is None else _check_merge(merge, num_classes)
        self.merge = None if merge is None else [list(group) for group in merge]
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.auxiliary = auxiliary
        self.views = Views(tuple(scales), flip, None if window is None else tuple(window), overlap)
        self.has_views = self.views.several
        norm = Norm(norm_eps, norm_momentum)
        self.mask_loss = MaskLoss(num_classes, loss, class_weights)
        layer = partial(conv_bn, norm=norm)
        c5 = taps["c5"]
        if aspp is None:
            self.aspp0 = layer(c5.channels, channels, kernel_size=1)
            self.image_pooling = layer(c5.channels, channels, kernel_size=1)
            self.concat_projection = layer(2 * channels, channels, kernel_size=1)
        self.aspp = None if aspp is None else _aspp(c5, channels, aspp == "separable", norm)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Conv2d(channels, trained, 1)
        if wrong := [tap for tap in skips if tap not in taps or taps[tap].stride > c5.stride]:
            raise InputError(f"head.skips: no tap {wrong[0]!r} finer than c5; the backbone has {', '.join(taps)}")
        self.skips = tuple(skips)
        self.needs = tuple(dict.fromkeys(("c5", *skips)))
        self.skip_layers = nn.ModuleList(nn.Conv2d(taps[tap].channels, trained, 1) for tap in skips)
        self.auxiliary_layers: nn.Module | None = None
        last: list[Any] = [self.logits, *self.skip_layers]
        if auxiliary:
            if auxiliary_tap not in taps:
                raise InputError(f"head.auxiliary_tap is {auxiliary_tap!r}; the backbone has {', '.join(taps)}")
            self.auxiliary_tap = auxiliary_tap
            self.needs = tuple(dict.fromkeys((*self.needs, auxiliary_tap)))
            width = taps[auxiliary_tap].channels
            last.append(nn.Conv2d(width, trained, 1))
            self.auxiliary_layers = nn.Sequential(layer(width, width), last[-1])
        for conv in last:  # so that all classes are about equally likely at first
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.constant_(conv.bias, 0.0)

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        x = taps["c5"]
        if self.training and len(x) < 2:
            raise InputError("loader.batch_size: the norm after image pooling needs at least 2 images a process")
        if self.aspp is None:
            pooled = self.image_pooling(x.mean((2, 3), keepdim=True))
            pooled = F.interpolate(pooled, x.shape[-2:])  # the one value everywhere; LiteRT has no expand for it
            x = self.concat_projection(torch.cat([pooled, self.aspp0(x)], 1))  # (B, channels, H / stride, W / stride)
        else:
            x = self.aspp(x)
        logits = self.logits(self.dropout(x))
        for tap, layer in zip(self.skips, self.skip_layers, strict=True):
            finer = layer(taps[tap])  # (B, K, H / its stride, W / its stride)
            side = (finer.shape[-2], finer.shape[-1])
            logits = finer + resize(logits, side, align_corners=self.align_corners)
        logits = self._upsample(logits, size)
        if self.auxiliary_layers is None or not self.training:
            return Outputs(logits)
        return Outputs(logits, self._upsample(self.auxiliary_layers(taps[self.auxiliary_tap]), size))

    def _upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        logits = resize(logits.float(), size, align_corners=self.align_corners)
        if self.merge is None:
            return logits
        return torch.stack([logits[:, group].logsumexp(1) for group in self.merge], 1)

    def infer(self, call: Callable[[Tensor], Outputs], images: Tensor) -> Outputs:
        """The outputs of `call` (the model up to this head), averaged over the views that the settings ask for."""
        return Outputs(predict_logits(lambda view: call(view).logits, images, self.views))

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """{`<name>_loss`} for each of the losses, and auxiliary_loss: float32 means over the known pixels."""
        found = super().loss(outputs, targets)
        if outputs.auxiliary is not None:
            parts = self.mask_loss(outputs.auxiliary, targets["mask"])
            found["auxiliary_loss"] = self.auxiliary * torch.stack(list(parts.values())).sum()
        return found


def _check_merge(merge: Sequence[Sequence[int]], num_classes: int) -> int:
    """The number of trained classes; each must be in one group."""
    given = sorted(index for group in merge for index in group)
    if len(merge) != num_classes or given != list(range(len(given))) or not all(map(len, merge)):
        raise InputError(
            f"head.merge has {len(merge)} groups for {num_classes} classes of the data: give one group each, in the "
            "order of the data's classes, and every trained class, counted from 0, in one of them"
        )
    return len(given)


def _aspp(tap: Tap, channels: int, separable: bool, norm: Norm) -> nn.Module:
    """(B, C, h, w) -> (B, channels, h, w); rates follow the stride, so that they span the same part of the image."""
    from segmentation_models_pytorch.decoders.deeplabv3.decoder import ASPP

    module = ASPP(tap.channels, channels, [rate * 16 // tap.stride for rate in RATES], separable, dropout=0.0)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = norm.eps
            layer.momentum = norm.momentum
    return module
