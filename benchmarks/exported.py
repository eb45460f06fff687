"""Exported files through this package beside the same files run by hand in their runtimes, on the CPU.

    python benchmarks/exported.py runs/export/<name>                      # milliseconds an image, a thread
    python benchmarks/exported.py runs/export/<name> --images <folder>    # images a second, model.onnx, all cores

The first times every file of the folder that has a hand-written counterpart here, at batch 1: rounds of both take
turns, and the ratio is that of the medians. The second times `python -m mnv2_tasks.predict ... draw=false` and a plain
loop (open, resize, run, keep the outputs) over the same pictures, each in a fresh process, its start included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Call = Callable[[np.ndarray], Any]
ROUNDS, SECONDS = 7, 0.5  # of each, in turns


def by_onnxruntime(path: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


def by_litert(path: Path) -> Call:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    wanted = [output["index"] for output in interpreter.get_output_details()]

    def call(images: np.ndarray) -> Any:
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in wanted]

    return call


def by_openvino(path: Path) -> Call:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(str(path), "CPU", settings).create_infer_request()

    def call(images: np.ndarray) -> Any:
        found = request.infer({0: images})
        return [found[i] for i in range(len(found))]

    return call


def by_executorch(path: Path) -> Call:
    import torch
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(path)
    method = program.load_method("forward")  # in the process's pool, which `Exported` has brought to one thread
    assert method is not None
    return lambda images, keep=program: method.execute([torch.from_numpy(images)])


HAND = {".onnx": by_onnxruntime, ".tflite": by_litert, ".xml": by_openvino, ".pte": by_executorch}


def compare(folder: Path) -> list[dict[str, Any]]:
    import torch

    from mnv2_tasks.export.session import Exported

    rows = []
    for name in json.loads((folder / "model.json").read_text(encoding="utf-8"))["files"]:
        path = folder / name
        if path.suffix not in HAND:
            continue
        ours, hand = Exported(path, threads=1), HAND[path.suffix](path)
        shape = (ours.about.input.shape[0], ours.about.input.channels, *ours.about.size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8)
        fed = ours.feed(images)  # in the file's own layout
        calls: dict[str, Callable[[], Any]] = {"ours": lambda: ours(images), "by_hand": lambda: hand(fed)}  # noqa: B023
        took: dict[str, list[float]] = {"ours": [], "by_hand": []}
        for turn in range(ROUNDS + 1):  # the first does not count
            for who, call in calls.items():
                began = time.perf_counter()
                while time.perf_counter() - began < SECONDS:
                    start = time.perf_counter()
                    call()
                    if turn:
                        took[who].append(1000 * (time.perf_counter() - start))
        row: dict[str, Any] = {"file": name, **{who: median(times) for who, times in took.items()}}
        rows.append({**row, "ratio": row["ours"] / row["by_hand"]})
        print(f"{name:24s} ours {row['ours']:8.3f} ms   by hand {row['by_hand']:8.3f} ms   {rows[-1]['ratio']:.3f}")
    return rows


def plain_loop(model: Path, files: list[str]) -> None:
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["mnv2_tasks"])
    height, width = about["size"]
    found = []
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
        image = image[None] if about["input"]["layout"] == "nhwc" else image.transpose(2, 0, 1)[None]
        if about["input"]["dtype"] == "float32":
            image = image.astype(np.float32) / 255
        found.append(session.run(None, {"images": np.ascontiguousarray(image)}))


def throughput(folder: Path, images: Path) -> dict[str, float]:
    from mnv2_tasks.predict.pictures import list_pictures

    model = folder / "model.onnx"
    count = len(list_pictures(str(images))[1])
    with tempfile.TemporaryDirectory() as place:
        ours = [sys.executable, "-m", "mnv2_tasks.predict", f"model={model}", f"source={images}", "draw=false"]
        commands = {
            "predict": [*ours, f"runs={place}"],
            "plain loop": [sys.executable, __file__, str(folder), f"--images={images}", "--plain"],
        }
        found = {}
        for who, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            found[who] = count / (time.perf_counter() - began)
            print(f"{who:12s} {found[who]:7.1f} images/s of {count}")
    return {**found, "ratio": found["predict"] / found["plain loop"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        from mnv2_tasks.predict.pictures import list_pictures

        place, names, _ = list_pictures(str(args.images))
        plain_loop(args.folder / "model.onnx", [str(place / name) for name in names])
        return
    found: Any = throughput(args.folder, args.images) if args.images else compare(args.folder)
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
