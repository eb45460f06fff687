"""Default boxes: their shapes, their grid, coding, matching and fitting, as pure functions on tensors.

Boxes on the grid are (cx, cy, w, h) as fractions of the image; boxes of people are (x0, y0, x1, y1).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert, box_iou, nms

SMALLEST, LARGEST = 0.2, 0.95  # scales of the first and the last level in the original SSDLite
VARIANCES = (10.0, 10.0, 5.0, 5.0)  # divisors of the original's box coder


def original_shapes(levels: int = 6, *, first_level: int = 3) -> list[Tensor]:
    """(w, h) fractions per level, as the original SSDLite has them: 3 on the first level and 6 on the others.

    Six are the scale at ratios 1, 2, 1/2, 3 and 1/3, then the geometric mean with the next scale at ratio 1; the
    first level, where most cells are, has (0.1, ratio 1), (0.2, 2) and (0.2, 1/2). `first_level=6` gives it six
    too. Source: the SSD anchor generator of TensorFlow's Object Detection API; section 3.2 and 3.1.3 of SSD.
    """
    shapes = []
    scales = [SMALLEST + (LARGEST - SMALLEST) * level / (levels - 1) for level in range(levels)] + [1.0]
    for level, (scale, following) in enumerate(pairwise(scales)):
        pairs = [(scale, ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)] + [(math.sqrt(scale * following), 1.0)]
        if level == 0 and first_level == 3:
            pairs = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        shapes.append(torch.tensor([(s * math.sqrt(r), s / math.sqrt(r)) for s, r in pairs]))
    return shapes


def fit_shapes(sizes: Tensor, stock: Sequence[Tensor], *, iterations: int = 50) -> list[Tensor]:
    """Default-box shapes fitted to the boxes of a training set: as many per level as `stock` has.

    sizes: (N, 2) box (w, h) as fractions of the image. A level serves the boxes whose scale sqrt(w h) lies nearer to
    its own than to its neighbours'; within a level, k-means under the IoU of aligned shapes, with medians as centres
    and quantiles of area as the start, so that it is deterministic. A level that meets fewer boxes than it has
    shapes keeps its stock shapes.
    """
    scale = sizes.prod(1).sqrt()
    centres = torch.linspace(SMALLEST, LARGEST, len(stock))
    edges = torch.cat([torch.zeros(1), (centres[1:] + centres[:-1]) / 2, torch.full((1,), math.inf)])
    fitted = []
    for level, shapes in enumerate(stock):
        mine = sizes[(scale > edges[level]) & (scale <= edges[level + 1])]
        k = len(shapes)
        if len(torch.unique(mine, dim=0)) < 2 * k:
            fitted.append(shapes)
            continue
        mine = mine[mine.prod(1).argsort(stable=True)]
        means = mine[((torch.arange(k) + 0.5) / k * len(mine)).long()].clone()
        for _ in range(iterations):
            nearest = aligned_iou(mine, means).argmax(1)
            moved = torch.stack(
                [mine[nearest == i].median(0).values if (nearest == i).any() else means[i] for i in range(k)]
            )
            if torch.equal(moved, means):
                break
            means = moved
        fitted.append(means[means.prod(1).argsort(stable=True)])
    return fitted


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 2), (M, 2) sizes -> (N, M) IoU of the boxes laid on one another's centre."""
    overlap = torch.minimum(a[:, None], b[None]).prod(2)
    return overlap / (a.prod(1)[:, None] + b.prod(1)[None] - overlap)


def grid_boxes(shapes: Sequence[Tensor], grids: Sequence[tuple[int, int]]) -> Tensor:
    """Shapes per level and the level's (rows, columns) -> (A, 4) default boxes (cx, cy, w, h).

    Order: level, row, column, shape: that of a (B, shapes * k, rows, columns) map with channels moved last. Boxes
    are not clipped to the image.
    """
    levels = []
    for level, (rows, columns) in zip(shapes, grids, strict=True):
        x = (torch.arange(columns, device=level.device, dtype=level.dtype) + 0.5) / columns
        y = (torch.arange(rows, device=level.device, dtype=level.dtype) + 0.5) / rows
        centres = torch.stack([x.repeat(rows), y[:, None].repeat(1, columns).view(-1)], -1)  # (cells, 2)
        centres = centres.repeat(1, len(level)).view(-1, 2)  # of each cell as often as it has shapes
        levels.append(torch.cat([centres, level.repeat(rows * columns, 1)], -1))
    return torch.cat(levels)


