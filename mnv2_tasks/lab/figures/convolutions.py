"""What a standard, a depthwise separable and an inverted residual convolution cost, by formula and counted."""

from typing import Any

import torch

from mnv2_tasks.blocks import InvertedResidual, Plain, Separable
from mnv2_tasks.complexity import madds


def formulas(size: int, channels_in: int, channels_out: int, *, kernel: int = 3, expansion: int = 6) -> dict[str, int]:
    """Multiply-adds at stride 1 on a map of `size` x `size` (sections 3.1 and 3.3 of the paper).

    standard: h w d d' k^2; separable: h w d (k^2 + d'); inverted residual: h w d t (d + k^2 + d').
    """
    area, d, n = size**2, channels_in, channels_out
    return {
        "standard": area * d * n * kernel**2,
        "separable": area * d * (kernel**2 + n),
        "inverted_residual": area * d * expansion * (d + kernel**2 + n),
    }


def counted(size: int, channels_in: int, channels_out: int, *, kernel: int = 3, expansion: int = 6) -> dict[str, int]:
    """The same for our blocks, counted as they run."""
    with torch.device("meta"):
        x = torch.empty(1, channels_in, size, size)
        blocks = {
            "standard": Plain(channels_in, channels_out, kernel_size=kernel),
            "separable": Separable(channels_in, channels_out, kernel_size=kernel),
            "inverted_residual": InvertedResidual(channels_in, channels_out, kernel_size=kernel, expansion=expansion),
        }
    return {name: madds(block.eval(), x) for name, block in blocks.items()}


def table(size: int = 56, channels: tuple[int, ...] = (16, 32, 64, 128, 256, 512)) -> list[dict[str, Any]]:
    """A row a number of channels N, in and out: formulas, counts, and separable / standard beside 1/N + 1/k^2."""
    rows = []
    for n in channels:
        by_formula, by_count = formulas(size, n, n), counted(size, n, n)
        rows.append(
            {
                "channels": n,
                **by_formula,
                **{f"{name}_counted": value for name, value in by_count.items()},
                "separable_to_standard": by_count["separable"] / by_count["standard"],
                "one_over_n_plus_one_over_k2": 1 / n + 1 / 9,
            }
        )
    return rows
