"""The DeepLabv3-lite head: its layers, its losses, several views of an image, its pictures, and its bad settings."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.mask_losses import LOSSES, class_balance, losses
from mnv2_tasks.heads.views import Views, predict_logits
from mnv2_tasks.visual.mask_drawing import draw_mask, mask_colours

CLASSES = ("background", "cat", "dog")


def make(output_stride: int = 16, num_classes: int = 3, **settings) -> tuple[MobileNetV2, DeepLabV3]:
    torch.manual_seed(0)
    backbone = MobileNetV2(0.35, output_stride)
    head = DeepLabV3(backbone.taps, num_classes, channels=32, **settings)
    backbone.keep(head.needs)
    return backbone, head


def masks(batch: int = 2, size: tuple[int, int] = (64, 96)) -> torch.Tensor:
    mask = torch.randint(0, 3, (batch, *size), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    mask[:, :8] = 255
    return mask


@pytest.mark.parametrize("output_stride", DeepLabV3.strides)
@pytest.mark.parametrize("aspp", [None, "separable", "full"])
def test_shapes_and_weights_at_every_stride(output_stride, aspp):
    backbone, head = make(output_stride, aspp=aspp)
    out = head.eval()(backbone.eval()(torch.rand(2, 3, 65, 97)), (65, 97))
    assert out.logits.shape == (2, 3, 65, 97) and out.logits.dtype == torch.float32 and out.auxiliary is None
    head.load_state_dict(make(16, aspp=aspp)[1].state_dict())
    found = head.predict(out)
    assert len(found) == 2 and found[0]["mask"].dtype == torch.uint8
    assert torch.equal(found[1]["mask"].long(), out.logits[1].argmax(0))


def test_light_head_layer_by_layer():
    backbone, head = make()
    taps = backbone.eval()(torch.rand(2, 3, 64, 96))
    out = head.eval()(taps, (64, 96))
    x = taps["c5"]
    pooled = F.interpolate(head.image_pooling(F.adaptive_avg_pool2d(x, 1)), size=x.shape[-2:], mode="bilinear")
    y = head.logits(head.concat_projection(torch.cat([pooled, head.aspp0(x)], 1)))
    y = F.interpolate(y, size=(64, 96), mode="bilinear", align_corners=False)
    assert torch.allclose(out.logits, y, atol=1e-6)


@pytest.mark.parametrize("loss", [*LOSSES, {"cross_entropy": 1, "dice": 0.5}])
@pytest.mark.parametrize("known", [True, False])
def test_every_parameter_learns_or_has_a_zero_gradient(loss, known):
    backbone, head = make(loss=loss, auxiliary=0.4)
    mask = masks() if known else torch.full((2, 64, 96), 255, dtype=torch.uint8)
    found = head.loss(head(backbone(torch.rand(2, 3, 64, 96)), (64, 96)), {"mask": mask})
    names = [loss] if isinstance(loss, str) else list(loss)
    assert set(found) == {f"{name}_loss" for name in names} | {"auxiliary_loss"}
    assert all(value.isfinite() and value.ndim == 0 and value.dtype == torch.float32 for value in found.values())
    assert known == all(bool(value != 0) for value in found.values())
    sum(found.values()).backward()
    parameters = [p for module in (backbone, head) for p in module.parameters()]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    assert known or not any(p.grad.any() for p in parameters)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 3.0])])
def test_cross_entropy_is_torchs(weights):
    logits, mask = torch.randn(2, 3, 64, 96), masks()
    wanted = F.cross_entropy(logits, mask.long(), weight=weights, ignore_index=255)
    found = losses(logits, mask, {"cross_entropy": 2.0}, class_weights=weights)["cross_entropy_loss"]
    assert torch.allclose(found, 2 * wanted, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_in_float32_and_without_ignored_pixels(name):
    logits, mask = torch.randn(2, 3, 16, 16), masks(size=(16, 16))
    with torch.autocast("cpu", torch.bfloat16):
        found = losses(logits, mask, {name: 1.0})[f"{name}_loss"]
    changed = torch.where((mask == 255)[:, None], torch.randn_like(logits) * 9, logits)
    assert found.dtype == torch.float32
    assert torch.allclose(found, losses(changed, mask, {name: 1.0})[f"{name}_loss"], rtol=1e-5)


@pytest.mark.parametrize("skips", [["c3", "c2"], ["c3x", "c2x"]])
def test_skips_add_the_linear_predictions_of_finer_taps(skips):
    backbone, head = make(skips=skips, auxiliary=0.4)
    assert head.needs == ("c5", *skips, "c4")
    taps = backbone.train()(torch.rand(2, 3, 64, 96))
    with_skips = head.eval()(taps, (64, 96)).logits
    (coarse, fine), size = head.skip_layers, taps[skips[1]].shape[-2:]
    part = F.interpolate(coarse(taps[skips[0]]), size, mode="bilinear") + fine(taps[skips[1]])
    for layer in head.skip_layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    wanted = head(taps, (64, 96)).logits + F.interpolate(part, (64, 96), mode="bilinear")
    assert torch.allclose(with_skips, wanted, atol=1e-5) and part.abs().max() > 1e-3


def test_class_balance():
    counts = torch.tensor([900, 90, 10, 0])
    gentle, hard = class_balance(counts, "balanced"), class_balance(counts, "median_frequency")
    share = torch.tensor([0.9, 0.09, 0.01])
    wanted = (1.02 + share[0]).log() / (1.02 + share).log()
    assert torch.allclose(gentle[:3] / gentle[0], wanted)
    assert torch.allclose(hard[:3] / hard[0], share[0] / share)
    for weights in (gentle, hard):
        assert weights[3] == 0 and (weights[:3] * share).sum() == pytest.approx(1)
    assert hard[2] / hard[0] > gentle[2] / gentle[0] > 1
    head = make(num_classes=4, class_weights="balanced")[1]
    assert "balanced" in head.balance(counts) and torch.equal(head.mask_loss.class_weights, gentle)
    other = make(num_classes=4, class_weights="balanced")[1]
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.mask_loss.class_weights, gentle)
    with pytest.raises(InputError, match="no pixel"):
        head.balance(torch.zeros(4))


def test_merged_classes_add_their_probabilities():
    backbone, head = make(num_classes=2, merge=[[0, 2], [1, 3, 4]])
    assert head.logits.out_channels == 5
    trained = DeepLabV3(backbone.taps, 5, channels=32)
    trained.load_state_dict(head.state_dict())
    taps = backbone.eval()(torch.rand(1, 3, 64, 64))
    chance = trained.eval()(taps, (64, 64)).logits.softmax(1)
    wanted = torch.stack([chance[:, [0, 2]].sum(1), chance[:, [1, 3, 4]].sum(1)], 1)
    assert torch.allclose(head.eval()(taps, (64, 64)).logits.softmax(1), wanted, atol=1e-6)


def test_one_image_cannot_train_the_norm_after_pooling():
    backbone, head = make()
    with pytest.raises(InputError, match="batch_size"):
        head(backbone.eval()(torch.rand(1, 3, 64, 64)), (64, 64))


@pytest.mark.parametrize(
    "settings",
    [
        {"aspp": "wide"},
        {"loss": "jaccard"},
        {"loss": {"dice": 0}},
        {"loss": {}},
        {"class_weights": "rare"},
        {"class_weights": [1, 2]},
        {"class_weights": "balanced", "loss": "dice"},
        {"auxiliary": 0.4, "auxiliary_tap": "c9"},
        {"skips": ["c9"]},
        {"merge": [[0], [1]]},
        {"merge": [[0], [1], [1]]},
        {"merge": [[0], [1], [3]]},
        {"scales": []},
        {"scales": [1.0, 0.0]},
        {"window": [16]},
        {"overlap": 1.0},
    ],
)
def test_bad_settings_name_the_fix(settings):
    with pytest.raises(InputError, match="head\\.") as error:
        make(**settings)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------- views


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 1)).eval().requires_grad_(False)


@pytest.mark.parametrize("window", [None, (24, 40), (64, 64)])
def test_one_view_is_the_model_itself(network, window):
    images = torch.rand(2, 3, 24, 40)
    assert torch.equal(predict_logits(network, images, Views(window=window)), network(images))


def test_mirrored_views_are_averaged(network):
    images = torch.rand(2, 3, 24, 40)
    found = predict_logits(network, images, Views(flip=True))
    mirrored = predict_logits(network, images.flip(-1), Views(flip=True))
    wanted = (network(images).softmax(1) + network(images.flip(-1)).flip(-1).softmax(1)) / 2
    assert torch.allclose(found.exp(), wanted, atol=1e-6)
    assert torch.allclose(found, mirrored.flip(-1), atol=1e-5)
    symmetric = (images + images.flip(-1)) / 2
    found = predict_logits(network, symmetric, Views(flip=True))
    assert torch.allclose(found, found.flip(-1), atol=1e-5)


def test_windows_see_every_pixel_and_agree_where_the_model_is_local():
    torch.manual_seed(0)
    local = nn.Conv2d(3, 5, 1).eval().requires_grad_(False)
    images = torch.rand(2, 3, 50, 71)
    sizes = []

    def call(view):
        sizes.append(tuple(view.shape[-2:]))
        return local(view)

    found = predict_logits(call, images, Views(window=(32, 32), overlap=0.25))
    assert set(sizes) == {(32, 32)} and len(sizes) == 2 * 3
    assert torch.allclose(found.exp(), local(images).softmax(1), atol=1e-6)


def test_scales_average_resized_views(network):
    images = (torch.rand(1, 3, 32, 32) * 255).to(torch.uint8)
    seen = []

    def call(view):
        seen.append(tuple(view.shape[-2:]))
        return network(view.float() / 255 if view.dtype == torch.uint8 else view)

    found = predict_logits(call, images, Views(scales=(0.5, 1.0, 1.5), flip=True))
    assert seen == [(16, 16)] * 2 + [(32, 32)] * 2 + [(48, 48)] * 2
    assert torch.allclose(found.exp().sum(1), torch.ones(1, 32, 32), atol=1e-5)


def test_head_infers_as_its_settings_say():
    backbone, head = make(flip=True)

    def model(images):
        return head(backbone(images), tuple(images.shape[-2:]))

    backbone.eval(), head.eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        found = head.infer(model, images)
        assert head.has_views and not make()[1].has_views
        assert torch.equal(found.logits, predict_logits(lambda x: model(x).logits, images, Views(flip=True)))
        plain = make()[1].eval()
        plain.load_state_dict(head.state_dict())
        once = plain.infer(lambda x: plain(backbone(x), (64, 64)), images)
        assert torch.equal(once.logits, plain(backbone(images), (64, 64)).logits)


# ---------------------------------------------------------------------------------------------- pictures


def test_background_stays_clear_and_classes_keep_their_colours():
    image = torch.full((3, 300, 400), 200, dtype=torch.uint8)
    mask = torch.zeros(30, 40, dtype=torch.uint8)
    mask[10:20, 10:20], mask[20:, 30:] = 1, 255
    picture = draw_mask(image, mask, CLASSES)
    assert picture.dtype == torch.uint8 and picture.shape[0] == 3 and picture.shape[2] == 400
    assert picture.shape[1] > 300  # the legend
    assert (picture[:, 20, 20] == 200).all()
    colour = torch.tensor(mask_colours(CLASSES)[1])
    assert torch.allclose(picture[:, 150, 150].float(), 0.4 * 200 + 0.6 * colour, atol=1)
    assert mask_colours(CLASSES)[1] == mask_colours(("cat", "dog"))[0]
    assert None not in mask_colours(("sky", "road"))


def test_head_draws_the_part_that_holds_the_image():
    head = make()[1]
    image = torch.zeros(3, 256, 512, dtype=torch.uint8)
    mask = torch.full((64, 64), 255, dtype=torch.uint8)
    mask[:32, :32], mask[:32, 32:] = 1, 2
    picture = head.kind.draw(image, {"mask": mask}, CLASSES, seen=(32, 64))
    cat, dog = (torch.tensor(colour) * 0.6 for colour in mask_colours(CLASSES)[1:])
    assert torch.allclose(picture[:, 250, 100].float(), cat, atol=1)
    assert torch.allclose(picture[:, 250, 400].float(), dog, atol=1)


def test_plots(tmp_path):
    head = make()[1]
    metric = head.metrics(CLASSES)
    metric.update([masks()[0] % 3], [masks()[0]], torch.tensor([7]))
    assert head.primary in (values := metric.compute()) and set(head.curves) <= set(values)
    assert head.worst(metric, 3) == [7]
    head.plot(metric, CLASSES, tmp_path)
    for name in ("confusion.png", "iou.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 100
