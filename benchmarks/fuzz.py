"""What readers make of hurt files: `python benchmarks/fuzz.py --files 400`, a table of raw errors by format.

A file may be read, or refused by an InputError of one line that names a file of the data set; all else is raw. Each
format has a process of its own, with limits for memory and the seconds of a file, so that a crash is one, too.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mutate import HURT, hurt_tree
from PIL import Image, features

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 500  # characters of a refusal
CLASSES = ("cat", "dog")
SIZE = (40, 32)  # width, height
CODECS = {"webp": "webp", "jp2": "jpg_2000", "avif": "avif"}
IMAGES = ("png", "jpg", "bmp", "gif", "tif", "webp", "ppm", "tga", "jp2", "avif", "ico", "pcx", "qoi", "sgi")
MASKS = ("png", "bmp", "gif", "tif")
TRAINED = ("task=classifier", "size=32", "backbone.width=0.35", "backbone.stem_stride=1", "data.size=32")
TRAINED += (
    "data.train=16",
    "data.val=8",
    "loader.batch_size=8",
    "loader.workers=0",
    "trainer.max_epochs=1",
    "examples=0",
)


class Format(NamedTuple):
    """A file to hurt, how, and what reads it."""

    name: str
    how: str  # a key of HURT, or "tree": the config in a checkpoint
    file: Path
    read: Callable[[], Any]


class Outcome(NamedTuple):
    """What came of one hurt file."""

    result: str  # "read", "refused" or "raw"
    detail: str


def pixels(seed: int) -> np.ndarray:
    """(H, W, 3) uint8, smooth, with some noise."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(SIZE[1]), np.arange(SIZE[0]))[..., None] * rng.integers(1, 4, 3)
    return (ramp + rng.integers(0, 9, ramp.shape)).astype(np.uint8)


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)
    return path


def annotations(root: Path) -> list[Format]:
    """COCO with boxes, with outlines, and VOC with lists."""
    from mnv2_tasks.datasets.formats.coco import Coco
    from mnv2_tasks.datasets.formats.voc import Voc

    forms = []
    outlines = (
        [[3, 3, 20, 3, 20, 20]],
        {"size": [32, 40], "counts": [100, 5, 27, 5, 1143]},
        {"size": [32, 40], "counts": "T35k00lR1"},
    )
    for name in ("coco", "coco_outlines"):
        table: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
        table["categories"] = [{"id": i + 1, "name": c, "supercategory": "pets"} for i, c in enumerate(CLASSES)]
        for i in range(6):
            picture(root / name / "images" / f"{i}.jpg", i)
            table["images"].append({"id": i, "file_name": f"{i}.jpg", "width": SIZE[0], "height": SIZE[1]})
            box = {
                "id": 10 + i,
                "image_id": i,
                "category_id": 1 + i % 2,
                "bbox": [3, 3, 17, 17.5],
                "area": 300,
                "iscrowd": 0,
            }
            table["annotations"].append(box | ({"segmentation": outlines[i % 3]} if name == "coco_outlines" else {}))
        file = root / name / "train.json"
        file.write_text(json.dumps(table, indent=1), encoding="utf-8")
        forms.append(Format(name, "json", file, lambda home=file.parent: every_sample(Coco(home))))
    home = root / "voc"
    for i in range(6):
        picture(home / "JPEGImages" / f"{i}.jpg", i)
        text = f"<annotation>\n<filename>{i}.jpg</filename>\n<size>\n<width>40</width>\n<height>32</height>\n</size>\n"
        for name in CLASSES:
            box = "<xmin>3</xmin>\n<ymin>3</ymin>\n<xmax>20</xmax>\n<ymax>20.5</ymax>\n"
            text += f"<object>\n<name>{name}</name>\n<difficult>0</difficult>\n<bndbox>\n{box}</bndbox>\n</object>\n"
        (home / "Annotations").mkdir(exist_ok=True)
        (home / "Annotations" / f"{i}.xml").write_text(text + "</annotation>\n", encoding="utf-8")
    (home / "train.txt").write_text("0\n1\n2\n3\n", encoding="utf-8")
    (home / "val.txt").write_text("4\n5\n", encoding="utf-8")
    forms.append(Format("voc_xml", "text", home / "Annotations" / "1.xml", lambda: every_sample(Voc(home))))
    forms.append(Format("voc_list", "text", home / "train.txt", lambda: every_sample(Voc(home))))
    return forms


