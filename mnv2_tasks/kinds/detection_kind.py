"""Detection: boxes with a class each."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mnv2_tasks.kinds.kind import (
    Apart,
    Arrays,
    Decided,
    Kind,
    Least,
    Picture,
    Prediction,
    Sample,
    Suppress,
    Targets,
    check_labels,
    check_shape,
    least_of,
)
from mnv2_tasks.samples import as_boxes

DRAWN_SCORE = 0.4  # weaker predictions stay off the pictures
CLOSE = 0.02  # boxes further apart than this part of the image's side are different boxes
BARE = 1e-3  # detections this close to the lowest score that counts may be there or not


@dataclass(frozen=True)
class Decoding:
    """How boxes become detections.

    The `candidates` highest scores of each class above `score_threshold` stay, are suppressed per class at IoU `nms`,
    and at most `detections` of an image are left.
    """

    score_threshold: float = 0.01
    candidates: int = 400
    nms: float = 0.6
    detections: int = 100


@runtime_checkable
class Anchored(Protocol):
    """A detector whose boxes all belong to default boxes, fixed in number: what a graph can hold."""

    num_classes: int
    decoding: Decoding

    def probabilities(self, scores: Tensor) -> Tensor:
        """Scores (B, A, K + 1), background first -> (B, A, K) in 0..1."""

    def boxes(self, deltas: Tensor, defaults: Tensor) -> Tensor:
        """Deltas (..., 4) from default boxes (..., 4) -> xyxy (..., 4), fractions of the image."""


@runtime_checkable
class Decides(Protocol):
    """A detector whose decoding can be changed."""

    def decide(self, *, score: float | None = None, iou: float | None = None) -> None:
        """Change the lowest score, and the IoU of suppression, that `predict` works with; None leaves it."""


class Detection(Kind):
    """Targets: boxes (B, M, 4) xyxy in input pixels, labels (B, M) with -1 for no object, crowd (B, M), area (B, M) of
    the original, known (B,), False for an image of which nobody said what it holds.

    Predictions: boxes (N, 4) xyxy, scores (N,), labels (N,), the highest score first.
    """

    name = "detection"
    fields = ("boxes", "labels", "crowd", "area")
    needed = ("boxes", "labels")
    label = "object"
    published_classes = 80  # COCO
    drawn = f"score at least {DRAWN_SCORE:g}"
    placed = True
    scored = True
    usual_score = DRAWN_SCORE
    gathered = "detections.json"

    def unknown(self, canvas: tuple[int, int], classes: int) -> Sample:

        return {
            "boxes": as_boxes(torch.zeros(0, 4), canvas),
            "labels": torch.zeros(0, dtype=torch.int64),
            "crowd": torch.zeros(0, dtype=torch.bool),
            "area": torch.zeros(0),
        }

    def fill(self, sample: Sample, canvas: tuple[int, int], classes: int) -> Sample:
        return {**super().fill(sample, canvas, classes), "known": self.fields[0] in sample}

    def collate(self, samples: list[Sample], *, whole: bool) -> Targets:
        """Padded to the image with the most objects: labels with -1, everything else with 0."""
        targets = {}
        for name in self.fields:
            values = [torch.as_tensor(sample[name]).as_subclass(Tensor) for sample in samples]
            targets[name] = pad_sequence(values, batch_first=True, padding_value=-1 if name == "labels" else 0)
        return {**targets, "known": torch.tensor([sample["known"] for sample in samples])}

    def follow(self, targets: Targets) -> Targets:
        none = torch.zeros_like(targets["labels"], dtype=torch.bool)
        sides = targets["boxes"][..., 2:] - targets["boxes"][..., :2]
        known = torch.ones_like(targets["image_id"], dtype=torch.bool)
        return {"crowd": none, "area": sides.prod(-1), "known": known, **targets}

    def check(self, targets: Targets, images: Tensor, classes: Sequence[str]) -> None:
        check_shape(targets["boxes"], (len(images), -1, 4), field="boxes")
        check_shape(targets["labels"], tuple(targets["boxes"].shape[:2]), field="labels")
        check_labels(targets["labels"], classes, field="labels", unknown=-1)

    def restore(self, prediction: Prediction, seen: tuple[int, int], original: tuple[int, int]) -> Prediction:
        """Boxes are clipped to the image, which may end before the input does."""
        boxes = prediction["boxes"]
        limit = boxes.new_tensor([original[1], original[0]] * 2)
        return {**prediction, "boxes": torch.minimum(boxes * _scale(boxes, seen, original), limit)}

    def narrow(self, prediction: Prediction, *, score: Least | None, chosen: Tensor | None) -> Prediction:
        if score is not None:
            strong = prediction["scores"] >= least_of(score, prediction["labels"])
            prediction = {name: values[strong] for name, values in prediction.items()}
        if chosen is not None:
            prediction = {name: values[chosen[prediction["labels"]]] for name, values in prediction.items()}
        return prediction

    def draw(
        self,
        image: Tensor,
        shown: Prediction | Targets,
        classes: tuple[str, ...],
        *,
        seen: tuple[int, int],
        least: Least | None = None,
    ) -> Tensor:
        """The boxes of a prediction that score `least`, or of one image's targets."""
        from mnv2_tasks.visual.drawing import draw_boxes

        scores = shown.get("scores")
        real = shown["labels"] >= 0
        if scores is not None:
            real = scores >= least_of(DRAWN_SCORE if least is None else least, shown["labels"])
        boxes = shown["boxes"][real] * _scale(shown["boxes"], seen, (image.shape[1], image.shape[2]))
        columns = {name: shown[name][real] for name in ("labels", "scores", "crowd") if name in shown}
        return draw_boxes(image, boxes, columns.pop("labels"), classes, **columns)

    def overlays(
        self, sides: Mapping[str, Any], classes: tuple[str, ...], *, picture: Picture, least: float
    ) -> dict[str, Any]:
        """Boxes of predictions that score `least`, and the true ones."""
        (height, width), (seen_height, seen_width) = picture.image, picture.seen
        whole = (seen_height * picture.canvas[0] / height, seen_width * picture.canvas[1] / width)  # in input pixels
        boxes = {side: _overlay(annotation, whole, classes, least) for side, annotation in sides.items()}
        return {"boxes": boxes, "caption": f"predictions: score at least {least:g}"}

    def certain(self, target: Mapping[str, Tensor]) -> Prediction:
        known = target["labels"] >= 0
        return {"labels": target["labels"][known], "scores": torch.ones(int(known.sum()))}

    def counted(self, least: Least) -> str:
        if isinstance(least, Tensor):
            return "objects that reach the threshold of their class"
        return f"objects that score {least:g} or more"

    def labels(self, prediction: Prediction, classes: int, least: Least) -> list[int]:
        """The class of every object."""
        return prediction["labels"][prediction["scores"] >= least_of(least, prediction["labels"])].tolist()

    def leading(self, prediction: Prediction, classes: tuple[str, ...]) -> int | None:
        """That of the highest score."""
        return int(prediction["labels"][0]) if len(prediction["labels"]) else None

    def line(
        self,
        prediction: Prediction,
        classes: tuple[str, ...],
        *,
        picture: str | None = None,
        least: Least | None = None,
    ) -> Any:
        """As COCO's results: [{category_id counted from 1, category, bbox [x, y, width, height], score}]."""
        columns = (prediction[name].tolist() for name in ("boxes", "scores", "labels"))
        return [
            {
                "category_id": label + 1,
                "category": classes[label],
                "bbox": [round(value, 2) for value in (x, y, right - x, low - y)],
                "score": round(score, 5),
            }
            for (x, y, right, low), score, label in zip(*columns, strict=True)
        ]

    def from_line(self, line: Any, picture: bytes | None) -> Prediction:
        boxes = torch.tensor([box["bbox"] for box in line]).reshape(-1, 4)
        return {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            "scores": torch.tensor([box["score"] for box in line]),
            "labels": torch.tensor([box["category_id"] - 1 for box in line], dtype=torch.int64),
        }

    def outputs(self, *, masks: str, nms: str) -> tuple[str, ...]:
        return ("boxes", "scores") if nms == "app" else ("boxes", "scores", "labels")

    def raw(self, outputs: Any) -> tuple[Tensor, ...]:
        """(scores (B, A, K + 1), deltas (B, A, 4), default boxes (A, 4))."""
        return outputs.scores, outputs.deltas, outputs.defaults

    def decide(self, head: Anchored, raw: tuple[Tensor, ...], size: tuple[int, int], how: Decided) -> list[Tensor]:
        scores, deltas, defaults = raw
        score = head.probabilities(scores)
        if how.nms == "app":
            return [_scaled(head.boxes(deltas, defaults), size), score]
        k, anchors, decoding = how.candidates, defaults.shape[0], head.decoding
        if isinstance(anchors, int):
            k = min(k, anchors)
        else:  # a size that varies may have fewer default boxes than this: pad with boxes of score 0
            score, deltas, defaults = (torch.nn.functional.pad(x, (0, 0, 0, k)) for x in (score, deltas, defaults))
        score, anchor = score.transpose(1, 2).topk(k)  # (B, K, k): no class crowds another out
        rows = anchor.flatten(1)[..., None].expand(-1, -1, 4)
        near = defaults[anchor.flatten()].view(-1, head.num_classes * k, 4)
        pixels = _scaled(head.boxes(deltas.gather(1, rows), near), size)  # (B, K k, 4)
        keep = how.keep(pixels, score, (head.num_classes, k), decoding)
        score = score * keep * (score > decoding.score_threshold).to(score.dtype)
        score, best = score.flatten(1).topk(min(decoding.detections, head.num_classes * k))  # (B, N)
        boxes = pixels.gather(1, best[..., None].expand(-1, -1, 4))
        return [boxes, score, torch.div(best, k, rounding_mode="floor").to(torch.int32)]

    def predictions(self, arrays: Arrays, decoding: Decoding | None, suppress: Suppress) -> list[Prediction]:
        boxes, scores = arrays["boxes"], arrays["scores"]
        if scores.ndim == 3:  # every default box: suppression was left to us
            settings = asdict(decoding or Decoding())
            rows = [suppress(*pair, **settings) for pair in zip(boxes, scores, strict=True)]
        else:
            rows = [(b[s > 0], s[s > 0], n[s > 0]) for b, s, n in zip(boxes, scores, arrays["labels"], strict=True)]
        tensors = [[torch.from_numpy(np.ascontiguousarray(x)) for x in row] for row in rows]
        return [{"boxes": b.float(), "scores": s.float(), "labels": n.long()} for b, s, n in tensors]

    def count(self, metric: Any, predictions: list[Prediction], targets: Targets) -> None:
        """In the pixels of the original images; repeats and images of unknown content do not count."""
        detections, truths = [], []
        for i in (targets["known"] & (targets["image_id"] >= 0)).nonzero().flatten().tolist():
            size, seen = (tuple(targets[name][i].tolist()) for name in ("size", "seen"))
            detections.append(self.restore(predictions[i], seen, size))
            real = targets["labels"][i] >= 0
            truth = {name: targets[name][i][real] for name in ("boxes", "labels", "crowd", "area")}
            truth["boxes"] = truth["boxes"] * _scale(targets["boxes"], seen, size)
            truths.append({**truth, "image_id": int(targets["image_id"][i])})
        metric.update(detections, truths)

    def difference(self, ours: Arrays, theirs: Arrays, pairs: list[tuple[Prediction, Prediction]]) -> Apart:
        """A partner has the same class and place; a box within `BARE` of the lowest score of its image needs none."""
        return _boxes_apart(pairs)


