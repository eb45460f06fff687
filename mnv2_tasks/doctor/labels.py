"""Labels that are likely wrong: what networks that never saw an image predict of it, against its label, by cleanlab."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mnv2_tasks.doctor.findings import Finding, Place, Shown
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import replacing
from mnv2_tasks.samples import IGNORED

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side

SMALL = 64  # pixels a side of a mask as it is compared
SURE = 0.5  # score from which a prediction is drawn and suggested as a box
WORST = 0.05  # of the images of a kind whose labels have no threshold of cleanlab's: those that are named


@dataclass(frozen=True)
class Doubt:
    """An image whose label may be wrong: its number in train and val together, given and suggested in words, a score.

    The lower the score in 0..1, the less the label is believed; `likely` where cleanlab counts it as wrong.
    """

    row: int
    given: str
    suggested: str
    score: float
    likely: bool
    boxes: tuple[tuple[float, float, float, float], ...] = ()


def read_predictions(study: Path, task: str) -> dict[str, NDArray[Any]]:
    """The out-of-fold predictions of a study's first variant, its folds together, in the order of the images.

    Raises InputError where there are none.
    """
    files = sorted(study.glob(f"runs/*/*_fold_*/out_of_fold/{task}.npz")) or sorted(
        study.glob(f"out_of_fold/{task}.npz")
    )
    if not files:
        raise InputError(
            f"{study}: no out-of-fold predictions of {task} are there; give the folder of a study with study.folds"
        )
    stem = files[0].parents[1].name.partition("_fold_")[0]
    parts: list[dict[str, NDArray[Any]]] = []
    for file in [file for file in files if file.parents[1].name.partition("_fold_")[0] == stem]:
        try:
            with np.load(file, allow_pickle=False) as opened:
                parts.append({key: opened[key] for key in opened.files})
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read ({error}); do that run again") from error
    starts = np.cumsum([0, *(len(part["rows"]) for part in parts)])
    for part, start in zip(parts, starts.tolist(), strict=False):
        if "of" in part:
            part["of"] = part["of"].astype(np.int64) + start
    return {key: np.concatenate([part[key] for part in parts if len(part[key])]) for key in parts[0]}


def need_cleanlab() -> None:
    """Raises InputError where it is not installed."""
    try:
        import cleanlab  # noqa: F401
    except ImportError as error:
        raise InputError("predictions= needs cleanlab: pip install 'mnv2_tasks[doctor]'") from error


def doubts_of(
    kind: str, seen: "Sequence[tuple[Side, int]]", kept: dict[str, NDArray[Any]], names: Sequence[str]
) -> list[Doubt]:
    """The labels of a kind as they were seen, image by image as the predictions that were `kept`, the worst first."""
    if kind == "classification":
        return doubts_of_labels(np.array([side.label[row] for side, row in seen]), kept["scores"], names)
    if kind == "multilabel":
        return doubts_of_presence(np.array([side.presence[row] for side, row in seen]), kept["scores"], names)
    if kind == "detection":
        objects = [side.objects[side.objects["row"] == row] for side, row in seen]
        sizes = np.array([[side.measures[name][row] for name in ("height", "width")] for side, row in seen])
        return doubts_of_boxes(objects, sizes, kept, names)
    masks = [small_mask(np.array(side.split[row]["mask"])) for side, row in seen]
    return doubts_of_masks(np.stack(masks), kept["probabilities"], names)


def doubts_of_labels(label: NDArray[np.int64], scores: NDArray[Any], names: Sequence[str]) -> list[Doubt]:
    """Of one class an image: label (N,), -1 unknown; scores (N, K)."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    known = np.flatnonzero(label >= 0)
    probabilities = scores[known].astype(np.float64)
    probabilities /= probabilities.sum(1, keepdims=True)
    likely = find_label_issues(label[known], probabilities, n_jobs=1)
    quality = get_label_quality_scores(label[known], probabilities, method="normalized_margin")
    best = probabilities.argmax(1)
    return _sorted(
        Doubt(row, names[int(label[row])], names[int(best[i])], float(quality[i]), bool(likely[i]))
        for i, row in enumerate(known.tolist())
    )


def doubts_of_presence(presence: NDArray[np.int8], scores: NDArray[Any], names: Sequence[str]) -> list[Doubt]:
    """Of any number of classes an image: presence (N, K), -1 unknown, which counts as what is predicted."""
    from cleanlab.multilabel_classification.filter import find_label_issues
    from cleanlab.multilabel_classification.rank import get_label_quality_scores

    predicted = scores > SURE
    shown = np.where(presence < 0, predicted, presence > 0)
    lists = [np.flatnonzero(row).tolist() for row in shown]
    probabilities = scores.astype(np.float64)
    likely = find_label_issues(lists, probabilities, n_jobs=1)
    quality = get_label_quality_scores(lists, probabilities)

    def words(row: NDArray[np.bool_]) -> str:
        return " ".join(names[k] for k in np.flatnonzero(row).tolist()) or "none"

    return _sorted(
        Doubt(row, words(shown[row]), words(predicted[row]), float(quality[row]), bool(likely[row]))
        for row in range(len(shown))
    )


