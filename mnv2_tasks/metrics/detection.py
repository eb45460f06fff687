"""COCO detection metrics of a whole run, counted by faster-coco-eval and equal to pycocotools' own to 1e-6.

torchmetrics' MeanAveragePrecision, with either backend, differs by some 1e-4 because it makes the 101 recall
thresholds with torch.linspace in float32: 96 of them are off by up to 4e-8, so a recall that just meets its
threshold (3 of 10 objects, 0.3) falls on the other side, and the precision of another point is read. Given
float64 thresholds it agrees to 3e-8, and pycocotools given the float32 ones differs just as it does
(benchmarks/coco_map.py shows both).
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics import Recalling, gather_rows
from mnv2_tasks.metrics.box_results import IOUS, KEPT, Boxes, match

if TYPE_CHECKING:
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

STATS = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_1", "mar_10", "mar_100")

# One table holds everything: an image is a header row, then its truths, then its predictions. One flat state
# can be gathered from a process without images too, and an image keeps its own objects when repeats go.
KIND, IMAGE, LABEL, BOX, VALUE, CROWD, WIDTH = 0, 1, 2, slice(3, 7), 7, 8, 9
AREAS = 1e10  # square pixels: COCO counts no more, and leaves out boxes that are inside out
HEADER, TRUTH, PREDICTION = 0, 1, 2  # stands in KIND; VALUE is a truth's area, a prediction's score


def evaluate(truths: np.ndarray, predictions: np.ndarray, *, classes: int) -> "COCOeval_faster":
    """Run COCO's box evaluation.

    Args:
        truths: (M, 9) float64, columns as named above, boxes as (x, y, width, height).
        predictions: (N, 9), the same.
        classes: the number of classes.

    Returns:
        The evaluator, done: `stats` (12,) and `eval["precision"]` (10 IoUs, 101 recalls, classes, 4, 3).
    """
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    # An image without truths and predictions changes no number, so only the others are listed.
    images = np.union1d(truths[:, IMAGE], predictions[:, IMAGE]).astype(np.int64).tolist()
    common = {"images": [{"id": i} for i in images], "categories": [{"id": k + 1} for k in range(classes)]}
    # COCO measures a truth by the area that it is given, a prediction by its box.
    areas = truths[:, VALUE], predictions[:, BOX][:, 2:].prod(axis=1)
    pair = []
    for table, area in zip((truths, predictions), areas, strict=True):
        ids = table[:, [IMAGE, LABEL, CROWD]].astype(np.int64).T.tolist()
        columns = zip(*ids, table[:, BOX].tolist(), table[:, VALUE].tolist(), area.tolist(), strict=True)
        annotations = [
            {"id": i, "image_id": m, "category_id": k + 1, "iscrowd": c, "bbox": box, "score": s, "area": a}
            for i, (m, k, c, box, s, a) in enumerate(columns, start=1)  # COCO takes id 0 for "unmatched"
        ]
        pair.append(COCO({**common, "annotations": annotations}))
    evaluator = COCOeval_faster(*pair, iouType="bbox", print_function=lambda *_: None)
    evaluator.run()
    return evaluator


def match_by_image(
    truths: np.ndarray, predictions: np.ndarray, *, classes: int, score: float | np.ndarray, iou: float
) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """Pair truths with predictions; boxes are matched greedily by score, whatever their class.

    A prediction that scores `score`, which may be one a class (K,), or more takes the free truth that it overlaps most,
    by `iou` or more.
    Crowds do not count, nor does a prediction that matches nothing but lies in a crowd (COCO's overlap).

    Args:
        truths, predictions: (M, 9) and (N, 9), as for `evaluate`.

    Yields:
        of every image that has either, its id and (truth's class, prediction's class) pairs, `classes` standing for
        background.
    """
    from faster_coco_eval.core.mask import iou as overlaps

    least = np.broadcast_to(score, classes)[predictions[:, LABEL].astype(np.int64)]
    predictions = predictions[predictions[:, VALUE] >= least]
    predictions = predictions[np.argsort(-predictions[:, VALUE], kind="stable")]
    for image, truth, prediction in _by_image(truths, predictions):
        labels, crowd = truth[:, LABEL].astype(np.int64), truth[:, CROWD] > 0
        free = ~crowd
        overlap = np.zeros((len(prediction), len(truth)))
        if overlap.size:
            overlap = overlaps(prediction[:, BOX].tolist(), truth[:, BOX].tolist(), crowd.astype(int).tolist())
        pairs = []
        for label, row in zip(prediction[:, LABEL].astype(np.int64).tolist(), overlap, strict=True):
            best = int(np.where(free, row, -1).argmax()) if free.any() else -1
            if best >= 0 and row[best] >= iou:
                free[best] = False
                pairs.append((int(labels[best]), label))
            elif not (row[crowd] >= iou).any():
                pairs.append((classes, label))
        yield image, pairs + [(label, classes) for label in labels[free].tolist()]


def match_boxes(truths: np.ndarray, predictions: np.ndarray, images: np.ndarray, *, classes: int) -> Boxes:
    """What `evaluate` counts, image by image.

    Args:
        truths, predictions: (M, 9) and (N, 9), as for `evaluate`.
        images: (I,) int64, the ids of all images, rising.
    """
    from faster_coco_eval.core.mask import iou as overlaps

    def keys(table: np.ndarray) -> np.ndarray:
        """(rows,) a number for each image and class."""
        return np.searchsorted(images, table[:, IMAGE]) * classes + table[:, LABEL].astype(np.int64)

    order = np.lexsort([-predictions[:, VALUE], keys(predictions)])  # which keeps the order of equal scores
    predictions, truths = predictions[order], truths[np.argsort(keys(truths), kind="stable")]
    own, other = keys(predictions), keys(truths)
    first = np.searchsorted(own, own)  # of each prediction's image and class
    kept = np.arange(len(own)) - first < KEPT
    predictions, own = predictions[kept], own[kept]
    matched, ignored = np.zeros((2, len(own), len(IOUS)), np.bool_)
    for key in np.intersect1d(own, other).tolist():
        rows, there = (slice(*np.searchsorted(each, [key, key + 1]).tolist()) for each in (own, other))
        crowd = truths[there, CROWD] > 0
        overlap = overlaps(predictions[rows, BOX].tolist(), truths[there, BOX].tolist(), crowd.astype(int).tolist())
        matched[rows], ignored[rows] = match(np.asarray(overlap), crowd)
    area = predictions[:, BOX][:, 2:].prod(axis=1)
    ignored |= ~matched & ((area < 0) | (area > AREAS))[:, None]
    pairs, counts = np.unique(other[truths[:, CROWD] == 0], return_counts=True)
    numbers = np.column_stack([pairs // classes, pairs % classes, counts])
    return Boxes(images, own // classes, own % classes, predictions[:, VALUE], matched, ignored, numbers, classes)


class CocoMAP(Recalling):
    """COCO's box metrics over all processes; an image seen twice (a sampler's padding) counts once.

    The state stays in main memory as float64, whatever the device and precision of the model.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    rows: list[Tensor] | Tensor  # torchmetrics puts one tensor here while it computes over several processes

    def __init__(self, classes: tuple[str, ...]) -> None:
        """Take the class names, in the order of the labels."""
        super().__init__(dist_sync_fn=gather_rows)
        self.classes = tuple(classes)
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, predictions: list[dict[str, Tensor]], targets: list[dict[str, Any]]) -> None:
        """Add a batch: one prediction and one target per image, boxes xyxy in pixels of the original image.

        Args:
            predictions: {"boxes": (N, 4), "scores": (N,), "labels": (N,) 0-based}.
            targets: {"image_id": int, "boxes": (M, 4), "labels": (M,), "crowd": (M,) bool, "area": (M,)}.

        Raises:
            InputError: lengths that differ, a label that is no class, a number that is not finite.
        """
        if len(predictions) != len(targets):
            raise InputError(f"CocoMAP: {len(predictions)} predictions, {len(targets)} targets: give as many")
        parts = []
        for prediction, truth in zip(predictions, targets, strict=True):
            image, no_crowd = int(truth["image_id"]), torch.zeros(len(prediction["labels"]))
            parts.append(np.array([[HEADER, image] + [0] * (WIDTH - 2)], np.float64))
            fields = truth["labels"], truth["boxes"], truth["area"], truth["crowd"]
            parts.append(_table(TRUTH, image, *fields, classes=len(self.classes)))
            fields = prediction["labels"], prediction["boxes"], prediction["scores"], no_crowd
            parts.append(_table(PREDICTION, image, *fields, classes=len(self.classes)))
        if parts:
            assert isinstance(self.rows, list)
            self.rows.append(torch.from_numpy(np.concatenate(parts).reshape(-1)))

    def compute(self) -> dict[str, Tensor]:
        """Return float32 scalars: COCO's `STATS` and `map/<class>`; nan where there is no truth."""
        rows = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        table = torch.cat([torch.zeros(0).double(), *rows]).numpy().reshape(-1, WIDTH)
        headers = table[:, KIND] == HEADER
        images, first = np.unique(table[headers, IMAGE], return_index=True)
        table = table[np.isin(np.cumsum(headers) - 1, first)]  # a copy, so the state is not changed below
        table[:, BOX][:, 2:] -= table[:, BOX][:, :2]
        truths, predictions = table[table[:, KIND] == TRUTH], table[table[:, KIND] == PREDICTION]
        stats, precision = np.full(12, -1.0), np.full((10, 101, len(self.classes)), -1.0)
        if len(truths):
            evaluator = evaluate(truths, predictions, classes=len(self.classes))
            stats, precision = evaluator.stats, evaluator.eval["precision"][:, :, :, 0, -1]
        stats, precision = np.where(stats < 0, np.nan, stats), np.where(precision < 0, np.nan, precision)
        self.last = truths, predictions, precision, images.astype(np.int64)
        result = dict(zip(STATS, stats.tolist(), strict=False))
        # COCO defines a class at every IoU and recall or at none, so a plain mean keeps or loses it whole.
        per_class = precision.mean(axis=(0, 1)).tolist()
        result |= {f"map/{name}": value for name, value in zip(self.classes, per_class, strict=True)}
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in result.items()}

    def curves(self) -> np.ndarray:
        """Return the precision at IoU 0.5 and the recalls 0, 0.01 .. 1: (101, K), nan for an absent class."""
        return self.computed()[2][0]

    def confusion(self, score: float | np.ndarray = 0.5, iou: float = 0.5) -> np.ndarray:
        """Count which class was predicted for which: (K + 1, K + 1) int64, rows truth, last = background."""
        matrix = np.zeros((len(self.classes) + 1,) * 2, np.int64)
        for _, pairs in self._matches(score, iou):
            for truth, label in pairs:
                matrix[truth, label] += 1
        return matrix

    def worst(self, count: int, *, score: float | np.ndarray = 0.5, iou: float = 0.5) -> list[int]:
        """Return the ids of the images with the lowest F1, and of those with as low a one the most mistakes first.

        Images without a mistake are left out.
        """
        ranked = []
        for image, pairs in self._matches(score, iou):
            right = sum(truth == label for truth, label in pairs)
            sides = sum((truth < len(self.classes)) + (label < len(self.classes)) for truth, label in pairs)
            if right < len(pairs):
                ranked.append((2 * right / sides, right - len(pairs), image))
        return [image for _, _, image in sorted(ranked)[:count]]

    def by_image(self) -> Boxes:
        """Return what `compute` saw, matched by COCO's rules."""
        truths, predictions, _, images = self.computed()
        return match_boxes(truths, predictions, images, classes=len(self.classes))

    def fitted_to(self) -> list[tuple[np.ndarray, np.ndarray, int]]:
        """Return of each class the scores of its predictions (N,), which are right at IoU 0.5, and its objects."""
        boxes = self.by_image()
        counts = ~boxes.ignored[:, 0]
        rows = [counts & (boxes.label == k) for k in range(len(self.classes))]
        there = np.bincount(boxes.true[:, 1], weights=boxes.true[:, 2], minlength=len(self.classes))
        return [(boxes.score[r], boxes.matched[r, 0], int(n)) for r, n in zip(rows, there, strict=True)]

    def results(self) -> list[dict[str, Any]]:
        """Return the predictions in the form of a COCO results file, unrounded: bbox xywh.

        image_id is the image's place in its split and category_id its label + 1: they fit truths that are numbered
        the same way, not the ids of the file that the data came from.
        """
        _, predictions, *_ = self.computed()
        ids = predictions[:, [IMAGE, LABEL]].astype(np.int64).T.tolist()
        columns = zip(*ids, predictions[:, BOX].tolist(), predictions[:, VALUE].tolist(), strict=True)
        return [{"image_id": i, "category_id": k + 1, "bbox": box, "score": s} for i, k, box, s in columns]

    def _matches(self, score: float | np.ndarray, iou: float) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        truths, predictions, *_ = self.computed()
        return match_by_image(truths, predictions, classes=len(self.classes), score=score, iou=iou)

    def _apply(self, fn: Callable[..., Any], exclude_state: Any = ()) -> torch.nn.Module:
        # A move of the model must not take the float64 table along: not every device has the type.
        return super()._apply(fn, exclude_state=("rows", *exclude_state))


