"""Compare CocoMAP with pycocotools and torchmetrics, in CPU seconds and in the numbers.

    python benchmarks/coco_map.py --images 2000 --detections 30 --classes 80

Every row is measured from its stored detections to the numbers. pycocotools starts from finished lists of
dicts and pays for no conversion; the others start from tensors and pay for theirs. The last two rows show
where torchmetrics' difference comes from: its recall thresholds (see mnv2_tasks/metrics.py).
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mnv2_tasks.metrics.detection import STATS, CocoMAP

Images = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def random_images(*, images: int, detections: int, objects: int, classes: int, seed: int) -> Images:
    """Random objects, 3% of them crowds, and predictions near them, as (predictions, targets) of CocoMAP."""
    random = np.random.default_rng(seed)
    predictions, targets = [], []
    for image in range(images):
        count = int(random.integers(1, 2 * objects))
        corner = random.uniform(0, 400, (count, 2))
        size = random.uniform(5, 250, (count, 2))
        boxes, labels = np.concatenate([corner, corner + size], axis=1), random.integers(0, classes, count)
        targets.append(
            {
                "image_id": image,
                "boxes": torch.tensor(boxes, dtype=torch.float32),
                "labels": torch.tensor(labels),
                "crowd": torch.tensor(random.random(count) < 0.03),
                "area": torch.tensor(size.prod(1) * 0.7, dtype=torch.float32),
            }
        )
        near = random.integers(0, count, detections)
        moved = boxes[near] + random.normal(0, 12, (detections, 4)) * random.random((detections, 1))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        guess = random.integers(0, classes, detections)
        predictions.append(
            {
                "boxes": torch.tensor(moved, dtype=torch.float32),
                "scores": torch.tensor(random.random(detections), dtype=torch.float32),
                "labels": torch.tensor(np.where(random.random(detections) < 0.7, labels[near], guess)),
            }
        )
    return predictions, targets


def coco_dicts(predictions: list[dict], targets: list[dict], *, classes: int) -> tuple[dict, list[dict]]:
    """The same as COCO's annotation file and results file."""
    truths, results = [], []
    for prediction, target in zip(predictions, targets, strict=True):
        for source, rows in ((target, truths), (prediction, results)):
            boxes = source["boxes"].double()
            boxes[:, 2:] -= boxes[:, :2]
            for box, label in zip(boxes.tolist(), source["labels"].tolist(), strict=True):
                rows.append({"image_id": target["image_id"], "category_id": label + 1, "bbox": box})
    values = [torch.cat([t[name] for t in targets]).tolist() for name in ("crowd", "area")]
    for number, (row, crowd, area) in enumerate(zip(truths, *values, strict=True), start=1):
        row |= {"id": number, "iscrowd": int(crowd), "area": area}
    for row, score in zip(results, torch.cat([p["scores"] for p in predictions]).tolist(), strict=True):
        row["score"] = score
    images = [{"id": t["image_id"]} for t in targets]
    categories = [{"id": k + 1, "name": str(k)} for k in range(classes)]
    return {"info": {}, "images": images, "categories": categories, "annotations": truths}, results


def timed(compute: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds (of every thread) and the value."""
    start = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        value = compute()
    return time.process_time() - start, value


def ours(images: Images, *, classes: int) -> tuple[float, list[float]]:
    metric = CocoMAP(tuple(str(k) for k in range(classes)))
    metric.update(*images)
    seconds, result = timed(metric.compute)
    return seconds, [float(result[name]) for name in STATS]


def pycocotools(images: Images, *, classes: int, recalls: list[float] | None) -> tuple[float, list[float]]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, results = coco_dicts(*images, classes=classes)

    def compute() -> list[float]:
        truths = COCO()
        truths.dataset = annotations
        truths.createIndex()
        evaluator = COCOeval(truths, truths.loadRes(results), "bbox")
        if recalls is not None:
            evaluator.params.recThrs = np.array(recalls)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        return evaluator.stats.tolist()

    return timed(compute)


def torchmetrics(images: Images, *, backend: str, recalls: list[float] | None) -> tuple[float, list[float]]:
    from torchmetrics.detection import MeanAveragePrecision

    predictions, targets = images
    metric = MeanAveragePrecision(backend=backend, rec_thresholds=recalls)
    metric.update(predictions, [{**t, "iscrowd": t["crowd"].int()} for t in targets])
    seconds, result = timed(metric.compute)
    return seconds, [float(result[name]) for name in STATS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--detections", type=int, default=30, help="predictions in every image")
    parser.add_argument("--objects", type=int, default=7, help="mean number of objects in an image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    classes = args.classes
    images = random_images(
        images=args.images,
        detections=args.detections,
        objects=args.objects,
        classes=classes,
        seed=args.seed,
    )
    exact, single = np.linspace(0, 1, 101).tolist(), torch.linspace(0, 1, 101).tolist()
    # The first run pays for the imports.
    ours(random_images(images=2, detections=1, objects=2, classes=1, seed=0), classes=1)
    rows = {
        "pycocotools": pycocotools(images, classes=classes, recalls=None),
        "CocoMAP": ours(images, classes=classes),
        "torchmetrics, pycocotools": torchmetrics(images, backend="pycocotools", recalls=None),
        "torchmetrics, faster_coco_eval": torchmetrics(images, backend="faster_coco_eval", recalls=None),
        "torchmetrics, float64 recalls": torchmetrics(images, backend="faster_coco_eval", recalls=exact),
        "pycocotools, float32 recalls": pycocotools(images, classes=classes, recalls=single),
    }
    slow, expected = rows["pycocotools"]
    print(f"{args.images} images x {args.detections} predictions x {classes} classes")
    print(f"{'':32}{'CPU s':>8}{'speed':>8}{'map':>10}{'largest difference':>20}")
    for name, (seconds, stats) in rows.items():
        difference = max(abs(a - b) for a, b in zip(stats, expected, strict=False) if b > -1)
        print(f"{name:32}{seconds:8.2f}{slow / seconds:7.1f}x{stats[0]:10.6f}{difference:20.1e}")


if __name__ == "__main__":
    main()
