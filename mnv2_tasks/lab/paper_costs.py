"""What the paper's networks cost beside what it prints; `python -m mnv2_tasks.cost`."""

from typing import Literal

import torch
from torch import Tensor, nn

from mnv2_tasks.backbone import LAST_CHANNELS, MobileNetV2, round_channels
from mnv2_tasks.blocks import conv_bn
from mnv2_tasks.complexity import madds, parameters
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.ssdlite import EXTRA_CHANNELS, SSDLite
from mnv2_tasks.lab.paper import GRID, PARAMETERS, SIZES


def classifier_cost(width: float, size: int, *, num_classes: int = 1000) -> tuple[int, int]:
    """(parameters, multiply-adds) of MobileNetV2 with its classification layer, as published."""
    with torch.device("meta"):
        backbone = MobileNetV2(width)
        linear = nn.Linear(round_channels(LAST_CHANNELS * max(1.0, width)), num_classes)
        image = torch.empty(1, 3, size, size)
    backbone.eval()
    weights = parameters(backbone, folded=True) + linear.weight.numel()
    return weights, madds(lambda x: linear(backbone(x)["c5x"].mean((2, 3))), image)


def ssdlite_cost(
    num_classes: int, *, size: int = 320, network: type[MobileNetV2] = MobileNetV2
) -> dict[str, tuple[int, int]]:
    """{part: (parameters, multiply-adds)} of SSDLite, and of plain SSD's prediction layers on the same taps."""
    with torch.device("meta"):
        backbone = network().eval()
        backbone.keep(SSDLite.needs)
        head = SSDLite(backbone.taps, num_classes).eval()
        image = torch.empty(1, 3, size, size)
        ssd = _PlainSSD(backbone, head, num_classes).eval()
        taps = backbone(image)
    trunk = parameters(backbone), madds(backbone, image)
    lite = parameters(head), madds(head, taps, (size, size))
    return {
        "backbone": trunk,
        "SSDLite layers": lite,
        "SSD layers": (parameters(ssd), madds(ssd, taps)),
        "whole SSDLite": (trunk[0] + lite[0], trunk[1] + lite[1]),
    }


def deeplabv3_cost(
    num_classes: int,
    *,
    size: int = 513,
    aspp: Literal["separable", "full"] | None = None,
    padded: bool = True,
    stride: int = 16,
    network: type[MobileNetV2] = MobileNetV2,
) -> tuple[int, int]:
    """(parameters, multiply-adds) of the segmenter at output stride `stride`, as in Table 7 of the paper.

    The published numbers hold batch norm, image pooling and the logits, on c5 without the last convolution, with full
    3x3 convolutions in ASPP, and at 513 pixels (a grid of 33 x 33): at 512 it is 5% less. `padded` counts dilated
    convolutions as TensorFlow ran them, on a grid padded to whole multiples of the dilation: the paper's 5.8 B instead
    of 5.4 B. What is left, under 0.4%, is about the bilinear upsampling, which is not counted here.
    """
    with torch.device("meta"):
        backbone = network(output_stride=stride)
        head = DeepLabV3(backbone.taps, num_classes, aspp=aspp).eval()
        backbone.eval().keep(head.needs)
        image = torch.empty(1, 3, size, size)
    cost = madds(lambda x: head(backbone(x), (size, size)), image)
    grid = -(-size // stride)
    for module in (*backbone.modules(), *head.modules()) if padded else ():
        if isinstance(module, nn.Conv2d) and module.dilation[0] > 1:
            rate = module.dilation[0]
            whole = -(-(grid + 2 * rate) // rate) * rate - 2 * rate  # outputs of the padded grid
            cost += (whole**2 - grid**2) * module.weight.numel()
    return parameters(backbone) + parameters(head), cost


class _PlainSSD(nn.Module):
    """SSD's prediction layers: every separable convolution of SSDLite replaced by a full 3x3 one."""

    def __init__(self, backbone: MobileNetV2, head: SSDLite, num_classes: int) -> None:
        super().__init__()
        channels = [backbone.taps[name].channels for name in head.needs]
        self.extras = nn.ModuleList()
        for out_channels in EXTRA_CHANNELS:
            squeeze = conv_bn(channels[-1], out_channels // 2, kernel_size=1)
            self.extras.append(nn.Sequential(squeeze, conv_bn(out_channels // 2, out_channels, stride=2)))
            channels.append(out_channels)
        pairs = zip(channels, head.counts, strict=True)
        self.layers = nn.ModuleList(nn.Conv2d(c, n * (num_classes + 5), 3, padding=1) for c, n in pairs)

    def forward(self, taps: dict[str, Tensor]) -> list[Tensor]:
        levels = [taps[name] for name in SSDLite.needs]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return [layer(x) for layer, x in zip(self.layers, levels, strict=True)]


def main() -> None:
    print("cost: counting 30 classifiers, then the heads, about half a minute on two cores", flush=True)
    print("MobileNetV2 with 1000 classes: ours (published), batch norm folded")
    print(f"{'width':>6} {'params, M':>14} " + " ".join(f"{f'MAdds at {s}, M':>18}" for s in SIZES))
    for width, row in GRID.items():
        costs = [classifier_cost(width, size) for size in SIZES]
        cells = [f"{cost / 1e6:.1f} ({row.get(size, '-')})" for (_, cost), size in zip(costs, SIZES, strict=True)]
        first = f"{costs[0][0] / 1e6:.2f} ({PARAMETERS[width]})"
        print(f"{width:>6} {first:>14} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)
    print("\nMobileNetV2 1.0 at 320, 80 classes: parameters, multiply-adds (paper, Tables 5 and 6)")
    paper = {
        "SSD layers": "14.8 M, 1.25 B",
        "SSDLite layers": "2.1 M, 0.35 B",
        "whole SSDLite": "4.3 M, 0.8 B",
    }
    for part, (weights, cost) in ssdlite_cost(80).items():
        print(f"{part:>16}: {weights / 1e6:6.2f} M, {cost / 1e9:5.3f} B   ({paper.get(part, '-')})")
    print("The paper's 0.35 B is twice our count of the SSDLite layers; its total of 0.8 B holds them once.")

    print("\nDeepLabv3 on MobileNetV2 1.0, 21 classes, output stride 16, 513 pixels (paper, Table 7)")
    kinds: list[tuple[str, Literal["separable", "full"] | None, str]] = [
        ("light", None, "2.11 M, 2.75 B"),
        ("ASPP", "full", "4.52 M, 5.8 B"),
        ("separable ASPP", "separable", "-"),
    ]
    for name, aspp, printed in kinds:
        weights, cost = deeplabv3_cost(21, aspp=aspp)
        print(f"{name:>16}: {weights / 1e6:6.2f} M, {cost / 1e9:5.3f} B   ({printed})")
