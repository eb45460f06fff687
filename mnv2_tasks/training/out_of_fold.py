"""What a run on a fold predicts of that fold's images, kept for whoever judges labels by it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.files import replacing
from mnv2_tasks.training.module import MultiTask

FOLDER = "out_of_fold"  # of a run's folder: a file a task
SMALL = 64  # pixels a side of the probabilities that are kept of a mask
BATCH = 16  # images at a time


def write_out_of_fold(task: MultiTask, data: DataModule, folder: Path) -> None:
    """`out_of_fold/<task>.npz`: rows (V,), the images' numbers in train and val together, and their names; and

    of labels scores (V, K); of masks probabilities (V, K, 64, 64) uint8, of 255; of boxes for each detection of: the
    place (M,) of its image among the rows, boxes (M, 4) xyxy in pixels of the original, labels (M,), scores (M,).
    """
    model = task.model.eval()
    for name, head in model.heads.items():
        source = data.source_of(name)
        split = data.split(source, "val")
        columns: dict[str, list[Any]] = {"rows": data.val_rows[source].tolist()}
        columns["names"] = [str(split.path(i)) if hasattr(split, "path") else "" for i in range(len(split))]
        for first in range(0, len(split), BATCH):
            indices = list(range(first, min(first + BATCH, len(split))))
            images, targets = data.batch(source, "val", indices)
            with torch.inference_mode():
                outputs = model.infer(images.to(model.mean.device), [name])[name]
                for key, values in _kept(head, outputs, targets[name], first).items():
                    columns.setdefault(key, []).extend(values)
        path = folder / FOLDER / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as file:
            arrays: dict[str, Any] = {key: np.array(values) for key, values in columns.items()}
            np.savez_compressed(file, **arrays)


def _kept(head: Any, outputs: Any, targets: dict[str, Tensor], first: int) -> dict[str, list[Any]]:
    """The columns of a batch, whose first image is number `first` of the side."""
    sizes = zip(targets["seen"].tolist(), targets["size"].tolist(), strict=True)
    if head.kind.name == "segmentation":
        (logits,) = head.kind.raw(outputs)
        shares = logits.float().softmax(1).cpu()
        parts = (share[:, : seen[0], : seen[1]] for share, (seen, _) in zip(shares, sizes, strict=True))
        small = (F.adaptive_avg_pool2d(part, SMALL) for part in parts)
        return {"probabilities": [(255 * one).round().to(torch.uint8).numpy() for one in small]}
    predictions = [
        head.kind.restore(prediction, tuple(seen), tuple(size))
        for prediction, (seen, size) in zip(head.predict(outputs), sizes, strict=True)
    ]
    if head.kind.name != "detection":
        return {"scores": [prediction["scores"].cpu().numpy() for prediction in predictions]}
    columns: dict[str, list[Any]] = {"of": [], "boxes": [], "labels": [], "scores": []}
    for place, prediction in enumerate(predictions, first):
        columns["of"] += [place] * len(prediction["labels"])
        for key in ("boxes", "labels", "scores"):
            columns[key] += prediction[key].cpu().tolist()
    return columns
