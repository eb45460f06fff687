"""Our classifier or segmenter beside a peer's network, and Lightning's loop beside a plain one, on the CPU.

    python benchmarks/heads.py task=deeplabv3 data=camvid data.root=<folder> backbone=mobilenet_v2_tf \
        backbone.weights=<file> trainer.max_epochs=10 --test --out segmenter.json

Takes the settings of train.py and runs three variants, one after another, each in a fresh process:
    ours    our model, trained by Lightning as train.py does (without its validation)
    plain   our model in a plain loop
    peer    torchvision's mobilenet_v2, or segmentation_models.pytorch's DeepLabV3Plus on its mobilenet_v2
            encoder, in the plain loop; its convolutions pad as ours do, and it starts from the same weights

All else is shared: batches, normalisation, loss, optimiser, schedule, clipping, averaged weights, metrics, memory
format and process settings. ms/step is the whole training's wall time over its steps: use loader.workers=0, so that
loading counts too. `--steps N` times N steps of each and trains no further.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mnv2_tasks.errors import InputError
from mnv2_tasks.machine import tune_for_cpu

if any(argument.startswith("--child=") for argument in sys.argv):  # it works only before torch is imported
    tune_for_cpu()

import torch
from plain_loop import checked_sides, composed, cpu_seconds, parser, peak_mib, print_table, run_variants, told, train
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.blocks import SamePadConv2d
from mnv2_tasks.heads import classifier, deeplabv3
from mnv2_tasks.kinds import CLASSIFICATION
from mnv2_tasks.model import Model
from mnv2_tasks.weights.layouts import from_torchvision
from mnv2_tasks.weights.pretrained import fill_backbone

VARIANTS = ("ours", "plain", "peer")
MEASURES = {"ms_a_step": "ms/step", "train_seconds": "train s", "cpu_seconds": "CPU s", "peak_mib": "peak MiB"}
MEASURES |= {"images_seen": "images", "parameters": "parameters"}


class Plain(nn.Module):
    """A model with one head: losses in training, the head's outputs otherwise."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        (self.task,) = model.heads
        self.head: Any = model.heads[self.task]

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> Any:
        outputs = self.model(images.contiguous(memory_format=torch.channels_last))[self.task]
        return self.head.loss(outputs, targets) if self.training else outputs


