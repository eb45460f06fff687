"""The paper's tables beside this code's numbers, row by row: `python -m mnv2_tasks.ledger`.

Figures are from "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv 1801.04381), Tables 2 to 7, and from
the authors' published width x resolution grid (tensorflow/models, research/slim/nets/mobilenet/README.md).
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mnv2_tasks.assembly.command import in_one_line
from mnv2_tasks.files import check_writable
from mnv2_tasks.lab.paper import GRID_TOP1, TABLE_2

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of DeepLab's multi-scale test (arXiv 1706.05587, section 4.1)


class Row(NamedTuple):
    """One number: what the paper prints, what we count, and what to think of it."""

    table: str
    what: str
    paper: str
    ours: str
    verdict: str


def rounds(ours: float, paper: str) -> bool:
    """Whether a number is the printed one once it has as few decimals, rounded or cut off."""
    decimals = len(paper.partition(".")[2])
    return f"{ours:.{decimals}f}" == paper or f"{int(ours * 10**decimals) / 10**decimals:.{decimals}f}" == paper


def compare(table: str, what: str, ours: float, paper: str, unit: str, *, otherwise: str = "") -> Row:
    """A row; `otherwise` is the reason where the number is not the paper's."""
    text = f"{ours:.{len(paper.partition('.')[2]) + 1}f} {unit}"
    return Row(table, what, f"{paper} {unit}", text, "same" if rounds(ours, paper) else otherwise or "DIFFERS")


def structure() -> Iterator[Row]:
    """Every structural number: Tables 2 to 7 and the grid."""
    yield from _table_2()
    yield from _table_3()
    yield from _table_4()
    yield from _tables_5_and_6()
    yield from _table_7()
    yield from _grid()


def _table_2() -> Iterator[Row]:
    import torch

    from mnv2_tasks.backbone import MobileNetV2

    with torch.device("meta"):
        backbone: Any = MobileNetV2()
    stages, blocks = [], list(backbone.blocks)
    for _, _, n, _ in TABLE_2:
        stage, blocks = blocks[:n], blocks[n:]
        expand = stage[0].expand
        t = expand[0].out_channels // expand[0].in_channels if len(expand._modules) else 1
        channels, (stride, *others) = (
            {b.linear[0].out_channels for b in stage},
            [b.depthwise[0].stride[0] for b in stage],
        )
        assert len(channels) == 1 and set(others) <= {1}
        stages.append((t, channels.pop(), len(stage), stride))
    assert not blocks
    for row, counted in zip(TABLE_2, stages, strict=True):
        paper, ours = (", ".join(f"{k}={v}" for k, v in zip("tcns", values, strict=True)) for values in (row, counted))
        yield Row("2", f"bottlenecks of {row[1]} channels", paper, ours, "same" if paper == ours else "DIFFERS")
    for name, layers, paper in (("stem", backbone.stem, "32, stride 2"), ("last", backbone.last, "1280, stride 1")):
        ours = f"{layers[0].out_channels}, stride {layers[0].stride[0]}"
        yield Row("2", f"{name} convolution", paper, ours, "same" if paper == ours else "DIFFERS")


def _table_3() -> Iterator[Row]:
    from mnv2_tasks.backbone import MobileNetV1, MobileNetV2
    from mnv2_tasks.lab.figures.layers import materialized

    paired = "the paper pairs the input size of a row of its Table 2 with that row's output channels"
    notes = {
        ("MobileNetV1", 7): "same channels; the paper's memory is twice 1024 x 7 x 7 x 2 bytes",
        **{("MobileNetV2", side): paired for side in (56, 28, 14)},
        ("MobileNetV2", 1): "same channels; 1280 x 2 bytes are 2.56 kB, which the paper cuts to 2",
    }
    paper = {
        MobileNetV1: {112: (64, 1600), 56: (128, 800), 28: (256, 400), 14: (512, 200), 7: (1024, 199), 1: (1024, 2)},
        MobileNetV2: {112: (16, 400), 56: (32, 200), 28: (64, 100), 14: (160, 62), 7: (320, 32), 1: (1280, 2)},
    }
    for network, rows in paper.items():
        maps, name = materialized(network), network.__name__
        for side, (channels, kilobytes) in rows.items():
            ours, size = maps[side]
            same = ours == channels and abs(size / 1000 - kilobytes) < max(1.0, 0.01 * kilobytes)
            verdict = "same" if same else notes.get((name, side), "DIFFERS")
            yield Row(
                "3",
                f"{name} at {side} x {side}",
                f"{channels} / {kilobytes} kB",
                f"{ours} / {size / 1e3:.1f} kB",
                verdict,
            )
        most, printed = max(size for _, size in maps.values()) / 1e3, max(kilobytes for _, kilobytes in rows.values())
        same = abs(most - printed) < 0.01 * printed
        yield Row("3", f"{name}, most", f"{printed} kB", f"{most:.1f} kB", "same" if same else "DIFFERS")


