"""Results by image: they make each metric again, and that of images drawn with repeats, as if these were the set."""

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mnv2_tasks.metrics import bootstrap
from mnv2_tasks.metrics.classification import ClassificationMetric, MultiLabelMetric
from mnv2_tasks.metrics.detection import CocoMAP, evaluate
from mnv2_tasks.metrics.image_results import ImageResults
from mnv2_tasks.metrics.segmentation import SegmentationMetric

IMAGES, CLASSES = 30, tuple("abcdefg")


def labels(draw: list[int]) -> ClassificationMetric:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(IMAGES, len(CLASSES), generator=random, dtype=torch.float64)
    truth = torch.randint(0, len(CLASSES) - 1, (IMAGES,), generator=random)
    metric = ClassificationMetric(CLASSES)
    metric.update(logits[draw], truth[draw], torch.arange(len(draw)))
    return metric


def presences(draw: list[int]) -> MultiLabelMetric:
    random = torch.Generator().manual_seed(0)
    logits = torch.randint(-4, 4, (IMAGES, len(CLASSES)), generator=random).double()  # with ties
    truth = torch.randint(-1, 2, (IMAGES, len(CLASSES)), generator=random)
    truth[:, 3] = -1
    metric = MultiLabelMetric(CLASSES)
    metric.update(logits[draw], truth[draw], torch.arange(len(draw)))
    return metric


def masks(draw: list[int]) -> SegmentationMetric:
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 5, (IMAGES, 9, 7), generator=random)
    found = torch.where(torch.rand(truth.shape, generator=random) < 0.5, truth, (truth + 1) % len(CLASSES))
    truth[torch.rand(truth.shape, generator=random) < 0.1] = 255
    metric = SegmentationMetric(CLASSES)
    metric.update(list(found[draw]), list(truth[draw]), torch.arange(len(draw)))
    return metric


def boxes(draw: list[int]) -> CocoMAP:
    """Objects and crowds, and predictions near some of them; no two scores are equal but those of one image twice."""
    metric = CocoMAP(CLASSES)
    for place, image in enumerate(draw):
        random = np.random.default_rng(image)
        count, found = random.integers(0, 9), random.integers(0, 140 if image == 5 else 12)
        corner = random.uniform(0, 300, (count, 2))
        true = np.concatenate([corner, corner + random.uniform(8, 160, (count, 2))], axis=1)
        near = random.integers(0, count, found if count else 0)
        moved = true[near] + random.normal(0, 1, (len(near), 4)) * random.choice([0, 3, 15], (len(near), 1))
        kinds = random.integers(0, 5, count)
        target = {"boxes": true, "labels": kinds, "crowd": random.random(count) < 0.2, "area": np.full(count, 900.0)}
        other = random.random(len(near)) < 0.2
        shown = {"boxes": moved, "labels": np.where(other, 6, kinds[near]), "scores": random.random(len(near))}
        tensors = ({key: torch.from_numpy(value) for key, value in part.items()} for part in (shown, target))
        prediction, truth = tensors
        metric.update([prediction], [{**truth, "image_id": place}])
    return metric


MAKERS = {"labels": labels, "presences": presences, "masks": masks, "boxes": boxes}


def values(results: ImageResults, weights: list[int]) -> dict[str, float]:
    return {name: float(value[0]) for name, value in results.values(np.array([weights])).items()}


@pytest.mark.parametrize("maker", MAKERS)
def test_all_images_once_are_the_metric(maker):
    metric = MAKERS[maker](list(range(IMAGES)))
    whole = {name: float(value) for name, value in metric.compute().items()}
    found = values(metric.by_image(), [1] * IMAGES)
    exact = 1e-7 if maker == "boxes" else 1e-12  # CocoMAP rounds to float32
    assert found == pytest.approx({name: whole[name] for name in found}, abs=exact)
    assert {"top1", "map", "miou"} & set(found) and len(found) >= 2


