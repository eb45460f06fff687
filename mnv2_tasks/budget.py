"""`python -m mnv2_tasks.budget`, in `mnv2_tasks.lab.budget`."""

from mnv2_tasks.assembly.command import command
from mnv2_tasks.lab.budget import main

if __name__ == "__main__":
    command(main, "budget")
