"""What a network costs: parameters, multiply-adds as the paper counts them, and milliseconds."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mnv2_tasks.machine import milliseconds
from mnv2_tasks.model import Model


def parameters(module: nn.Module, *, folded: bool = False) -> int:
    """Learned values; `folded` leaves out batch norm, as when it is folded into the convolutions.

    The published tables count that way: 3.47 M for MobileNetV2 1.0 with its 1000-class layer.
    """
    norms = {id(p) for m in module.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    return sum(p.numel() for p in module.parameters() if not (folded and id(p) in norms))


def madds(run: Callable[..., object], *inputs: Any) -> int:
    """Multiply-adds of the convolutions and matrix products of `run(*inputs)`; give it meta tensors to be quick."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run(*inputs)
    return counter.get_total_flops() // 2


Passes = Sequence[tuple[tuple[int, int], Sequence[str]]]  # see `DataModule.passes`


def model_cost(model: Model, passes: Passes) -> dict[str, int]:
    """{"parameters", "madds"}: of one image of each source, through the backbone and the heads that it serves."""
    model.eval()
    cost = sum(madds(model, _blank(model, size), tasks) for size, tasks in passes)
    return {"parameters": parameters(model), "madds": cost}


def forward_ms(model: Model, passes: Passes, *, runs: int = 20) -> float:
    """Median milliseconds of the forward passes that `model_cost` counts, one image at a time, where the model is;
    decoding (non-maximum suppression, argmax) is not among them."""
    model.eval()
    inputs = [(_blank(model, size), tasks) for size, tasks in passes]

    def forward() -> None:
        for images, tasks in inputs:
            model(images, tasks)
        if model.mean.is_cuda:
            torch.cuda.synchronize()

    with torch.inference_mode():
        return milliseconds(forward, seconds=0, least=runs)


def _blank(model: Model, size: tuple[int, int]) -> Tensor:
    stem: Any = model.backbone.stem[0]
    image = torch.zeros((1, stem.in_channels, *size), dtype=torch.uint8, device=model.mean.device)
    return image.contiguous(memory_format=torch.channels_last)
