"""What is free, what a call takes, and a bound: of this process, and of files as a container has them."""

import pytest
import torch

from mnv2_tasks import memory

MB = 1 << 20
here = pytest.mark.skipif(memory.peak_of(lambda: None) is None, reason="this system does not tell")


@here
def test_a_call_takes_what_it_allocates_each_time_and_no_more_than_it_may():
    assert memory.free_memory() > 8 * MB
    for _ in range(2):  # what the first has freed counts again
        assert 60 * MB < memory.peak_of(lambda: torch.ones(64 * MB, dtype=torch.uint8)) < 80 * MB
    with pytest.raises(RuntimeError, match="can't allocate memory"), memory.at_most(32 * MB):
        torch.ones(400 * MB, dtype=torch.uint8)
    torch.ones(400 * MB, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("line", "files", "free"),
    [
        ("0::/", {}, 8000 * 1024),
        ("0::/a/b", {"a/memory.max": 5000, "a/memory.current": 3000, "a/b/memory.max": "max"}, 2000),
        ("0::/a", {"a/memory.max": 500, "a/memory.current": 400, "a/memory.stat": "inactive_file 300"}, 400),
        ("4:memory:/gone", {"memory/memory.limit_in_bytes": 700, "memory/memory.usage_in_bytes": 600}, 100),
        ("4:memory:/", {"memory/memory.limit_in_bytes": 1 << 62, "memory/memory.usage_in_bytes": 600}, 8000 * 1024),
        ("4:memory:/", {"memory/memory.limit_in_bytes": 500, "memory/memory.usage_in_bytes": 600}, 0),
    ],
)
def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch, line, files, free):
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path / "groups")
    told = {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB", "proc/self/cgroup": line}
    for name, text in {**told, **{f"groups/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert memory.free_memory() == free


def test_a_system_that_does_not_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "PROC", tmp_path)
    assert memory.free_memory() is None and memory.peak_of(lambda: None) is None
    with memory.at_most(1):
        torch.ones(64 * MB, dtype=torch.uint8)
