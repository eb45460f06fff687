"""`python -m mnv2_tasks.analysis`, in `mnv2_tasks.lab.analysis`."""

from mnv2_tasks.assembly.command import command
from mnv2_tasks.lab.analysis import main

if __name__ == "__main__":
    command(main, "analysis")
