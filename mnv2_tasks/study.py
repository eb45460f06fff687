"""Study: `mnv2 study blocks task=classifier data=cifar10` is `mnv2 train study=blocks task=classifier data=cifar10`."""

import sys

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.errors import fail
from mnv2_tasks.train import main

if __name__ == "__main__":
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"study={sys.argv[1]}"
    elif not any(argument.startswith(("study=", "-")) for argument in sys.argv):
        studies = sorted(path.stem for path in (CONFIGS / "study").glob("*.yaml"))
        fail(f"study is not given: mnv2 study <name>, of {', '.join(studies)}")
    command(main, "train")
