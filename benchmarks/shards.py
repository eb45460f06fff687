"""What shards cost beside plain files: `python benchmarks/shards.py read` and `python benchmarks/shards.py index`.

read: images per CPU-second of one process, in shuffled order, from class folders, from a folder of shards, from shards
of a web server of this machine with an empty cache, and streamed from there in windows; with and without decoding.
index: CPU and wall seconds, and memory beyond the imports, from nothing to the first 1,000 keys of a training order: of
a simulated index of 0.1, 1 and 10 million images, and of as many (empty) files in a CSV table and in COCO JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.formats.shard_folder import Shards
from mnv2_tasks.datasets.reading.places import checksum
from mnv2_tasks.datasets.reading.shard_index import COLUMNS, SideIndex, to_json
from mnv2_tasks.datasets.sampling import TrainingOrder
from mnv2_tasks.datasets.shard_writing import write_shards

BYTES = 110_000  # of an image of ImageNet
PER_SHARD = 2_300


def photos(root: Path, count: int) -> None:
    """JPEGs of 500 x 375 of about 60 kB: smooth noise."""
    for i in range(count):
        path = root / ("train" if i % 20 else "val") / f"class{i % 10}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(i).integers(0, 256, (94, 125, 3), np.uint8)
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)


def pace(split: Any, *, decode: bool, seed: int) -> tuple[float, float]:
    """Images per CPU-second of this process, and per second."""
    order = TrainingOrder(len(split), len(split), seed=seed, blocks=getattr(split, "blocks", None))
    cpu, wall = time.process_time(), time.perf_counter()
    for _, index, _ in order:
        if decode:
            split[index]
        else:
            split.original(index)
    return len(split) / (time.process_time() - cpu), len(split) / (time.perf_counter() - wall)


def read(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos(root / "plain", count)
        plain = ImageFolder(root / "plain")
        cpu = time.process_time()
        for line in write_shards(plain, str(root / "shards"), shard_bytes=8_000_000):
            print(line)
        print(f"written: {count / (time.process_time() - cpu):,.0f} images per CPU-second")
        command = [
            sys.executable,
            "-u",
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "--directory",
            str(root / "shards"),
            "0",
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout
        address = server.stdout.readline().split("(")[1].split("/)")[0]
        splits = {
            "plain files": plain.split("train"),
            "shards, as plain files": Shards(root / "shards").split("train"),
            "shards, 4 at a time": Shards(root / "shards", window=4).split("train"),
            "web, 4 at a time, cache of 0.1 GB": Shards(address, cache=root / "cache", cache_gb=0.1, window=4).split(
                "train"
            ),
        }
        print(f"{'':36} {'read and decoded':>24} {'bytes and labels':>24}   (per CPU-second, per second)")
        for name, split in splits.items():
            rates = [max(pace(split, decode=decode, seed=seed) for seed in range(3)) for decode in (True, False)]
            print(f"{name:36} " + " ".join(f"{cpu:>12,.0f} {wall:>11,.0f}" for cpu, wall in rates), flush=True)
        server.kill()


def simulate(root: Path, count: int) -> None:
    """An index as `mnv2 shards` writes it, and shards that are holes."""
    root.mkdir()
    rng = np.random.default_rng(0)
    starts = np.append(np.arange(0, count, PER_SHARD), count)
    images = rng.permutation(count).astype(np.uint32)
    rows = np.empty_like(images)
    rows[images] = np.arange(count, dtype=np.uint32)
    values = {
        "ends": ((np.arange(count) % PER_SHARD + 1) * BYTES).astype(np.uint32),
        "sums": rng.integers(0, 2**32, count, np.uint32),
        "images": images,
        "rows": rows,
        "labels": rng.integers(0, 1000, count, np.int32),
    }
    names = tuple(f"train-{i:06d}.tar" for i in range(len(starts) - 1))
    sizes = tuple(int(n) * BYTES + 1024 for n in np.diff(starts))
    for name, size in zip(names, sizes, strict=True):
        with (root / name).open("wb") as file:
            file.truncate(size)
    columns = {}
    for name, array in values.items():
        file = root / f"train-{name}.npy"
        np.save(file, array.astype(COLUMNS[name][0]))
        columns[name] = {
            "file": file.name,
            "length": count,
            "bytes": file.stat().st_size,
            "crc32": checksum(file),
        }
    facts = {
        "classification": {"images": count, "label_counts": np.bincount(values["labels"], minlength=1000).tolist()}
    }
    side = SideIndex(count, names, sizes, starts, columns, max_side=1333, facts=facts, contents="1,000 classes")
    classes = {"classification": tuple(f"class{i}" for i in range(1000))}
    (root / "index.json").write_text(to_json(classes, {"train": side}), encoding="utf-8")


def files(root: Path, count: int, table: str) -> None:
    """Empty files and their CSV table or COCO JSON, of one box an image."""
    (root / "images").mkdir(parents=True)
    for i in range(count):
        (root / "images" / f"{i:08d}.jpg").touch()
    if table == "csv":
        lines = [f"images/{i:08d}.jpg,class{i % 1000}" for i in range(count)]
        (root / "labels.csv").write_text("\n".join(["file,label", *lines]) + "\n", encoding="utf-8")
        return
    images = [{"id": i, "file_name": f"{i:08d}.jpg", "width": 500, "height": 375} for i in range(count)]
    notes = [
        {"id": i, "image_id": i, "category_id": i % 80, "bbox": [10, 20, 100, 50], "iscrowd": 0} for i in range(count)
    ]
    categories = [{"id": i, "name": f"class{i}"} for i in range(80)]
    (root / "all.json").write_text(
        json.dumps({"images": images, "annotations": notes, "categories": categories}), encoding="utf-8"
    )


def memory() -> float:
    """MB at most so far, as Linux counts them; pages of mapped files, which processes share, among them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


