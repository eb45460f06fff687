"""How sure a metric is: 95% intervals by drawing the images of a side anew, with repeats (Efron's bootstrap).

They tell what other images of the same kind would give, for the model as it is; not what another seed would.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mnv2_tasks.metrics.image_results import Floats, ImageResults, Whole

ENDS = (2.5, 97.5)  # percentiles
HELD = 4_000_000  # numbers in memory at a time, about


class Difference(NamedTuple):
    """One model's metric less another's on the same images, and the 95% interval of that."""

    value: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def draws(images: int, count: int, *, seed: int, rows: int) -> Iterator[Whole]:
    """`count` drawings of as many images with repeats: how often each came, (r, images) at a time, r at most `rows`.

    They depend on `images` and `seed` alone, whatever `rows` is.
    """
    random = np.random.default_rng(seed)
    for start in range(0, count, rows):
        part = range(start, min(start + rows, count))
        yield np.stack([np.bincount(random.integers(0, images, images), minlength=images) for _ in part])


def drawn(results: ImageResults, count: int, *, seed: int = 0) -> dict[str, Floats]:
    """{metric: (count,)} of as many drawings of the images."""
    rows = max(1, HELD // max(1, results.width))
    parts = [results.values(weights) for weights in draws(len(results.images), count, seed=seed, rows=rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def intervals(results: ImageResults, count: int, *, seed: int = 0) -> dict[str, tuple[float, float]]:
    """{metric: (low, high)}, from the 2.5th to the 97.5th percentile of `count` drawings; NaN without images."""
    if not len(results.images):
        return {}
    return {name: _ends(values) for name, values in drawn(results, count, seed=seed).items()}


def differences(one: ImageResults, other: ImageResults, count: int, *, seed: int = 0) -> dict[str, Difference]:
    """{metric: one's less the other's}, drawing for both the same images, which have to lie in the same order."""
    assert len(one.images) == len(other.images) > 0, "of the same images"
    whole = np.ones((1, len(one.images)), np.int64)
    values, others = one.values(whole), other.values(whole)
    pairs = drawn(one, count, seed=seed), drawn(other, count, seed=seed)
    return {
        name: Difference(float(values[name][0] - others[name][0]), *_ends(pairs[0][name] - pairs[1][name]))
        for name in values
        if name in others
    }


def _ends(values: Floats) -> tuple[float, float]:
    there = values[~np.isnan(values)]
    if not len(there):
        return float("nan"), float("nan")
    low, high = np.percentile(there, ENDS)
    return float(low), float(high)
