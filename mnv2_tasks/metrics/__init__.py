"""Metrics of a whole run, as torchmetrics: exact over processes and padded batches."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors


def gather_rows(rows: Tensor, group: Any = None) -> list[Tensor]:
    """The float64 rows of every process, whatever the device and precision of the model; for `dist_sync_fn`."""
    # Only NCCL needs a GPU. What torchmetrics puts in for an empty process comes in the model's type.
    device = "cuda" if torch.distributed.get_backend(group) == "nccl" else "cpu"
    return [part.cpu() for part in gather_all_tensors(rows.to(device, torch.float64), group)]
