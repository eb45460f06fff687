"""The classifiers: the same logits as torchvision's network, their losses against torch's, and their contract."""

import csv
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from places import ROOT
from torch import Tensor
from torchvision.models import mobilenet_v2

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.datasets.transforms import classification
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads.classifier import Classifier, MultiLabel, Outputs
from mnv2_tasks.model import Model
from mnv2_tasks.visual.classification_plots import plot_class_bars, plot_reliability
from mnv2_tasks.visual.drawing import draw_label, palette
from mnv2_tasks.weights.layouts import backbone_state
from mnv2_tasks.weights.tensors import State, load_exactly, read_state

CLASSES = ("cat", "dog", "кот $x$")
HEADS = [(Classifier, {}), (Classifier, {"class_weights": [1, 2, 0.5], "label_smoothing": 0.1}), (MultiLabel, {})]


def make(kind=Classifier, num_classes: int = 3, **settings):
    torch.manual_seed(0)
    backbone = MobileNetV2(0.35)
    backbone.keep(kind.needs)
    return backbone, kind(backbone.taps, num_classes, **settings)


def ids(count: int) -> dict[str, Tensor]:
    return {"image_id": torch.arange(count), "size": torch.full((count, 2), 64), "seen": torch.full((count, 2), 64)}


def unknown(kind, count: int) -> dict[str, Tensor]:
    fields = {"label": torch.full((count,), -1)} if kind is Classifier else {"presence": torch.full((count, 3), -1.0)}
    return {**fields, **ids(count)}


# ------------------------------------------------------------------------------------- torchvision's network


def classifier_state(state: State) -> State:
    renamed = {"classifier.1.weight": "linear.weight", "classifier.1.bias": "linear.bias"}
    return {ours: state[theirs] for theirs, ours in renamed.items()}


def same_logits(state: State, images: Tensor) -> float:
    """The largest difference from torchvision's network, both with these tensors."""
    theirs = mobilenet_v2().eval()
    load_exactly(theirs, state, "state", hint="")
    backbone = MobileNetV2()
    head = Classifier(backbone.taps, 1000)
    load_exactly(backbone, backbone_state(state, "state"), "state", hint="")
    load_exactly(head, classifier_state(state), "state", hint="")
    model = Model(backbone, {"classifier": head}, mean=[0.5] * 3, std=[0.5] * 3).eval()
    with torch.inference_mode():
        wanted = theirs((images / 255 - model.mean) / model.std)
        found = model(images)["classifier"].logits
    assert wanted.std() > 0
    return float((wanted - found).abs().max())


def test_same_logits_as_torchvision():
    torch.manual_seed(0)
    network = mobilenet_v2()
    for module in network.modules():  # statistics other than 0 and 1, or they would test nothing
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    assert same_logits(network.state_dict(), torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)) == 0.0


def test_same_logits_as_torchvision_with_imagenet_weights(shared):
    torch.manual_seed(0)
    state = read_state(shared / "weights" / "mobilenet_v2_1.0_imagenet.npz")
    assert same_logits(state, torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)) == 0.0


def test_starts_as_torchvision():
    linear = make(num_classes=100)[1].linear
    assert abs(float(linear.weight.detach().std()) - 0.01) < 1e-4 and not linear.bias.any()


# ------------------------------------------------------------------------------------------------------ loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.25]])
def test_loss_equals_torch(smoothing, weights):
    head = make(label_smoothing=smoothing, class_weights=weights)[1]
    logits, label = torch.randn(6, 3), torch.tensor([0, 2, -1, 1, 1, -1])
    weight = None if weights is None else torch.tensor(weights)
    wanted = F.cross_entropy(logits, label, weight=weight, ignore_index=-1, label_smoothing=smoothing)
    assert torch.allclose(head.loss(Outputs(logits), {"label": label})["cross_entropy"], wanted)
    soft = F.one_hot(label.clamp(min=0), 3) * (label >= 0)[:, None].float()  # rows of zeros are unknown
    assert torch.allclose(head.loss(Outputs(logits), {"label": soft})["cross_entropy"], wanted)


def test_mixed_labels_are_the_mixture_of_losses():
    head = make()[1]
    logits, a, b = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    soft = 0.3 * F.one_hot(a, 3) + 0.7 * F.one_hot(b, 3)
    loss = {
        name: head.loss(Outputs(logits), {"label": y})["cross_entropy"]
        for name, y in zip("abs", (a, b, soft), strict=True)
    }
    assert torch.allclose(loss["s"], 0.3 * loss["a"] + 0.7 * loss["b"])


