"""The building blocks of the network: convolution + batch norm + activation, and the inverted residual."""

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["symmetric", "same"]
Layer = Callable[..., nn.Sequential]  # conv_bn with padding and norm settings filled in


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
            total = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
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
    norm_eps: float = 1e-5,
    norm_momentum: float = 0.1,
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
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels, eps=norm_eps, momentum=norm_momentum)]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (3x3 depthwise), project (1x1, linear): section 3.3 and Table 1 of the paper.

    A block works in two halves, `hidden = block.expand(x)` and `y = block.project(hidden, x)`, so that a network can
    tap the expanded features. The shortcut joins the narrow ends, only where stride is 1 and the shapes match.
    Expansion 1 has no expansion layer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 1,
        expansion: float = 6,
        dilation: int = 1,
        layer: Layer = conv_bn,
    ) -> None:
        super().__init__()
        self.hidden_channels = round(in_channels * expansion)
        self.expand: nn.Module = nn.Identity()
        if self.hidden_channels != in_channels:
            self.expand = layer(in_channels, self.hidden_channels, kernel_size=1)
        self.depthwise = layer(
            self.hidden_channels,
            self.hidden_channels,
            stride=stride,
            dilation=dilation,
            groups=self.hidden_channels,
        )
        self.linear = layer(self.hidden_channels, out_channels, kernel_size=1, activation=None)
        self.shortcut = stride == 1 and in_channels == out_channels

    def project(self, hidden: Tensor, x: Tensor) -> Tensor:
        """(B, hidden_channels, H, W), (B, in, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.linear(self.depthwise(hidden))
        return x + y if self.shortcut else y

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x), x)

    def zero_init(self) -> None:
        """Start as the identity where there is a shortcut."""
        if self.shortcut:
            norm: Any = self.linear[1]
            nn.init.zeros_(norm.weight)


def separable_conv(in_channels: int, out_channels: int, *, stride: int = 1, layer: Layer = conv_bn) -> nn.Sequential:
    """3x3 depthwise + 1x1 pointwise, normalised and activated both: SSDLite's replacement for a convolution."""
    return nn.Sequential(
        layer(in_channels, in_channels, stride=stride, groups=in_channels),
        layer(in_channels, out_channels, kernel_size=1),
    )
