"""Metrics of a whole run, as torchmetrics: exact over processes and padded batches."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The float64 rows of every process, whatever the device and precision of the model; for `dist_sync_fn`."""
    # Only NCCL needs a GPU. What torchmetrics puts in for an empty process comes in the model's type.
    device = "cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"
    return [part.cpu() for part in gather_all_tensors(rows.to(device, torch.float64), group)]


class Recalling(Metric):
    """A metric that plots and lists read after `compute`: what it saw is kept.

    The images of the other processes are here only while it computes.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.last: Any = None  # what `compute` saw, as the metric keeps it

    def reset(self) -> None:
        """Forget every image and what the last `compute` saw."""
        super().reset()
        self.last = None

    def computed(self) -> Any:
        """What the last `compute` saw."""
        if self.last is None:
            raise RuntimeError(f"{type(self).__name__}: call compute() first, and on every process")
        return self.last