class Peer(nn.Module):
    """Somebody else's network with the loss and the metrics of our head, whose own layers it leaves aside."""

    def __init__(self, model: Model, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.register_buffer("mean", model.mean)
        self.register_buffer("std", model.std)
        self.aside = list(model.heads.values())  # a list's modules are not this one's

    @property
    def head(self) -> Any:
        return self.aside[0]

    def forward(self, images: Tensor, targets: dict[str, Tensor]) -> Any:
        images = images.contiguous(memory_format=torch.channels_last).to(self.mean.dtype) / 255
        logits = self.network((images - self.mean) / self.std)
        outputs = (classifier if self.head.kind is CLASSIFICATION else deeplabv3).Outputs(logits.float())
        return self.head.loss(outputs, targets) if self.training else outputs


def peer_network(config: dict[str, Any], model: Model, classes: int) -> nn.Module:
    """torchvision's or smp's network for our model's task, its trunk with the same width, stem and values."""
    ((task, head),) = model.heads.items()
    section = config["backbone"]
    if head.kind is CLASSIFICATION:
        from torchvision.models import mobilenet_v2

        dropout = config["heads"][task]["dropout"]
        network, trunk = mobilenet_v2(num_classes=classes, width_mult=section["width"], dropout=dropout), "features."
        layers = network.features
    else:
        from segmentation_models_pytorch import DeepLabV3Plus

        stride = max(section["output_stride"], 8)
        network = DeepLabV3Plus("mobilenet_v2", encoder_weights=None, encoder_output_stride=stride, classes=classes)
        trunk, layers = "encoder.features.", network.encoder.features
    own = model.backbone
    if section["weights"]:  # anew, since ours has dropped the layers that its head has no use for
        own = MobileNetV2(section["width"])
        fill_backbone(own, section["weights"])
    values = own.state_dict()
    names = {name: from_torchvision("features." + name.removeprefix(trunk)) for name in network.state_dict()}
    try:
        network.load_state_dict({name: values[ours] for name, ours in names.items() if ours in values}, strict=False)
    except RuntimeError as error:
        raise InputError(f"the peer's network has other layers: {str(error).splitlines()[-1].strip()}") from error
    layers[0][0].stride = (section["stem_stride"],) * 2
    if section["padding"] == "same":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.__class__, module.padding = SamePadConv2d, (0, 0)
    return network


def by_lightning(config: dict[str, Any], data: Any, steps: int | None) -> tuple[nn.Module, dict[str, float]]:
    from mnv2_tasks.assembly.build import make_task
    from mnv2_tasks.assembly.trainer import make_trainer

    task = make_task(config, data)
    trainer_config = {**config["trainer"], "limit_val_batches": 0}
    if steps:
        trainer_config |= {"max_steps": steps, "max_epochs": -1}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer({**config, "trainer": trainer_config, "logger": {}}, Path(folder))
        began, spent = time.monotonic(), cpu_seconds()
        trainer.fit(task, datamodule=data)
        seconds = time.monotonic() - began
    (batch,) = data.batch_sizes.values()
    results = {"train_seconds": seconds, "cpu_seconds": cpu_seconds() - spent, "peak_mib": peak_mib()}
    return Plain(task.model), {**results, "images_seen": trainer.global_step * batch}


@torch.no_grad()
def evaluate(network: Any, data: Any, side: str) -> dict[str, float]:
    ((task, classes),) = data.classes.items()
    metric = network.head.metrics(classes)
    network.eval()
    (loader,) = data.loaders(side).values()
    for images, targets in loader:
        network.head.update(metric, network(images, targets[task]), targets[task])
    return {f"{side}/{name}": float(value) for name, value in metric.compute().items()}


def run_variant(args: argparse.Namespace) -> None:
    from mnv2_tasks.assembly.build import make_data, make_model
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.files import write_json

    config = composed(args.overrides)
    if config["optim"]["backbone_lr"] != 1:
        raise InputError("optim.backbone_lr: the plain loop has one learning rate; leave it at 1")
    resolved = resolve(config, make_data, training=True)
    config, data = resolved.settings, resolved.data
    print(*resolved.said, sep="\n")
    if len(data.tasks) != 1 or set(data.tasks.values()) - {"classification", "segmentation"}:
        raise InputError(f"task={'+'.join(data.tasks)}: one classifier or segmenter is compared")
    sides = checked_sides(data, test=args.test)
    if args.child == "ours":
        network, results = by_lightning(config, data, args.steps)
    else:
        model = make_model(config, data)
        (classes,) = map(len, data.classes.values())
        torch.manual_seed(config["seed"])
        network = Plain(model) if args.child == "plain" else Peer(model, peer_network(config, model, classes))
        network, results = train(network, data, config, steps=args.steps)
    (batch,) = data.batch_sizes.values()
    results["ms_a_step"] = 1000 * results["train_seconds"] * batch / results["images_seen"]
    results["parameters"] = float(sum(p.numel() for p in network.parameters()))
    if not args.steps:
        for side in sides:
            results |= evaluate(network, data, side)
    write_json(args.out, {**results, "config": config})


def main() -> None:
    arguments = parser(__doc__, VARIANTS)
    arguments.add_argument("--steps", type=int, metavar="N", help="time N steps of each; no metrics")
    args = arguments.parse_intermixed_args()
    if args.child:
        run_variant(args)
        return
    variants = [args.only] if args.only else VARIANTS
    results = run_variants(variants, [("ours", "plain"), ("ours", "peer")], out=args.out)
    names = ("miou", "pixel_accuracy", "top1", "mean_class_accuracy")
    found = [f"{side}/{name}" for side in ("val", "test") for name in names]
    columns = {name: name for name in found if any(name in row for row in results.values())}
    print_table(results, columns | MEASURES)


if __name__ == "__main__":
    told(main)
