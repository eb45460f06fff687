"""What every head is: layers, loss, decoding, metrics and pictures of one task, in pure PyTorch."""

from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor
from torchmetrics import Metric

Taps: TypeAlias = dict[str, Tensor]
Targets: TypeAlias = dict[str, Tensor]  # batched; a missing label is an ignore value
Prediction: TypeAlias = dict[str, Tensor]  # of one image


class Head(Protocol):
    """An nn.Module made as `head(taps, num_classes)`; it knows no Lightning, no Hydra and no data set.

    Outputs are the head's own NamedTuple of tensors. Metrics are named without a task or a stage; `primary` is the
    headline among them, and higher is better.
    """

    kind: str  # of annotation that it learns from: classification, detection or segmentation
    needs: tuple[str, ...]
    primary: str
    curves: tuple[str, ...]  # names of the metrics worth a curve over the epochs

    def __call__(self, taps: Taps, size: tuple[int, int]) -> Any:
        """Taps and the image's (H, W) -> outputs, differentiable."""

    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named float32 scalars; their sum is minimised."""

    def predict(self, outputs: Any) -> list[Prediction]:
        """One prediction an image, in the pixels of the model's input."""

    def metrics(self, classes: tuple[str, ...]) -> Metric:
        """A fresh metric whose `compute` gives {name: scalar}."""

    def update(self, metric: Metric, outputs: Any, targets: Targets) -> None:
        """Count a batch, in the frame of the original images."""

    def draw(
        self, image: Tensor, shown: Prediction | Targets, classes: tuple[str, ...], *, size: tuple[int, int]
    ) -> Tensor:
        """A prediction, or one image's targets, both in pixels of an input of `size`, drawn on the image."""

    def plot(self, metric: Metric, classes: tuple[str, ...], folder: Path) -> None:
        """Write the metric's plots as PNG files."""