def test_multilabel_loss_equals_torch():
    head = make(MultiLabel)[1]
    logits, presence = torch.randn(5, 3), torch.randint(-1, 2, (5, 3)).float()
    known = presence >= 0
    wanted = F.binary_cross_entropy_with_logits(logits[known], presence[known])
    assert torch.allclose(head.loss(Outputs(logits), {"presence": presence})["binary_cross_entropy"], wanted)


@pytest.mark.parametrize(("kind", "settings"), HEADS)
def test_nothing_known_teaches_nothing(kind, settings):
    backbone, head = make(kind, **settings)
    losses = head.loss(head(backbone(torch.rand(2, 3, 64, 64)), (64, 64)), unknown(kind, 2))
    loss = sum(losses.values())
    (loss * 2**16).backward()  # as a gradient scaler does
    assert float(loss.detach()) == 0 and loss.dtype == torch.float32
    gradients = [p.grad for module in (backbone, head) for p in module.parameters()]
    assert all(grad is not None and not grad.any() for grad in gradients)


def test_soft_labels_of_unknown_images_teach_nothing():
    head = make(label_smoothing=0.1)[1]
    logits = torch.randn(2, 3, requires_grad=True)
    head.loss(Outputs(logits), {"label": torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]])})["cross_entropy"].backward()
    assert not logits.grad[0].any() and logits.grad[1].all()


@pytest.mark.parametrize(("kind", "settings"), HEADS)
def test_loss_is_float32_under_autocast(kind, settings):
    backbone, head = make(kind, **settings)
    known = {"label": torch.tensor([0, 2])} if kind is Classifier else {"presence": torch.eye(3)[:2]}
    with torch.autocast("cpu", torch.bfloat16):
        out = head(backbone(torch.rand(2, 3, 64, 64)), (64, 64))
        assert out.logits.dtype == torch.bfloat16
        (loss,) = head.loss(out, known).values()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, *head.loss(Outputs(out.logits.float()), known).values())


def test_class_weights_balance_the_classes():
    head = make(class_weights="balanced")[1]
    assert head.class_weights.tolist() == [1, 1, 1]
    counts = torch.tensor([10, 0, 30])
    assert "40 training images: 0.667 to 2" in head.balance(counts)
    assert head.class_weights.tolist() == pytest.approx([2, 1, 2 / 3])
    other = make(class_weights="balanced")[1]
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.class_weights, head.class_weights)
    assert "class_weights" not in make()[1].state_dict()
    head.balance(torch.zeros(3, dtype=torch.int64))
    assert head.class_weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.0}, "head.dropout is 1.0"),
        ({"label_smoothing": -0.1}, "head.label_smoothing is -0.1"),
        ({"class_weights": "even"}, "head.class_weights is 'even': use null, balanced"),
        ({"class_weights": [1, 2]}, "head.class_weights has 2 values for 3 classes"),
        ({"class_weights": [1, 2, -1]}, "give one each, >= 0"),
    ],
)
def test_bad_settings_name_the_fix(settings, message):
    with pytest.raises(InputError, match=message):
        make(**settings)


# -------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize(("kind", "settings"), HEADS)
@pytest.mark.parametrize(("size", "stride"), [((64, 96), 32), ((33, 50), 16), ((32, 32), 8)])
def test_shapes_and_predictions(kind, settings, size, stride):
    backbone = MobileNetV2(0.35, stride)
    head = kind(backbone.taps, 3, **settings).eval()
    out = head(backbone.eval()(torch.rand(2, 3, *size)), size)
    assert out.logits.shape == (2, 3) and stride in head.strides
    scores = torch.stack([one["scores"] for one in head.predict(out)])
    assert scores.shape == (2, 3) and scores.dtype == torch.float32 and scores.min() >= 0 and scores.max() <= 1
    if kind is Classifier:
        assert torch.allclose(scores.sum(1), torch.ones(2))


@pytest.mark.parametrize("kind", [Classifier, MultiLabel])
def test_metrics_have_the_named_ones_and_skip_what_they_must(kind, tmp_path):
    head = make(kind)[1]
    metric = head.metrics(CLASSES)
    out = Outputs(torch.tensor([[3.0, -1.0, -2.0], [-1.0, 3.0, -2.0], [-9.0, -9.0, 9.0], [-9.0, -9.0, 9.0]]))
    targets = unknown(kind, 4)
    targets["label"], targets["presence"] = torch.tensor([0, 1, 1, -1]), torch.eye(3)[[0, 1, 1, 1]]
    targets["presence"][3] = -1
    targets["image_id"][2] = -1
    head.update(metric, out, targets)
    values = metric.compute()
    assert values[head.primary] == 1.0 and head.primary in head.curves
    assert head.worst(metric, 5) == [0, 1]
    head.plot(metric, CLASSES, tmp_path)
    pictures = {"confusion.png", "reliability.png", "accuracy.png"} if kind is Classifier else {"ap.png"}
    assert {path.name for path in tmp_path.glob("*.png")} == pictures


