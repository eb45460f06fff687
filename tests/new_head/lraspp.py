"""Lite R-ASPP, the light segmenter of MobileNetV3 (arXiv 1905.02244, section 6.4): a head of one's own, in one file."""

from typing import NamedTuple

from torch import Tensor
from torchvision.models.segmentation.lraspp import LRASPPHead

from mnv2_tasks.backbone import Tap
from mnv2_tasks.heads import Taps, segmenter
from mnv2_tasks.samples import resize


class Outputs(NamedTuple):
    logits: Tensor  # (B, K, H, W) float32, at the size of the input


class LRASPP(segmenter.Segmenter):
    """c5, weighed by what the whole image shows, then upsampled to c3, whose own logits are added."""

    needs = ("c3", "c5")
    strides = (16, 32, 8)
    curves = ("miou",)

    def __init__(self, taps: dict[str, Tap], num_classes: int, *, channels: int = 128) -> None:
        super().__init__()
        self.head = LRASPPHead(taps["c3"].channels, taps["c5"].channels, num_classes, channels)
        self.mask_loss = segmenter.MaskLoss(num_classes, "cross_entropy", None)

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        logits = self.head({"low": taps["c3"], "high": taps["c5"]})  # (B, K, H / 8, W / 8)
        return Outputs(resize(logits.float(), size))