def yolo(root: Path) -> list[Format]:
    """YOLO's data.yaml, labels and lists."""
    from mnv2_tasks.datasets.formats.yolo import Yolo

    home = root / "yolo"
    for i in range(6):
        picture(home / "images" / f"{i}.jpg", i)
        (home / "labels").mkdir(exist_ok=True)
        lines = "0 0.4 0.5 0.3 0.4\n1 0.5 0.5 0.2 0.25\n1 0.1 0.1 0.4 0.1 0.4 0.6 0.1 0.6\n"
        (home / "labels" / f"{i}.txt").write_text(lines, encoding="utf-8")
    (home / "train.txt").write_text("".join(f"./images/{i}.jpg\n" for i in range(4)), encoding="utf-8")
    (home / "val.txt").write_text("images/4.jpg\nimages/5.jpg\n", encoding="utf-8")
    text = "path: .\ntrain: train.txt\nval: val.txt\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
    (home / "data.yaml").write_text(text, encoding="utf-8")
    files = {"data.yaml": "yaml", "labels/1.txt": "text", "train.txt": "text"}
    return [Format(f"yolo_{n}", how, home / n, lambda: every_sample(Yolo(home))) for n, how in files.items()]


def tables(root: Path) -> list[Format]:
    """A CSV of labels, single and several; classes of masks, and lists of them."""
    from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
    from mnv2_tasks.datasets.formats.mask_folders import Masks

    forms = []
    for name, label, separator in (("csv", "{}", None), ("csv_multilabel", "{}|dog", "|")):
        rows = [f"{i}.jpg,{label.format(CLASSES[i % 2])},{'val' if i > 3 else 'train'}\n" for i in range(6)]
        for i in range(6):
            picture(root / name / f"{i}.jpg", i)
        (root / name / "labels.csv").write_text("file,label,split\n" + "".join(rows), encoding="utf-8")
        read = lambda home=root / name, separator=separator: every_sample(  # noqa: E731
            ImageFolder(home, labels="labels.csv", separator=separator)
        )
        forms.append(Format(name, "text", root / name / "labels.csv", read))
    palette = {"0": [0, 0, 0], "1": [200, 0, 0]}
    tellers = {
        "classes.json": json.dumps({"names": CLASSES, "palette": palette, "ignore_index": 255}),
        "class_dict.csv": "name,r,g,b\ncat,0,0,0\ndog,200,0,0\n",
        "train.txt": "0\n1\nimages/2.png masks/2.png\n",
    }
    for name, text in tellers.items():
        home = root / f"masks_{name.replace('.', '_')}"
        for i in range(3):
            picture(home / "images" / f"{i}.png", i)
            (home / "masks").mkdir(exist_ok=True)
            mask = Image.fromarray((pixels(i)[..., 0] > 60).astype(np.uint8) * (200 if "csv" in name else 1))
            (Image.merge("RGB", (mask, *[Image.new("L", SIZE)] * 2)) if "csv" in name else mask).save(
                home / "masks" / f"{i}.png"
            )
        (home / name).write_text(text, encoding="utf-8")
        how = "json" if name.endswith("json") else "text"
        forms.append(Format(f"masks_{name}", how, home / name, lambda home=home: every_sample(Masks(home))))
    return forms


def pictures(root: Path) -> list[Format]:
    """An image and a mask of every format that PIL writes here."""
    from mnv2_tasks.datasets.formats.mask_folders import Masks
    from mnv2_tasks.datasets.reading.images import check_image, image_size, read_image
    from mnv2_tasks.datasets.reading.legend import index_legend
    from mnv2_tasks.datasets.reading.masked_split import read_mask

    def read(path: Path) -> None:
        check_image(path)
        read_image(path, max_side=24)
        read_image(path)
        image_size(path)

    forms = []
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    for suffix in IMAGES:
        if suffix in CODECS and not features.check(CODECS[suffix]):
            continue
        path = root / "images" / f"a.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels(0))
        image.save(path, **({"exif": exif} if suffix in ("jpg", "png", "webp", "tif") else {}))  # type: ignore[arg-type]
        forms.append(Format(f"image_{suffix}", "bytes", path, lambda path=path: read(path)))
    for suffix in MASKS:
        home = root / f"mask_{suffix}"
        for i in range(2):
            picture(home / "images" / f"{i}.png", i)
            (home / "masks").mkdir(exist_ok=True)
            Image.fromarray((pixels(i)[..., 0] > 60).astype(np.uint8)).save(home / "masks" / f"{i}.{suffix}")
        path = home / "masks" / f"1.{suffix}"

        def read_masks(home: Path = home, path: Path = path) -> None:
            read_mask(path, index_legend(2))
            every_sample(Masks(home, classes=CLASSES))

        forms.append(Format(f"mask_{suffix}", "bytes", path, read_masks))
    return forms