def _table_4() -> Iterator[Row]:
    import torch

    from mnv2_tasks.backbone import MobileNetV1
    from mnv2_tasks.complexity import madds, parameters
    from mnv2_tasks.lab.paper_costs import classifier_cost

    with torch.device("meta"):
        v1 = MobileNetV1().eval()
        cost = madds(v1, torch.empty(1, 3, 224, 224)) + 1024 * 1000
        weights = parameters(v1, folded=True) + 1024 * 1000
    yield compare("4", "MobileNetV1, parameters", weights / 1e6, "4.2", "M")
    why = "MobileNetV1's own paper (arXiv 1704.04861, Table 4) prints 569, as we count"
    yield compare("4", "MobileNetV1, multiply-adds", cost / 1e6, "575", "M", otherwise=why)
    weights, cost = classifier_cost(1.0, 224)
    yield compare("4", "MobileNetV2, parameters", weights / 1e6, "3.4", "M")
    yield compare("4", "MobileNetV2, multiply-adds", cost / 1e6, "300", "M")
    weights, cost = classifier_cost(1.4, 224)
    why = "the authors' published grid prints 6.06 for this network, as we count; torchvision and timm hold as many"
    yield compare("4", "MobileNetV2 (1.4), parameters", weights / 1e6, "6.9", "M", otherwise=why)
    why = "the authors' published grid prints 582 for this network, as we count"
    yield compare("4", "MobileNetV2 (1.4), multiply-adds", cost / 1e6, "585", "M", otherwise=why)


def _tables_5_and_6() -> Iterator[Row]:
    from mnv2_tasks.backbone import MobileNetV1
    from mnv2_tasks.lab.paper_costs import ssdlite_cost

    costs = ssdlite_cost(80)
    weights, cost = costs["SSD layers"]
    yield compare("5", "SSD layers, parameters", weights / 1e6, "14.8", "M")
    why = "0.3% apart; the paper does not say how it counts its extra levels"
    yield compare("5", "SSD layers, multiply-adds", cost / 1e9, "1.25", "B", otherwise=why)
    weights, cost = costs["SSDLite layers"]
    yield compare("5", "SSDLite layers, parameters", weights / 1e6, "2.1", "M")
    why = (
        "the paper's is twice our count (it fits counting a multiply-add as two); its total in Table 6 holds ours once"
    )
    yield compare("5", "SSDLite layers, multiply-adds", cost / 1e9, "0.35", "B", otherwise=why)
    for name, weights, cost, paper in (
        ("MobileNetV2 + SSDLite", *costs["whole SSDLite"], ("4.3", "0.8")),
        ("MobileNetV1 + SSDLite", *ssdlite_cost(80, network=MobileNetV1)["whole SSDLite"], ("5.1", "1.3")),
    ):
        yield compare("6", f"{name}, parameters", weights / 1e6, paper[0], "M")
        yield compare("6", f"{name}, multiply-adds", cost / 1e9, paper[1], "B")


def _table_7() -> Iterator[Row]:
    from mnv2_tasks.backbone import MobileNetV1, MobileNetV2
    from mnv2_tasks.lab.paper_costs import deeplabv3_cost

    close = "within 0.5%: what is left is about the upsampling, which is not counted; see cost.deeplabv3_cost"
    why = "MobileNetV1's dilated layers may have been laid out otherwise; MobileNetV2's two rows, counted alike, agree"
    rows: tuple[tuple[type[MobileNetV2], Literal["full"] | None, str, tuple[str, str]], ...] = (
        (MobileNetV1, "full", "11.15", ("14.25", "941.9")),
        (MobileNetV2, "full", "4.52", ("5.8", "387")),
        (MobileNetV2, None, "2.11", ("2.75", "152.6")),
    )
    for network, aspp, weights, costs in rows:
        name = f"{network.__name__}, {'ASPP' if aspp else 'light head'}"

        count = partial(deeplabv3_cost, 21, aspp=aspp, network=network)
        parameters, cost = count(size=513, stride=16)
        views = 2 * sum(count(size=int(512 * scale) + 1, stride=8)[1] for scale in SCALES)  # each mirrored too
        yield compare("7", f"{name}, parameters", parameters / 1e6, weights, "M")
        for stride, ours, paper in (("16", cost, costs[0]), ("8, six scales mirrored", views, costs[1])):
            near = abs(ours / 1e9 / float(paper) - 1) < 0.005
            label = f"{name}, output stride {stride}, multiply-adds"
            yield compare("7", label, ours / 1e9, paper, "B", otherwise=close if near else why)


