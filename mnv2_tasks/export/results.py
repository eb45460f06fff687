"""What the outputs of an exported graph say: predictions like a head's own, and counts for its metric."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.export.nms import suppress
from mnv2_tasks.heads import Prediction, Targets, detection
from mnv2_tasks.metrics.segmentation import count_masks

Arrays = Mapping[str, np.ndarray]  # output name -> values


def predictions(task: str, head: Any, arrays: Arrays) -> list[Prediction]:
    """One prediction an image, as `head.predict` gives them, in pixels of the graph's input."""
    if head.kind == "detection":
        boxes, scores = arrays[f"{task}_boxes"], arrays[f"{task}_scores"]
        if scores.ndim == 3:  # every default box: suppression was left to us
            settings = {name: getattr(head, name) for name in ("score_threshold", "candidates", "nms", "detections")}
            rows = [suppress(*pair, **settings) for pair in zip(boxes, scores, strict=True)]
        else:
            labels = arrays[f"{task}_labels"]
            rows = [(b[s > 0], s[s > 0], n[s > 0]) for b, s, n in zip(boxes, scores, labels, strict=True)]
        tensors = [[torch.from_numpy(np.ascontiguousarray(x)) for x in row] for row in rows]
        return [{"boxes": b.float(), "scores": s.float(), "labels": n.long()} for b, s, n in tensors]
    if head.kind == "segmentation":
        masks = arrays.get(f"{task}_mask")
        if masks is None:
            masks = arrays[f"{task}_logits"].argmax(1)
        return [{"mask": torch.from_numpy(mask.astype(np.uint8))} for mask in masks]
    return [{"scores": torch.from_numpy(np.array(scores, np.float32))} for scores in arrays[f"{task}_scores"]]


def update(task: str, head: Any, metric: Any, arrays: Arrays, targets: Targets) -> None:
    """Count a batch, as `head.update` does from the outputs of the network."""
    if head.kind == "detection":
        detection.update(metric, predictions(task, head, arrays), targets)
    elif head.kind == "segmentation":
        # Logits are decided first, as the graphs of other formats do: all formats of a model are counted alike.
        masks = torch.stack([row["mask"] for row in predictions(task, head, arrays)]).long()
        count_masks(metric, F.one_hot(masks, len(metric.classes)).movedim(-1, 1).float(), targets)  # (B, K, H, W)
    else:
        scores = torch.from_numpy(np.array(arrays[f"{task}_scores"], np.float64))
        likely: Tensor = scores.clamp(min=1e-30).log() if head.kind == "classification" else torch.logit(scores, 1e-12)
        field = "label" if head.kind == "classification" else "presence"
        metric.update(likely, targets[field], targets["image_id"])