def _table(
    kind: int, image: int, labels: Tensor, boxes: Tensor, value: Tensor, crowd: Tensor, *, classes: int
) -> np.ndarray:
    count = len(labels)
    where = f"CocoMAP: {'target' if kind == TRUTH else 'prediction'} of image {image}"
    if {len(boxes), len(value), len(crowd)} != {count}:
        raise InputError(f"{where}: boxes, labels and the rest differ in length: give one each per box")
    # Main memory first: not every device has float64.
    fields = [f.detach().cpu().double().numpy() for f in (labels, boxes.reshape(count, 4), value, crowd)]
    table = np.column_stack([np.full((count, 2), (kind, image), np.float64), *fields])
    if not np.isfinite(table).all():
        raise InputError(f"{where}: a box, score, area or label is not finite: leave that box out")
    if count and not 0 <= table[:, LABEL].min() <= table[:, LABEL].max() < classes:
        raise InputError(f"{where}: labels outside 0..{classes - 1}: give 0-based indices of the classes")
    return table


def _by_image(truths: np.ndarray, predictions: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (id, truths, predictions) of every image that has either; rows keep their order."""
    images = np.union1d(truths[:, IMAGE], predictions[:, IMAGE])
    ordered = [table[np.argsort(table[:, IMAGE], kind="stable")] for table in (truths, predictions)]
    starts = [np.searchsorted(table[:, IMAGE], images) for table in ordered]
    pieces = [np.split(table, start)[1:] for table, start in zip(ordered, starts, strict=True)]
    yield from zip(images.astype(np.int64).tolist(), *pieces, strict=True)
