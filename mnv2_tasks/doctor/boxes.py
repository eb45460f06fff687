"""Box sizes against the network: which objects its default boxes reach, and what would reach more of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_convert, box_iou

from mnv2_tasks.complexity import model_cost
from mnv2_tasks.doctor.findings import Finding, Shown, Table
from mnv2_tasks.errors import amount
from mnv2_tasks.heads.default_boxes import match
from mnv2_tasks.heads.ssdlite import Outputs, SSDLite
from mnv2_tasks.model import Model

if TYPE_CHECKING:
    from mnv2_tasks.doctor.looking import Side

MATCHED = 1_000  # images whose boxes are matched, evenly spread
ENOUGH = 0.9  # of the objects that default boxes reach: then nothing else is suggested
WORTH = 0.05  # of the objects that have to be reached besides, for a suggestion
FINER = ("c3x", "c2x")  # taps before the usual ones, in this order
LARGER = (1.5, 2.0)  # sizes that are tried
LARGEST = 1280  # pixels of a side that is tried
TILES = 2  # a side: an image cut into 2 x 2
EDGES = (16, 32, 96)  # pixels a side at the input that tell objects apart in the table
Build = Callable[[tuple[int, int], Sequence[str] | None], Model]  # size and sources of the head -> a network


@dataclass(frozen=True)
class Reach:
    """What default boxes make of the objects of a side under one setting.

    Attributes:
        best: (M,) IoU of each object with the default box that overlaps it most.
        taught: (M,) the default boxes that learn each object.
        madds: multiply-adds of the network, of all tiles of an image together.
    """

    size: tuple[int, int]
    sources: tuple[str, ...]
    tiles: int
    best: NDArray[np.float32]
    taught: NDArray[np.int64]
    threshold: float
    madds: int

    @property
    def share(self) -> float:
        """Of the objects, those that a default box meets from the threshold on."""
        return float((self.best >= self.threshold).mean()) if len(self.best) else 1.0

    @property
    def named(self) -> str:
        height, width = self.size
        cut = f", images cut into {self.tiles} x {self.tiles}" if self.tiles > 1 else ""
        return f"{width} x {height}, {' '.join(self.sources)}{cut}"


def look_at_boxes(
    side: "Side", task: str, build: Build, *, size: tuple[int, int], setting: str
) -> tuple[list[Finding], list[Table]]:
    """What the default boxes of an SSDLite head reach of one side's objects, now and with what could be changed.

    Args:
        build: makes the network for a size and sources of the head; None for those of the settings.
        size: (H, W) of the input now.
        setting: the name of the head's sources on a command line.
    """
    objects = side.objects[~side.objects["crowd"]]
    if not len(objects):
        return [], []
    now = reach(objects, build(size, None), task, size)
    found, tried = [], [now]
    if now.share < ENOUGH:
        tried += _others(objects, build, task, now)
        missed = objects[_matched_rows(objects)][now.best < now.threshold]
        middle = np.median(np.sqrt(_sides(missed, size).prod(1)))
        text = (
            f"{task}: the default boxes reach {now.share:.0%} of the objects at {now.named}; of the others, half are "
            f"smaller than {middle:.0f} pixels a side there"
        )
        chosen = choose(tried)
        better = f"{chosen.named} reaches {chosen.share:.0%} for {chosen.madds / now.madds:.1f} times the multiply-adds"
        fix = better if chosen is not now else "no size, finer tap or tiles that were tried reach many more"
        settings = _settings(chosen, now, setting) if chosen.tiles == 1 else ()
        found.append(Finding("reach", "wrong", text, fix, _smallest(side, missed), settings))
    return found, [_by_size(task, objects, now), _by_class(side, task, objects, now), _table(task, tried)]


def reach(objects: NDArray[Any], model: Model, task: str, size: tuple[int, int], *, tiles: int = 1) -> Reach:
    """Match objects with the default boxes of a network, fitted to them as before a training."""
    head = model.heads[task]
    assert isinstance(head, SSDLite)
    wide = _whole_tiles(objects["box"], tiles)
    if head.learns:
        head.fit(torch.from_numpy(wide[:, 2:] - wide[:, :2]))
    with torch.inference_mode():
        outputs: Any = model.eval()(torch.zeros((1, len(model.mean), *size), dtype=torch.uint8), [task])[task]
        assert isinstance(outputs, Outputs)
        defaults = outputs.defaults
        corners = box_convert(defaults, "cxcywh", "xyxy")
        chosen = _matched_rows(objects)
        boxes, image = torch.from_numpy(wide[chosen]), objects["row"][chosen]
        if tiles > 1:  # objects of one tile meet each other
            place = np.floor((objects["box"][chosen][:, :2] + objects["box"][chosen][:, 2:]) / 2 * tiles).astype(int)
            image = image * tiles**2 + place.clip(0, tiles - 1) @ (1, tiles)
        best, taught = torch.zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
        order = np.argsort(image, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(image[order])) + 1):
            there = boxes[rows]
            best[rows] = box_iou(there, corners).amax(1)
            valid = torch.ones(1, len(rows), dtype=torch.bool)
            matched: Tensor = match(there[None], valid, defaults, threshold=head.threshold, least=head.least)[0]
            taught[rows] = matched[matched >= 0].bincount(minlength=len(rows))
    cost = model_cost(model.to("meta"), [(size, [task])])["madds"]
    return Reach(size, head.needs, tiles, best.numpy(), taught.numpy(), head.threshold, cost * tiles**2)


def choose(tried: Sequence[Reach]) -> Reach:
    """The cheapest that reaches enough; where none does, the one that reaches most; the first where that gains little.

    What reaches within one hundredth as much counts as equal.
    """
    now, *others = tried
    able = [one for one in others if one.share >= ENOUGH]
    best = (
        min(able, key=lambda one: one.madds) if able else max(tried, key=lambda one: (round(one.share, 2), -one.madds))
    )
    return best if best.share - now.share >= WORTH else now


def _others(objects: NDArray[Any], build: Build, task: str, now: Reach) -> list[Reach]:
    finer = [now.sources]
    for tap in FINER:
        if tap not in finer[-1]:
            finer.append((tap, *finer[-1]))
    sizes = [tuple(32 * round(side * factor / 32) for side in now.size) for factor in (1.0, *LARGER)]
    tried = [
        reach(objects, build((height, width), sources), task, (height, width))
        for height, width in sizes
        for sources in finer
        if max(height, width) <= LARGEST and ((height, width), sources) != (now.size, now.sources)
    ]
    return [*tried, reach(objects, build(now.size, now.sources), task, now.size, tiles=TILES)]


def _whole_tiles(boxes: NDArray[np.float32], tiles: int) -> NDArray[np.float32]:
    """Boxes (M, 4) as fractions of the tile that their centre lies in; what sticks out of it is cut off."""
    if tiles == 1:
        return boxes.copy()
    corner = np.floor((boxes[:, :2] + boxes[:, 2:]) / 2 * tiles).clip(0, tiles - 1)
    return np.clip(boxes * tiles - np.tile(corner, 2), 0, 1).astype(np.float32)


def _matched_rows(objects: NDArray[Any]) -> NDArray[np.int64]:
    """The objects of at most `MATCHED` images, evenly spread."""
    images = np.unique(objects["row"])
    chosen = images[np.linspace(0, len(images) - 1, min(len(images), MATCHED)).astype(np.int64)]
    return np.flatnonzero(np.isin(objects["row"], chosen))


def _sides(objects: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """(M, 2) width and height in pixels of the input."""
    box = objects["box"]
    return np.asarray((box[:, 2:] - box[:, :2]) * np.array(size[::-1], np.float32), np.float32)


def _settings(chosen: Reach, now: Reach, setting: str) -> tuple[str, ...]:
    height, width = chosen.size
    settings = [] if chosen.size == now.size else [f"size={height}" if height == width else f"size=[{height},{width}]"]
    if chosen.sources != now.sources:
        settings.append(f"{setting}=[{','.join(chosen.sources)}]")
    return tuple(settings)


def _smallest(side: "Side", objects: NDArray[Any]) -> list[Shown]:
    """The images with the objects that are missed, those with most of them first."""
    rows, counts = np.unique(objects["row"], return_counts=True)
    order = np.lexsort((rows, -counts))
    cases = []
    for row, count in zip(rows[order].tolist(), counts[order].tolist(), strict=True):
        boxes = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in objects["box"][objects["row"] == row].tolist())
        cases.append(Shown((side.place(row),), f"{amount(count, 'object')} missed", boxes))
    return cases


def _by_size(task: str, objects: NDArray[Any], now: Reach) -> Table:
    rows = _matched_rows(objects)
    pixels = np.sqrt(_sides(objects, now.size)[rows].prod(1))
    limits = [0.0, *map(float, EDGES), np.inf]
    table = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        here = (pixels >= low) & (pixels < high)
        name = f"{low:g} to {high:g}" if np.isfinite(high) else f"from {low:g}"
        table.append([name, int(here.sum()), *_of(now, here)])
    titles = ("pixels a side at the input", "objects", "reached", "default boxes an object", "without any")
    some = f", in {MATCHED:,} images evenly spread" if len(np.unique(objects["row"])) > MATCHED else ""
    remark = f"At {now.named}: reached is an object that a default box overlaps by IoU {now.threshold:g}{some}."
    return Table(f"{task}: objects and default boxes", titles, table, remark)


def _by_class(side: "Side", task: str, objects: NDArray[Any], now: Reach) -> Table:
    rows = _matched_rows(objects)
    sides = _sides(objects, now.size)[rows]
    table = []
    for label, name in enumerate(side.kinds["detection"]):
        here = objects["label"][rows] == label
        middle = np.median(sides[here], 0).round().astype(int).tolist() if here.any() else [0, 0]
        table.append([name, int(here.sum()), f"{middle[0]} x {middle[1]}", *_of(now, here)])
    titles = ("class", "objects", "median width x height", "reached", "default boxes an object", "without any")
    return Table(f"{task}: objects by class", titles, table, "Sizes in pixels at the input.")


def _of(now: Reach, here: NDArray[np.bool_]) -> list[Any]:
    if not here.any():
        return [None, None, None]
    return [
        float((now.best[here] >= now.threshold).mean()),
        round(float(now.taught[here].mean()), 1),
        int((now.taught[here] == 0).sum()),
    ]


def _table(task: str, tried: Sequence[Reach]) -> Table:
    rows = [[one.named, one.share, int((one.taught == 0).sum()), one.madds / 1e6] for one in tried]
    titles = ("input, taps", "reached", "objects without any default box", "million multiply-adds")
    remark = "The first is that of the settings; default boxes are fitted anew for each, as before a training."
    return Table(f"{task}: what would reach more", titles, rows, remark if len(tried) > 1 else "")