def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) cxcywh boxes and default boxes -> (..., 4) deltas (tx, ty, tw, th), scaled by VARIANCES."""
    centre = (boxes[..., :2] - defaults[..., :2]) / defaults[..., 2:]
    size = (boxes[..., 2:] / defaults[..., 2:]).clamp(min=1e-6).log()
    return torch.cat([centre, size], -1) * boxes.new_tensor(VARIANCES)


def decode(deltas: Tensor, defaults: Tensor) -> Tensor:
    """(..., 4) deltas and (cx, cy, w, h) default boxes -> (..., 4) xyxy boxes, fractions of the image, clipped."""
    deltas = deltas / deltas.new_tensor(VARIANCES)
    centre = defaults[..., :2] + deltas[..., :2] * defaults[..., 2:]
    half = defaults[..., 2:] * deltas[..., 2:].clamp(max=math.log(1000.0)).exp() / 2
    return torch.cat([centre - half, centre + half], -1).clamp(0, 1)


def match(boxes: Tensor, valid: Tensor, defaults: Tensor, *, threshold: float = 0.5, least: int = 1) -> Tensor:
    """Which object each default box learns: (B, M, 4) xyxy, (B, M) bool, (A, 4) cxcywh -> (B, A) int64, -1 for none.

    A default box takes the object that it overlaps most, if the IoU reaches the threshold; and an object has the
    default box that overlaps it most, whatever the IoU (SSD, section 2.2). Where two objects want the same one, the
    closer has it. With `least` above 1 an object also has the so many default boxes that overlap it most, of those
    that no object has by IoU: an object that is small against the cells learns from more than one place.
    """
    batch, most = valid.shape
    if most == 0:
        return valid.new_full((batch, len(defaults)), -1, dtype=torch.int64)
    corners = box_convert(defaults, "cxcywh", "xyxy")
    iou = box_iou(boxes.flatten(0, 1), corners).view(batch, most, -1)  # (B, M, A)
    iou = iou.masked_fill(~valid[..., None], -1.0)
    best, matched = iou.max(1)  # (B, A)
    matched = matched.masked_fill(best < threshold, -1)
    if least > 1:
        nearest = iou.topk(min(least, len(defaults)), dim=2).indices  # (B, M, least)
        close = torch.zeros_like(iou, dtype=torch.bool).scatter_(2, nearest, True) & (iou > 0)
        claim, claimed = (iou * close).max(1)
        matched = torch.where((matched < 0) & (claim > 0), claimed, matched)
    own = torch.arange(len(defaults), device=iou.device) == iou.argmax(2, keepdim=True)  # (B, M, A)
    own = own & (iou > 0)
    claim, claimed = (iou * own).max(1)
    return torch.where(claim > 0, claimed, matched)


def suppress_groups(boxes: Tensor, scores: Tensor, groups: Tensor, limit: float) -> Tensor:
    """Non-maximum suppression, each group by itself: the places of the boxes kept, in no order.

    boxes: (N, 4) xyxy; scores: (N,); groups: (N,) int64, ascending. On the CPU the time grows with the number of groups
    alone, where torchvision's `batched_nms` looks at all N boxes once a group.
    """
    if boxes.device.type != "cpu":  # a kernel a group would cost more
        return batched_nms(boxes, scores, groups, limit)
    assert bool((groups.diff() >= 0).all())
    counts = groups.bincount().tolist()
    kept = [groups.new_empty(0)]
    start = 0
    for count, own, score in zip(counts, boxes.split(counts), scores.split(counts), strict=True):
        if count:
            kept.append(start + nms(own, score, limit))
        start += count
    return torch.cat(kept)
