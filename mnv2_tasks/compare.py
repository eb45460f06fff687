"""`mnv2 compare runs/ssdlite baseline=<folder>`, in `mnv2_tasks.lab.compare`: what is no setting is a path."""

import sys

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import with_paths
from mnv2_tasks.lab.compare.comparison import main

if __name__ == "__main__":
    sys.argv[1:] = with_paths(sys.argv[1:])
    command(main, "compare")
