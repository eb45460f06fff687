"""The SSDLite head: its loss and decoding against torchvision's operators and a plain loop, and its contract."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms, box_convert

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.default_boxes import decode, encode, grid_boxes, match, original_shapes
from mnv2_tasks.heads.ssdlite import Outputs, SSDLite, hard_negative_loss


def make(num_classes: int = 3, **settings) -> tuple[MobileNetV2, SSDLite]:
    torch.manual_seed(0)
    backbone = MobileNetV2(0.35)
    backbone.keep(SSDLite.needs)
    return backbone, SSDLite(backbone.taps, num_classes, **settings)


def targets(counts: list[int], *, size: int = 128) -> dict[str, torch.Tensor]:
    most = max(counts, default=0)
    corner = torch.rand(len(counts), most, 2) * size / 2
    labels = torch.randint(0, 3, (len(counts), most))
    labels[torch.arange(most) >= torch.tensor(counts)[:, None]] = -1
    return {
        "boxes": torch.cat([corner, corner + 8 + torch.rand(len(counts), most, 2) * size / 3], -1),
        "labels": labels,
        "crowd": torch.zeros(len(counts), most, dtype=torch.bool),
        "area": torch.ones(len(counts), most),
        "image_id": torch.arange(len(counts)),
        "size": torch.full((len(counts), 2), size),
        "seen": torch.full((len(counts), 2), size),
        "known": torch.ones(len(counts), dtype=torch.bool),
    }


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("size", [(128, 128), (97, 160), (32, 32)])
@pytest.mark.parametrize("first_level", [3, 6])
def test_shapes(size, output_stride, first_level):
    backbone = MobileNetV2(0.35, output_stride)
    head = SSDLite(backbone.taps, 5, first_level=first_level).eval()
    out = head(backbone.eval()(torch.rand(2, 3, *size)), size)
    assert out.scores.shape == (2, len(out.defaults), 6) and out.deltas.shape == (2, len(out.defaults), 4)


@pytest.mark.parametrize("counts", [[3, 0, 5], [0, 0, 0], [1, 1, 1]])
@pytest.mark.parametrize("loss", ["hard_negative", "focal"])
def test_every_parameter_learns(loss, counts):
    backbone, head = make(loss=loss)
    losses = head.loss(head(backbone(torch.rand(3, 3, 128, 128)), (128, 128)), targets(counts))
    assert set(losses) == {"class_loss", "box_loss"}
    assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for module in (backbone, head) for p in module.parameters())


def test_loss_equals_a_loop_over_images():
    backbone, head = make(least=1)
    out = head(backbone(torch.rand(4, 3, 128, 128)), (128, 128))
    given = targets([4, 0, 2, 7])
    losses = head.loss(out, given)
    class_loss = box_loss = positives = 0
    for i in range(4):
        real = given["labels"][i] >= 0
        boxes, labels = given["boxes"][i][real] / 128, given["labels"][i][real]
        matched = match(boxes[None], torch.ones(1, len(boxes), dtype=torch.bool), out.defaults)[0]
        wanted = torch.zeros(len(out.defaults), dtype=torch.int64)
        hit = matched >= 0
        wanted[hit] = labels[matched[hit]] + 1
        each = F.cross_entropy(out.scores[i], wanted, reduction="none")
        negatives = each[~hit].topk(max(3, 3 * int(hit.sum()))).values
        class_loss = class_loss + each[hit].sum() + negatives.sum()
        goal = encode(box_convert(boxes[matched[hit]], "xyxy", "cxcywh"), out.defaults[hit])
        box_loss = box_loss + F.smooth_l1_loss(out.deltas[i][hit], goal, reduction="sum")
        positives += int(hit.sum())
    assert torch.allclose(losses["class_loss"], class_loss / positives, rtol=1e-5)
    assert torch.allclose(losses["box_loss"], box_loss / positives, rtol=1e-5)


def test_hard_negatives_are_the_hardest():
    scores = torch.zeros(1, 10, 2)
    scores[0, :, 1] = torch.arange(10.0)  # the later, the more it looks like an object
    wanted = torch.zeros(1, 10, dtype=torch.int64)
    wanted[0, 9] = 1
    each = F.cross_entropy(scores[0], wanted[0], reduction="none")
    known = torch.ones(1, dtype=torch.bool)
    assert torch.allclose(hard_negative_loss(scores, wanted, known), each[9] + each[6:9].sum())
    empty = F.cross_entropy(scores[0], wanted[0] * 0, reduction="none")
    assert torch.allclose(hard_negative_loss(scores, wanted * 0, known), empty[7:].sum())
    assert hard_negative_loss(scores, wanted * 0, ~known) == 0


def test_padding_and_crowds_do_not_count():
    backbone, head = make()
    out = head(backbone(torch.rand(2, 3, 128, 128)), (128, 128))
    given = targets([2, 1])
    padded = {
        k: F.pad(v, (0, 0, 0, 5) if k == "boxes" else (0, 5), value=-1 if k == "labels" else 0)
        if v.shape[1:2] == (2,) and k != "size"
        else v
        for k, v in given.items()
    }
    crowded = {k: v.clone() for k, v in padded.items()}
    crowded["labels"][:, 4], crowded["crowd"][:, 4] = 1, True
    crowded["boxes"][:, 4] = torch.tensor([10.0, 10.0, 90.0, 90.0])
    wanted = head.loss(out, given)
    for other in (padded, crowded):
        assert all(torch.equal(value, wanted[name]) for name, value in head.loss(out, other).items())


@pytest.mark.parametrize("loss", ["hard_negative", "focal"])
def test_decoding_equals_a_loop_over_images(loss):
    head = make(loss=loss, score_threshold=0.2, candidates=20)[1]
    defaults = grid_boxes(original_shapes(), [(6, 10), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1)])
    scores, deltas = torch.randn(3, len(defaults), 4) * 3, torch.randn(3, len(defaults), 4)
    scores[1, :, 1:] = -20  # an image where nothing is found
    out = Outputs(scores, deltas, defaults, (96, 160))
    for i, found in enumerate(head.predict(out)):
        chance = scores[i, :, 1:].sigmoid() if loss == "focal" else scores[i].softmax(-1)[:, 1:]
        score, anchor = chance.topk(20, dim=0)
        score, anchor, label = score.flatten(), anchor.flatten(), torch.arange(3).repeat(20)
        likely = score > 0.2
        score, anchor, label = score[likely], anchor[likely], label[likely]
        boxes = decode(deltas[i], defaults)[anchor] * torch.tensor([160.0, 96.0, 160.0, 96.0])
        kept = batched_nms(boxes, score, label, 0.6)[:100]
        assert len(kept) == 0 if i == 1 else len(kept) > 10
        assert torch.equal(found["scores"], score[kept]) and torch.equal(found["labels"], label[kept])
        assert torch.allclose(found["boxes"], boxes[kept], atol=1e-4)


def test_no_candidate_is_a_valid_answer():
    backbone, head = make(score_threshold=1.0)
    found = head.eval().predict(head(backbone.eval()(torch.rand(2, 3, 64, 64)), (64, 64)))
    assert [len(one["boxes"]) for one in found] == [0, 0]


class Spy:
    """A metric that shows what it is given."""

    def update(self, predictions, truths):
        self.predictions, self.truths = predictions, truths


def test_metric_is_in_original_pixels():
    backbone, head = make()
    given = targets([3, 1])
    given["size"] = torch.tensor([[256, 512], [64, 64]])
    given["seen"][1] = torch.tensor([96, 128])  # the second image was padded below
    out = head.eval()(backbone.eval()(torch.rand(2, 3, 128, 128)), (128, 128))
    head.update(seen := Spy(), out, given)
    assert torch.allclose(seen.truths[0]["boxes"], given["boxes"][0] * torch.tensor([4.0, 2.0, 4.0, 2.0]))
    scale = torch.tensor([0.5, 2 / 3, 0.5, 2 / 3])
    assert torch.allclose(seen.truths[1]["boxes"], given["boxes"][1, :1] * scale)
    wanted = (head.predict(out)[1]["boxes"] * scale).clamp(max=64)  # no box reaches into the padding
    assert torch.allclose(seen.predictions[1]["boxes"], wanted) and seen.truths[1]["image_id"] == 1


def test_repeats_and_images_that_nobody_labelled_do_not_count():
    backbone, head = make()
    given = targets([3, 1, 2, 0])
    given["image_id"], given["known"] = torch.tensor([4, -1, 6, 7]), torch.tensor([True, True, False, True])
    out = head.eval()(backbone.eval()(torch.rand(4, 3, 128, 128)), (128, 128))
    head.update(seen := Spy(), out, given)
    assert [truth["image_id"] for truth in seen.truths] == [4, 7] and len(seen.predictions) == 2


@pytest.mark.parametrize("loss", ["hard_negative", "focal"])
def test_images_that_nobody_labelled_do_not_teach(loss):
    backbone, head = make(loss=loss)
    out = head.eval()(backbone.eval()(torch.rand(3, 3, 128, 128)), (128, 128))
    given = targets([3, 2, 1])
    given["known"] = torch.tensor([True, False, True])
    wanted = {key: value[[0, 2]] for key, value in given.items()}
    alone = head.loss(out._replace(scores=out.scores[[0, 2]], deltas=out.deltas[[0, 2]]), wanted)
    for name, value in head.loss(out, given).items():
        assert torch.allclose(value, alone[name], rtol=1e-5)


def test_a_batch_without_any_image():
    head = make()[1]
    defaults = grid_boxes(original_shapes(), [(6, 10), (3, 5), (2, 3), (1, 2), (1, 1), (1, 1)])
    scores, deltas = (torch.zeros(0, len(defaults), n, requires_grad=True) for n in (4, 4))
    out = Outputs(scores, deltas, defaults, (96, 160))
    assert head.predict(out) == []
    metric = head.metrics(("a", "b", "c"))
    head.update(metric, out, targets([]))
    assert all(value.isnan() for value in metric.compute().values())  # there is nothing to be right about
    assert head.worst(metric, 3) == []


def test_box_arithmetic_stays_in_float32_under_autocast():
    backbone, head = make()
    given = targets([3, 1])
    with torch.autocast("cpu", torch.bfloat16):
        out = head(backbone(torch.rand(2, 3, 128, 128)), (128, 128))
        assert out.scores.dtype == out.deltas.dtype == out.defaults.dtype == torch.float32
        losses = head.loss(out, given)
    again = head.loss(out, given)
    assert all(torch.equal(value, again[name]) for name, value in losses.items())


def test_bfloat16_gradients_on_maps_of_one_column():
    """oneDNN leaves the weights that meet padding alone as memory was, so memory is made worth noticing."""
    _, head = make()
    head.to(memory_format=torch.channels_last)
    depthwise = head.extras[3][1][0].weight
    taps = {
        name: torch.rand(4, head_channels, 2, 2) for name, head_channels in zip(SSDLite.needs, (192, 1280), strict=True)
    }
    taps = {name: tap.to(memory_format=torch.channels_last) for name, tap in taps.items()}
    for _ in range(5):
        junk = [torch.full((16 * n,), torch.nan) for n in range(1, 200) for _ in range(8)]
        del junk
        with torch.autocast("cpu", torch.bfloat16):
            out = head(taps, (64, 64))
        head.zero_grad()
        (out.scores.float().square().sum() + out.deltas.float().square().sum()).backward()
        assert depthwise.grad[..., 1, 1].any()
        depthwise.grad[..., 1, 1] = 0
        assert not depthwise.grad.any()


def test_fitted_boxes_travel_in_the_state_dict():
    backbone, head = make(boxes="fit")
    sizes = torch.empty(500, 2).uniform_(0.1, 0.25)
    assert "500 training boxes" in head.fit(sizes)
    other = make(boxes="fit")[1]
    assert not torch.equal(other.shapes, head.shapes)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.shapes, head.shapes)


def test_bad_settings_name_the_fix():
    for settings in ({"boxes": "many"}, {"loss": "dice"}, {"first_level": 4}):
        with pytest.raises(InputError, match="head"):
            make(**settings)
