"""`python -m mnv2_tasks.benchmark`, in `mnv2_tasks.export.benchmark`."""

from mnv2_tasks.assembly.command import command
from mnv2_tasks.export.benchmark import main

if __name__ == "__main__":
    command(main, "benchmark")
