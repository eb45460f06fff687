"""MobileNetV2 as a trunk, and MobileNetV1 beside it: an image in, named feature taps out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from mnv2_tasks.blocks import InvertedResidual, Norm, Padding, Separable, conv_bn
from mnv2_tasks.errors import InputError
from mnv2_tasks.freezing import Freezing

# Table 2 of the paper: expansion t, channels c, repeats n, stride s of the first block.
STAGES = (
    # t,  c,   n, s
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LAST_CHANNELS = 1280
# Table 1 of MobileNetV1 (arXiv 1704.04861), read the same way.
STAGES_V1 = (
    (1, 64, 1, 1),
    (1, 128, 2, 2),
    (1, 256, 2, 2),
    (1, 512, 6, 2),
    (1, 1024, 2, 2),
)


@dataclass(frozen=True)
class Tap:
    """What a head needs to know of a feature map: its channels, and how many input pixels one of its cells spans."""

    channels: int
    stride: int


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one of it, and never more than 10% below what was asked."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class MobileNetV2(nn.Module):
    """Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv 1801.04381), Table 2.

    forward: (B, in_channels, H, W) float -> {tap name: (B, channels, ceil(H / stride), ceil(W / stride))}

    `taps` declares every tap at construction. `cK` is the last bottleneck before the next halving; `cKx` is the same
    place after expansion: `c4x` is the first SSDLite source ("expansion of layer 15"), `c5x` the last 1x1
    convolution. Names are levels, not strides: at `output_stride=16` c4 and c5 share a stride.

    Args:
        width: the width multiplier; below 1 the last convolution keeps its 1280 channels.
        expansion: in place of Table 2's 6; its first stage stays without.
        divisor: of every channel count; 8 as published, less for widths that cost just so much (see `equal_cost`).
        output_stride: 8, 16 or 32 (with a stem of stride 2); below 32, stride turns into dilation; weights stay valid.
        in_channels: of the image.
        stem_stride: 2 as published; 1 for images of 28 to 32 pixels, which halves the stride of every tap.
        block: `block(in_channels, out_channels, stride=, expansion=, dilation=, layer=)` with `hidden_channels`,
            `expand(x)` and `project(hidden, x)`, see `mnv2_tasks.blocks`; None: the network's own.
        padding: "symmetric" (torch's) or "same" (TensorFlow's; for weights that come from there).
        norm_eps, norm_momentum: of every batch norm.
        zero_init_residual: start blocks with a shortcut as the identity (their last norm at 0, Goyal et al., arXiv
            1706.02677, section 5.1); training from scratch then starts several times faster.
        freeze_to: a tap; the layers up to it keep their weights and norm statistics, which spares their backward pass.
        freeze: True keeps all layers so; a number, for so many epochs (see `freezing.Freezing`).
        freeze_norm: norms keep the statistics that they have, in training too; their scales and shifts learn. For
            pretrained weights with several data sets, whose statistics differ, or with very small batches. None: no.

    Weights start as in the authors' code (TensorFlow-Slim's mobilenet_v2 training scope): truncated normal with a
    standard deviation of 0.09; batch norm at 1 and 0.
    """

    stages: tuple[tuple[float, int, int, int], ...] = STAGES
    last_channels: int | None = LAST_CHANNELS  # of the last 1x1 convolution, where there is one
    own_block: Callable[..., Any] = InvertedResidual

    def __init__(
        self,
        width: float = 1.0,
        output_stride: int = 32,
        *,
        expansion: float = 6,
        divisor: int = 8,
        in_channels: int = 3,
        stem_stride: int = 2,
        block: Callable[..., Any] | None = None,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
        zero_init_residual: bool = False,
        freeze_to: str | None = None,
        freeze: bool | int = False,
        freeze_norm: bool | None = None,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16, 32):
            raise InputError(f"backbone.output_stride is {output_stride}: use 8, 16 or 32")
        if padding not in ("symmetric", "same"):
            raise InputError(f"backbone.padding is {padding!r}: use symmetric (torch's) or same (TensorFlow's)")
        if width <= 0 or in_channels < 1:
            raise InputError(f"backbone.width is {width}, in_channels {in_channels}: both must be above 0")
        if expansion < 1 or divisor < 1:
            raise InputError(f"backbone.expansion is {expansion}, divisor {divisor}: both must be at least 1")
        if stem_stride not in (1, 2):
            raise InputError(f"backbone.stem_stride is {stem_stride}: use 2, or 1 for small images")
        layer = partial(conv_bn, padding=padding, norm=Norm(norm_eps, norm_momentum))

        rounded = partial(round_channels, divisor=divisor)
        channels = rounded(STEM_CHANNELS * width)
        self.stem = layer(in_channels, channels, stride=stem_stride)
        self.blocks = nn.ModuleList()
        self.taps: dict[str, Tap] = {}
        self._hidden_taps: dict[int, str] = {}  # block index -> name of the tap after its expansion
        self._block_taps: dict[int, str] = {}  # block index -> name of the tap after it
        level, stride, dilation = 1, 2, 1
        shrink = 2 // stem_stride  # strides below count as with the published stem
        for t, c, n, s in self.stages:
            out_channels = rounded(c * width)
            t = t if t == 1 else expansion
            for i in range(n):
                index = len(self.blocks)
                block_stride, next_dilation = (s if i == 0 else 1), dilation
                halves = block_stride == 2
                if halves:
                    self._add_tap(f"c{level}", Tap(channels, stride // shrink), self._block_taps, index - 1)
                    if stride == output_stride:  # dilate what follows instead of striding
                        block_stride, next_dilation = 1, dilation * 2
                made = (block or self.own_block)(
                    channels, out_channels, stride=block_stride, expansion=t, dilation=dilation, layer=layer
                )
                if halves:
                    self._add_tap(f"c{level}x", Tap(made.hidden_channels, stride // shrink), self._hidden_taps, index)
                    level += 1
                self.blocks.append(made)
                channels, stride, dilation = out_channels, stride * block_stride, next_dilation
        self._add_tap(f"c{level}", Tap(channels, stride // shrink), self._block_taps, len(self.blocks) - 1)
        self.last: nn.Module | None = nn.Identity()
        if self.last_channels:
            last_channels = rounded(self.last_channels * max(1.0, width))
            self.last = layer(channels, last_channels, kernel_size=1)
            channels = last_channels
        self._last_tap = f"c{level}x"
        self.taps[self._last_tap] = Tap(channels, stride // shrink)
        self._kept = set(self.taps)
        self.apply(partial(init_weights, std=0.09))
        if zero_init_residual:
            residual: Any
            for residual in self.blocks:
                residual.zero_init()
        always = self._layers_to(freeze_to) if freeze_to else []
        self.freezing = Freezing(self, always, whole=freeze, norms=bool(freeze_norm))
        self.train()

    def _add_tap(self, name: str, tap: Tap, places: dict[int, str], index: int) -> None:
        self.taps[name] = tap
        places[index] = name

    def _layers_to(self, tap: str) -> list[nn.Module]:
        for index, name in self._block_taps.items():
            if name == tap:
                return [self.stem, *self.blocks[: index + 1]]
        raise InputError(f"backbone.freeze_to is {tap!r}: use one of {', '.join(self._block_taps.values())}")

    def train(self, mode: bool = True) -> "MobileNetV2":
        super().train(mode)
        self.freezing.hold()
        return self

    def keep(self, names: Iterable[str]) -> None:
        """Return only these taps from now on, and drop the layers behind the deepest of them.

        A parameter that no head uses would stall multi-process training.
        """
        names = set(names)
        if unknown := names - set(self.there):
            raise InputError(f"the backbone has no tap {', '.join(sorted(unknown))}; it has {', '.join(self.there)}")
        self._kept = names
        if self._last_tap in names:
            return
        self.last = None
        self.blocks = self.blocks[: max((self._places[name] for name in names), default=-1) + 1]

    @property
    def _places(self) -> dict[str, int]:
        """{tap: the index of its block}; the last convolution's is not among them."""
        return {tap: i for found in (self._hidden_taps, self._block_taps) for i, tap in found.items()}

    @property
    def there(self) -> tuple[str, ...]:
        """The taps whose layers `keep` has not dropped, the finest first."""
        places = self._places
        return tuple(t for t in self.taps if (places[t] < len(self.blocks) if t in places else self.last is not None))

    @property
    def kept(self) -> tuple[str, ...]:
        """The taps that forward returns, the finest first."""
        return tuple(name for name in self.taps if name in self._kept)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        taps: dict[str, Tensor] = {}
        x = self.stem(x)  # (B, 32 w, H / 2, W / 2)
        block: Any
        for index, block in enumerate(self.blocks):
            hidden = block.expand(x)
            if self._hidden_taps.get(index) in self._kept:
                taps[self._hidden_taps[index]] = hidden
            x = block.project(hidden, x)
            if self._block_taps.get(index) in self._kept:
                taps[self._block_taps[index]] = x
        if self.last is not None:
            taps[self._last_tap] = self.last(x)  # (B, 1280 max(1, w), H / stride, W / stride)
        return taps


class MobileNetV1(MobileNetV2):
    """Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications" (arXiv
    1704.04861), Table 1, with the same taps and settings.

    Its blocks have no expansion and its end no further convolution: `cKx` is the same tensor as `cK`, and `expansion`
    is without effect. Its head comes right after `c5`.
    """

    stages = STAGES_V1
    last_channels = None
    own_block = Separable


def init_weights(module: nn.Module, std: float) -> None:
    """Truncated normal for convolutions, zero biases; for `nn.Module.apply`. Batch norm starts at 1 and 0 anyway."""
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
