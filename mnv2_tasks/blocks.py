"""The building blocks of the network: the inverted residual, and the blocks that it is compared with.

Every block is made as `block(in_channels, out_channels, stride=, expansion=, dilation=, layer=)` and works in two
halves, `hidden = block.expand(x)` and `y = block.project(hidden, x)`, so that a network can tap the expanded features,
which have `hidden_channels`. A block without an expansion taps its input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mnv2_tasks.errors import InputError

Padding = Literal["symmetric", "same"]
Layer = Callable[..., nn.Sequential]  # conv_bn with padding and norm settings filled in
Shortcut = Literal["bottleneck", "expansion", "none"]
ACTIVATIONS: dict[str, Callable[..., nn.Module]] = {
    "relu6": nn.ReLU6,
    "relu": nn.ReLU,
    "hard_swish": nn.Hardswish,
    "silu": nn.SiLU,
}


@dataclass(frozen=True)
class Norm:
    """The settings of every batch norm of a network."""

    eps: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not all(isinstance(value, (int, float)) for value in (self.eps, self.momentum)):
            raise InputError(f"backbone.norm_eps is {self.eps}, norm_momentum {self.momentum}: both must be numbers")


class SamePadConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's SAME does: what is odd goes to the right and the bottom.

    At stride 2 and kernel 3 that is 0 before and 1 after on even sizes, 1 and 1 on odd sizes. At stride 1 it is
    torch's symmetric padding.
    """

    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (-1, -2):
            kernel, stride, dilation = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
            size = input.shape[axis]
            # not -(-size // stride): where sizes are traced, some converters round that towards 0
            total = ((size + stride - 1) // stride - 1) * stride + (kernel - 1) * dilation + 1 - size
            total = max(total, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(input, pads))  # its own padding is 0


def conv_bn(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = lambda: nn.ReLU6(inplace=True),
    padding: Padding = "symmetric",
    norm: Norm = Norm(),
) -> nn.Sequential:
    """Convolution without bias, batch norm, activation: (B, in, H, W) -> (B, out, ceil(H / stride), ceil(W / stride)).

    `activation=None` makes it linear. `padding="same"` follows TensorFlow where the stride is 2.
    """
    same = padding == "same" and stride > 1
    conv = (SamePadConv2d if same else nn.Conv2d)(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=0 if same else dilation * (kernel_size - 1) // 2,
        dilation=dilation,
        groups=groups,
        bias=False,
    )
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels, eps=norm.eps, momentum=norm.momentum)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise), project (1x1, linear): section 3.3 and Table 1 of the paper.

    The shortcut joins the narrow ends, only where stride is 1 and the shapes match. Expansion 1 has no expansion layer.

    Args:
        linear: the projection has no activation; False: it has one, section 6.2 and Figure 6a's other curve.
        shortcut: "bottleneck" as published; "none"; or "expansion", Figure 6b's. The paper does not say where that one
            goes. Here it joins the two wide tensors, before and after the depthwise layer and both activated, in the
            very blocks that would have had the other one, so that only its place differs.
        kernel_size: of the depthwise layer: 3 as published, or any odd number.
        activation: relu6 as published, relu, hard_swish or silu.
    """

    expands = True  # whether `expansion` has an effect

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: float = 6,
        dilation: int = 1,
        layer: Layer = conv_bn,
        linear: bool = True,
        shortcut: Shortcut = "bottleneck",
        kernel_size: int = 3,
        activation: str = "relu6",
    ) -> None:
        super().__init__()
        if shortcut not in ("bottleneck", "expansion", "none"):
            raise InputError(f"backbone.block.shortcut is {shortcut!r}: use bottleneck, expansion or none")
        active = partial(layer, activation=_activation(activation))
        self.hidden_channels = round(in_channels * expansion)
        self.expand: nn.Module = nn.Identity()
        if self.hidden_channels != in_channels:
            self.expand = active(in_channels, self.hidden_channels, kernel_size=1)
        self.depthwise = active(
            self.hidden_channels,
            self.hidden_channels,
            kernel_size=_odd(kernel_size),
            stride=stride,
            dilation=dilation,
            groups=self.hidden_channels,
        )
        last = partial(layer, activation=None) if linear else active
        self.linear = last(self.hidden_channels, out_channels, kernel_size=1)
        self.shortcut = shortcut if stride == 1 and in_channels == out_channels else "none"

    def project(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, hidden_channels, H, W), (B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.depthwise(hidden)
        y = self.linear(hidden + y if self.shortcut == "expansion" else y)
        return x + y if self.shortcut == "bottleneck" else y

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x), x)

    def zero_init(self) -> None:
        """Start as the identity where there is a shortcut; not with an activation after it, which would stay at 0."""
        if self.shortcut == "bottleneck" and len(self.linear) == 2:
            _zero_norm(self.linear)


class _Unexpanded(nn.Module):
    """A block whose first half does nothing: its tap after expansion is its input."""

    expands = False
    layers: nn.Module

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.hidden_channels = in_channels

    def expand(self, x: Tensor) -> Tensor:
        return x

    def project(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, in, H, W) twice -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.layers(hidden)
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x), x)

    def zero_init(self) -> None:
        """Nothing: there is no shortcut."""


class Separable(_Unexpanded):
    """MobileNetV1's block (arXiv 1704.04861, Figure 3): depthwise, then 1x1, normalised and activated both.

    No expansion (`expansion` is ignored) and no shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: float = 1,
        dilation: int = 1,
        layer: Layer = conv_bn,
        kernel_size: int = 3,
        activation: str = "relu6",
    ) -> None:
        super().__init__(in_channels)
        active = partial(layer, activation=_activation(activation))
        settings = {"kernel_size": _odd(kernel_size), "stride": stride, "dilation": dilation, "groups": in_channels}
        self.layers = nn.Sequential(
            active(in_channels, in_channels, **settings), active(in_channels, out_channels, kernel_size=1)
        )


