"""A model as an app wants it: pictures in, decided results out, in tensors of fixed names. Pure PyTorch."""

from typing import Any

import torch
import torchvision  # noqa: F401  (its operators)
from torch import Tensor, nn

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.metadata import Layout, Masks, Suppression
from mnv2_tasks.heads import Head
from mnv2_tasks.kinds.detection_kind import Anchored, Decoding
from mnv2_tasks.kinds.kind import Decided
from mnv2_tasks.model import Model

STEPS = 16  # of `suppress`: as many boxes may stand in a row, each suppressing the next
MOST = {"native": 2_400, "portable": 1_200}  # candidates of all classes together that go into suppression
LEAST = 50  # candidates of each class, at least


class Graph(nn.Module):
    """Normalisation, network, softmax, box decoding, non-maximum suppression and argmax, as one traceable module.

    forward: images (B, C, H, W), or (B, H, W, C) with `layout="nhwc"`; uint8, or float in 0..1 -> a tuple of tensors
    named by `outputs`:

    - `<task>_scores` (B, K) of a classifier: a softmax, or K sigmoids for several labels an image
    - `<task>_boxes` (B, N, 4) xyxy in input pixels, `<task>_scores` (B, N), the highest first, and `<task>_labels`
      (B, N) int32, of a detector; rows with score 0 are padding. With nms="app", `<task>_boxes` (B, A, 4) of every
      default box and `<task>_scores` (B, A, K)
    - `<task>_mask` (B, H, W) uint8 of a segmenter, or `<task>_logits` (B, K, H, W)
    - `<tap>` (B, C, h, w) where `taps` are asked for: the bare backbone

    Args:
        masks: whether segmenters give the likeliest class or the logits.
        nms: suppression by torchvision's operator ("native"), which some formats have; by `suppress` ("portable"), in
            operations that all have; or left to the app.
        candidates: boxes of each class that go into it; None: the head's, or fewer with many classes (`MOST`).

    What a quantiser may touch is all in `self.network`; decoding stays in float32.
    """

    def __init__(
        self,
        model: Model,
        *,
        layout: Layout = "nchw",
        masks: Masks = "argmax",
        nms: Suppression = "native",
        candidates: int | None = None,
        taps: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.network = _Raw(model, taps)
        self.layout = layout
        self.masks = masks
        self.nms = nms
        self.taps = taps
        self.native = _native  # a format with an operator of its own puts another in its place
        self.candidates: dict[str, int] = {}
        self.converted: dict[Any, Any] = {}  # what a format keeps of it for its other precisions
        self.outputs: list[str] = list(taps)
        heads: dict[str, Head] = {} if taps else dict(model.heads.items())
        for task, head in heads.items():
            if head.kind.scored:
                if not isinstance(head, Anchored):
                    raise InputError(
                        f"{task}: {type(head).__name__} works on lists of regions, which no export format holds; "
                        "export a model with task=ssdlite"
                    )
                if nms != "app":
                    limit = max(LEAST, MOST[nms] // head.num_classes)
                    self.candidates[task] = candidates or min(head.decoding.candidates, limit)
            self.outputs += [f"{task}_{part}" for part in head.kind.outputs(masks=masks, nms=nms)]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        raw = self.network(images)
        if self.taps:
            return raw
        results: list[Tensor] = []
        size = (images.shape[-2], images.shape[-1])
        for (task, head), tensors in zip(self.network.model.heads.items(), raw, strict=True):
            how = Decided(self.masks, self.nms, self.candidates.get(task, 0), self._keep)
            results += head.kind.decide(head, tensors, size, how)
        return tuple(results)

    def _keep(self, boxes: Tensor, score: Tensor, shape: tuple[int, int], decoding: Decoding) -> Tensor:
        """(B, K k, 4) and (B, K, k) of `shape` (K, k) -> (B, K, k) float, 1 for the boxes kept."""
        if self.nms == "native":
            return self.native(boxes, score, decoding.nms, decoding.score_threshold)
        classes, k = shape
        return suppress(boxes.reshape(-1, k, 4), decoding.nms).view(-1, classes, k)  # rank 3: LiteRT


# What the exporters name after the attribute Graph.network and its class, which a quantiser may touch.
ONNX_SCOPE = "'network'"
LITERT_OPERATIONS = ".*_Raw_network.*"


class _Raw(nn.Module):
    """The network up to its plain outputs, which a quantiser may touch: one tuple of tensors a head, or the taps."""

    def __init__(self, model: Model, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.taps = taps

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        model = self.model
        if self.taps:
            taps = model.taps(images)
            return tuple(taps[name] for name in self.taps)
        results: list[tuple[Tensor, ...]] = []
        for task, outputs in model(images).items():
            results.append(model.heads[task].kind.raw(outputs))
        return tuple(results)


def _native(boxes: Tensor, score: Tensor, limit: float, threshold: float) -> Tensor:
    """(B, K k, 4) and (B, K, k) -> (B, K, k) float, 1 for the boxes kept; each image and class lies apart.

    One call of torchvision's operator, which has no batches: its time grows with the square of the boxes whose score
    is above the threshold.
    """
    flat, rank = boxes.reshape(-1, 4), score.reshape(-1)
    images, classes, k = score.shape[0], score.shape[1], score.shape[2]
    group = torch.arange(images * classes, device=boxes.device, dtype=boxes.dtype)[:, None].repeat(1, k).view(-1, 1)
    able = torch.nonzero(rank > threshold)[:, 0]
    apart = flat + group * (flat.max() + 1)
    index = able[torch.ops.torchvision.nms(apart[able], rank[able], limit)]
    keep = torch.zeros_like(rank)
    return torch.index_put(keep, (index,), torch.ones((), dtype=keep.dtype)).view(images, classes, k)


def suppress(boxes: Tensor, limit: float, steps: int = STEPS) -> Tensor:
    """Non-maximum suppression in operations of fixed shape, which every export format has.

    boxes: (..., N, 4) xyxy, the highest score first -> (..., N) float, 1 for those kept. A box goes where it overlaps a
    kept one of a higher score by an IoU above `limit`. Which those are is found by repeating the rule: after n steps
    it is right for every box whose chain of overlaps with better ones is shorter than n, after N steps for all.
    """
    low, high = boxes[..., :2], boxes[..., 2:]  # (..., N, 2)
    area = (high - low)[..., 0] * (high - low)[..., 1]  # (..., N)
    sides = torch.minimum(high[..., :, None, :], high[..., None, :, :]) - torch.maximum(
        low[..., :, None, :], low[..., None, :, :]
    )
    sides = sides.clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]  # (..., N, N)
    union = area[..., :, None] + area[..., None, :] - shared
    better = torch.ones(boxes.shape[-2], boxes.shape[-2]).triu(1)  # [i, j]: i has the higher score
    over = (shared > limit * union).to(boxes.dtype) * better
    keep = torch.ones_like(area)[..., None, :]  # (..., 1, N)
    for _ in range(steps):
        keep = (keep @ over < 0.5).to(boxes.dtype)
    return keep.squeeze(-2)