def weights(root: Path) -> list[Format]:
    """A trunk's weights in three kinds of file."""
    import torch
    from safetensors.torch import save_file

    from mnv2_tasks.backbone import MobileNetV2
    from mnv2_tasks.weights.pretrained import fill_backbone

    root.mkdir(parents=True, exist_ok=True)
    trunk = MobileNetV2(0.35)
    state = trunk.state_dict()
    torch.save(state, root / "a.pth")
    save_file(state, root / "a.safetensors")
    np.savez(root / "a.npz", **{name: value.numpy() for name, value in state.items()})
    files = [root / f"a.{suffix}" for suffix in ("pth", "safetensors", "npz")]
    return [Format(f"weights_{f.suffix[1:]}", "bytes", f, lambda f=f: fill_backbone(trunk, f)) for f in files]


def runs(root: Path, *, export: bool = True) -> list[Format]:
    """A run's checkpoint, config.yaml and metrics.json, and its export: made by the commands themselves."""
    from hydra import compose, initialize_config_dir

    import mnv2_tasks
    from mnv2_tasks import train
    from mnv2_tasks.assembly.overrides import CONFIGS
    from mnv2_tasks.assembly.resume import resumed_config
    from mnv2_tasks.assembly.settings import settle
    from mnv2_tasks.export import benchmark
    from mnv2_tasks.training import joint_gain

    command([ROOT / "train.py", *TRAINED, f"runs={root}", "name=a"])
    folder = root / "classifier" / "a"
    checkpoint = folder / "checkpoints" / "best.ckpt"
    image = picture(root / "a.png")
    classes = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["classes"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        defaults = settle(compose("train"))

    def resume() -> None:
        train.prepare(resumed_config(folder, [], defaults))

    def baseline() -> None:
        singles = joint_gain.read_baselines({"classifier": folder}, classes)
        joint_gain.compare(singles["classifier"], {"classifier": folder})

    def predict(path: Path) -> None:
        mnv2_tasks.load(path).predict(image)

    forms = [
        Format("checkpoint_bytes", "bytes", checkpoint, lambda: predict(checkpoint)),
        Format("checkpoint_tree", "tree", checkpoint, lambda: predict(checkpoint)),
        Format("run_config_yaml", "yaml", folder / "config.yaml", resume),
        Format("metrics_json", "json", folder / "metrics.json", baseline),
        Format("predict_source", "bytes", image, lambda: predict(checkpoint)),
    ]
    if export:
        settings = ("to=onnx", "images=2", "compile=false", f"runs={root}", "name=e")
        command(["-m", "mnv2_tasks.export", f"ckpt={checkpoint}", *settings])
        model = root / "export" / "e" / "model.onnx"
        forms.append(Format("model_json", "json", model.with_name("model.json"), lambda: predict(model)))
        forms.append(Format("model_onnx", "bytes", model, lambda: predict(model)))
        report = model.with_name("export.json")
        forms.append(Format("export_json", "json", report, lambda: benchmark.proved(model.parent)))
    return forms


def command(arguments: list[Any]) -> None:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-2000:])


def every_sample(source: Any) -> None:
    for side in ("train", "val", "test"):
        split = source.split(side)
        for index in range(len(split) if split is not None else 0):
            split[index]


def hurt(form: Format, original: bytes, seed: str) -> bytes:
    rng = random.Random(f"{form.name} {seed}")
    if form.how != "tree":
        return HURT[form.how](original, rng)
    import torch

    held = torch.load(io.BytesIO(original), weights_only=True)
    held["mnv2_tasks"] = hurt_tree(held["mnv2_tasks"], rng)
    memory = io.BytesIO()
    torch.save(held, memory)
    return memory.getvalue()


