"""Any data set as shards: `python -m mnv2_tasks.shards data=coco data.root=<folder> out=<folder or s3://...>`."""

from typing import Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError


def main(config: Any) -> None:
    from hydra.utils import instantiate

    from mnv2_tasks.datasets.shard_writing import write_shards

    settings = settle(config)
    sections = settings.get("data") or {}
    if len(sections) != 1:
        raise InputError(f"data=[{','.join(sections)}]: give one data set, as in data=coco data.root=<folder>")
    ((name, section),) = sections.items()
    source = instantiate(section, _convert_="all")
    out, size = str(settings["out"]), int(settings["shard_mb"] * 1e6)
    for line in write_shards(source, out, name=name, sides=settings["sides"], shard_bytes=size, seed=settings["seed"]):
        print(line, flush=True)
    print(f"shards: data=shards data.root={out}")


if __name__ == "__main__":
    command(main, "shards")
