"""Our SSDLite beside torchvision's SSD on the CPU: one trunk, one data set, one training loop.

    python benchmarks/detector.py data=coco data.root=<folder> backbone.weights=<file> head.boxes=fit \
        trainer.max_epochs=60 --test --out detector.json

Takes the settings of train.py and runs three variants, one after another, each in a fresh process:
    ours         our model and loss, as train.py has them
    torchvision  torchvision's SSD (matching, loss, decoding) and SSDLiteHead, on our trunk, extra levels
                 and default boxes, with our memory format and process settings
    stock        the same with torchvision's default boxes, contiguous memory and a process as it comes
                 (leave OMP_WAIT_POLICY and GOMP_SPINCOUNT unset); 20 steps are timed, or all with --stock-accuracy

All else is shared: batches, normalisation, optimiser, schedule, clipping, averaged weights, thresholds of the
decoding, and COCO's metrics, in original pixels, of the last averaged weights. ms/step is the median of
forward, loss, backward and optimiser; workers that load meanwhile slow it down, so loader.workers=0 times it
alone. Memory is the peak of the process, without its workers, up to the end of training.
"""

import argparse
import os
import sys
from functools import partial
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu

if {"--child=ours", "--child=torchvision"} & set(sys.argv):  # it works only before torch is imported
    tune_for_cpu()

import torch
from plain_loop import checked_sides, composed, parser, print_table, run_variants, told, train
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead

from mnv2_tasks.heads.ssdlite import EXTRA_CHANNELS, SSDLite
from mnv2_tasks.kinds import DETECTION
from mnv2_tasks.metrics.detection import CocoMAP
from mnv2_tasks.model import Model

VARIANTS = ("ours", "torchvision", "stock")
STOCK_STEPS = 20
COLUMNS = {"val/map": "val AP", "val/map_50": "val AP50", "test/map": "test AP", "test/map_50": "test AP50"}
COLUMNS |= {"step_ms": "ms/step", "train_seconds": "train s", "cpu_seconds": "CPU s", "peak_mib": "peak MiB"}
COLUMNS |= {"images_seen": "images"}
Found = list[dict[str, Tensor]]  # boxes in input pixels, scores and labels of each image


class Ours(nn.Module):
    """Our model with one detector; as torchvision's, it gives losses in training and detections otherwise."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        (self.task,) = model.heads

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor] | Found:
        head = self.model.heads[self.task]
        outputs = self.model(images.contiguous(memory_format=torch.channels_last))[self.task]
        return head.loss(outputs, targets) if self.training else head.predict(outputs)


class TorchvisionSSD(SSD):
    """torchvision's SSD on the trunk, the extra levels and the thresholds of a model of ours."""

    def __init__(self, model: Model, size: tuple[int, int], *, norm: Any, stock: bool) -> None:
        (head,) = model.heads.values()
        boxes = OurBoxes(head)
        if stock:  # as in torchvision's ssdlite320_mobilenet_v3_large
            boxes = DefaultBoxGenerator([[2, 3] for _ in head.counts], min_ratio=0.2, max_ratio=0.95)
        channels = [*(model.backbone.taps[name].channels for name in head.needs), *EXTRA_CHANNELS]
        classes = head.num_classes + 1  # with the background, 0
        layers = SSDLiteHead(channels, boxes.num_anchors_per_location(), classes, norm)
        own = head.decoding
        decoding = {"score_thresh": own.score_threshold, "nms_thresh": own.nms}
        decoding |= {"detections_per_img": own.detections, "topk_candidates": own.candidates}
        trunk = Levels(model.backbone, head)
        super().__init__(trunk, boxes, size, classes, head=layers, iou_thresh=head.threshold, **decoding)
        self.transform = Normalise(model.mean, model.std)
        self.layout = torch.contiguous_format if stock else torch.channels_last
        self.to(memory_format=self.layout)

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor] | Found:
        images = images.contiguous(memory_format=self.layout)
        if not self.training:
            return [{**found, "labels": found["labels"] - 1} for found in super().forward(images)]
        real = (targets["labels"] >= 0) & ~targets["crowd"]
        rows = zip(targets["boxes"], targets["labels"] + 1, real, strict=True)
        return super().forward(images, [{"boxes": b[keep], "labels": k[keep]} for b, k, keep in rows])


