"""Non-maximum suppression in NumPy alone, for runtimes that leave it to the app: copy this file beside the model."""

import numpy as np


def suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    score_threshold: float = 0.01,
    candidates: int = 400,
    nms: float = 0.6,
    detections: int = 100,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (A, 4) xyxy and scores (A, K) of one image -> boxes (N, 4), scores (N,), labels (N,), best first.

    Of each class the `candidates` highest scores above `score_threshold` stay; a box goes where it overlaps a kept one
    of its class and a higher score by an IoU above `nms`; at most `detections` are returned.
    """
    picked = []
    for label in range(scores.shape[1]):
        score = scores[:, label]
        order = np.argsort(-score, kind="stable")[:candidates]
        order = order[score[order] > score_threshold]
        while len(order):
            best, rest = order[0], order[1:]
            picked.append((best, label))
            low = np.maximum(boxes[best, :2], boxes[rest, :2])
            high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
            shared = np.clip(high - low, 0, None).prod(1)
            area = (boxes[rest, 2:] - boxes[rest, :2]).prod(1) + (boxes[best, 2:] - boxes[best, :2]).prod()
            order = rest[shared <= nms * (area - shared)]
    index = np.array([i for i, _ in picked], np.int64)
    labels = np.array([n for _, n in picked], np.int64)
    top = np.argsort(-scores[index, labels], kind="stable")[:detections]
    index, labels = index[top], labels[top]
    return boxes[index], scores[index, labels], labels