def _scale(like: Tensor, seen: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """(4,): from pixels of an input whose top left `seen` (h, w) is the image to those of the `original` (H, W)."""
    return like.new_tensor([original[1] / seen[1], original[0] / seen[0]] * 2)


def _scaled(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) xyxy, fractions of the image -> pixels of `size` (H, W), which may be symbolic."""
    height, width = size
    return torch.stack([boxes[..., i] * side for i, side in enumerate((width, height, width, height))], -1)


def _overlay(
    annotation: Mapping[str, Tensor], whole: tuple[float, float], classes: tuple[str, ...], least: float
) -> dict[str, Any]:
    height, width = whole
    scores = annotation.get("scores")
    data = []
    for i, (x0, y0, x1, y1) in enumerate(annotation["boxes"].tolist()):
        label = int(annotation["labels"][i])
        if label < 0 or (scores is not None and scores[i] < least):
            continue
        corners = {"minX": x0 / width, "minY": y0 / height, "maxX": x1 / width, "maxY": y1 / height}
        box: dict[str, Any] = {"position": corners, "class_id": label, "box_caption": classes[label]}
        if scores is not None:
            box["scores"] = {"score": float(scores[i])}
        data.append(box)
    return {"box_data": data, "class_labels": dict(enumerate(classes))}


def _boxes_apart(pairs: Sequence[tuple[Prediction, Prediction]]) -> Apart:
    pixels = relative = lonely = total = 0.0
    for ours, theirs in pairs:
        total += len(ours["scores"])
        if not len(ours["scores"]) and not len(theirs["scores"]):
            continue
        scores = torch.cat([ours["scores"], theirs["scores"]])
        floor = float(scores.min()) + BARE
        side = max(float(torch.cat([ours["boxes"], theirs["boxes"]]).abs().max()), 1.0)
        far = (ours["boxes"][:, None] - theirs["boxes"][None]).abs().amax(-1)  # (N, M)
        far = far + (ours["scores"][:, None] - theirs["scores"][None]).abs() * side
        far = far.masked_fill(ours["labels"][:, None] != theirs["labels"][None], float("inf"))
        for axis, mine in ((1, ours), (0, theirs)):
            if far.shape[axis] == 0:
                lonely += float((mine["scores"] > floor).sum())
                continue
            nearest = far.min(axis)
            paired = nearest.values < CLOSE * side
            lonely += float((~paired & (mine["scores"] > floor)).sum())
            if axis == 1 and paired.any():
                other = nearest.indices[paired]
                moved = float((ours["boxes"][paired] - theirs["boxes"][other]).abs().max())
                score = float((ours["scores"][paired] - theirs["scores"][other]).abs().max())
                pixels, relative = max(pixels, moved), max(relative, moved / side, score)
    return {"largest": pixels, "relative": relative, "unlike": lonely, "total": total}


DETECTION = Detection()
