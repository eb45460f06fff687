"""Any data set of ours as a YOLO folder: python examples/to_yolo.py <new folder> data=camvid data.root=<folder>

Takes the data settings of train.py. Boxes become boxes where there are any, masks outlines: one for each connected
region, along the edges of its pixels, so that they are painted back exactly; holes hang on bridges of no width. What
YOLO has no words for is counted: crowds, difficult objects, and the ignored pixels, which belong to nothing. Prints how
to read it.
"""

import argparse
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from scipy import ndimage

from mnv2_tasks.assembly.command import in_one_line
from mnv2_tasks.assembly.overrides import CONFIGS, expand
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.datasets.reading.images import image_size
from mnv2_tasks.errors import InputError
from mnv2_tasks.samples import IGNORED

SIDES = ("train", "val", "test")
Points = list[tuple[int, int]]  # x, y


def rings(region: np.ndarray) -> list[Points]:
    """The corners of a region's (H, W) edges, with it on the right hand: around it, and around each of its holes."""
    inside = np.pad(region, 1)
    exits: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # The edge of a pixel starts at one of its corners, goes in one direction, and has nothing on the other hand.
    for corner, step in (((0, 0), (1, 0)), ((1, 0), (0, 1)), ((1, 1), (-1, 0)), ((0, 1), (0, -1))):
        beyond = np.roll(inside, (step[0], -step[1]), (0, 1))  # the pixel on the left hand of the step
        for y, x in np.argwhere(inside & ~beyond).tolist():
            exits.setdefault((x - 1 + corner[0], y - 1 + corner[1]), []).append(step)
    found = []
    while exits:
        start = place = next(iter(exits))
        heading = (0, 0)
        ring: Points = []
        while not ring or place != start:
            steps = exits[place]
            right = (-heading[1], heading[0])  # where two pixels touch at a corner, stay with the own one
            step = right if right in steps else steps[0]
            steps.remove(step)
            if not steps:
                del exits[place]
            if step != heading:
                ring.append(place)
            place, heading = (place[0] + step[0], place[1] + step[1]), step
        found.append(ring)
    return found


def outline(region: np.ndarray) -> Points:
    """One polygon of a connected region (H, W): its holes are joined to it where they are nearest."""
    first, *rest = sorted(rings(region), key=lambda ring: -np.ptp(np.array(ring), axis=0).prod())
    for ring in rest:
        squares = ((np.array(first)[:, None] - np.array(ring)[None]) ** 2).sum(-1)
        i, j = divmod(int(squares.argmin()), len(ring))
        first = [*first[: i + 1], *ring[j:], *ring[: j + 1], *first[i:]]
    return first


def mask_lines(mask: np.ndarray, labels: dict[int, int]) -> Iterator[str]:
    """A line for each connected region of the classes in `labels`, value -> class."""
    height, width = mask.shape
    for value in np.unique(mask).tolist():
        if value not in labels:
            continue
        regions, _ = ndimage.label(mask == value)
        for number, (down, across) in enumerate(ndimage.find_objects(regions), 1):
            corners = outline(regions[down, across] == number)
            points = [((x + across.start) / width, (y + down.start) / height) for x, y in corners]
            yield " ".join([str(labels[value]), *(f"{part:.7g}" for point in points for part in point)])


def box_lines(sample: dict[str, Any]) -> Iterator[str]:
    height, width = sample["image"].shape[-2:]
    rows = zip(sample["labels"].tolist(), sample["boxes"].tolist(), sample["crowd"].tolist(), strict=True)
    for label, (x1, y1, x2, y2), crowd in rows:
        if not crowd:
            box = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            yield " ".join([str(label), *(f"{part:.7g}" for part in box)])


def write_image(split: Any, index: int, sample: dict[str, Any], file: Path) -> str:
    """The original's bytes where labels are of it as it is shown, else its pixels as they were read; the suffix."""
    path = split.path(index) if hasattr(split, "path") else None
    if path is not None and sample["image"].shape[-2:] == tuple(image_size(path)):
        shutil.copyfile(path, f"{file}{path.suffix}")
        return path.suffix
    Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(f"{file}.png")
    return ".png"


def convert(source: Any, out: Path, kind: str | None) -> str:
    """Write data.yaml, images/ and labels/; returns the settings that read them."""
    kinds = [one for one in ("detection", "segmentation") if one in source.provides]
    if (kind := kind or next(iter(kinds), None)) not in kinds:
        raise InputError(f"kind={kind}: this data set has {', '.join(source.provides)}; YOLO takes boxes and masks")
    classes = list(source.provides[kind])
    background = kind == "segmentation" and classes[0] == "background"
    labels = {value: value - background for value in range(background, len(classes))}
    sides = {}
    for side in SIDES:
        if (split := source.split(side)) is None:
            continue
        split.max_side = None  # as it is, not reduced
        crowds = ignored = 0
        names = [os.path.splitext(split.path(i).name)[0] if hasattr(split, "path") else "" for i in range(len(split))]
        own = names == sorted(set(names))  # else numbers keep names apart, and images in their order
        for folder in ("images", "labels"):
            (out / folder / side).mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(names):
            sample = split[i]
            stem = name if own else f"{i:06d}"
            write_image(split, i, sample, out / "images" / side / stem)
            if kind == "detection":
                lines = list(box_lines(sample))
                crowds += int(sample["crowd"].sum())
            else:
                mask = sample["mask"].numpy()
                lines = list(mask_lines(mask, labels))
                ignored += int((mask == IGNORED).sum())
            (out / "labels" / side / f"{stem}.txt").write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
        sides[side] = f"images/{side}"
        lost = [f"{crowds:,} crowds or difficult objects left out"] if crowds else []
        lost += [f"{ignored:,} ignored pixels"] if ignored else []
        print("; ".join([f"{side}: {len(split):,} images", *lost]), flush=True)
    names = dict(enumerate(classes[background:]))
    text = yaml.safe_dump({**sides, "names": names}, allow_unicode=True, sort_keys=False)
    (out / "data.yaml").write_text(text, encoding="utf-8")
    return f"data=yolo data.root={out}{'' if background or kind == 'detection' else ' data.background=false'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    parser.add_argument("--kind", choices=("detection", "segmentation"), help="which labels; boxes where there are any")
    parser.add_argument("settings", nargs="+", help="data=..., data.root=..., as for train.py")
    told = parser.parse_args()
    with in_one_line(told.out):
        if told.out.exists():
            raise InputError(f"{told.out}: it is there already; give a new folder")
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = settle(compose("train", expand(told.settings)))
        if len(config["data"]) != 1:
            raise InputError(f"data={list(config['data'])}: give one data set")
        (section,) = config["data"].values()
        print(convert(instantiate(section, _convert_="all"), told.out, told.kind))


if __name__ == "__main__":
    main()