class Levels(nn.Module):
    """Our trunk and extra levels as torchvision wants a backbone: {level: feature map}."""

    def __init__(self, backbone: nn.Module, head: SSDLite) -> None:
        super().__init__()
        self.backbone, self.extras, self.needs = backbone, head.extras, head.needs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        taps = self.backbone(x)
        levels = [taps[name] for name in self.needs]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return {str(i): level for i, level in enumerate(levels)}


class Normalise(nn.Module):
    """In the place of torchvision's transform: our normalisation of the whole batch, and no second resize."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor, targets: Any = None) -> tuple[ImageList, Any]:
        normal = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return ImageList(normal, [tuple(images.shape[-2:])] * len(images)), targets

    def postprocess(self, found: Found, *sizes: Any) -> Found:
        return found


class OurBoxes(DefaultBoxGenerator):
    """torchvision's grid with the shapes of our head."""

    def __init__(self, head: SSDLite) -> None:
        super().__init__([[] for _ in head.counts], clip=False)
        self._wh_pairs = [level.clone() for level in head.shapes.split(head.counts)]

    def num_anchors_per_location(self) -> list[int]:
        return [len(level) for level in self._wh_pairs]


def make(variant: str, config: dict[str, Any], data: Any) -> nn.Module:
    """The network of one variant; trunk and extra levels start from the same weights in all."""
    from mnv2_tasks.assembly.build import make_model

    model = make_model(config, data)
    if variant == "ours":
        return Ours(model)
    (section,) = config["heads"].values()
    norm = partial(nn.BatchNorm2d, eps=section["norm_eps"], momentum=section["norm_momentum"])
    return TorchvisionSSD(model, next(iter(data.sizes.values())), norm=norm, stock=variant == "stock")


@torch.no_grad()
def evaluate(model: nn.Module, data: Any, side: str) -> dict[str, float]:
    """COCO's metrics of one side, in original pixels: {"<side>/map": ...}."""
    ((task, classes),) = data.classes.items()
    metric = CocoMAP(classes)
    model.eval()
    (loader,) = data.loaders(side).values()
    for images, targets in loader:
        DETECTION.count(metric, model(images, targets[task]), targets[task])
    return {f"{side}/{name}": float(value) for name, value in metric.compute().items()}


def run_variant(args: argparse.Namespace) -> None:
    """Train and evaluate one variant in this process; the results go to args.out."""
    from mnv2_tasks.assembly.build import make_data
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.files import write_json

    config = composed(args.overrides)
    resolved = resolve(config, make_data, training=True)
    config, data = resolved.settings, resolved.data
    print(*resolved.said, sep="\n")
    if list(data.tasks.values()) != ["detection"]:
        raise InputError(f"task={'+'.join(data.tasks)}: one detector is compared; use task=ssdlite")
    sides = checked_sides(data, test=args.test)
    brief = args.child == "stock" and not args.stock_accuracy
    steps = args.steps_only or (STOCK_STEPS if brief else None)
    model = make(args.child, config, data)
    averaged, results = train(model, data, config, steps=steps)
    if steps is None:
        for side in sides:
            results |= evaluate(averaged, data, side)
    results |= {"parameters": sum(value.numel() for value in model.parameters()), "torch": torch.__version__}
    results |= {"threads": torch.get_num_threads(), "spin_count": os.environ.get("GOMP_SPINCOUNT")}
    write_json(args.out, {**results, "config": config})


def main() -> None:
    arguments = parser(__doc__, VARIANTS)
    arguments.add_argument("--steps-only", type=int, metavar="N", help="time N steps of each; no metrics")
    arguments.add_argument("--stock-accuracy", action="store_true", help="train and evaluate stock too")
    args = arguments.parse_intermixed_args()
    if args.child:
        run_variant(args)
        return
    variants = [args.only] if args.only else VARIANTS
    results = run_variants(variants, [("ours", "torchvision"), ("stock", "ours")], out=args.out)
    print_table(results, COLUMNS)


if __name__ == "__main__":
    told(main)