@pytest.mark.parametrize("maker", MAKERS)
def test_an_image_that_is_drawn_twice_counts_as_two(maker):
    draw = sorted(np.random.default_rng(3).integers(0, IMAGES, IMAGES).tolist())
    weights = np.bincount(draw, minlength=IMAGES).tolist()
    metric, again = MAKERS[maker](list(range(IMAGES))), MAKERS[maker](draw)
    metric.compute()
    wanted = {name: float(value) for name, value in again.compute().items()}
    found = values(metric.by_image(), weights)
    assert max(weights) > 1 and found == pytest.approx({name: wanted[name] for name in found}, abs=1e-7)
    assert all(value == value for value in found.values())


def test_boxes_equal_cocos_own_evaluations():
    metric = boxes(list(range(IMAGES)))
    metric.compute()
    truths, predictions, *_ = metric.computed()
    theirs = evaluate(truths, predictions, classes=len(CLASSES))
    found = values(metric.by_image(), [1] * IMAGES)
    assert found["map"] == pytest.approx(theirs.stats[0], abs=1e-12)
    assert found["map_75"] == pytest.approx(theirs.stats[2], abs=1e-12)
    draw = [0, 3, 3, 5, 5, 5, 8, 11, 12, 12, 17, 21, 29]
    again = boxes(draw)
    again.compute()
    truths, predictions, *_ = again.computed()
    pair = []
    for table in (truths, predictions):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(len(draw))],
            "categories": [{"id": k} for k in range(len(CLASSES))],
            "annotations": [
                {"id": i + 1, "image_id": int(row[1]), "category_id": int(row[2]), "bbox": row[3:7].tolist(),
                 "score": row[7], "area": row[5] * row[6], "iscrowd": int(row[8])}
                for i, row in enumerate(table)
            ],
        }  # fmt: skip
        coco.createIndex()
        pair.append(coco)
    coco = COCOeval(*pair, "bbox")
    coco.evaluate()
    coco.accumulate()
    coco.summarize()
    found = values(metric.by_image(), np.bincount(draw, minlength=IMAGES).tolist())
    assert list(found.values()) == pytest.approx(coco.stats[:3].tolist(), abs=1e-12)


@pytest.mark.parametrize("maker", MAKERS)
def test_intervals_and_differences(maker, monkeypatch):
    metric = MAKERS[maker](list(range(IMAGES)))
    metric.compute()
    results = metric.by_image()
    found = bootstrap.intervals(results, 200)
    whole = values(results, [1] * IMAGES)
    assert all(low < high and low - 0.05 < whole[name] < high + 0.05 for name, (low, high) in found.items())
    reordered = results.taken(np.arange(IMAGES)[::-1])
    assert values(reordered, [1] * IMAGES) == pytest.approx(whole, abs=1e-12)
    assert reordered.quality().tolist() == pytest.approx(results.quality()[::-1].tolist(), nan_ok=True)
    same = bootstrap.differences(results, results, 50)
    assert all(change == (0, 0, 0) and not change.is_clear for change in same.values())
    monkeypatch.setattr(bootstrap, "HELD", 1)  # one drawing at a time
    for name, ends in bootstrap.intervals(results, 200).items():
        assert ends == pytest.approx(found[name], abs=1e-12)
    assert bootstrap.intervals(results, 200, seed=1) != found


def test_a_better_model_is_clearly_better():
    """The interval of a share of n images is that of the binomial distribution, and pairing makes it narrower."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 2, (2000,), generator=random)
    hard = torch.rand(2000, generator=random)
    results = []
    for share in (0.80, 0.77):
        metric = ClassificationMetric(("a", "b"))
        right = torch.where(hard < share, truth, 1 - truth)
        metric.update(torch.nn.functional.one_hot(right, 2).double(), truth, torch.arange(2000))
        metric.compute()
        results.append(metric.by_image())
    low, high = bootstrap.intervals(results[0], 1000)["top1"]
    assert high - low == pytest.approx(2 * 1.96 * (0.8 * 0.2 / 2000) ** 0.5, rel=0.1)
    change = bootstrap.differences(*results, 1000)["top1"]
    assert change.is_clear and change.high - change.low < 0.6 * (high - low)
