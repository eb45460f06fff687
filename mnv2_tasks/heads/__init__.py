"""What every head is: layers, loss, decoding, metrics and pictures of one task, in pure PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from mnv2_tasks.errors import InputError

Taps: TypeAlias = dict[str, Tensor]
Targets: TypeAlias = dict[str, Tensor]  # batched; a missing label is an ignore value
Prediction: TypeAlias = dict[str, Tensor]  # of one image
NEEDED = {  # fields of targets that nothing else tells
    "classification": ("label",),
    "multilabel": ("presence",),
    "detection": ("boxes", "labels"),
    "segmentation": ("mask",),
}


class Head(Protocol):
    """An nn.Module made as `head(taps, num_classes)`; it knows no Lightning, no Hydra and no data set.

    Outputs are the head's own NamedTuple of tensors. Metrics are named without a task or a stage; `primary` is the
    headline among them, and higher is better.

    Targets of every kind hold image_id (B,), -1 for a repeat that metrics leave out; size (B, 2), the (H, W) of the
    original images; and seen (B, 2), the (h, w) at the top left of the input that holds the image. Besides these:

    - classification: label (B,) int64, -1 unknown; or soft labels (B, K) float, all 0 unknown
    - multilabel: presence (B, K) float of 0 and 1, -1 unknown
    - detection: boxes (B, M, 4) xyxy in input pixels, labels (B, M) with -1 for no object, crowd (B, M), area (B, M)
      of the original, known (B,), False for an image of which nobody said what it holds
    - segmentation: mask (B, H, W) uint8, 255 unknown; in evaluation also whole (B, H', W'), the masks in their own
      pixels at the top left, and whole_size (B, 2), their (h, w)
    """

    kind: str  # of annotation that it learns from: classification, multilabel, detection or segmentation
    needs: tuple[str, ...]
    strides: tuple[int, ...]  # output strides of the backbone that it works with, the best first
    primary: str
    curves: tuple[str, ...]  # names of the metrics worth a curve over the epochs
    drawn: str  # what of a prediction `draw` shows, such as "score at least 0.4"
    ranked: str  # what `worst` goes by, such as "by cross-entropy"

    def __call__(self, taps: Taps, size: tuple[int, int]) -> Any:
        """Taps and the image's (H, W) -> outputs, differentiable."""

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named float32 scalars; their sum is minimised. Where no target is known it is 0 and has gradients of 0."""

    def predict(self, outputs: Any) -> list[Prediction]:
        """One prediction an image, in the pixels of the model's input."""

    def metrics(self, classes: tuple[str, ...]) -> Metric:
        """A fresh metric whose `compute` gives {name: scalar}."""

    def update(self, metric: Metric, outputs: Any, targets: Targets) -> None:
        """Count a batch, in the frame of the original images."""

    def worst(self, metric: Metric, count: int) -> list[int]:
        """After `compute`: the image_ids of the worst predictions, the worst first."""

    def draw(
        self, image: Tensor, shown: Prediction | Targets, classes: tuple[str, ...], *, seen: tuple[int, int]
    ) -> Tensor:
        """A prediction or one image's targets, in pixels of an input whose top left `seen` (h, w) is the image."""

    def plot(self, metric: Metric, classes: tuple[str, ...], folder: Path) -> None:
        """Write the metric's plots as PNG files."""


def complete(kind: str, targets: Any, images: Tensor, *, ids: Tensor) -> Targets:
    """The targets of a batch with all fields that `Head` lists, as evaluation wants them.

    Those of a plain DataLoader may lack what follows from the images (B, C, H, W): they lie as they are on disk, are
    numbered by `ids` (B,), and are labelled throughout. Labels, presences and masks may come as a bare tensor.
    """
    needed = NEEDED[kind]
    own = {needed[0]: targets} if isinstance(targets, Tensor) and kind != "detection" else targets
    if not isinstance(own, Mapping) or not set(needed) <= set(own):
        have = ", ".join(map(str, own)) if isinstance(own, Mapping) else type(own).__name__
        raise InputError(
            f"a batch's targets for {kind} hold {have}: give {' and '.join(needed)}, as mnv2_tasks.heads.Head tells"
        )
    fields: Targets = dict(own)
    size = torch.tensor(images.shape[-2:], device=images.device).expand(len(images), 2)
    fields = {"image_id": ids, "size": size, "seen": size} | fields
    if kind == "detection":
        none = torch.zeros_like(fields["labels"], dtype=torch.bool)
        sides = fields["boxes"][..., 2:] - fields["boxes"][..., :2]
        fields = {"crowd": none, "area": sides.prod(-1), "known": torch.ones_like(ids, dtype=torch.bool)} | fields
    if kind == "segmentation":
        fields = {"whole": fields["mask"], "whole_size": size} | fields
    return fields
