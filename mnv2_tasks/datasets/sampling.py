"""Which image comes when: the order of every epoch from the seed alone, shared out over processes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

Key = tuple[int, int, bool]  # pass over the data, index, whether it is a repeat that must not count


class TrainingOrder(Sampler[Key]):
    """`draws` images an epoch and process, in passes that are shuffled anew.

    A data set that is smaller than what an epoch draws goes round several times in it.

    Args:
        length: images in the data set.
        draws: images an epoch and process.
        weights: (length,) chances of being drawn, with replacement; None: each image once a pass.
    """

    def __init__(
        self,
        length: int,
        draws: int,
        *,
        processes: int = 1,
        rank: int = 0,
        seed: int = 0,
        weights: Tensor | None = None,
    ) -> None:
        self.length = length
        self.draws = draws
        self.processes = processes
        self.rank = rank
        self.seed = seed
        self.weights = weights
        self.epoch = 0
        self.skipped = 0  # draws of this process that an epoch begins with

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[Key]:
        wanted = self.draws * self.processes
        rounds = -(-wanted // self.length)
        keys: list[Key] = []
        for number in range(self.epoch * rounds, (self.epoch + 1) * rounds):
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            if self.weights is None:
                order = torch.randperm(self.length, generator=generator)
            else:
                order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
            keys += [(number, index, False) for index in order.tolist()]
        return iter(keys[self.rank + self.skipped * self.processes : wanted : self.processes])


class EvaluationOrder(Sampler[Key]):
    """Every image once, in order; processes get equally many, so that none waits, and what fills up is marked."""

    def __init__(self, length: int, *, processes: int = 1, rank: int = 0) -> None:
        self.length = length
        self.processes = processes
        self.rank = rank

    def __len__(self) -> int:
        return -(-self.length // self.processes)

    def __iter__(self) -> Iterator[Key]:
        places = range(self.rank, len(self) * self.processes, self.processes)
        return ((0, place % self.length, place >= self.length) for place in places)
