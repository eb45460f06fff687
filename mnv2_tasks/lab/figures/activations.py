"""Figure 7 of the paper: how many channels of each layer are positive, before and after training."""

from typing import Any

import torch
from torch import Tensor, nn

from mnv2_tasks.blocks import ACTIVATIONS
from mnv2_tasks.model import Model

INVERTIBLE = 1 / 6  # of the channels: as many as the layer's input had dimensions, at expansion 6 (appendix A)


@torch.no_grad()
def positive_channels(model: Model, images: Tensor, *, batch_statistics: bool = False) -> list[dict[str, Any]]:
    """A row an activated layer of the backbone: the share of its channels above 0, over all positions and images.

    Args:
        images: (B, C, H, W) uint8.
        batch_statistics: normalise by the batch, as training does; for a network that has seen no data yet.

    Returns:
        [{layer, channels, mean, std, low, high}], shares of the channels, in the order the layers run.
    """
    rows: list[dict[str, Any]] = []
    kinds: tuple[Any, ...] = tuple(kind for kind in ACTIVATIONS.values() if isinstance(kind, type))

    def note(name: str) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Tensor) -> None:
            share = (output > 0).float().mean(1)  # (B, H, W)
            row = {"layer": name, "channels": output.shape[1], "mean": share.mean().item(), "std": share.std().item()}
            rows.append(row | {"low": share.min().item(), "high": share.max().item()})

        return hook

    model.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    handles = [
        module.register_forward_hook(note(name.rpartition(".")[0]))
        for name, module in model.backbone.named_modules()
        if any(isinstance(module, kind) for kind in kinds)
    ]
    try:
        for module in model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = batch_statistics
        model(images)
    finally:
        for handle in handles:
            handle.remove()
        model.eval().load_state_dict(state)
    return rows
