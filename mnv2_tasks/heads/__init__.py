"""What every head is: layers, loss, decoding and metrics of one task, in pure PyTorch."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor, nn
from torchmetrics import Metric

from mnv2_tasks.errors import InputError
from mnv2_tasks.kinds import Calibration, Decoding, Kind, Prediction, Targets
from mnv2_tasks.metrics.tables import Table

Taps: TypeAlias = dict[str, Tensor]


class Head(nn.Module):
    """The layers of one task, made as `head(taps, num_classes)`; it knows no Lightning, no Hydra and no data set.

    Outputs are the head's own NamedTuple of tensors, with what `kind.raw` takes of it. What targets and predictions
    hold is told by the `Kind`, and beside its batches in `kinds.kind.Kind`. Metrics are named without a task or a
    stage.

    Attributes:
        kind: of annotation that it learns from: how that is batched, drawn, written and exported.
        needs: the taps of the backbone that it takes.
        strides: output strides of the backbone that it works with, the best first.
        primary: the headline among its metrics; higher is better.
        curves: names of the metrics worth a curve over the epochs.
        ranked: what `worst` goes by, such as "by cross-entropy".
        decoding: of a detector.
        calibration: fitted after training, by `python -m mnv2_tasks.calibrate`; it is no part of the state dict.
        has_views: whether evaluation calls `infer`.
    """

    kind: Kind
    needs: tuple[str, ...]
    strides: tuple[int, ...]
    primary: str
    curves: tuple[str, ...]
    ranked: str
    decoding: Decoding | None = None
    calibration: Calibration = Calibration()
    has_views: bool = False

    @abstractmethod
    def forward(self, taps: Taps, size: tuple[int, int]) -> Any:
        """Taps and the image's (H, W) -> outputs, differentiable."""

    @property
    def learns(self) -> bool:
        """Whether `learn_from` is to be called before training."""
        return False

    def learn_from(self, split: Any) -> str:
        """Take from the training samples what has to be known before training, such as class weights; says what.

        Raises InputError, without the task's name, where the samples cannot tell.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, outputs: Any, targets: Targets) -> dict[str, Tensor]:
        """Named float32 scalars; their sum is minimised. Where no target is known it is 0 and has gradients of 0."""

    def infer(self, call: Callable[[Tensor], Any], images: Tensor) -> Any:
        """The outputs of `call` (the model up to this head) for several views of the images together."""
        return call(images)

    @abstractmethod
    def predict(self, outputs: Any) -> list[Prediction]:
        """One prediction an image, in the pixels of the model's input."""

    def evidence(self, outputs: Any, prediction: Prediction, label: int) -> Tensor:
        """What speaks for the class `label` in the outputs of one image, a differentiable scalar, for heat maps.

        `prediction` is what is shown of `predict`. Raises InputError where a head of one's own does not say.
        """
        raise InputError(f"{type(self).__name__} does not say what its classes come from; leave its heat maps out")

    @abstractmethod
    def metrics(self, classes: tuple[str, ...]) -> Metric:
        """A fresh metric whose `compute` gives {name: scalar}."""

    @abstractmethod
    def update(self, metric: Any, outputs: Any, targets: Targets) -> None:
        """Count a batch, in the frame of the original images."""

    @abstractmethod
    def worst(self, metric: Any, count: int) -> list[int]:
        """After `compute`: the image_ids of the worst predictions, the worst first."""

    @abstractmethod
    def plot(self, metric: Any, classes: tuple[str, ...], folder: Path) -> None:
        """Write the metric's plots as PNG files."""

    def tables(self, metric: Any, classes: tuple[str, ...]) -> dict[str, Table]:
        """{name: what a plot is drawn from}, for loggers that draw it themselves; "confusion" is drawn as a matrix."""
        return {}
