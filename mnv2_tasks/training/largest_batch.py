"""The largest batch that fits: a step's memory at two sizes, a line through them, and a real step to check it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.errors import InputError
from mnv2_tasks.memory import at_most, free_memory, peak_of
from mnv2_tasks.training.trial import Trial

SHARE = 0.8  # of the free memory is aimed at; the rest is for the loader's workers, averaged weights and evaluation
MOST = 0.9  # of it is what a real step may take
APART = 64 << 20  # bytes between the two sizes of the line, at least: below, what an allocator rounds up counts
NO_RATE = 0.0  # of the steps: they are about memory
GIVE = "give a number: loader.batch_size=8"

Measure = Callable[[int], int | None]  # a batch size -> bytes that a training step of it takes; None: it does not fit


@dataclass(frozen=True)
class LargestBatch:
    """A batch size; bytes that are free, and that a step of it takes; the two sizes of the line, {size: bytes}."""

    size: int
    free: int
    predicted: int
    measured: int
    line: dict[int, int]


def largest_batch(measure: Measure, *, free: int, most: int) -> LargestBatch:
    """The largest size up to `most` that a line predicts below `SHARE` of `free`, where a real step of it fits.

    Where that fails or takes more than `MOST`, a size smaller by a quarter is tried, and again. Raises InputError where
    two images, which batch norm needs, do not fit.
    """
    line = _line(measure, limit=SHARE * free, most=most)
    (small, less), (large, more) = list(line.items())[0], list(line.items())[-1]
    an_image = (more - less) / (large - small) if large > small else more / large
    rest = more - an_image * large
    size = most if an_image <= 0 else min(most, int((SHARE * free - rest) / an_image))
    size = max(2, size)
    while True:
        measured = line[size] if size in line else measure(size)
        if measured is not None and measured <= MOST * free:
            return LargestBatch(size, free, round(rest + an_image * size), measured, line)
        if size == 2:
            raise _too_large(free)
        size = max(2, size * 3 // 4)


def _line(measure: Measure, *, limit: float, most: int) -> dict[int, int]:
    """{size: bytes} of two sizes that are far enough apart; of 2 alone where there is no room for a larger one."""
    taken = measure(2)
    if taken is None:
        raise _too_large(limit / SHARE)
    line = {2: taken}
    while len(line) == 1 or taken - min(line.values()) < APART:
        size = max(line)
        larger = min(most, next((factor * size for factor in (4, 2) if factor * taken <= limit), size))
        after = measure(larger) if larger > size else None
        if after is None:
            break
        taken = after
        line = {size: line[size], larger: after}
    return line


def _too_large(free: float) -> InputError:
    return InputError(
        f"loader.batch_size=auto: a step of two images does not fit into the {megabytes(free)} that are free; take a "
        "smaller size= or backbone.width=, or trainer.precision=bf16-mixed"
    )


def find_largest(
    trial: Trial, data: DataModule, *, devices: Sequence[torch.device], processes: int = 1
) -> LargestBatch:
    """`largest_batch` of steps of the data's images with the largest targets, on the trial's device.

    Args:
        devices: whose memory it has to fit: GPUs, of which the one with the least counts; or the CPU, once for each
            process on this machine, which share its memory.
        processes: that share the training images.

    Raises InputError where memory cannot be measured.
    """
    pool = {source: fullest(data, source) for source in data.sources}

    def step(size: int) -> None:
        batch = [
            data.batch(source, "train", [indices[i % len(indices)] for i in range(count)], whole=False)
            for (source, indices), count in zip(pool.items(), data.shares(size, processes).values(), strict=True)
        ]
        trial.step(batch, NO_RATE)

    kind = trial.device.type
    if kind not in ("cpu", "cuda"):
        raise InputError(f"loader.batch_size=auto: the memory of {kind} cannot be measured; {GIVE}")
    memory = _of_gpu if kind == "cuda" else _of_cpu
    step(2)  # the optimizer's state, and what a first step alone takes, are there from now on
    free, peak = memory(trial.device, devices)

    def measure(size: int) -> int | None:
        try:
            return peak(lambda: step(size))
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, MemoryError) or is_oom_error(error)):
                raise
        trial.optimizer.zero_grad()  # outside of `except`, which holds what the step had
        garbage_collection_cuda()
        return None

    return largest_batch(measure, free=free, most=most_images(data, processes))


def most_images(data: DataModule, processes: int = 1) -> int:
    """The batch size from which on no training batch grows."""
    total = sum(data.mix.values()) if data.mix else 1.0
    parts = {name: data.mix[name] / total if data.mix else 1.0 for name in data.sources}
    return max(int(len(data.split(name, "train")) // processes / part) for name, part in parts.items())


def fullest(data: DataModule, source: str, *, count: int = 16, looked_at: int = 64) -> list[int]:
    """The training images with the largest targets: with the most boxes, where the split counts them.

    Elsewhere the fullest of `looked_at`, which are read, evenly over the split.
    """
    split = data.split(source, "train")
    if hasattr(split, "box_counts"):
        return torch.argsort(split.box_counts(), descending=True, stable=True)[:count].tolist()

    def values(index: int) -> int:
        _, targets = data.batch(source, "train", [index], whole=False)
        return sum(field.numel() for fields in targets.values() for field in fields.values())

    some = range(0, len(split), max(1, len(split) // looked_at))[:looked_at]
    return sorted(some, key=values, reverse=True)[:count]


def _of_cpu(device: torch.device, devices: Sequence[torch.device]) -> tuple[int, Callable[[Callable[[], None]], int]]:
    """(bytes that are free for this process, what measures a call)."""
    free = free_memory()
    if free is None:
        raise InputError(f"loader.batch_size=auto: this system does not tell how much memory is free; {GIVE}")
    share = free // len(devices)

    def peak(call: Callable[[], None]) -> int:
        with at_most(share):
            taken = peak_of(call)
        if taken is None:
            raise InputError(f"loader.batch_size=auto: this system does not tell what a step takes; {GIVE}")
        return taken

    return share, peak


def _of_gpu(device: torch.device, devices: Sequence[torch.device]) -> tuple[int, Callable[[Callable[[], None]], int]]:
    """As `_of_cpu`, of the GPU with the least that is free; what is measured is of the first, `device`."""
    garbage_collection_cuda()
    free = min(torch.cuda.mem_get_info(one)[0] for one in devices)

    def peak(call: Callable[[], None]) -> int:
        garbage_collection_cuda()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_reserved(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_reserved(device) - before

    return free, peak


def megabytes(amount: float) -> str:
    return f"{amount / 1e6:,.0f} MB"
