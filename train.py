"""The door of a clone: `python train.py task=ssdlite data=coco data.root=<folder>` is `mnv2 train` there."""

from mnv2_tasks.assembly.command import command
from mnv2_tasks.train import main

if __name__ == "__main__":
    command(main, "train")
