"""The Faster R-CNN head against torchvision's own model with the same weights, and what is ours around it."""

import pytest
import torch
from torchvision.models.detection import FasterRCNN as Theirs

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.faster_rcnn import Anchors, FasterRCNN
from mnv2_tasks.weights.adapters import as_torchvision_backbone

SIDE = 128


def make(**settings) -> tuple[MobileNetV2, FasterRCNN]:
    torch.manual_seed(0)
    backbone = MobileNetV2(0.35)
    head = FasterRCNN(backbone.taps, 2, channels=32, hidden=64, **settings)
    backbone.keep(head.needs)
    return backbone, head


def pair() -> tuple[MobileNetV2, FasterRCNN, Theirs]:
    """Ours and theirs with the same weights and settings; torchvision's normalises nothing and resizes nothing."""
    backbone, head = make(anchors=(32, 64, 128, 256, 512), samples=32, score_threshold=0.0, detections=20)
    torch.nn.init.normal_(head.roi_heads.box_predictor.cls_score.weight, std=0.3)
    theirs = Theirs(
        as_torchvision_backbone(MobileNetV2(0.35), fpn_channels=32),
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=300,
        rpn_post_nms_top_n_test=300,
        box_head=head.roi_heads.box_head,
        box_predictor=head.roi_heads.box_predictor,
        box_score_thresh=0.0,
        box_batch_size_per_image=32,
        box_detections_per_img=20,
    )
    theirs.backbone.backbone.load_state_dict(backbone.state_dict())
    theirs.backbone.fpn.load_state_dict(head.fpn.state_dict())
    theirs.rpn.load_state_dict(head.rpn.state_dict())
    return backbone, head, theirs


def targets(count: int = 2) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[10.0, 12.0, 60.0, 70.0], [40.0, 30.0, 120.0, 90.0]]).repeat(count, 1, 1)
    return {
        "boxes": boxes,
        "labels": torch.tensor([[0, 1], [1, -1], [-1, -1]])[:count],
        "crowd": torch.zeros(count, 2, dtype=torch.bool),
        "area": torch.ones(count, 2),
        "known": torch.ones(count, dtype=torch.bool),
        "image_id": torch.arange(count),
        "size": torch.full((count, 2), SIDE),
        "seen": torch.full((count, 2), SIDE),
    }


def test_losses_equal_torchvisions():
    backbone, head, theirs = pair()
    images = torch.rand(2, 3, SIDE, SIDE)
    given = targets()
    rows = [{"boxes": b[n >= 0], "labels": n[n >= 0] + 1} for b, n in zip(given["boxes"], given["labels"], strict=True)]
    backbone.eval(), theirs.train().backbone.eval()
    theirs.transform.eval()  # in training it draws a size, and so spends a random number
    torch.manual_seed(3)  # both draw the same anchors and regions
    wanted = theirs(list(images), rows)
    torch.manual_seed(3)
    found = head.loss(head.train()(backbone(images), (SIDE, SIDE)), given)
    names = {
        "objectness_loss": "loss_objectness",
        "proposal_loss": "loss_rpn_box_reg",
        "class_loss": "loss_classifier",
        "box_loss": "loss_box_reg",
    }
    for ours, name in names.items():
        assert torch.allclose(found[ours], wanted[name], rtol=1e-5), ours
    torch.manual_seed(3)  # in evaluation the loss is the same, and needs no switch of modes
    found = head.loss(head.eval()(backbone(images), (SIDE, SIDE)), given)
    assert all(torch.allclose(found[ours], wanted[name], rtol=1e-5) for ours, name in names.items())


def test_predictions_equal_torchvisions():
    backbone, head, theirs = pair()
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        wanted = theirs.eval()(list(images))
        out = head.eval()(backbone.eval()(images), (SIDE, SIDE))
        found = head.predict(out)
        late = head.predict(out._replace(regions=None))
    for ours, again, one in zip(found, late, wanted, strict=True):
        assert len(one["boxes"]) == 20
        assert torch.equal(ours["labels"], one["labels"] - 1)
        assert torch.allclose(ours["boxes"], one["boxes"], atol=1e-3)
        assert torch.allclose(ours["scores"], one["scores"], atol=1e-5)
        assert torch.equal(ours["boxes"], again["boxes"])


@pytest.mark.parametrize("size", [(97, 161), (32, 40), (300, 60)])
def test_anchors_stay_on_their_cells_at_any_size(size):
    backbone, head = make()
    out = head.eval()(backbone.eval()(torch.rand(1, 3, *size)), size)
    start = 0
    for name, stride in zip(out.features, (4, 8, 16, 32, 64), strict=True):
        rows, columns = out.features[name].shape[-2:]
        level = out.anchors[start : start + rows * columns * 3].view(rows, columns, 3, 4)
        centre = (level[..., :2] + level[..., 2:]) / 2
        assert torch.equal(centre[-1, -1, 0], torch.tensor([(columns - 1) * stride, (rows - 1) * stride]).float())
        start += rows * columns * 3
    assert start == len(out.anchors)


def test_regions_are_pooled_by_the_strides_whatever_comes_first():
    backbone, head = make()
    for size in ((33, 33), (128, 128)):  # torchvision would keep the scales that it guesses from the first
        head.eval()(backbone.eval()(torch.rand(1, 3, *size)), size)
    assert head.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    mapper = head.roi_heads.box_roi_pool.map_levels
    sides = torch.tensor([20.0, 30.0, 60.0, 120.0, 500.0])
    boxes = torch.cat([torch.zeros(5, 2), sides[:, None].expand(-1, 2)], 1)
    assert mapper([boxes]).tolist() == [0, 0, 1, 2, 3]


def test_only_known_images_and_real_objects_teach():
    backbone, head = make()
    images = torch.rand(3, 3, SIDE, SIDE)
    out = head.eval()(backbone.eval()(images), (SIDE, SIDE))
    given = targets(3)
    given["known"] = torch.tensor([False, True, False])
    given["boxes"][1, 1] = torch.tensor([5.0, 5.0, 5.0, 50.0])  # without an area
    given["labels"][1, 1] = 0
    torch.manual_seed(0)
    found = head.loss(out, given)
    single = head(backbone(images[1:2]), (SIDE, SIDE))
    single = single._replace(proposals=out.proposals[1:2])  # equal but for rounding, which could change their order
    torch.manual_seed(0)
    wanted = head.loss(single, {key: value[1:2] for key, value in targets(3).items()})
    assert all(torch.allclose(value, wanted[name], rtol=1e-4) for name, value in found.items())
    given["crowd"][:] = True  # then the image holds nothing that can be learned
    empty = head.loss(out, given)
    assert empty["proposal_loss"] == 0 and empty["box_loss"] == 0 and empty["class_loss"] > 0


def test_bad_settings_name_the_fix():
    with pytest.raises(InputError, match="anchors has 2 sizes: give 5"):
        make(anchors=(16, 32))
    with pytest.raises(InputError, match="c9.*c1"):
        make(sources=("c4", "c9"))


def test_fewer_levels():
    backbone, head = make(sources=("c4", "c5"), anchors=(32, 64, 128))
    out = head.eval()(backbone.eval()(torch.rand(2, 3, 64, 64)), (64, 64))
    assert [tuple(x.shape[-2:]) for x in out.features.values()] == [(4, 4), (2, 2), (1, 1)]
    assert len(head.predict(out)) == 2
    assert isinstance(head.rpn.anchor_generator, Anchors)