def doubts_of_boxes(
    objects: Sequence[NDArray[Any]], sizes: NDArray[Any], found: dict[str, NDArray[Any]], names: Sequence[str]
) -> list[Doubt]:
    """Of boxes: objects of each image (see `looking.OBJECT`), the images' (H, W), and what folds detected."""
    from cleanlab.object_detection import rank
    from cleanlab.object_detection.filter import find_label_issues

    labels, predictions, boxes_of = [], [], []
    for row, (here, (height, width)) in enumerate(zip(objects, sizes.tolist(), strict=True)):
        mine = found["of"] == row
        boxes, scores, classes = (found[key][mine] for key in ("boxes", "scores", "labels"))
        labels.append({"bboxes": here["box"] * np.array([width, height] * 2), "labels": here["label"].astype(np.int64)})
        each = [np.column_stack([boxes[classes == k], scores[classes == k]]).reshape(-1, 5) for k in range(len(names))]
        predictions.append(np.array([*each, None], dtype=object)[:-1])
        sure = scores >= SURE
        boxes_of.append((boxes[sure] / np.array([width, height] * 2), [names[k] for k in classes[sure]]))
    both: dict[str, Any] = {"labels": labels, "predictions": predictions}
    parts = (
        rank.compute_overlooked_box_scores(**both, high_probability_threshold=SURE),
        rank.compute_swap_box_scores(**both, high_probability_threshold=SURE),
        rank.compute_badloc_box_scores(**both),
    )  # cleanlab's own 0.95 for what is sure is seldom met by a detector of few images
    quality = np.min([rank.pool_box_scores_per_image(part) for part in parts], axis=0)
    likely = find_label_issues(labels, predictions) | (quality <= min(np.quantile(quality, WORST), 0.5))
    doubts = []
    for row, (suggested, classes) in enumerate(boxes_of):
        given = " ".join(sorted(names[k] for k in objects[row]["label"])) or "none"
        shown = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in suggested.tolist())
        doubts.append(
            Doubt(row, given, " ".join(sorted(classes)) or "none", float(quality[row]), bool(likely[row]), shown)
        )
    return _sorted(doubts)


def doubts_of_masks(masks: NDArray[np.uint8], probabilities: NDArray[np.uint8], names: Sequence[str]) -> list[Doubt]:
    """Of masks (N, h, w), 255 unknown, which counts as what is predicted; probabilities (N, K, h, w) of 255."""
    from cleanlab.segmentation.rank import get_label_quality_scores

    shares = probabilities.astype(np.float32)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1)
    predicted = shares.argmax(1)
    labels = np.where(masks == IGNORED, predicted, masks).astype(np.int64)
    quality, _ = get_label_quality_scores(labels, shares, verbose=False)
    least = np.quantile(quality, WORST)
    doubts = []
    for row in range(len(labels)):
        other = labels[row] != predicted[row]
        given, suggested = (_most(values[row][other], names) for values in (labels, predicted))
        doubts.append(Doubt(row, given, suggested, float(quality[row]), bool(quality[row] <= least)))
    return _sorted(doubts)


def small_mask(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask (H, W) as it is compared with what is kept of its prediction."""
    return np.asarray(Image.fromarray(mask).resize((SMALL, SMALL), Image.Resampling.NEAREST))


def finding_of(task: str, doubts: Sequence[Doubt], places: Sequence[Place]) -> list[Finding]:
    """What is said of them: those that are likely wrong, the worst first."""
    likely = [doubt for doubt in doubts if doubt.likely]
    if not likely:
        return []
    text = f"{task}: {amount(len(likely), 'label')} of {len(doubts):,} are likely wrong"
    fix = "look at them, and correct them by corrected_labels.csv"
    cases = [Shown((places[d.row],), f"{d.given} -> {d.suggested} ({d.score:.2f})", d.boxes) for d in likely]
    return [Finding(f"worst_labels_{task}", "wrong", text, fix, cases)]


def write_corrections(path: Path, doubts: Sequence[Doubt], places: Sequence[Place]) -> None:
    """A row an image, the least believed label first, to edit: what stands under "suggested" is what a network says."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "given", "suggested", "score", "likely_wrong"])
        for doubt in doubts:
            name = places[doubt.row].name
            writer.writerow([name, doubt.given, doubt.suggested, f"{doubt.score:.4f}", "yes" if doubt.likely else "no"])


def _most(labels: NDArray[Any], names: Sequence[str]) -> str:
    """The class of most of these pixels."""
    return names[int(np.bincount(labels.ravel(), minlength=len(names)).argmax())] if labels.size else "as given"


def _sorted(doubts: Any) -> list[Doubt]:
    return sorted(doubts, key=lambda doubt: (doubt.score, doubt.row))
