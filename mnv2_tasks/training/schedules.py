"""Learning-rate schedules: warm-up, then a cosine or a staircase; stepped once a batch."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, *, steps: int, warmup: float = 0.05, final: float = 0.0) -> LambdaLR:
    """Rise linearly, then fall along a half cosine.

    Args:
        warmup: the share of the steps in which the rate rises.
        final: the rate at the end, over the highest.
    """
    rise = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        progress = min(1.0, (step - rise) / max(1, steps - rise))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def exponential(optimizer: Optimizer, *, steps: int, decay: float = 0.98, times: int = 300) -> LambdaLR:
    """lr x decay ** k, k = 0 ... times - 1 in equal parts of the run: the paper's 0.98 an epoch (section 6.1).

    Args:
        decay: the factor of each part.
        times: how many parts the run has.
    """
    return LambdaLR(optimizer, lambda step: decay ** (step * times // max(1, steps)))


def polynomial(optimizer: Optimizer, *, steps: int, power: float = 0.9) -> LambdaLR:
    """lr x (1 - step / steps) ** power: DeepLab's (arXiv 1706.05587, section 4.1).

    Args:
        power: 1: a straight line; below 1 the rate stays high for longer.
    """
    return LambdaLR(optimizer, lambda step: (1 - min(step, steps) / steps) ** power)