class Plain(_Unexpanded):
    """One full convolution, normalised and activated: no expansion (`expansion` is ignored) and no shortcut."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: float = 1,
        dilation: int = 1,
        layer: Layer = conv_bn,
        kernel_size: int = 3,
        activation: str = "relu6",
    ) -> None:
        super().__init__(in_channels)
        settings = {"kernel_size": _odd(kernel_size), "stride": stride, "dilation": dilation}
        self.layers = layer(in_channels, out_channels, **settings, activation=_activation(activation))


class Classic(_Unexpanded):
    """ResNet's bottleneck: wide, narrow, wide (arXiv 1512.03385, Figure 5, and option B where shapes differ).

    1x1 to `out_channels` over `reduction`, a full convolution there, 1x1 back without activation; the shortcut joins
    the wide ends, through a linear 1x1 convolution where their shapes differ, and the sum is activated. The stride is
    in the middle, as in torchvision. The table's expansion is ignored. The tap after expansion is the wide input.

    Args:
        reduction: the wide channels over the narrow ones.
        kernel_size, activation: of the narrow convolution, as in `InvertedResidual`; of all of them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: float = 1,
        dilation: int = 1,
        layer: Layer = conv_bn,
        reduction: int = 4,
        kernel_size: int = 3,
        activation: str = "relu6",
    ) -> None:
        super().__init__(in_channels)
        active, narrow = partial(layer, activation=_activation(activation)), max(1, out_channels // reduction)
        settings = {"kernel_size": _odd(kernel_size), "stride": stride, "dilation": dilation}
        self.layers = nn.Sequential(
            active(in_channels, narrow, kernel_size=1),
            active(narrow, narrow, **settings),
            layer(narrow, out_channels, kernel_size=1, activation=None),
        )
        self.joined: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.joined = layer(in_channels, out_channels, kernel_size=1, stride=stride, activation=None)
        self.activation = _activation(activation)()

    def project(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, in, H, W) twice -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.activation(self.layers(hidden) + self.joined(x))
        return y

    def zero_init(self) -> None:
        """Start as what the shortcut gives."""
        last: Any = self.layers
        _zero_norm(last[-1])


def _activation(name: str) -> Callable[[], nn.Module]:
    if name not in ACTIVATIONS:
        raise InputError(f"backbone.block.activation is {name!r}: use {', '.join(ACTIVATIONS)}")
    return partial(ACTIVATIONS[name], inplace=True)


def _odd(kernel_size: int) -> int:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"backbone.block.kernel_size is {kernel_size}: use an odd number")
    return kernel_size


def _zero_norm(layers: nn.Sequential) -> None:
    norm: Any = layers[1]
    nn.init.zeros_(norm.weight)


def separable_conv(in_channels: int, out_channels: int, *, stride: int = 1, layer: Layer = conv_bn) -> nn.Sequential:
    """3x3 depthwise + 1x1 pointwise, normalised and activated both: SSDLite's replacement for a convolution."""
    return nn.Sequential(
        layer(in_channels, in_channels, stride=stride, groups=in_channels),
        layer(in_channels, out_channels, kernel_size=1),
    )
