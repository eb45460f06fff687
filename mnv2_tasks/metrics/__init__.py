"""Metrics of a whole run, as torchmetrics: exact over processes and padded batches."""

from collections.abc import Callable
from typing import Any

import numpy as np
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


class PerImage(Recalling):
    """A row of numbers an image, gathered from all processes; an image that comes twice counts once.

    The state stays in main memory as float64, whatever the device and precision of the model.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    rows: list[Tensor] | Tensor  # torchmetrics puts one tensor here while it computes over several processes

    def __init__(self, classes: tuple[str, ...], width: int) -> None:
        super().__init__(dist_sync_fn=gather_rows)
        self.classes = tuple(classes)
        self.width = width
        # Flat: so it can be gathered from a process without images too.
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def add(self, *columns: Tensor) -> None:
        """Add a batch: columns (B,) or (B, C) in main memory, `width` together, the image_id first."""
        table = torch.cat([c.double() if c.ndim > 1 else c.double()[:, None] for c in columns], 1)  # (B, width)
        assert isinstance(self.rows, list) and table.shape[1] == self.width
        self.rows.append(table.flatten())

    def table(self) -> np.ndarray:
        """(N, width), sorted by the first column, the image_id: so that every split over processes sums alike."""
        rows = [self.rows] if isinstance(self.rows, Tensor) else self.rows
        table = torch.cat([torch.zeros(0).double(), *rows]).numpy().reshape(-1, self.width)
        return table[np.unique(table[:, 0], return_index=True)[1]]

    def _apply(self, fn: Callable[..., Any], exclude_state: Any = ()) -> torch.nn.Module:
        # A move of the model must not take the float64 rows along: not every device has the type.
        return super()._apply(fn, exclude_state=("rows", *exclude_state))
