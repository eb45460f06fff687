"""The segmentation metric: equal to a plain NumPy count, to smp's and torchmetrics', over any number of processes."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import destroy_process_group, init_process_group
from torchmetrics.functional.classification import multiclass_jaccard_index

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics.segmentation import SegmentationMetric, count_masks

CLASSES = ("sky", "road", "tree", "car", "boat", "plane")  # no truth of the last two; boats are predicted


def images(count: int = 9) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs (prediction, truth) of several sizes, a third of the pixels right by intent, some ignored."""
    generator = torch.Generator().manual_seed(0)
    pairs = []
    for i in range(count):
        size = (5 + i, 17 - i)
        truth = torch.randint(0, 4, size, generator=generator)
        found = torch.where(
            torch.rand(size, generator=generator) < 0.4, truth, torch.randint(0, 5, size, generator=generator)
        )
        truth[torch.rand(size, generator=generator) < 0.1] = 255
        pairs.append((found.to(torch.uint8), truth.to(torch.uint8)))
    pairs[2][1][:] = 255  # nothing known
    return pairs


def updated(pairs: list[tuple[torch.Tensor, torch.Tensor]], ids: list[int] | None = None) -> SegmentationMetric:
    metric = SegmentationMetric(CLASSES)
    if pairs:
        metric.update(*map(list, zip(*pairs, strict=True)), torch.tensor(ids or list(range(len(pairs)))))
    return metric


def counted(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """The metrics by a loop over classes in NumPy."""
    found = np.concatenate([p.numpy().ravel() for p, _ in pairs]).astype(int)
    truth = np.concatenate([t.numpy().ravel() for _, t in pairs]).astype(int)
    found, truth = found[truth != 255], truth[truth != 255]
    result, ious, accuracies, weighted = {}, [], [], 0.0
    for k, name in enumerate(CLASSES):
        union = ((found == k) | (truth == k)).sum()
        iou = ((found == k) & (truth == k)).sum() / union if union else np.nan
        result[f"iou/{name}"] = iou
        if union:
            ious.append(iou)
        if (truth == k).any():
            accuracies.append((found[truth == k] == k).mean())
            weighted += (truth == k).mean() * iou
    return result | {
        "miou": np.mean(ious),
        "pixel_accuracy": (found == truth).mean(),
        "mean_class_accuracy": np.mean(accuracies),
        "frequency_weighted_iou": weighted,
    }


def values(metric: SegmentationMetric) -> dict[str, float]:
    return {name: float(value) for name, value in metric.compute().items()}


def test_equals_a_plain_count() -> None:
    pairs = images()
    repeats = updated([*pairs, pairs[0], pairs[1]], [*range(len(pairs)), -1, -1])
    result = repeats.compute()
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in result.values())
    assert values(repeats) == pytest.approx(counted(pairs), abs=1e-12, nan_ok=True)
    assert np.isnan(values(repeats)["iou/plane"]) and values(repeats)["iou/boat"] == 0
    assert repeats.confusion().sum() == sum(int((truth != 255).sum()) for _, truth in pairs)


def test_equals_torchmetrics_and_smp() -> None:
    import segmentation_models_pytorch as smp  # not above: the spawned processes import this file

    pairs = images()
    result = values(updated(pairs))
    found, truth = (torch.cat([pair[i].long().ravel() for pair in pairs]) for i in range(2))
    assert result["miou"] == pytest.approx(
        float(multiclass_jaccard_index(found, truth, len(CLASSES), ignore_index=255)), abs=1e-6
    )
    stats = smp.metrics.get_stats(found[None], truth[None], "multiclass", num_classes=len(CLASSES), ignore_index=255)
    iou = smp.metrics.iou_score(*stats, reduction="none", zero_division=float("nan"))[0]
    assert [result[f"iou/{name}"] for name in CLASSES] == pytest.approx(iou.tolist(), abs=1e-6, nan_ok=True)
    assert result["miou"] == pytest.approx(float(iou.nanmean()), abs=1e-6)
    assert result["mean_class_accuracy"] == pytest.approx(
        float(smp.metrics.recall(*stats, reduction="none", zero_division=float("nan")).nanmean()), abs=1e-6
    )
    share = stats[0] + stats[2]
    tp, fp, fn, tn = stats
    assert result["pixel_accuracy"] == pytest.approx(
        float(smp.metrics.recall(tp, fp, fn, tn, reduction="micro")), abs=1e-6
    )
    weighted = (iou.nan_to_num(0) * share[0] / share.sum()).sum()
    assert result["frequency_weighted_iou"] == pytest.approx(float(weighted), abs=1e-6)


