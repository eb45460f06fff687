"""The whole network in pure PyTorch: plain RGB in, every head's outputs out."""

from collections.abc import Collection, ItemsView, Mapping, Sequence, ValuesView
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.heads import Head, Prediction, Taps

Classes = dict[str, tuple[str, ...]]  # task -> its class names


class Heads(nn.ModuleDict):
    """{task: its head}."""

    if TYPE_CHECKING:

        def __getitem__(self, task: str) -> Head: ...
        def items(self) -> ItemsView[str, Head]: ...
        def values(self) -> ValuesView[Head]: ...


class Model(nn.Module):
    """Normalisation, backbone and heads.

    forward: (B, C, H, W) uint8, or float in 0..1 -> {task: the head's outputs}
    """

    def __init__(
        self,
        backbone: MobileNetV2,
        heads: Mapping[str, Head],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = Heads(heads)
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        needs = [need for head in heads.values() for need in head.needs]
        backbone.keep(needs)

    def forward(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, Any]:
        """Outputs of `tasks`, or of all; one forward of the backbone serves them."""
        taps, size = self.taps(images), (images.shape[-2], images.shape[-1])
        return {task: head(taps, size) for task, head in self.heads.items() if tasks is None or task in tasks}

    def taps(self, images: Tensor) -> Taps:
        """The backbone's taps of the images, those that it keeps."""
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        return self.backbone((images - self.mean) / self.std)

    def infer(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, Any]:
        """`forward` as evaluation wants it: a head with `has_views` looks at several views of the images."""
        wanted = [task for task in self.heads if tasks is None or task in tasks]
        viewed = [task for task in wanted if self.heads[task].has_views]
        outputs = self(images, set(wanted) - set(viewed)) if len(viewed) < len(wanted) else {}
        for task in viewed:
            outputs[task] = self.heads[task].infer(partial(self._outputs_of, task), images)
        return outputs

    def _outputs_of(self, task: str, images: Tensor) -> Any:
        return self(images, [task])[task]

    def predict(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, list[Prediction]]:
        """{task: one prediction an image}, in input pixels; of `tasks`, or of all."""
        return {task: self.heads[task].predict(out) for task, out in self.infer(images, tasks).items()}
