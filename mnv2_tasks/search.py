"""Search: `mnv2 search ssdlite task=ssdlite data=coco` is `mnv2 train search=ssdlite task=ssdlite data=coco`."""

from mnv2_tasks.assembly.command import command, name_choice
from mnv2_tasks.train import main

if __name__ == "__main__":
    name_choice("search", otherwise="default")
    command(main, "train")
