"""Study: `mnv2 study blocks task=classifier data=cifar10` is `mnv2 train study=blocks task=classifier data=cifar10`."""

from mnv2_tasks.assembly.command import command, name_choice
from mnv2_tasks.train import main

if __name__ == "__main__":
    name_choice("study")
    command(main, "train")