def start(kind: str, root: Path) -> None:
    from mnv2_tasks.datasets.formats.coco import Coco

    before, cpu, wall = memory(), time.process_time(), time.perf_counter()
    source: Any
    if kind.startswith("shards"):
        source = Shards(root, window=16 if kind == "shards, streamed" else None)
    elif kind == "csv":
        source = ImageFolder(root, labels="labels.csv")
    else:
        source = Coco(root, annotations="all.json", images="images", outlines=False)
    split = source.split("train")
    split.label_counts()
    order = TrainingOrder(len(split), len(split), blocks=getattr(split, "blocks", None))
    for _, index, _ in islice(order, 1000):
        if kind.startswith("shards"):
            split.label(index)
    took = (time.process_time() - cpu, time.perf_counter() - wall, memory() - before)
    print("{:8.2f} CPU s {:8.2f} s {:8.1f} MB".format(*took), flush=True)


def index(most_files: int) -> None:
    for count in (100_000, 1_000_000, 10_000_000):
        for kind in ("shards", "shards, streamed", "csv", "coco"):
            if not kind.startswith("shards") and count > most_files:
                continue
            with tempfile.TemporaryDirectory() as folder:
                root = Path(folder) / "data"
                simulate(root, count) if kind.startswith("shards") else files(root, count, kind)
                print(f"{count:>12,} {kind:18}", end=" ", flush=True)
                subprocess.run([sys.executable, __file__, "start", "--kind", kind, "--root", str(root)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("read", "index", "start"))
    parser.add_argument("--images", type=int, default=2000, help="of read")
    parser.add_argument(
        "--most-files", type=int, default=1_000_000, help="of index: files that are made for CSV and COCO"
    )
    parser.add_argument("--kind", help="of start, which index calls")
    parser.add_argument("--root", type=Path, help="likewise")
    told = parser.parse_args()
    if told.what == "read":
        read(told.images)
    elif told.what == "index":
        index(told.most_files)
    else:
        start(told.kind, told.root)


if __name__ == "__main__":
    main()
