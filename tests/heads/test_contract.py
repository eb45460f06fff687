"""The contract that every shipped head keeps, at every output stride that it works with."""

import copy
import functools

import pytest
import torch
from builders import settled
from hydra.utils import get_class
from torch import Tensor

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.model import Model

TASKS = sorted(path.stem for path in (CONFIGS / "task").glob("*.yaml"))
CLASSES = ("background", "cat", "dog", "cow", "hen", "pig")
SIZE = (64, 96)
KNOWN = [True, True, False, True]  # the third image has no label, and the fourth is a repeat of the first
IDS = [7, 3, 5, -1]


@functools.cache
def settings(task: str) -> dict:
    return settled(f"task=[{task}]", "backbone.width=0.35")


def make(task: str, stride: int | None = None) -> tuple[Model, str]:
    torch.manual_seed(0)
    config = copy.deepcopy(settings(task))
    (name,) = config["heads"]
    config["backbone"]["output_stride"] = stride or get_class(config["heads"][name]["_target_"]).strides[0]
    return build_model(config, {name: CLASSES}), name


def images(count: int = 4) -> Tensor:
    return torch.randint(0, 255, (count, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def make_targets(kind: str, known: list[bool] | None = None, ids: list[int] | None = None) -> dict[str, Tensor]:
    """Targets of four images, of which the first two and the last have labels; sizes differ from the input's."""
    there = torch.tensor(KNOWN if known is None else known)
    count = len(there)
    size = torch.tensor([[90, 120]] * count)
    shared = {
        "image_id": torch.tensor(IDS if ids is None else ids),
        "size": size,
        "seen": torch.tensor([[64, 85]] * count),
    }
    if kind == "classification":
        return shared | {"label": torch.where(there, torch.tensor([0, 2, 1, 0]), -1)}
    if kind == "multilabel":
        presence = torch.tensor([[1.0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1], [1] * 6, [1, 0, 1, 0, 0, 0]])
        return shared | {"presence": torch.where(there[:, None], presence, -1.0)}
    if kind == "detection":
        boxes = torch.tensor([[5.0, 5.0, 40.0, 50.0], [30.0, 8.0, 80.0, 60.0]]).repeat(count, 1, 1)
        labels = torch.tensor([[0, 2], [1, -1], [2, 2], [0, 2]])
        flags = {"crowd": torch.zeros(count, 2, dtype=torch.bool), "known": there}
        return shared | {
            "boxes": boxes * there[:, None, None],
            "labels": torch.where(there[:, None], labels, -1),
            "area": torch.full((count, 2), 900.0),
            **flags,
        }
    assert kind == "segmentation"
    rows = torch.arange(90)[:, None] // 30
    whole = torch.where(there[:, None, None], rows.expand(count, 90, 120), 255).to(torch.uint8)
    mask = torch.where(there[:, None, None], (torch.arange(64)[:, None] // 22).expand(count, *SIZE), 255)
    return shared | {"mask": mask.to(torch.uint8), "whole": whole, "whole_size": size}


def strides() -> list[tuple[str, int]]:
    pairs = []
    for task in TASKS:
        head = next(iter(settings(task)["heads"].values()))
        pairs += [(task, stride) for stride in get_class(head["_target_"]).strides]
    return pairs


@pytest.mark.parametrize(("task", "stride"), strides())
def test_learns_at_its_strides(task, stride):
    model, name = make(task, stride)
    head = model.heads[name]
    losses = head.loss(model.train()(images())[name], make_targets(head.kind.name))
    assert losses and all(value.dtype == torch.float32 and value.ndim == 0 for value in losses.values())
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]
    assert any(value.grad.any() for value in head.parameters())
    assert all(value.grad.isfinite().all() for value in model.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_labels_that_nobody_knows_teach_nothing(task):
    model, name = make(task)
    head = model.heads[name]
    losses = head.loss(model.train()(images())[name], make_targets(head.kind.name, [False] * 4))
    assert all(value == 0 for value in losses.values())
    sum(losses.values()).backward()
    for key, value in model.named_parameters():
        assert value.grad is not None and not value.grad.any(), key


@pytest.mark.parametrize("task", TASKS)
def test_losses_in_evaluation_and_in_low_precision(task):
    model, name = make(task)
    head = model.heads[name]
    with torch.no_grad():
        evaluated = head.loss(model.eval()(images())[name], make_targets(head.kind.name))
        with torch.autocast("cpu", torch.bfloat16):
            rough = head.loss(model(images())[name], make_targets(head.kind.name))
    assert set(rough) == set(evaluated)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in rough.values())
    trained = head.loss(model.train()(images())[name], make_targets(head.kind.name))
    assert set(evaluated) <= set(trained)  # auxiliary losses may be of training alone


@pytest.mark.parametrize("task", TASKS)
def test_metrics_count_known_images_once(task):
    model, name = make(task)
    head = model.heads[name]
    with torch.inference_mode():
        outputs = model.eval()(images())[name]
        assert len(head.predict(outputs)) == 4
        metric, other = head.metrics(CLASSES), head.metrics(CLASSES)
        head.update(metric, outputs, make_targets(head.kind.name))
        head.update(other, outputs, make_targets(head.kind.name, [True] * 4, [7, 3, -1, -1]))
    values, wanted = metric.compute(), other.compute()
    assert {head.primary, *head.curves} <= set(values)
    assert all(value.ndim == 0 for value in values.values())
    assert set(values) == set(wanted)
    for key, value in values.items():
        assert torch.equal(value.nan_to_num(-1), wanted[key].nan_to_num(-1)), key
    worst = head.worst(metric, 10)
    assert all(isinstance(image, int) for image in worst) and set(worst) <= {7, 3}
    assert head.worst(metric, 1) == worst[:1]


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("task", TASKS)
def test_a_process_without_images_has_metrics_too(task):
    model, name = make(task)
    head = model.heads[name]
    metric = head.metrics(CLASSES)
    assert head.primary in metric.compute() and head.worst(metric, 3) == []


@pytest.mark.parametrize("task", TASKS)
def test_pictures(task, tmp_path):
    model, name = make(task)
    head = model.heads[name]
    given = make_targets(head.kind.name)
    with torch.inference_mode():
        outputs = model.eval()(images())[name]
        metric = head.metrics(CLASSES)
        head.update(metric, outputs, given)
    metric.compute()
    assert head.kind.drawn and head.ranked.startswith("by ")
    picture = torch.randint(0, 255, (3, 90, 120), dtype=torch.uint8)
    for i, prediction in enumerate(head.predict(outputs)):
        truth = {key: value[i] for key, value in given.items()}
        for shown in (prediction, truth):
            drawn = head.kind.draw(picture, shown, CLASSES, seen=(64, 85))
            assert drawn.dtype == torch.uint8 and drawn.ndim == 3 and drawn.shape[0] == 3
    head.plot(metric, CLASSES, tmp_path)
    written = list(tmp_path.glob("*.png"))
    assert written and all(path.read_bytes().startswith(b"\x89PNG") for path in written)


@pytest.mark.parametrize("task", TASKS)
def test_heads_can_be_copied(task):
    """Averaging the weights makes a copy of the model: it must not share anything with the original."""
    model, name = make(task)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.parameters():
            value.zero_()
    assert all(value.any() for key, value in model.named_parameters() if key.endswith("0.weight"))
