"""Figure 1 of the paper: what is left of a spiral in the plane after a random embedding and ReLU in n dimensions."""

from typing import Any

import torch
from torch import Tensor

DIMENSIONS = (2, 3, 5, 15, 30)


def spiral(points: int = 1000, *, turns: float = 2.0) -> Tensor:
    """(points, 2): from the centre outwards to radius 1."""
    radius = torch.linspace(0.02, 1, points)
    angle = 2 * torch.pi * turns * radius
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def through_relu(points: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """Embed, apply ReLU, come back by the pseudo-inverse, scaled to fit best.

    The paper says T^-1 for the way back, which for n > 2 is read here as the pseudo-inverse; ReLU takes away about
    half of every coordinate, so the result is scaled by the one factor that brings it closest.

    Args:
        points: (P, 2).
        embedding: (n, 2), T.

    Returns:
        (P, 2) reconstruction; (P,) bool, points of which fewer than two coordinates survived: they are lost for
        certain, for two numbers cannot be told from one.
    """
    hidden = (points @ embedding.T).relu()  # (P, n)
    back = hidden @ torch.linalg.pinv(embedding).T  # (P, 2)
    scale = (back * points).sum() / back.square().sum().clamp(min=1e-12)
    return scale * back, (hidden > 0).sum(1) < 2


def reconstruction(dimensions: tuple[int, ...] = DIMENSIONS, *, draws: int = 200, seed: int = 0) -> dict[str, Any]:
    """{n: {"error", "lost"}}, means over random normal embeddings.

    error: the norm of the difference over the norm of the spiral. lost: the share of points that are lost for certain.
    """
    points, results = spiral(), {}
    for n in dimensions:
        generator = torch.Generator().manual_seed(seed)
        errors, lost = [], []
        for _ in range(draws):
            back, gone = through_relu(points, torch.randn(n, 2, generator=generator))
            errors.append(((back - points).norm() / points.norm()).item())
            lost.append(gone.float().mean().item())
        results[str(n)] = {"error": sum(errors) / draws, "lost": sum(lost) / draws}
    return results