def test_confused_classes_as_a_table(tmp_path):
    head = make()[1]
    metric = head.metrics(CLASSES)
    logits = F.one_hot(torch.tensor([2, 2, 0, 1]), 3).float()
    head.update(metric, Outputs(logits), {"label": torch.tensor([0, 0, 0, 2]), **ids(4)})
    metric.compute()
    head.plot(metric, CLASSES, tmp_path)
    with (tmp_path / "confused.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["truth", "prediction", "count"], ["cat", "кот $x$", "2"], ["кот $x$", "dog", "1"]]


@pytest.mark.parametrize("kind", [Classifier, MultiLabel])
def test_config_gives_every_setting(kind):
    config = yaml.safe_load((ROOT / "configs" / "task" / f"{kind.__name__.lower()}.yaml").read_text())
    (head,) = config["heads"].values()
    assert head.pop("_target_") == f"mnv2_tasks.heads.classifier.{kind.__name__}" and head.pop("_partial_")
    defaults = {n: p.default for n, p in inspect.signature(kind).parameters.items() if n not in ("taps", "num_classes")}
    assert head == defaults
    assert "/augment/classification" in str(config["defaults"])
    augment = yaml.safe_load((ROOT / "configs" / "augment" / "classification.yaml").read_text())
    assert set(augment) - {"_target_", "_partial_"} == set(inspect.signature(classification).parameters) - {"size"}


# -------------------------------------------------------------------------------------------------- pictures


def colours(picture: Tensor, count: int) -> list[int]:
    """Pixels of each class's colour."""
    return [
        int((picture == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(0).sum())
        for colour in palette(count)
    ]


def test_truth_and_prediction_are_told_apart_by_colour():
    head, image = make()[1], torch.full((3, 64, 96), 100, dtype=torch.uint8)
    truth = head.kind.draw(image, {"label": torch.tensor(1)}, CLASSES, seen=(64, 64))
    assert truth.shape == (3, 256, 384)
    assert [bool(n) for n in colours(truth, 3)] == [False, True, False]
    found = head.kind.draw(image, {"scores": torch.tensor([0.2, 0.1, 0.7])}, CLASSES, seen=(64, 64))
    assert all(colours(found, 3))
    assert (found[:, 0, 0] == torch.tensor(palette(3)[2])).all(), "the likeliest on top"
    nothing = head.kind.draw(image, {"label": torch.tensor(-1)}, CLASSES, seen=(64, 64))
    assert not any(colours(nothing, 3)) and (nothing != 100).any()
    assert (image == 100).all()


def test_multilabel_shows_what_is_there():
    head, image = make(MultiLabel)[1], torch.zeros(3, 300, 300, dtype=torch.uint8)
    truth = head.kind.draw(image, {"presence": torch.tensor([1.0, -1.0, 1.0])}, CLASSES, seen=(64, 64))
    found = head.kind.draw(image, {"scores": torch.tensor([0.6, 0.5, 0.9])}, CLASSES, seen=(64, 64))
    for picture in (truth, found):
        assert [bool(n) for n in colours(picture, 3)] == [True, False, True]
    assert (found[:, 0, 0] == torch.tensor(palette(3)[2])).all()
    empty = [{"scores": torch.zeros(3)}, {"presence": torch.zeros(3)}, {"presence": torch.full((3,), -1.0)}]
    drawn = [head.kind.draw(image, shown, CLASSES, seen=(64, 64)) for shown in empty]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2]), "none, none, unknown"


def test_more_names_than_fit_are_counted():
    image = torch.full((3, 60, 640), 100, dtype=torch.uint8)
    drawn = draw_label(image, torch.arange(60), tuple("a long name " * 20 for _ in range(60)))
    assert drawn.shape == (3, 60, 640)
    assert sum(n > 0 for n in colours(drawn, 60)) == 1, "a class, and how many more"


def test_plots_of_nothing(tmp_path):
    plot_reliability(np.zeros(15), np.zeros(15), np.zeros(15), tmp_path / "reliability.png")
    plot_class_bars(np.full(3, np.nan), np.zeros(3, int), CLASSES, tmp_path / "bars.png", of="accuracy")
    assert len(list(tmp_path.glob("*.png"))) == 2
