"""Which launcher a section of settings asks for, and how many runs there is room for at a time."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.lab.jobs.launchers import Launcher, Local, OnRay, Submitit
from mnv2_tasks.machine import cores

LAUNCHERS = ("local", "submitit", "ray")
MEMORY = 2 << 30  # bytes that a run on the CPU may need


def choose_launcher(section: Mapping[str, Any], folder: Path, runs: int, *, of: str = "study") -> Launcher:
    """That of the section `study`, or `search`, whose folder this is. Raises InputError where it cannot be."""
    name, jobs = section.get("launcher", "local"), section["jobs"]
    if name not in LAUNCHERS:
        raise InputError(f"{of}.launcher={name}: use {', '.join(LAUNCHERS[:-1])} or {LAUNCHERS[-1]}")
    if jobs is not None and (not isinstance(jobs, int) or jobs < 1):
        raise InputError(f"{of}.jobs={jobs}: give a number of runs at a time, at least 1, or null")
    if name == "submitit":
        return Submitit(section["submitit"], jobs, folder, of=of)
    if name == "ray":
        return OnRay(section["ray"], jobs, of=of)
    return Local(*room_here(jobs, runs))


def room_here(jobs: int | None, runs: int) -> tuple[int, list[str | None]]:
    """How many runs at a time, and the GPUs that they share in turn; [None] where there is none."""
    import torch

    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices: list[str | None] = [*(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))]
        return min(jobs or len(devices), runs), devices
    most, meminfo = cores(), Path("/proc/meminfo")
    if meminfo.exists() and (free := re.search(r"MemAvailable: +(\d+)", meminfo.read_text(encoding="utf-8"))):
        most = max(1, min(most, 1024 * int(free[1]) // MEMORY))
    return min(jobs or most, runs), [None]
