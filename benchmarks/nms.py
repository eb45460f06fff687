"""What a detector costs a picture as batch and classes grow: `python benchmarks/nms.py`, on one thread.

Models of random weights that find something everywhere, at 320 pixels, through ONNX Runtime (the exported file) and
through PyTorch (`predict` of the model). Each cell is milliseconds of processor time a picture, the median of the
rounds, in which both take turns; the last columns are ratios within the run.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
import torch
from torch import Tensor

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.export.formats import onnx
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import InputForm, Metadata
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.machine import tune_for_cpu
from mnv2_tasks.model import Model

SIDE = 320
SPREAD = 0.5  # of the last layers' weights


def lively(classes: int) -> Model:
    """A detector of random weights with thousands of scores above its threshold."""
    torch.manual_seed(0)
    backbone = MobileNetV2()
    model = Model(backbone, {"ssdlite": SSDLite(backbone.taps, classes)}, mean=[0.45] * 3, std=[0.22] * 3)
    for name, parameter in model.heads.named_parameters():
        if "score_layers" in name:
            torch.nn.init.normal_(parameter, std=SPREAD)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(noise(8))
    return model.eval()


def noise(count: int) -> Tensor:
    """(B, 3, SIDE, SIDE) uint8, the same in every run."""
    return torch.randint(
        0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(count)
    )


def session(model: Model, folder: Path) -> Any:
    """The exported model, its batch left open, in ONNX Runtime on one thread."""
    graph = Graph(model).eval()
    form = InputForm("nchw", "uint8", (1, 3, SIDE, SIDE))
    about = Metadata({}, (SIDE, SIDE), form, tuple(graph.outputs), ("batch",))
    path = folder / "model.onnx"
    onnx.write(graph, noise(2), path, about, ())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def milliseconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1, 20, 80, 200])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    tune_for_cpu()  # as every command does; else PyTorch's memory is faulted in anew with each batch
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print("| classes | batch | ONNX Runtime | PyTorch | ONNX / PyTorch | ONNX / its batch 1 | PyTorch / its batch 1 |")
    print("|---|---|---|---|---|---|---|")
    for classes in arguments.classes:
        model = lively(classes)
        with tempfile.TemporaryDirectory() as folder:
            network = session(model, Path(folder))
        alone: dict[str, float] = {}
        for batch in arguments.batches:
            images = noise(batch)
            calls: dict[str, Callable[[], Any]] = {
                "onnx": partial(network.run, None, {"images": images.numpy()}),
                "pytorch": torch.inference_mode()(partial(model.predict, images)),  # as `mnv2_tasks.load` runs it
            }
            for call in calls.values():
                call()
            rounds = [
                {name: milliseconds(call) / batch for name, call in calls.items()} for _ in range(arguments.rounds)
            ]
            cost = {name: median(row[name] for row in rounds) for name in calls}
            alone = alone or cost
            ratios = [cost["onnx"] / cost["pytorch"], *(cost[name] / alone[name] for name in calls)]
            cells = [str(classes), str(batch), *(f"{cost[name]:.1f}" for name in calls), *(f"{r:.2f}" for r in ratios)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
