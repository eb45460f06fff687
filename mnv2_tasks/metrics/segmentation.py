"""Segmentation metrics of a whole run from one confusion matrix, exact over any number of processes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from mnv2_tasks.errors import InputError
from mnv2_tasks.metrics import PerImage
from mnv2_tasks.metrics.image_results import Masks
from mnv2_tasks.samples import IGNORED, resize


def class_iou(matrix: Tensor) -> Tensor:
    """Confusion (..., K, K), rows truth -> IoU (..., K) float64; NaN for a class in neither truth nor prediction."""
    matrix = matrix.double()
    hits = matrix.diagonal(dim1=-2, dim2=-1)
    return hits / (matrix.sum(-1) + matrix.sum(-2) - hits)


class SegmentationMetric(PerImage):
    """mIoU, per-class IoU, pixel and mean class accuracy, frequency-weighted IoU over every counted pixel.

    IoU of a class is its hits over the union of its truth and its prediction, over all images together. The mean leaves
    out the classes that appear in neither; one that is predicted but nowhere true counts with 0. So do PASCAL VOC's
    and Cityscapes' own scripts, and torchmetrics' JaccardIndex. Class accuracy is the mean over the true classes.

    `compute` gives float64 scalars on the CPU: "miou", "pixel_accuracy", "mean_class_accuracy",
    "frequency_weighted_iou" and `iou/<class>`; NaN where there is nothing to measure.
    """

    matrix: Tensor

    def __init__(self, classes: tuple[str, ...]) -> None:
        """Take the class names, in the order of the indices."""
        super().__init__(classes, width=1 + 3 * len(classes))
        # Whole numbers alone: they stay exact in any precision of the model, and every device has them.
        self.add_state("matrix", torch.zeros(len(classes), len(classes), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Tensor], truths: Sequence[Tensor], image_ids: Tensor) -> None:
        """Add images: one prediction (H, W) and one truth (H, W) each, class indices, `IGNORED` left out of the truth.

        An image_id of -1 is a repeat and does not count.

        Raises:
            InputError: sizes that differ, a truth that is no class.
        """
        count, matrices, ids = len(self.classes), [], []
        for prediction, truth, image in zip(predictions, truths, image_ids.tolist(), strict=True):
            if image < 0:
                continue
            if prediction.shape != truth.shape:
                raise InputError(
                    f"image {image}: a prediction of {tuple(prediction.shape)} for a mask of {tuple(truth.shape)}; "
                    "bring them to one size"
                )
            truth = truth.long()
            highest = int(torch.where(truth == IGNORED, 0, truth).max())
            if highest >= count:
                raise InputError(
                    f"image {image}: its mask holds class {highest} of {count}; give indices 0..{count - 1}, and "
                    f"{IGNORED} where unknown"
                )
            matrix = multiclass_confusion_matrix(
                prediction.long(), truth, count, ignore_index=IGNORED, validate_args=False
            )
            matrices.append(matrix)
            ids.append(image)
        if not matrices:
            return
        confusions = torch.stack(matrices)  # (B, K, K)
        self.matrix += confusions.sum(0).to(self.matrix.device)
        confusions = confusions.cpu()
        self.add(torch.tensor(ids), confusions.diagonal(dim1=1, dim2=2), confusions.sum(2), confusions.sum(1))

    def compute(self) -> dict[str, Tensor]:
        """Return float64 scalars on the CPU, named as above."""
        matrix = self.matrix.cpu().long()  # gathered from several processes, it came as `gather_rows` gives it
        self.last = matrix.numpy().copy(), self.table()
        iou, truth, total = class_iou(matrix), matrix.sum(1), matrix.sum().double()
        result = {
            "miou": iou.nanmean(),
            "pixel_accuracy": matrix.trace() / total,
            "mean_class_accuracy": (matrix.diagonal() / truth.double()).nanmean(),
            "frequency_weighted_iou": (truth / total * iou.nan_to_num(0)).sum(),
        }
        return result | {f"iou/{name}": value for name, value in zip(self.classes, iou, strict=True)}

    def confusion(self) -> np.ndarray:
        """Return the counted pixels: (K, K) int64, rows truth, columns prediction."""
        return self.computed()[0]

    def by_image(self) -> Masks:
        """Return what `compute` saw, an image a row."""
        table = self.computed()[1].astype(np.int64)
        return Masks(table[:, 0], table[:, 1:].reshape(len(table), 3, len(self.classes)))

    def worst(self, count: int) -> list[int]:
        """Return the image_ids with the lowest mIoU of their own, the lowest first."""
        results = self.by_image()
        score = results.quality()  # NaN: nothing of the image is known
        order = np.argsort(score, kind="stable")[: np.count_nonzero(~np.isnan(score))]
        return results.images[order[:count]].tolist()


@torch.no_grad()
def count_masks(metric: SegmentationMetric, logits: Tensor, targets: dict[str, Tensor]) -> None:
    """Count logits (B, K, H, W) against the masks in their own pixels: the part with the image is resized to them."""
    predictions, truths = [], []
    for i, (seen, size) in enumerate(zip(targets["seen"].tolist(), targets["whole_size"].tolist(), strict=True)):
        part = logits[i : i + 1, :, : seen[0], : seen[1]].float()
        predictions.append(resize(part, size)[0].argmax(0))
        truths.append(targets["whole"][i, : size[0], : size[1]])
    metric.update(predictions, truths, targets["image_id"])
