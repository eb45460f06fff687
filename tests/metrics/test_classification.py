"""Classification metrics against a plain NumPy count, one image after the other, and on several processes."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed import destroy_process_group, init_process_group
from torchmetrics.functional.classification import multiclass_calibration_error, multilabel_average_precision

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics.classification import ClassificationMetric, MultiLabelMetric

CLOSE = {"abs": 1e-9, "nan_ok": True}


def names(count: int) -> tuple[str, ...]:
    return tuple(f"class {k}" for k in range(count))


def random_labels(*, images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with ties, labels of which some are unknown and two classes are absent, ids with repeats."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, max(1, classes - 2), images)
    logits = random.normal(0, 2, (images, classes)) + 2 * np.eye(classes)[labels]
    logits[::3] = logits[::3].round()
    labels[random.random(images) < 0.1] = -1
    ids = np.where(random.random(images) < 0.1, -1, 5 * np.arange(images))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), torch.tensor(ids)


def random_presence(*, images: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """As above; the last class has no positive, some entries and some whole images are unknown."""
    random = np.random.default_rng(seed)
    presence = (random.random((images, classes)) < 0.3).astype(np.float32)
    presence[:, -1] = 0
    logits = random.normal(0, 2, (images, classes)) + 2 * presence
    logits[::2] = logits[::2].round()
    presence[random.random((images, classes)) < 0.2] = -1
    presence[3] = -1
    ids = np.where(random.random(images) < 0.1, -1, 5 * np.arange(images))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(presence), torch.tensor(ids)


def plain_count(logits: Tensor, labels: Tensor, ids: Tensor) -> tuple[dict[str, float], np.ndarray, list[int]]:
    """(metrics, confusion, ids by falling loss)."""
    classes = logits.shape[1]
    confusion, top5, bins, losses = np.zeros((classes, classes), int), 0, [[] for _ in range(15)], []
    for x, label, i in zip(logits.double().numpy(), labels.tolist(), ids.tolist(), strict=True):
        if label < 0 or i < 0:
            continue
        ranked = sorted(range(classes), key=lambda k: (-x[k], k))
        chance = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        confusion[label, ranked[0]] += 1
        top5 += label in ranked[:5]
        bins[max(m for m in range(15) if chance.max() > m / 15)].append((chance.max(), ranked[0] == label))
        losses.append((-np.log(chance[label]), i))
    total = confusion.sum()
    hits = [confusion[k, k] / confusion[k].sum() if confusion[k].sum() else float("nan") for k in range(classes)]
    gaps = [abs(sum(c for c, _ in part) - sum(right for _, right in part)) for part in bins]
    result = {"top1": confusion.trace() / total, "mean_class_accuracy": np.nanmean(hits), "ece": sum(gaps) / total}
    if classes > 5:
        result["top5"] = top5 / total
    result |= {f"accuracy/{name}": hit for name, hit in zip(names(classes), hits, strict=True)}
    return result, confusion, [i for _, i in sorted(losses, key=lambda pair: (-round(pair[0], 9), pair[1]))]


def plain_precision(logits: Tensor, presence: Tensor, ids: Tensor) -> dict[str, float]:
    counted = ids >= 0
    logits, presence = logits[counted].double().numpy(), presence[counted].double().numpy()
    result, hits, marks = {}, 0, 0
    for k, name in enumerate(names(logits.shape[1])):
        pairs = [(x, y) for x, y in zip(logits[:, k], presence[:, k], strict=True) if y >= 0]
        positives = sum(y for _, y in pairs)
        area = recall = 0.0
        for bar in sorted({x for x, _ in pairs}, reverse=True):
            kept = [y for x, y in pairs if x >= bar]
            area += (sum(kept) / positives - recall) * sum(kept) / len(kept) if positives else float("nan")
            recall = sum(kept) / positives if positives else float("nan")
        result[f"ap/{name}"] = area
        hits += sum(y for x, y in pairs if x > 0)
        marks += positives + sum(x > 0 for x, _ in pairs)
    return {"map": np.nanmean(list(result.values())), "f1": 2 * hits / marks} | result


def counted(metric, data: tuple[Tensor, ...], *, batch: int = 7):
    for part in zip(*(values.split(batch) for values in data), strict=True):
        metric.update(*part)
    return metric


def floats(metric) -> dict[str, float]:
    values = metric.compute()
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in values.values())
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 6, 40])
def test_equals_a_plain_count(classes: int) -> None:
    data = random_labels(images=150, classes=classes)
    metric = counted(ClassificationMetric(names(classes)), data)
    result, confusion, worst = plain_count(*data)
    assert floats(metric) == pytest.approx(result, **CLOSE)
    assert ("top5" in result) == (classes > 5)
    assert (metric.confusion() == confusion).all()
    if classes > 1:  # alone, every loss is 0
        assert metric.worst(8) == worst[:8]


def test_multilabel_equals_a_plain_count() -> None:
    data = random_presence(images=120, classes=6)
    metric = counted(MultiLabelMetric(names(6)), data)
    assert floats(metric) == pytest.approx(plain_precision(*data), **CLOSE)
    precision, positives = metric.per_class()
    assert np.isnan(precision[-1]) and positives[-1] == 0 and (positives[:-1] > 0).all()


def test_agrees_with_torchmetrics() -> None:
    logits, labels, ids = random_labels(images=400, classes=8)
    kept = (labels >= 0) & (ids >= 0)
    ours = floats(counted(ClassificationMetric(names(8)), (logits, labels, ids)))
    theirs = multiclass_calibration_error(logits[kept], labels[kept], 8, n_bins=15)
    assert ours["ece"] == pytest.approx(float(theirs), abs=1e-6)

    logits, presence, ids = random_presence(images=400, classes=5)
    ours = floats(counted(MultiLabelMetric(names(5)), (logits, presence, ids)))
    given = logits[ids >= 0].double().sigmoid(), presence[ids >= 0].long()
    theirs = multilabel_average_precision(*given, num_labels=5, average=None, ignore_index=-1)
    assert [ours[f"ap/class {k}"] for k in range(4)] == pytest.approx(theirs[:4].tolist(), abs=1e-6)


def test_repeats_and_unknown_images_do_not_count() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 9.0], [0.0, 9.0]])
    metric = ClassificationMetric(("a", "b"))
    metric.update(logits, torch.tensor([0, 0, 0, -1]), torch.tensor([4, 7, -1, 9]))
    metric.update(logits[2:], torch.tensor([0, 0]), torch.tensor([-1, -1]))  # a whole batch of them
    metric.update(logits[1:2], torch.tensor([0]), torch.tensor([7]))  # an image once more
    result = floats(metric)
    assert result["top1"] == result["mean_class_accuracy"] == 0.5 and np.isnan(result["accuracy/b"])
    assert metric.confusion().tolist() == [[1, 1], [0, 0]] and metric.worst(9) == [7, 4]
    several = MultiLabelMetric(("a", "b"))
    several.update(logits, torch.full((4, 2), -1.0), torch.arange(4))
    assert np.isnan(floats(several)["map"]) and several.worst(3) == []


def test_nothing_counted_is_nan() -> None:
    for metric in (ClassificationMetric(names(7)), MultiLabelMetric(names(2))):
        with pytest.raises(RuntimeError, match="compute"):
            metric.worst(1)
        metric._update_count = 1  # torchmetrics warns otherwise
        assert all(np.isnan(value) for value in floats(metric).values()) and metric.worst(3) == []


def test_most_confused() -> None:
    metric = ClassificationMetric(("a", "b", "c"))
    labels, found = torch.tensor([0, 0, 0, 1, 2, 2, 2]), torch.tensor([0, 2, 2, 1, 0, 1, 1])
    metric.update(torch.nn.functional.one_hot(found, 3).float(), labels, torch.arange(7))
    metric.compute()
    assert metric.most_confused(2) == [(0, 2, 2), (2, 1, 2)]
    assert metric.most_confused(50) == [(0, 2, 2), (2, 1, 2), (2, 0, 1)]


def test_sure_scores_keep_their_order() -> None:
    """In float32, and for sigmoids in float64 too, these would all be 1."""
    metric = MultiLabelMetric(("a",))
    metric.update(torch.tensor([[60.0], [50.0], [40.0]]), torch.tensor([[1.0], [0.0], [1.0]]), torch.arange(3))
    assert floats(metric)["map"] == pytest.approx((1 + 2 / 3) / 2)


def test_state_is_small_and_keeps_its_type() -> None:
    metric = ClassificationMetric(names(1000)).to(torch.bfloat16)
    metric.update(torch.randn(10, 1000), torch.arange(10), torch.arange(10))
    assert sum(rows.numel() for rows in metric.rows) == 60 and metric.rows[0].dtype == torch.float64
    metric.to(torch.bfloat16)
    assert metric.rows[0].dtype == torch.float64
    metric.reset()
    assert metric.rows == []


def test_errors_name_the_image() -> None:
    ids = torch.tensor([40, 41])
    for metric, truth in (
        (ClassificationMetric(("a", "b")), torch.tensor([0, 1])),
        (MultiLabelMetric(("a", "b")), torch.ones(2, 2)),
    ):
        with pytest.raises(InputError, match="image 41: its scores are not finite"):
            metric.update(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), truth, ids)
    with pytest.raises(InputError, match=r"image 41: its label is 2; give 0\.\.1"):
        ClassificationMetric(("a", "b")).update(torch.zeros(2, 2), torch.tensor([0, 2]), ids)


def _shares(processes: int) -> list[list[list[int]]]:
    everything = list(range(40))
    return [
        [everything[rank::processes] for rank in range(processes)],
        [everything] + [[]] * (processes - 1),  # processes without images
        [everything] * processes,
    ]


def _process(rank: int, ports: dict[int, int], folder: str) -> None:
    torch.set_num_threads(1)
    one, several = random_labels(images=40, classes=7), random_presence(images=40, classes=4)
    for processes, port in ports.items():
        if rank >= processes:
            continue
        init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
        outcomes = []
        for share in _shares(processes):
            metrics = ClassificationMetric(names(7)).to(torch.bfloat16), MultiLabelMetric(names(4))
            for metric, data in zip(metrics, (one, several), strict=True):
                if share[rank]:
                    counted(metric, tuple(values[share[rank]] for values in data), batch=3)
                metric._update_count = 1  # torchmetrics warns otherwise
            values = [floats(metric) for metric in metrics]
            outcomes.append((values, metrics[0].confusion().tolist(), [metric.worst(5) for metric in metrics]))
        Path(folder, f"{rank} of {processes}.json").write_text(json.dumps(outcomes))
        destroy_process_group()


@pytest.mark.slow
def test_several_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        ports = {2: one.getsockname()[1], 3: other.getsockname()[1]}
    torch.multiprocessing.spawn(_process, args=(ports, str(tmp_path)), nprocs=3)
    data, several = random_labels(images=40, classes=7), random_presence(images=40, classes=4)
    result, confusion, worst = plain_count(*data)
    files = sorted(tmp_path.glob("*.json"))
    assert len(files) == 5
    for file in files:
        for values, matrix, found in json.loads(file.read_text()):
            assert values[0] == pytest.approx(result, **CLOSE)
            assert values[1] == pytest.approx(plain_precision(*several), **CLOSE)
            assert matrix == confusion.tolist() and found[0] == worst[:5] and len(found[1]) == 5
