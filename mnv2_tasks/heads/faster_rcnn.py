"""Faster R-CNN on a feature pyramid (arXiv 1506.01497 and 1612.03144), from torchvision's parts, on our taps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from mnv2_tasks.backbone import Tap
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Prediction, Taps, Targets, detector

POOLED = 7  # cells a side that a region is pooled to


class Outputs(NamedTuple):
    features: dict[str, Tensor]  # level -> (B, C, h, w) of the pyramid
    objectness: Tensor  # (B, A) logits
    deltas: Tensor  # (B, A, 4) from the anchors
    anchors: Tensor  # (A, 4) xyxy in input pixels
    proposals: list[Tensor]  # of each image (P, 4) xyxy, without gradient
    regions: tuple[Tensor, Tensor] | None  # the proposals' logits (R, K + 1) and deltas (R, 4 (K + 1)); not in training
    size: tuple[int, int]  # (H, W) of the input


class Anchors(AnchorGenerator):
    """torchvision's, laid out by the strides of the levels.

    Its own takes the quotient of the sizes of image and map, which is too small where they do not divide.
    """

    def __init__(self, strides: Sequence[int], sizes: Sequence[float], ratios: Sequence[float]) -> None:
        super().__init__(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes))
        self.strides = tuple(strides)

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        like = feature_maps[0]
        self.set_cell_anchors(like.dtype, like.device)
        strides = [[torch.tensor(stride, device=like.device)] * 2 for stride in self.strides]
        anchors = torch.cat(self.grid_anchors([list(x.shape[-2:]) for x in feature_maps], strides))
        return [anchors] * len(like)


class FasterRCNN(detector.Detector):
    """A feature pyramid on the taps, a region proposal network on it, and box heads on the proposed regions.

    torchvision's modules do the work, with its sampling, matching and losses; normalising and resizing, which its
    own model does too, have been done here. An image without objects is valid and teaches background; one that
    nobody labelled (not `known`) teaches nothing.

    Args:
        taps, num_classes: what the backbone declares; classes without the background.
        sources: the taps under the pyramid, from fine to coarse.
        channels: of every level of the pyramid.
        hidden: values in the two layers that classify a region.
        anchors: side in input pixels of the anchors on each level, and on the pooled one behind them.
        ratios: height over width of the anchors.
        rpn_samples, samples: anchors, and regions, of an image that the losses draw.
        candidates, proposals: regions kept of each level before, and of an image after, suppression at IoU 0.7.
        score_threshold, nms, detections: decoding keeps what scores above the threshold, suppresses per class at IoU
            `nms`, and returns at most `detections`.
    """

    needs: tuple[str, ...] = ("c2", "c3", "c4", "c5")
    strides = (32, 16)

    def __init__(
        self,
        taps: dict[str, Tap],
        num_classes: int,
        *,
        sources: Sequence[str] = needs,
        channels: int = 128,
        hidden: int = 256,
        anchors: Sequence[float] = (16, 32, 64, 128, 256),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        rpn_samples: int = 256,
        samples: int = 128,
        candidates: int = 500,
        proposals: int = 300,
        score_threshold: float = 0.05,
        nms: float = 0.5,
        detections: int = 100,
    ) -> None:
        super().__init__()
        self.needs = tuple(sources)
        if unknown := set(self.needs) - set(taps):
            raise InputError(f"head.sources: no tap {sorted(unknown)}; the backbone has {', '.join(taps)}")
        if len(anchors) != len(self.needs) + 1:
            raise InputError(
                f"head.anchors has {len(anchors)} sizes: give {len(self.needs) + 1}, one a source and one for the "
                "level behind them"
            )
        used = [taps[name] for name in self.needs]
        strides = [tap.stride for tap in used]
        self.fpn = FeaturePyramidNetwork([tap.channels for tap in used], channels, extra_blocks=LastLevelMaxPool())
        self.rpn = RegionProposalNetwork(
            Anchors([*strides, 2 * strides[-1]], anchors, ratios),
            RPNHead(channels, len(ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n={"training": candidates, "testing": candidates},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        pool = MultiScaleRoIAlign([str(level) for level in range(len(used))], POOLED, sampling_ratio=2)
        # Given here, since torchvision would guess them from the first images. In the paper regions of 224 pixels
        # belong to the level whose anchors have 128: the same here, wherever the anchors stand.
        pool.scales = [1 / stride for stride in strides]
        levels = [stride.bit_length() - 1 for stride in strides]
        pool.map_levels = initLevelMapper(
            levels[0], levels[-1], canonical_scale=round(anchors[0] * 1.75), canonical_level=levels[0]
        )
        self.roi_heads = RoIHeads(
            pool,
            TwoMLPHead(channels * POOLED**2, hidden),
            FastRCNNPredictor(hidden, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms,
            detections_per_img=detections,
        )

    def decide(self, *, score: float | None = None, iou: float | None = None) -> None:
        """See `Detector.decide`."""
        if score is not None:
            self.roi_heads.score_thresh = score
        if iou is not None:
            self.roi_heads.nms_thresh = iou

    def forward(self, taps: Taps, size: tuple[int, int]) -> Outputs:
        levels = self.fpn({str(level): taps[name] for level, name in enumerate(self.needs)})
        scores, shifts = self.rpn.head(list(levels.values()))
        if scores[0].is_meta:  # no values to choose proposals by: costs count as many as an image can have
            (batch, channels, *_), most = levels["0"].shape, self.rpn.post_nms_top_n()
            pooled = scores[0].new_empty(batch * most, channels, POOLED, POOLED)
            return Outputs(levels, scores[0], shifts[0], scores[0], [], self._from_pooled(pooled), size)
        features = {name: x.float() for name, x in levels.items()}  # boxes are handled in float32
        scores, shifts = [x.float() for x in scores], [x.float() for x in shifts]
        batch, counts = len(scores[0]), [x[0].numel() for x in scores]
        images = ImageList(features["0"], [size] * batch)
        anchors = self.rpn.anchor_generator(images, list(features.values()))
        objectness, deltas = concat_box_prediction_layers(scores, shifts)  # (B A, 1), (B A, 4)
        with torch.no_grad():
            boxes = self.rpn.box_coder.decode(deltas, anchors).view(batch, -1, 4)
            proposals, _ = self.rpn.filter_proposals(boxes, objectness, images.image_sizes, counts)
        # Training classifies the regions that its loss draws instead.
        regions = None if self.training else self._classify(features, proposals, size)
        objectness, deltas = objectness.view(batch, -1), deltas.view(batch, -1, 4)
        return Outputs(features, objectness, deltas, anchors[0], proposals, regions, size)

    def loss(self, outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
        """{objectness_loss, proposal_loss, class_loss, box_loss}: float32, means over the drawn anchors and regions."""
        features, objectness, deltas, anchor, proposals, _, size = outputs
        known = targets["known"].nonzero().flatten()
        names = ("objectness_loss", "proposal_loss", "class_loss", "box_loss")
        if not len(known):
            touched = [*features.values(), *self.parameters()]  # so that every one still gets a gradient, of 0
            return dict.fromkeys(names, torch.stack([x.sum() for x in touched]).sum() * 0)
        with torch.autocast(objectness.device.type, enabled=False):
            truths = [_objects(targets, image) for image in known.tolist()]
            anchors = [anchor] * len(known)
            labels, matched = self.rpn.assign_targets_to_anchors(anchors, truths)
            goals = self.rpn.box_coder.encode(matched, anchors)
            first = self.rpn.compute_loss(objectness[known], deltas[known].flatten(0, 1), labels, goals)

            features = {name: x[known] for name, x in features.items()}
            proposals = [proposals[image] for image in known.tolist()]
            regions, _, labels, goals = self.roi_heads.select_training_samples(proposals, truths)
            second = fastrcnn_loss(*self._classify(features, regions, size), labels, goals)
        return dict(zip(names, (*first, *second), strict=True))

    def _classify(
        self, features: dict[str, Tensor], regions: list[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and box deltas (R, 4 (K + 1)) of all the images' regions, in float32."""
        with torch.autocast(features["0"].device.type, enabled=False):
            return self._from_pooled(self.roi_heads.box_roi_pool(features, regions, [size] * len(regions)))

    def _from_pooled(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))

    @torch.no_grad()
    def predict(self, outputs: Outputs) -> list[Prediction]:
        """[{boxes (N, 4) xyxy in input pixels, scores (N,), labels (N,)}], highest score first."""
        proposals, size = outputs.proposals, outputs.size
        logits, deltas = outputs.regions or self._classify(outputs.features, proposals, size)
        found = self.roi_heads.postprocess_detections(logits, deltas, proposals, [size] * len(proposals))
        return [{"boxes": b, "scores": s, "labels": n - 1} for b, s, n in zip(*found, strict=True)]

    def evidence(self, outputs: Outputs, prediction: Prediction, label: int) -> Tensor:
        """The scores of the class's boxes, summed; each is found again among the regions that give all boxes."""
        assert outputs.regions is not None, "eval mode"
        logits, deltas = outputs.regions
        boxes = self.roi_heads.box_coder.decode(deltas, outputs.proposals)[:, label + 1]
        given = logits.softmax(1)[:, label + 1]
        return given[detector.found_again(prediction, label, clip_boxes_to_image(boxes, outputs.size), given)].sum()


def _objects(targets: Targets, image: int) -> dict[str, Tensor]:
    """The boxes of one image that can be learned, as torchvision's modules want them: background is class 0."""
    boxes, labels = targets["boxes"][image].float(), targets["labels"][image]
    real = (labels >= 0) & ~targets["crowd"][image] & (boxes[:, 2:] > boxes[:, :2]).all(1)
    return {"boxes": boxes[real], "labels": labels[real] + 1}
