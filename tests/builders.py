"""What several files of tests build: settings, networks, exported files, checkpoints, films and a server."""

import io
import json
import threading
import zipfile
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image
from places import ROOT

from mnv2_tasks.assembly.network import build_model
from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.scenes import Scenes
from mnv2_tasks.export.compare import random_images
from mnv2_tasks.export.formats import get_format
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import InputForm, Metadata
from mnv2_tasks.export.session import as_input
from mnv2_tasks.heads.classifier import Classifier, MultiLabel
from mnv2_tasks.heads.deeplabv3 import DeepLabV3
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.model import Model
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.schedules import warmup_cosine


def settled(*overrides: str) -> dict:
    """The settings of a run with these overrides; a folder that has to be given is somewhere."""
    GlobalHydra.instance().clear()  # a command line that ran in this process leaves its own
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(overrides))
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    return settle(config)


# Joint training

HEADS = {"classifier": Classifier, "ssdlite": SSDLite, "deeplabv3": DeepLabV3}


def joint(heads=HEADS, **backbone) -> tuple[MultiTask, DataModule]:
    """A small network with these heads, and scenes to train it on."""
    torch.manual_seed(0)
    trunk = MobileNetV2(0.35, **backbone)
    data = DataModule(
        {"scenes": Scenes(64, train=12, val=4)},
        {task: head.kind for task, head in heads.items()},
        sizes={"scenes": (64, 64)},
        batch_size=4,
        workers=0,
    )
    made = {task: head(trunk.taps, len(data.classes[task])) for task, head in heads.items()}
    for module in (module for head in made.values() for module in head.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its draws would depend on which heads run
    model = Model(trunk, made, mean=[0.5] * 3, std=[0.5] * 3)
    optimizer = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
    settings = {"optimizer": optimizer, "schedule": partial(warmup_cosine, warmup=0.1)}
    return MultiTask(model, data.classes, backbone_lr=0.5, **settings), data


# Predicting and exporting

HEAD_CONFIGS = {
    "ssdlite": {"_target_": "mnv2_tasks.heads.ssdlite.SSDLite", "_partial_": True},
    "classifier": {"_target_": "mnv2_tasks.heads.classifier.Classifier", "_partial_": True},
    "deeplabv3": {"_target_": "mnv2_tasks.heads.deeplabv3.DeepLabV3", "_partial_": True},
}
HEAD_CLASSES = {  # of the heads that `make` gives a model
    "ssdlite": ["cat", "dog", "owl"],
    "classifier": list("vwxyz"),
    "deeplabv3": ["background", "a", "b", "c"],
}


def make(*kinds, spread=0.5, width=0.35, channels=3, padding="symmetric"):
    """A model with heads of random weights that find something, in eval mode."""
    torch.manual_seed(0)
    backbone = MobileNetV2(width=width, in_channels=channels, padding=padding)
    made = {
        "classifier": lambda: Classifier(backbone.taps, 5),
        "multilabel": lambda: MultiLabel(backbone.taps, 4),
        "ssdlite": lambda: SSDLite(backbone.taps, 3),
        "focal": lambda: SSDLite(backbone.taps, 3, loss="focal"),
        "deeplabv3": lambda: DeepLabV3(backbone.taps, 4),
    }
    model = Model(backbone, {kind: made[kind]() for kind in kinds}, mean=[0.45] * channels, std=[0.22] * channels)
    for name, parameter in model.heads.named_parameters():
        if "score_layers" in name or "linear" in name or "logits" in name:
            torch.nn.init.normal_(parameter, std=spread)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(batch(8, channels=channels))  # so that the features differ from place to place
    return model.eval()


def batch(count=3, size=(96, 128), channels=3):
    return torch.cat(random_images([1, channels, *size], count))


def written(name, model, folder, precision="fp32", size=(96, 128), layout=None):
    """(path, about) of a model in a format, written with all that it lets vary."""
    target = get_format(name)
    channels, layout = len(model.mean), layout or target.layout
    graph = Graph(model, layout=layout, nms=target.nms, masks=target.masks).eval()
    model_json = {"classes": {task: ["ä"] for task in model.heads}, "license": "x", "version": "0"}
    shape = (1, channels, *size) if layout == "nchw" else (1, *size, channels)
    form = InputForm(layout, target.dtype, shape)
    about = Metadata(model_json, size, form, tuple(graph.outputs), target.dynamic, name, precision)
    example = batch(2 if "batch" in target.dynamic else 1, size, channels)
    calibration = [as_input(image, form) for image in random_images([1, channels, *size], 8)]
    path = folder / f"model{target.suffix}"
    about = target.write(graph, as_input(example, form), path, about, calibration)
    if name != "aoti":  # compiled for this machine alone, with its sources and the compiler's command
        tells_no_folder(path)
    if name == "onnx":
        import onnx

        model = onnx.load(str(path))
        onnx.checker.check_model(model, full_check=True)
        assert not any(part.metadata_props or part.doc_string for part in (model.graph, *model.graph.node))
    return path, json.loads(about.as_json())


def tells_no_folder(path):
    """Neither the project's folder, nor the home, nor that of Python's packages stands in what was written."""
    parts = [part for part in path.parent.rglob("*") if part.is_file() and part.name != "model.json"]
    assert path in (*parts, *(folder for part in parts for folder in part.parents))
    for part in parts:
        content = part.read_bytes()
        if zipfile.is_zipfile(part):
            with zipfile.ZipFile(part) as archive:
                content += b"".join(archive.read(name) for name in archive.namelist())
        for folder in (ROOT, Path.home(), Path(torch.__file__).parents[1]):
            assert len(folder.parts) < 3 or str(folder).encode() not in content, (part.name, folder)


# A checkpoint of a classifier

CONFIG = {
    "backbone": {
        "_target_": "mnv2_tasks.backbone.MobileNetV2",
        "width": 0.35,
        "output_stride": 32,
        "in_channels": 3,
        "block": {"_target_": "mnv2_tasks.blocks.InvertedResidual", "_partial_": True},
        "mean": [0.5] * 3,
        "std": [0.2] * 3,
    },
    "heads": {"classifier": {"_target_": "mnv2_tasks.heads.classifier.Classifier", "_partial_": True}},
    "data": {"scenes": {"_target_": "mnv2_tasks.datasets.formats.scenes.Scenes", "size": 64, "train": 8, "val": 4}},
    "size": [64, 64],
    "fit": "stretch",
    "assign": {},
}
CLASSES = {"classifier": ["circle", "square", "triangle"]}


def save(path: Path, config: dict) -> Path:
    """The path of a checkpoint with the tensors of `CONFIG`'s network, which says that it was made with `config`."""
    model = build_model(CONFIG, {task: tuple(names) for task, names in CLASSES.items()})
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "mnv2_tasks": {"config": config, "classes": CLASSES}, "epoch": 0}, path)
    return path


# Sources to predict on


def film(path):
    """Ten frames of noise, 96 x 128, a key frame each, white in the corner at the top left; their bytes."""
    av = pytest.importorskip("av")
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as made:
        stream = made.add_stream("libx264", rate=10, options={"g": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(10):
            pixels = generator.integers(0, 99, (96, 128, 3), np.uint8)
            pixels[:20, :30] = 255
            made.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        made.mux(stream.encode())
    return path.read_bytes()


def frames(path):
    with pytest.importorskip("av").open(str(path)) as made:
        return sum(1 for _ in made.decode(video=0))


def jpeg(size=(64, 48)):
    content = io.BytesIO()
    Image.effect_noise(size, 50).convert("RGB").save(content, "JPEG")
    return content.getvalue()


@contextmanager
def serve(kind, content=None, *, endless=False, cut=0):
    """The address of a server, of this machine alone, that answers everything with `content`."""
    content = jpeg() if content is None else content
    part = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(content), content)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if not endless:
                self.send_header("Content-Length", str(len(content) + cut))
            self.end_headers()
            try:
                self.wfile.write(part if endless else content)
                while endless:
                    self.wfile.write(part)
            except OSError:
                pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
