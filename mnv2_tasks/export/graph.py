"""A model as an app wants it: pictures in, decided results out, in tensors of fixed names. Pure PyTorch."""

from typing import Any, Literal

import torch
import torchvision  # noqa: F401  (its operators)
from torch import Tensor, nn

from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.boxes import decode
from mnv2_tasks.model import Model

Layout = Literal["nchw", "nhwc"]
Masks = Literal["argmax", "logits"]
Suppression = Literal["native", "portable", "app"]
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
        self.network, self.layout, self.masks, self.nms, self.taps = _Raw(model, taps), layout, masks, nms, taps
        self.native = _native  # a format with an operator of its own puts another in its place
        self.candidates: dict[str, int] = {}
        self.outputs: list[str] = list(taps)
        heads: dict[str, Any] = {} if taps else dict(model.heads)
        for task, head in heads.items():
            if head.kind == "detection":
                if not hasattr(head, "candidates"):
                    raise InputError(
                        f"{task}: {type(head).__name__} works on lists of regions, which no export format holds; "
                        "export a model with task=ssdlite"
                    )
                parts: tuple[str, ...] = ("boxes", "scores")
                if nms != "app":
                    limit = max(LEAST, MOST[nms] // head.num_classes)
                    self.candidates[task] = candidates or min(head.candidates, limit)
                    parts = ("boxes", "scores", "labels")
                self.outputs += [f"{task}_{part}" for part in parts]
            elif head.kind == "segmentation":
                self.outputs.append(f"{task}_{'mask' if masks == 'argmax' else 'logits'}")
            else:
                self.outputs.append(f"{task}_scores")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.layout == "nhwc":
            images = images.permute(0, 3, 1, 2)
        raw = self.network(images)
        if self.taps:
            return raw
        found: list[Tensor] = []
        size = (images.shape[-2], images.shape[-1])
        for (task, head), tensors in zip(self.network.model.heads.items(), raw, strict=True):
            if head.kind == "detection":
                scores, deltas, defaults = tensors
                found += self._boxes(task, head, scores, deltas, defaults, size)
            elif head.kind == "segmentation":
                (logits,) = tensors
                found.append(logits if self.masks == "logits" else logits.argmax(1).to(torch.uint8))
            else:
                (logits,) = tensors
                found.append(logits.softmax(1) if head.kind == "classification" else logits.sigmoid())
        return tuple(found)

    def _boxes(
        self, task: str, head: Any, scores: Tensor, deltas: Tensor, defaults: Tensor, size: tuple[int, int]
    ) -> list[Tensor]:
        score = scores[..., 1:].sigmoid() if head.kind_of_loss == "focal" else scores.softmax(-1)[..., 1:]
        if self.nms == "app":
            return [_scaled(decode(deltas, defaults), size), score]
        k, anchors = self.candidates[task], defaults.shape[0]
        if isinstance(anchors, int):
            k = min(k, anchors)
        else:  # a size that varies may have fewer default boxes than this: pad with boxes of score 0
            score, deltas, defaults = (nn.functional.pad(x, (0, 0, 0, k)) for x in (score, deltas, defaults))
        score, anchor = score.transpose(1, 2).topk(k)  # (B, K, k): no class crowds another out
        rows = anchor.flatten(1)[..., None].expand(-1, -1, 4)
        near = defaults[anchor.flatten()].view(-1, head.num_classes * k, 4)
        boxes = decode(deltas.gather(1, rows), near)  # (B, K k, 4)
        pixels = _scaled(boxes, size)
        if self.nms == "native":
            kept = self.native(pixels, score, head.nms, head.score_threshold)
        else:
            kept = suppress(pixels.reshape(-1, k, 4), head.nms).view(-1, head.num_classes, k)  # rank 3: LiteRT
        score = score * kept * (score > head.score_threshold).to(score.dtype)
        score, best = score.flatten(1).topk(min(head.detections, head.num_classes * k))  # (B, N)
        boxes = pixels.gather(1, best[..., None].expand(-1, -1, 4))
        return [boxes, score, torch.div(best, k, rounding_mode="floor").to(torch.int32)]


class _Raw(nn.Module):
    """The network up to its plain outputs, which a quantiser may touch: one tuple of tensors a head, or the taps."""

    def __init__(self, model: Model, taps: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.taps = model, taps

    def forward(self, images: Tensor) -> tuple[Any, ...]:
        model = self.model
        if self.taps:
            if not images.is_floating_point():
                images = images.to(torch.float32) / 255
            taps = model.backbone((images - model.mean) / model.std)
            return tuple(taps[name] for name in self.taps)
        found: list[tuple[Tensor, ...]] = []
        for task, outputs in model(images).items():
            if model.heads[task].kind == "detection":
                found.append((outputs.scores, outputs.deltas, outputs.defaults))
            else:
                found.append((outputs.logits,))
        return tuple(found)


def _scaled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) xyxy, fractions of the image -> pixels of `size` (H, W), which may be symbolic."""
    height, width = size
    return torch.stack([boxes[..., i] * side for i, side in enumerate((width, height, width, height))], -1)


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
    kept = torch.zeros_like(rank)
    return torch.index_put(kept, (index,), torch.ones((), dtype=kept.dtype)).view(images, classes, k)


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
    kept = torch.ones_like(area)[..., None, :]  # (..., 1, N)
    for _ in range(steps):
        kept = (kept @ over < 0.5).to(boxes.dtype)
    return kept.squeeze(-2)
