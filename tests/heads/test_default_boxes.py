"""Default boxes, coding and matching: against torchvision's detection code, and against a loop."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.ops import batched_nms, box_convert, box_iou

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

GRIDS = [(19, 19), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1)]


def random_boxes(n: int, *, low: float = 0.05, high: float = 0.5) -> torch.Tensor:
    size = torch.empty(n, 2).uniform_(low, high)
    corner = torch.rand(n, 2) * (1 - size)
    return torch.cat([corner, corner + size], 1)


def test_original_default_boxes():
    boxes = grid_boxes(original_shapes(), GRIDS)
    assert boxes.shape == (1917, 4)  # the original SSDLite at 300 pixels
    assert torch.allclose(
        boxes[:2], torch.tensor([[0.5 / 19, 0.5 / 19, 0.1, 0.1], [0.5 / 19, 0.5 / 19, 0.2828, 0.1414]]), atol=1e-4
    )
    assert torch.allclose(boxes[3, :2], torch.tensor([1.5 / 19, 0.5 / 19]))  # the next cell lies to the right
    assert torch.allclose(boxes[-1], torch.tensor([0.5, 0.5, 0.9747, 0.9747]), atol=1e-4)
    assert [len(level) for level in original_shapes(first_level=6)] == [6] * 6


def test_coding_equals_torchvision():
    torch.manual_seed(0)
    boxes, anchors = random_boxes(200), random_boxes(200)
    deltas = encode(box_convert(boxes, "xyxy", "cxcywh"), box_convert(anchors, "xyxy", "cxcywh"))
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    assert torch.allclose(deltas, coder.encode_single(boxes, anchors), atol=1e-5)
    assert torch.allclose(decode(deltas, box_convert(anchors, "xyxy", "cxcywh")), boxes, atol=1e-5)


def test_matching_equals_torchvision():
    torch.manual_seed(0)
    defaults = grid_boxes(original_shapes(), GRIDS)
    corners = box_convert(defaults, "cxcywh", "xyxy")
    compared = 0
    for _ in range(30):
        boxes = random_boxes(3)
        iou = box_iou(boxes, corners)
        if len(set(iou.argmax(1).tolist())) < 3:  # two objects want one default box: theirs depends on the order
            continue
        wanted = SSDMatcher(0.5)(iou).clamp(min=-1)
        assert torch.equal(match(boxes[None], torch.ones(1, 3, dtype=torch.bool), defaults)[0], wanted)
        compared += 1
    assert compared > 20


def test_matching_a_batch_equals_one_by_one():
    torch.manual_seed(1)
    defaults = grid_boxes(original_shapes(), GRIDS)
    boxes = random_boxes(40).view(4, 10, 4)
    valid = torch.arange(10) < torch.tensor([10, 3, 0, 7])[:, None]
    together = match(boxes, valid, defaults)
    for i, n in enumerate((10, 3, 0, 7)):
        alone = match(boxes[i : i + 1, :n], valid[i : i + 1, :n], defaults)[0]
        assert torch.equal(together[i], alone)
    assert (together[2] == -1).all()


def test_the_closer_object_has_a_contested_default_box():
    defaults = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1]])
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75], [0.3, 0.3, 0.7, 0.7]]])
    assert match(boxes, torch.ones(1, 2, dtype=torch.bool), defaults).tolist() == [[1, -1]]


def test_every_object_has_a_default_box():
    defaults = grid_boxes(original_shapes(), GRIDS)
    boxes = torch.tensor([[[0.01, 0.01, 0.02, 0.02], [0.5, 0.5, 0.51, 0.9]]])  # far below any IoU of 0.5
    matched = match(boxes, torch.ones(1, 2, dtype=torch.bool), defaults)
    assert sorted(matched[matched >= 0].tolist()) == [0, 1]


def test_small_objects_can_have_more_default_boxes():
    defaults = grid_boxes(original_shapes(), GRIDS)
    big, small = [0.2, 0.2, 0.8, 0.8], [0.81, 0.81, 0.85, 0.86]
    boxes, both = torch.tensor([[big, small]]), torch.ones(1, 2, dtype=torch.bool)
    by_iou, more = (match(boxes, both, defaults, least=least)[0] for least in (1, 4))
    assert (by_iou == 1).sum() == 1 and (more == 1).sum() == 4
    assert torch.equal(by_iou == 0, more == 0)  # the big one had more than 4 anyway, and loses none
    iou = box_iou(boxes[0, 1:], box_convert(defaults, "cxcywh", "xyxy"))[0]
    assert set((more == 1).nonzero().flatten().tolist()) == set(iou.topk(4).indices.tolist())


def test_fitted_shapes_find_the_sizes_in_the_data():
    torch.manual_seed(0)
    kinds = torch.tensor([[0.05, 0.07], [0.16, 0.2], [0.2, 0.16], [0.3, 0.4]])
    sizes = (kinds.repeat(50, 1) * torch.empty(200, 2).uniform_(0.95, 1.05)).clamp(max=1)
    stock = original_shapes()
    fitted = fit_shapes(sizes, stock)
    assert [len(level) for level in fitted] == [len(level) for level in stock]
    assert torch.equal(fitted[5], stock[5])  # no box of that size: its stock shapes stay
    before, after = (aligned_iou(sizes, torch.cat(s)).max(1).values for s in (stock, fitted))
    assert after.mean() > 0.9 > before.mean() and after.min() > 0.8
    again = fit_shapes(sizes[torch.randperm(200)], stock)
    assert all(torch.allclose(a, b, atol=0.01) for a, b in zip(fitted, again, strict=True))


@pytest.mark.parametrize("count", [0, 1, 5])
def test_few_boxes_keep_the_stock_shapes(count):
    assert all(
        torch.equal(a, b)
        for a, b in zip(fit_shapes(random_boxes(count)[:, 2:], original_shapes()), original_shapes(), strict=True)
    )


def test_groups_are_suppressed_as_torchvision_does():
    generator = torch.Generator().manual_seed(0)
    for count, groups in ((0, 5), (300, 1), (300, 7), (3000, 40)):  # from 1000 on it loops over the groups
        centre, half = (
            torch.rand(count, 2, generator=generator) * 100,
            2 + torch.rand(count, 2, generator=generator) * 20,
        )
        boxes = torch.cat([centre - half, centre + half], 1)
        scores = (torch.rand(count, generator=generator) * 50).round() / 50  # many are equal
        group = torch.randint(0, groups, (count,), generator=generator).sort().values
        ours = suppress_groups(boxes, scores, group, 0.5)
        assert torch.equal(ours.sort().values, batched_nms(boxes, scores, group, 0.5).sort().values)
