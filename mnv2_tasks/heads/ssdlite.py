"""SSDLite: separable single-shot detection on two taps and four extra levels (section 6.2 of the paper)."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, sigmoid_focal_loss

from mnv2_tasks.backbone import Tap, init_weights
from mnv2_tasks.blocks import Norm, Padding, SamePadConv2d, conv_bn, separable_conv
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Prediction, Taps, Targets, detector
from mnv2_tasks.heads.default_boxes import (
    aligned_iou,
    decode,
    encode,
    fit_shapes,
    grid_boxes,
    match,
    original_shapes,
    suppress_groups,
)
from mnv2_tasks.kinds import Decoding

EXTRA_CHANNELS = (512, 256, 256, 128)


class Outputs(NamedTuple):
    scores: Tensor  # (B, A, K + 1) logits, background first
    deltas: Tensor  # (B, A, 4) from the default boxes
    defaults: Tensor  # (A, 4) default boxes (cx, cy, w, h), fractions of the image
    size: tuple[int, int]  # (H, W) of the input


@runtime_checkable
class BoxSizes(Protocol):
    """Samples that know their boxes without reading every image."""

    def box_sizes(self) -> Tensor:
        """(N, 2) float32: width and height of the boxes, as fractions of their images."""


class SSDLite(detector.Detector):
    """Prediction layers are depthwise 3x3 + linear 1x1 on c4x, c5x and four extra levels of half the size each.

    An image without objects is valid, and teaches background; one that nobody labelled (not `known`) teaches nothing.

    Args:
        taps, num_classes: what the backbone declares; classes without the background.
        sources: the taps to predict on, finest first, before the extra levels. [c3x, c4x, c5x] adds a grid of stride
            8, for objects that are small against a cell of 16 pixels.
        boxes: "fit" (default boxes fitted to the training boxes by `learn_from`) or "original" (as many: the authors',
            which "fit" begins with too). The shapes are part of the state dict.
        first_level: default boxes a cell on the first level: 3 as in the original, or 6 as on all others.
        loss: "hard_negative" (softmax cross-entropy with 3 hard negatives to a positive, as in SSD) or "focal"
            (sigmoid; RetinaNet's, alpha 0.25, gamma 2). Scores are softmax or sigmoid accordingly.
        threshold: the IoU from which a default box learns an object.
        least: default boxes that an object has at least, the closest ones, whatever the IoU; 1 in
            SSD, which is worse on small objects.
        box_weight: of the smooth L1 loss against the classification loss.
        score_threshold, candidates, nms, detections: decoding keeps the `candidates` highest scores of each class
            above the threshold, suppresses per class at IoU `nms`, and returns at most `detections`.
        padding, norm_eps, norm_momentum: as in the backbone.
    """

    needs: tuple[str, ...] = ("c4x", "c5x")
    strides = (32, 16, 8)
    decoding: Decoding

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        sources: Sequence[str] = needs,
        boxes: Literal["fit", "original"] = "fit",
        first_level: int = 3,
        loss: Literal["hard_negative", "focal"] = "hard_negative",
        threshold: float = 0.5,
        least: int = 4,
        box_weight: float = 1.0,
        score_threshold: float = 0.01,
        candidates: int = 400,
        nms: float = 0.6,
        detections: int = 100,
        padding: Padding = "symmetric",
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if boxes not in ("original", "fit"):
            raise InputError(f"head.boxes is {boxes!r}: use original or fit")
        if first_level not in (3, 6):
            raise InputError(f"head.first_level is {first_level}: use 3 or 6")
        if loss not in ("hard_negative", "focal"):
            raise InputError(f"head.loss is {loss!r}: use hard_negative or focal")
        layer = partial(conv_bn, padding=padding, norm=Norm(norm_eps, norm_momentum))
        self.num_classes = num_classes
        self.is_focal = loss == "focal"
        self.fits_boxes = boxes == "fit"
        self.threshold = threshold
        self.least = least
        self.box_weight = box_weight
        self.decoding = Decoding(score_threshold, candidates, nms, detections)

        self.needs = tuple(sources)
        if unknown := set(self.needs) - set(taps):
            raise InputError(f"head.sources: no tap {sorted(unknown)}; the backbone has {', '.join(taps)}")
        channels = [taps[name].channels for name in self.needs]
        self.extras = nn.ModuleList()
        for out_channels in EXTRA_CHANNELS:
            squeezed = out_channels // 2
            self.extras.append(
                nn.Sequential(
                    layer(channels[-1], squeezed, kernel_size=1),
                    *separable_conv(squeezed, out_channels, stride=2, layer=layer),
                )
            )
            channels.append(out_channels)

        shapes = original_shapes(len(channels), first_level=first_level)
        self.counts = [len(level) for level in shapes]
        self.register_buffer("shapes", torch.cat(shapes))  # (sum of counts, 2)
        self.shapes: Tensor

        def predictor(in_channels: int, values: int) -> nn.Sequential:
            depthwise = layer(in_channels, in_channels, groups=in_channels)
            return nn.Sequential(depthwise, nn.Conv2d(in_channels, values, 1))

        pairs = list(zip(channels, self.counts, strict=True))
        self.score_layers = nn.ModuleList(predictor(c, n * (num_classes + 1)) for c, n in pairs)
        self.box_layers = nn.ModuleList(predictor(c, n * 4) for c, n in pairs)
        self.apply(partial(init_weights, std=0.03))
        if loss == "focal":  # so that the many negatives do not drown the first steps: RetinaNet, section 4.1
            for predict in self.score_layers:
                nn.init.constant_(predict[-1].bias, -4.6)  # type: ignore[index]

    @property
    def learns(self) -> bool:
        return self.fits_boxes

    def learn_from(self, split: Any) -> str:
        """Fit the default boxes to those of the training images."""
        if not isinstance(split, BoxSizes):
            raise InputError("this data set cannot tell its box sizes in advance; give head.boxes=original")
        return self.fit(split.box_sizes())

    def fit(self, sizes: Tensor) -> str:
        """Fit the default boxes to (N, 2) training box sizes, as fractions of the image; returns what it did."""
        stock = original_shapes(len(self.counts), first_level=self.counts[0])
        fitted = fit_shapes(sizes, stock)
        self.shapes.copy_(torch.cat(fitted))
        before, after = (aligned_iou(sizes, torch.cat(s)).max(1).values.mean().item() for s in (stock, fitted))
        levels = "; ".join(" ".join(f"{w:.3f}x{h:.3f}" for w, h in level.tolist()) for level in fitted)
        return (
            f"default boxes fitted to {len(sizes)} training boxes: mean best shape IoU {before:.3f} -> {after:.3f}\n"
            f"  per level, width x height of the image: {levels}"
        )

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        levels = [taps[name] for name in self.needs]
        for extra in self.extras:
            squeeze, depthwise, pointwise = cast(Iterable[nn.Sequential], extra)
            x = squeeze(levels[-1])
            if self.training and x.shape[3] == 1 and not isinstance(depthwise[0], SamePadConv2d):
                # The same sums. oneDNN's bfloat16 gradient of a kernel at stride 2 over one column, as of 3.12, leaves
                # what only meets padding unwritten: whatever was in memory.
                x = F.pad(x, (0, 1))
            levels.append(pointwise(depthwise(x)))

        def flatten(layers: nn.ModuleList, values: int) -> Tensor:
            maps = [layer(x).permute(0, 2, 3, 1) for layer, x in zip(layers, levels, strict=True)]
            return torch.cat([m.reshape(m.shape[0], -1, values) for m in maps], 1).float()  # (B, A, values)

        grids = [(x.shape[-2], x.shape[-1]) for x in levels]
        defaults = grid_boxes(self.shapes.float().split(self.counts), grids)
        return Outputs(flatten(self.score_layers, self.num_classes + 1), flatten(self.box_layers, 4), defaults, size)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """{class_loss, box_loss}: float32, summed over the batch, over its positives (or known images, if more)."""
        scores, deltas, defaults, (height, width) = outputs
        with torch.autocast(scores.device.type, enabled=False):
            boxes = targets["boxes"].float() / scores.new_tensor([width, height, width, height])  # (B, M, 4)
            labels, known = targets["labels"], targets["known"]
            valid = (labels >= 0) & ~targets["crowd"] & known[:, None]
            matched = match(boxes, valid, defaults, threshold=self.threshold, least=self.least)  # (B, A)
            positive = matched >= 0
            # The images count where there are fewer objects: a batch almost without objects keeps its measure.
            count = torch.maximum(positive.sum(), known.sum()).clamp(min=1)
            chosen = matched.clamp(min=0)
            wanted = torch.zeros_like(matched)
            box_loss = deltas.sum() * 0
            if labels.shape[1]:
                wanted = torch.where(positive, labels.gather(1, chosen) + 1, wanted)  # 0 is the background
                image, anchor = positive.nonzero(as_tuple=True)
                goal = encode(box_convert(boxes[image, chosen[image, anchor]], "xyxy", "cxcywh"), defaults[anchor])
                box_loss = F.smooth_l1_loss(deltas[image, anchor], goal, reduction="sum")
            if self.is_focal:
                goal = F.one_hot(wanted, self.num_classes + 1)[..., 1:].to(scores.dtype)
                each = sigmoid_focal_loss(scores[..., 1:], goal, reduction="none")  # (B, A, K)
                class_loss = (each * known[:, None, None]).sum()
            else:
                class_loss = hard_negative_loss(scores, wanted, known)
        return {"class_loss": class_loss / count, "box_loss": self.box_weight * box_loss / count}

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores (B, A, K + 1), background first -> (B, A, K): of a sigmoid, or of a softmax."""
        return scores[..., 1:].sigmoid() if self.is_focal else scores.softmax(-1)[..., 1:]

    def boxes(self, deltas: Tensor, defaults: Tensor) -> Tensor:
        """Deltas (..., 4) from default boxes (..., 4) -> xyxy (..., 4), fractions of the image."""
        return decode(deltas, defaults)

    @torch.no_grad()
    def predict(self, outputs: Outputs) -> list[Prediction]:
        """[{boxes (N, 4) xyxy in input pixels, scores (N,), labels (N,)}], highest score first."""
        boxes, scores, labels = self._candidates(outputs)
        image, rank = (scores > self.decoding.score_threshold).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[image, rank], scores[image, rank], labels[image, rank]  # of all images, in a row
        kept = suppress_groups(boxes, scores, image * self.num_classes + labels, self.decoding.nms)
        kept = kept[scores[kept].argsort(descending=True, stable=True)]
        kept = kept[image[kept].argsort(stable=True)]  # by image, and within an image by score
        counts = image[kept].bincount(minlength=len(outputs.scores)).tolist()
        rows = zip(*(x[kept].split(counts) for x in (boxes, scores, labels)), strict=True)
        most = self.decoding.detections
        return [{"boxes": b[:most], "scores": s[:most], "labels": n[:most]} for b, s, n in rows]

    def evidence(self, outputs: Outputs, prediction: Prediction, label: int) -> Tensor:
        """The scores of the class's boxes, summed; each is found again among the default boxes that give all boxes."""
        scores, deltas, defaults, (height, width) = outputs
        boxes = self.boxes(deltas[0].float(), defaults) * defaults.new_tensor([width, height, width, height])
        given = self.probabilities(scores.float())[0, :, label]
        return given[detector.found_again(prediction, label, boxes, given)].sum()

    def _candidates(self, outputs: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, C K, 4) xyxy in input pixels, scores and labels (B, C K): the best C of each of the K classes, so
        that no class crowds another out."""
        scores, deltas, defaults, (height, width) = outputs
        count = min(self.decoding.candidates, scores.shape[1])
        best, anchor = self.probabilities(scores.float()).transpose(1, 2).topk(count)  # (B, K, C)
        label = torch.arange(self.num_classes, device=best.device)[:, None].expand_as(best)
        best, anchor, label = best.flatten(1), anchor.flatten(1), label.flatten(1)
        boxes = self.boxes(deltas.float().gather(1, anchor[..., None].expand(-1, -1, 4)), defaults[anchor])
        return boxes * boxes.new_tensor([width, height, width, height]), best, label


def hard_negative_loss(scores: Tensor, wanted: Tensor, known: Tensor, *, ratio: int = 3, least: int = 3) -> Tensor:
    """Summed cross-entropy over the positives and the hardest negatives of each image (SSD, section 2.2).

    scores: (B, A, K + 1) logits; wanted: (B, A) class, 0 for background; known: (B,) bool, images that have
    negatives at all. Such an image gives `ratio` negatives to a positive, and at least `least` of them.
    """
    loss = F.cross_entropy(scores.flatten(0, 1), wanted.flatten(), reduction="none").view_as(wanted)
    positive = wanted > 0
    hardness = loss.detach().masked_fill(positive, -1)
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    negatives = (ratio * positive.sum(1)).clamp(min=least) * known
    return (loss * (positive | ((rank < negatives[:, None]) & ~positive))).sum()