def judge(form: Format, content: bytes) -> Outcome:
    """Write the content in the file's place and read it; a refusal has to name a file of the data set."""
    from mnv2_tasks.errors import InputError

    form.file.write_bytes(content)
    try:
        form.read()
    except InputError as error:
        text = str(error)
        faults = ["several lines"] if len(text.splitlines()) > 1 else []
        faults += [f"{len(text)} characters"] if len(text) > LONGEST else []
        faults += [] if str(form.file.parents[1]) in text else ["names no file"]
        return Outcome("raw", f"{', '.join(faults)}: {text[:200]!r}") if faults else Outcome("refused", text)
    except Exception as error:
        places = [f for f in traceback.extract_tb(error.__traceback__) if "mnv2_tasks" in f.filename]
        place = f"{Path(places[-1].filename).name}:{places[-1].lineno}" if places else "?"
        return Outcome("raw", f"{type(error).__name__} at {place}: {str(error)[:120]!r}")
    return Outcome("read", "")


class Slow(BaseException):
    """A file took longer than it may; no reader's `except` takes it for a broken file."""


def work(form: Format, numbers: range, limits: tuple[float, float], channel: Any) -> None:
    """In a process of its own: judge the hurt files of these numbers, and send what came of each."""
    seconds, gigabytes = limits
    if sys.platform == "linux":
        import resource

        now = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + int(gigabytes * 2**30),) * 2)

    def stop(*_: Any) -> None:
        raise Slow

    signal.signal(signal.SIGALRM, stop)
    warnings.simplefilter("ignore")
    original = form.file.read_bytes()
    for number in numbers:
        content = hurt(form, original, str(number))
        began = time.process_time()
        signal.setitimer(signal.ITIMER_REAL, 4 * seconds)
        try:
            outcome = judge(form, content)
        except Slow:
            outcome = Outcome("raw", "it does not end")
        signal.setitimer(signal.ITIMER_REAL, 0)
        if (took := time.process_time() - began) > seconds:
            outcome = Outcome("raw", f"took {took:.0f} s")
        channel.send((number, outcome))
    form.file.write_bytes(original)


def run_format(form: Format, count: int, limits: tuple[float, float]) -> list[tuple[int, Outcome]]:
    """All hurt files of a format; a process that crashed or hangs is a raw error, and another goes on behind it."""
    context = multiprocessing.get_context("fork")
    original, outcomes = form.file.read_bytes(), []
    while len(outcomes) < count:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(form, range(len(outcomes), count), limits, sender))
        process.start()
        sender.close()
        try:
            while len(outcomes) < count:
                if not receiver.poll(10 * limits[0] + 30):
                    process.kill()
                outcomes.append(receiver.recv())
        except EOFError:
            process.join()
            outcomes.append((len(outcomes), Outcome("raw", f"the process ended with {process.exitcode}")))
        process.join()
        form.file.write_bytes(original)
    return outcomes


def formats(root: Path, *, export: bool = True) -> list[Format]:
    """Every format, with whole files below `root`."""
    forms = (
        annotations(root / "annotations")
        + yolo(root / "annotations")
        + tables(root / "tables")
        + pictures(root / "pictures")
    )
    return forms + weights(root / "weights") + runs(root / "runs", export=export)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--files", type=int, default=250, help="hurt files of each format")
    arguments.add_argument("--only", default="", help="formats whose names begin so")
    arguments.add_argument("--first", type=int, default=0, help="show so many raw errors of each format")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of the processor that a file may take")
    arguments.add_argument("--gigabytes", type=float, default=3.0, help="that a file may take")
    options = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    total: Counter[str] = Counter()
    print("| format | files | read | refused | raw |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for form in formats(Path(folder)):
            if not form.name.startswith(options.only):
                continue
            form.read()  # whole, it can be read
            outcomes = run_format(form, options.files, (options.seconds, options.gigabytes))
            counts = Counter(outcome.result for _, outcome in outcomes)
            total += counts
            numbers = " | ".join(str(counts[result]) for result in ("read", "refused", "raw"))
            print(f"| {form.name} | {len(outcomes)} | {numbers} |", flush=True)
            for number, outcome in [one for one in outcomes if one[1].result == "raw"][: options.first]:
                print(f"    {number}: {outcome.detail}", flush=True)
    print(f"| all | {total.total()} | {total['read']} | {total['refused']} | {total['raw']} |")


if __name__ == "__main__":
    main()
