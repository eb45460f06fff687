"""This machine: its processor and cores, how CPU training gets on with it, and the time that a call takes."""

import ctypes
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any


def describe_processor(capabilities: Mapping[str, Any] | None = None) -> str:
    """The processor's name and instructions for int8, in one line: "AMD EPYC (x86_64: AVX2, no AVX-512, no VNNI)".

    Without VNNI (x86) and dotprod (ARM), runtimes add 8-bit products in 16 bits, which can saturate.
    capabilities: what `torch.cpu.get_capabilities` says, which is asked where they are None.
    """
    if capabilities is None:
        import torch

        capabilities = torch.cpu.get_capabilities()
    has = capabilities.get
    instructions = {}
    if has("avx2") is not None:
        instructions = {
            "AVX2": has("avx2"),
            "AVX-512": has("avx512_f"),
            "VNNI": has("avx512_vnni") or has("avx_vnni"),
        }
    elif has("neon") is not None:
        instructions = {"dotprod": has("dot"), "i8mm": has("i8mm")}
    kind = has("architecture") or platform.machine()
    name = has("cpu_name") or platform.processor() or "processor without a name"
    able = ", ".join(instruction if there else f"no {instruction}" for instruction, there in instructions.items())
    return f"{name} ({kind}: {able})" if able else f"{name} ({kind})"


def tune_for_cpu() -> None:
    """Two settings of the process that CPU training lives by; call it before torch is imported.

    A waiting OpenMP thread spins for some microseconds, then sleeps. Left alone it spins for milliseconds, which with
    the loader's workers on the same cores took more than half of the time; sleeping at once (OMP_WAIT_POLICY=PASSIVE)
    made steps a third longer on a virtual machine, where waking a thread is slow. And glibc keeps freed memory: a
    training step frees and allocates the same large activations each time, and faulting their pages in again took a
    third of it. Does nothing where there is no glibc.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 28)):  # mmap, trim, top pad
            libc.mallopt(parameter, value)
    except (OSError, AttributeError):
        pass


def cores() -> int:
    """The CPU cores that this process may use, which a cluster or taskset can make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment() -> dict[str, str]:
    """What this process runs on: versions of what it is built of, system and processor."""
    versions = {"python": platform.python_version()}
    for package in ("mnv2_tasks", "torch", "torchvision", "pytorch-lightning"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {**versions, "system": platform.platform(), "processor": describe_processor(), "cores": str(cores())}


def command_line() -> str:
    """What was typed to start this process, to be typed again: "python train.py task=ssdlite", "mnv2 train ..."."""
    program, *arguments = sys.orig_argv
    if arguments and Path(arguments[0]).name == "mnv2":
        return shlex.join(["mnv2", *arguments[1:]])
    return shlex.join(["python", *arguments])


def milliseconds(call: Callable[[], Any], *, seconds: float = 1.0, least: int = 7) -> float:
    """Median of a call, over about so many seconds and at least so many calls; the first calls do not count."""
    for _ in range(3):
        call()
    took: list[float] = []
    began = time.perf_counter()
    while len(took) < least or (time.perf_counter() - began < seconds and len(took) < 300):
        start = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - start))
    return round(median(took), 3)