def _grid() -> Iterator[Row]:
    from mnv2_tasks.lab.paper import GRID, PARAMETERS
    from mnv2_tasks.lab.paper_costs import classifier_cost

    for width, sizes in GRID.items():
        for size, paper in sizes.items():
            weights, cost = classifier_cost(width, size)
            if size == 224:
                yield compare("grid", f"width {width}, parameters", weights / 1e6, f"{PARAMETERS[width]:.2f}", "M")
            yield compare("grid", f"width {width} at {size}, multiply-adds", cost / 1e6, str(paper), "M")


def accuracies() -> Iterator[Row]:
    """Every accuracy that the paper and the grid print for MobileNetV2, with the command that would measure it."""

    def row(table: str, what: str, paper: str, command: str, cost: str) -> Row:
        return Row(table, what, paper, f"not run here: `{command}`", f"expected cost {cost} multiply-adds of training")

    imagenet = "python train.py experiment=imagenet data.root=<ImageNet>"
    yield row("4", "ImageNet top-1, width 1.0", "72.0%", imagenet, "2.9e17")
    yield row("4", "ImageNet top-1, width 1.4", "74.7%", f"{imagenet} backbone.width=1.4", "5.6e17")
    paper = "python train.py experiment=imagenet_paper data.root=<ImageNet>"
    yield row("4", "ImageNet top-1, width 1.0, by the paper's recipe", "72.0%", paper, "3.5e17")
    yield row("6", "COCO mAP, SSDLite", "22.1", "python train.py experiment=coco_ssdlite data.root=<COCO>", "3.3e16")
    voc = "python train.py experiment=voc_deeplabv3 data.root=<VOC2012>"
    yield row("7", "VOC mIoU, light head, output stride 16", "75.32%", voc, "4.0e15")
    yield row("7", "VOC mIoU, ASPP, output stride 16", "75.70%", f"{voc} head.aspp=full", "8.5e15")
    views = "head.scales=[0.5,0.75,1.0,1.25,1.5,1.75] head.flip=true"
    measured = f"python -m mnv2_tasks.evaluate ckpt=<that run's best.ckpt> backbone.output_stride=8 {views}"
    yield row("7", "VOC mIoU, light head, output stride 8, multi-scale", "77.33%", measured, "none more")
    yield row("7", "VOC mIoU, ASPP, output stride 8, multi-scale", "78.42%", measured, "none more")
    for width, sizes in GRID_TOP1.items():
        for size, top1 in sizes.items():
            command = f"{imagenet} backbone.width={width} size={size}"
            yield row(
                "grid", f"ImageNet top-1, width {width} at {size}", f"{top1:.1f}%", command, _training(width, size)
            )
    study = "study.md of `python train.py -m study={} task=classifier data=cifar10`; short: docs/results/blocks.md"
    for figure, what, name in (
        ("6a", "linear bottleneck above ReLU6", "bottleneck"),
        ("6b", "shortcut: bottleneck above expansion and none", "shortcut"),
    ):
        yield Row(figure, what, "curves only", study.format(name), "its intervals say whether the order holds")
    yield Row(
        "4, 6", "milliseconds on a Pixel 1", "75 and 200 ms", "not measured: no such phone", "`analysis`, `budget`"
    )


def _training(width: float, size: int) -> str:
    """Multiply-adds of 250 epochs of ImageNet: a forward and, at twice its cost, a backward pass of every image."""
    from mnv2_tasks.lab.paper_costs import classifier_cost

    return f"{250 * 1_281_167 * 3 * classifier_cost(width, size)[1]:.1e}"


def markdown(rows: list[Row]) -> str:
    lines = ["| table | what | paper | ours | verdict |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m mnv2_tasks.ledger", description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path, default=Path("runs/ledger"), help="folder of ledger.json and ledger.md")
    folder = arguments.parse_args().out
    with in_one_line(folder):
        check_writable(folder)
        write(folder)


def write(folder: Path) -> None:
    """ledger.json and ledger.md, and what they say printed."""
    print("ledger: counting the paper's tables anew, about a minute on two cores", flush=True)
    from mnv2_tasks.files import write_json

    counted: list[Row] = []
    trained = list(accuracies())
    for row in structure():
        if row.table not in {earlier.table for earlier in counted}:
            print("counting the grid" if row.table == "grid" else f"counting table {row.table}", file=sys.stderr)
        counted.append(row)
    text = f"{markdown(counted)}\n{markdown(trained)}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "ledger.json",
        {"structure": [r._asdict() for r in counted], "accuracy": [r._asdict() for r in trained]},
    )
    (folder / "ledger.md").write_text(text, encoding="utf-8")
    same = sum(row.verdict == "same" for row in counted)
    print(f"{text}\n{same} of {len(counted)} structural numbers are the paper's; the others say why not. {folder}")