def test_worst_images_come_first() -> None:
    pairs = images()
    metric = updated(pairs, ids := [40 + i for i in range(len(pairs))])
    metric.compute()
    alone = {i: values(updated([pair]))["miou"] for i, pair in zip(ids, pairs, strict=True)}
    wanted = sorted((i for i in ids if not np.isnan(alone[i])), key=lambda i: alone[i])
    assert metric.worst(4) == wanted[:4] and metric.worst(99) == wanted and 42 not in wanted


def test_every_image_is_remembered() -> None:
    right, wrong = torch.zeros(2, 2, dtype=torch.uint8), torch.ones(2, 2, dtype=torch.uint8)
    metric = SegmentationMetric(CLASSES)
    for i in range(300):
        metric.update([wrong if i % 50 == 7 else right], [right], torch.tensor([i]))
    metric.compute()
    assert metric.worst(6) == [7, 57, 107, 157, 207, 257] and len(metric.worst(1000)) == 300


def test_empty_and_reset() -> None:
    metric = updated([])
    assert all(np.isnan(v) or v == 0 for v in values(metric).values()) and metric.worst(3) == []
    metric = updated(images())
    metric.compute()
    metric.reset()
    assert metric.matrix.sum() == 0
    with pytest.raises(RuntimeError, match="compute"):
        metric.worst(1)


def test_bad_masks_name_the_image() -> None:
    good, bad = torch.zeros(2, 2), torch.full((2, 2), 6)
    with pytest.raises(InputError, match=r"image 41: its mask holds class 6 of 6"):
        SegmentationMetric(CLASSES).update([good], [bad], torch.tensor([41]))
    with pytest.raises(InputError, match=r"image 41: a prediction of \(2, 2\) for a mask of \(3, 2\)"):
        SegmentationMetric(CLASSES).update([good], [torch.zeros(3, 2)], torch.tensor([41]))


def test_logits_are_counted_in_the_pixels_of_the_masks() -> None:
    """Padding is cut off before the logits are resized, and so is the padding of the masks."""
    logits = torch.full((2, len(CLASSES), 8, 8), -5.0)
    logits[:, 0, :, :] = 0
    logits[0, 1, :, 2:4] = 9  # the right half of the image
    logits[0, 2, :, 4:] = 9  # padding
    whole = torch.full((2, 12, 12), 255, dtype=torch.uint8)
    whole[0, :12, :6] = 0
    whole[0, :12, 3:6] = 1
    targets = {
        "seen": torch.tensor([[8, 4], [8, 8]]),
        "whole": whole,
        "whole_size": torch.tensor([[12, 6], [5, 5]]),
        "image_id": torch.tensor([0, 1]),
    }
    metric = SegmentationMetric(CLASSES)
    count_masks(metric, logits, targets)
    result = values(metric)
    assert metric.matrix.sum() == 72 and metric.matrix[:, 2].sum() == 0
    assert result["pixel_accuracy"] > 0.8 and metric.worst(5) == [0]


def _process(rank: int, port: int, world: int, shares: list[list[list[int]]], folder: str) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    pairs, outcomes = images(), []
    for share in shares:
        metric = SegmentationMetric(CLASSES).to(torch.bfloat16)  # the type of a model must not change the counts
        for i in share[rank]:
            metric.update([pairs[abs(i)][0]], [pairs[abs(i)][1]], torch.tensor([i if i >= 0 else -1]))
        result = values(metric)
        again = metric.by_image().values(np.ones((1, len(pairs)), int))
        assert again["miou"][0] == pytest.approx(result["miou"], abs=1e-12)
        outcomes.append((result, metric.confusion().tolist(), metric.worst(99)))
    Path(folder, f"{rank}.json").write_text(json.dumps(outcomes))
    destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("world", [3])
def test_several_processes_equal_one(tmp_path: Path, world: int) -> None:
    shares = [
        [list(range(rank, 9, world)) for rank in range(world)],
        [[0, 1, 2, 3, 4, 5, 6, 7, 8], *[[] for _ in range(world - 1)]],  # processes without images
        [[0, 1, 2, 3], *[[4, 5, 6, 7, 8, -1, -3] if rank == 1 else [-4] for rank in range(1, world)]],  # repeats
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, args=(port, world, shares, str(tmp_path)), nprocs=world)
    one = updated(images())
    wanted, worst = values(one), one.worst(99)
    for rank in range(world):
        for result, confusion, ids in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert result == pytest.approx(wanted, abs=1e-12, nan_ok=True)
            assert confusion == one.confusion().tolist() and ids == worst
