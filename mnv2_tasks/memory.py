"""The memory of this process on Linux: what it may still take, what a call takes at most, and a bound on it."""

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60  # cgroup v1 writes a number for none


def free_memory() -> int | None:
    """Bytes that may still be taken: what the machine has available, or less where a cgroup (a container, a cluster's
    job) has a limit; None where the system does not tell."""
    available = _field(PROC / "meminfo", "MemAvailable")
    if available is None:
        return None
    return max(0, min([available, *_left_of_cgroups()]))


def peak_of(call: Callable[[], None]) -> int | None:
    """Bytes of resident memory that a call takes at most, above what the process has before it; None where the system
    does not tell.

    Freed memory that the allocator keeps (see `machine.tune_for_cpu`) is given back first, so that it counts again.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew: man 5 proc
    except OSError:
        return None
    before = _field(PROC / "self" / "status", "VmRSS")
    call()
    peak = _field(PROC / "self" / "status", "VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """Within, the process can take so many bytes more: beyond, an allocation fails with an error, where without a bound
    the system would end the process. Without effect where there is no such limit."""
    data = _field(PROC / "self" / "status", "VmData")
    if data is None:
        yield
        return
    import resource

    before, hardest = resource.getrlimit(resource.RLIMIT_DATA)
    bound = data + more
    tighter = [limit for limit in (before, hardest) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([bound, *tighter]), hardest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hardest))


def _left_of_cgroups() -> Iterator[int]:
    """Bytes that are left of each limit on this process; file pages that the kernel can drop count as left."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            root, limit, used, dropped = CGROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root = CGROUPS / "memory"
            limit, used, dropped = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        place = root / path.strip("/")
        for folder in (place, *place.parents):
            with suppress(OSError, ValueError):  # none, or "max"
                most = int((folder / limit).read_text(encoding="utf-8"))
                if most < NO_LIMIT:
                    in_use = int((folder / used).read_text(encoding="utf-8"))
                    yield most - in_use + (_field(folder / "memory.stat", dropped) or 0)
            if folder == root:
                break


def _field(path: Path, name: str) -> int | None:
    """Bytes that a file of lines "Name: 12 kB" or "name 12" tells; None where there is no such line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for key, value, *unit in (line.split() for line in lines if len(line.split()) > 1):
        if key.rstrip(":") == name:
            return int(value) * (1024 if unit == ["kB"] else 1)
    return None
