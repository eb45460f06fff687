"""Which image comes when: the order of every epoch from the seed alone, shared out over processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

Key = tuple[int, int, bool]  # pass over the data, index, whether it is a repeat that must not count

CHUNK = 1 << 16  # keys that are made at a time: of ten million images, all at once would take a gigabyte


@dataclass(frozen=True)
class Blocks:
    """A data set that lies in shards, of which only some are at hand at a time.

    A pass goes through the shards in an order shuffled anew, and through the images of `window` shards at a time in
    one, so that it reads each shard once. Every window is made from the seed alone, when it is reached.

    Attributes:
        starts: (S + 1,) where each shard starts in the rows, which are the images as they lie in the shards.
        images: (N,) the image of each row; None where they lie in order.
        expect: told the shards of a window before they are read.
    """

    starts: NDArray[np.int64]
    images: NDArray[Any] | None
    window: int
    expect: Callable[[Sequence[int]], None]

    def order(self, seed: int, number: int, weights: Tensor | None, *, skip: int = 0) -> Iterator[NDArray[np.int64]]:
        """The images of pass `number`, a window at a time, without the first `skip`, whose shards stay untouched."""
        shards = torch.randperm(len(self.starts) - 1, generator=_generator(seed, number)).tolist()
        windows = [shards[first : first + self.window] for first in range(0, len(shards), self.window)]
        expected = 0  # windows
        for place, window in enumerate(windows):
            rows = np.concatenate([np.arange(self.starts[shard], self.starts[shard + 1]) for shard in window])
            if len(rows) <= skip:
                skip -= len(rows)
                continue
            for ahead in windows[max(expected, place) : place + 2]:
                self.expect(ahead)
            expected = place + 2
            here = torch.from_numpy(rows if self.images is None else self.images[rows].astype(np.int64))
            generator = _generator(seed, number, place)
            if weights is None:
                drawn = torch.randperm(len(here), generator=generator)
            else:
                drawn = torch.multinomial(weights[here], len(here), replacement=True, generator=generator)
            yield here[drawn][skip:].numpy()
            skip = 0


class TrainingOrder(Sampler[Key]):
    """`draws` images an epoch and process, in passes that are shuffled anew.

    A data set that is smaller than what an epoch draws goes round several times in it.

    Args:
        length: images in the data set.
        draws: images an epoch and process.
        weights: (length,) chances of being drawn, with replacement; None: each image once a pass. Of shards, among the
            images that are at hand together.
        blocks: the shards that they lie in, where these are read one after another.
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
        blocks: Blocks | None = None,
    ) -> None:
        self.length = length
        self.draws = draws
        self.processes = processes
        self.rank = rank
        self.seed = seed
        self.weights = weights
        self.blocks = blocks
        self.epoch = 0
        self.drawn = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def go_on(self, epoch: int, images: int) -> None:
        """Of this epoch `images`, over all processes, were drawn before; they may have been another number."""
        self.drawn = (epoch, images)

    @property
    def start(self) -> int:
        """How many images of this epoch were drawn before, over all processes."""
        return self.drawn[1] if self.drawn[0] == self.epoch else 0

    def __len__(self) -> int:
        return self.draws  # of a whole epoch, also where it goes on

    def __iter__(self) -> Iterator[Key]:
        wanted = self.draws * self.processes
        rounds = -(-wanted // self.length)
        place = start = self.start  # in the epoch, over all processes
        for turn in range(start // self.length, rounds):
            number = self.epoch * rounds + turn
            for order in self._order(number, place - turn * self.length):
                for first in range(0, len(order), CHUNK):
                    part = order[first : first + CHUNK][: wanted - place]
                    mine = part[(self.rank + start - place) % self.processes :: self.processes]
                    yield from ((number, index, False) for index in mine.tolist())
                    place += len(part)
                    if place == wanted:
                        return

    def _order(self, number: int, skip: int) -> Iterator[NDArray[np.int64]]:
        """The images of a pass without the first `skip`, in parts."""
        if self.blocks is not None:
            yield from self.blocks.order(self.seed, number, self.weights, skip=skip)
            return
        generator = _generator(self.seed, number)
        if self.weights is None:
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.multinomial(self.weights, self.length, replacement=True, generator=generator)
        yield order[skip:].numpy()


def _generator(*seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


class EvaluationOrder(Sampler[Key]):
    """Every image once, in order; processes get equally many, so that none waits, and what fills up is marked.

    Of shards in the order of `blocks`' rows, so that each is read once.
    """

    def __init__(self, length: int, *, processes: int = 1, rank: int = 0, blocks: Blocks | None = None) -> None:
        self.images = None if blocks is None else blocks.images
        self.length = length
        self.processes = processes
        self.rank = rank

    def __len__(self) -> int:
        return -(-self.length // self.processes)

    def __iter__(self) -> Iterator[Key]:
        places = range(self.rank, len(self) * self.processes, self.processes)
        if self.images is None:
            return ((0, place % self.length, place >= self.length) for place in places)
        images = self.images
        return ((0, int(images[place % self.length]), place >= self.length) for place in places)
