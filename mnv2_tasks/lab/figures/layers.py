"""Any network layer by layer: parameters, multiply-adds, activation memory, receptive field; and Table 3's memory."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.model import Model

BYTES = 2  # of an activation: 16-bit floats, as in Table 3


def layers(model: Model, size: tuple[int, int], *, tasks: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row a convolution or linear layer, in the order they run, for one image.

    name, kind, channels "in -> out", kernel, stride, dilation, output (H, W); parameters with its batch norm's;
    madds; memory, the bytes of its output at 16 bits; and for the backbone, up to there, receptive_field and jump, in
    pixels of the input: the side that an output sees, and the step from one output to the next.
    """
    rows: list[dict[str, Any]] = []
    field = {"receptive_field": 1, "jump": 1}
    norms = _norms(model)

    def note(name: str, module: Any) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            rows.append(_row(name, module, output, norms.get(name)))
            if name.startswith("backbone.") and ".joined" not in name:  # a shortcut runs beside the others
                kernel, step, dilation = module.kernel_size[0], module.stride[0], module.dilation[0]
                field["receptive_field"] += (kernel - 1) * dilation * field["jump"]
                field["jump"] *= step
                rows[-1] |= field

        return hook

    handles = [
        module.register_forward_hook(note(name, module))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    stem: Any = model.backbone.stem[0]
    device, channels = model.mean.device, stem.in_channels
    try:
        with torch.no_grad():
            model.eval()(torch.empty(1, channels, *size, dtype=torch.uint8, device=device), tasks)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def _row(name: str, module: Any, output: Any, norm: nn.Module | None) -> dict[str, Any]:
    weights = sum(p.numel() for part in (module, norm) if part is not None for p in part.parameters())
    size = list(output.shape[2:])
    row = {"name": name, "kind": "linear", "in": 0, "out": output.shape[1], "kernel": 1, "stride": 1, "dilation": 1}
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels > 1
        kind = "depthwise" if depthwise else "convolution"
        row |= {"kind": kind, "in": module.in_channels, "kernel": module.kernel_size[0]}
        row |= {"stride": module.stride[0], "dilation": module.dilation[0]}
    else:
        row |= {"in": module.in_features}
    madds = module.weight.numel() * output[:, 0].numel()  # a position, or a region, at a time
    return {**row, "output": size, "parameters": weights, "madds": madds, "memory": BYTES * output.numel()}


def _norms(model: nn.Module) -> dict[str, nn.Module]:
    """{a convolution's name: the batch norm right behind it}."""
    norms: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            children = list(module.named_children())
            for (first, conv), (_, norm) in zip(children, children[1:], strict=False):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    norms[f"{name}.{first}"] = norm
    return norms


def materialized(network: type[MobileNetV2] = MobileNetV2, *, size: int = 224) -> dict[int, tuple[int, int]]:
    """{side of the feature map: (channels, bytes at 16 bits)}: the largest tensor between blocks, as in Table 3.

    What lies inside a block is computed in parts and never held whole (section 5.1); nor is the stem's output, which
    the first block takes in.
    """
    with torch.device("meta"):
        backbone = network().eval()
        x = backbone.stem(torch.empty(1, 3, size, size))
    widest: dict[int, int] = {}
    block: Any
    for block in backbone.blocks:
        x = block(x)
        widest[x.shape[-1]] = max(widest.get(x.shape[-1], 0), x.shape[1])
    assert backbone.last is not None
    widest[1] = backbone.last(x).shape[1]  # pooled
    return {side: (channels, BYTES * channels * side**2) for side, channels in widest.items()}
