"""The page that `to=web` writes, in headless Chromium: it finds what Python finds, in a picture and from the camera."""

import json

import numpy as np
import pytest
from browser import CHROMIUM, served, visit
from builders import make, written
from PIL import Image
from torchvision.transforms import v2

from mnv2_tasks.datasets.reading.images import read_image
from mnv2_tasks.datasets.transforms import plain
from mnv2_tasks.errors import InputError
from mnv2_tasks.export.web import find_runtime, write_page


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnxruntime")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    try:
        return find_runtime()
    except InputError:
        pytest.skip("no onnxruntime-web: npm install onnxruntime-web")


@pytest.fixture(scope="module")
def page(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    model = make("ssdlite")
    path, about = written("onnx", model, folder)
    told = {**about, "tasks": {"ssdlite": "detection"}, "classes": {"ssdlite": ["a", "b", "c"]}, "size": [96, 128]}
    told |= {"fit": "stretch", "preprocessing": {"channels": "RGB"}, "config": {"private": "/home"}}
    (folder / "model.json").write_text(json.dumps({**told, "files": {path.name: about}}))
    write_page(path, folder / "web", runtime)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "web" / "sample.png")
    return folder, model, pixels


@pytest.mark.slow
def test_the_page_finds_what_python_finds(page, tmp_path):
    import torch

    folder, model, pixels = page
    with served(folder / "web") as address:
        seen, errors = visit(f"{address}/?picture=sample.png", "document.body.dataset.result", tmp_path)
    assert not errors
    found = json.loads(seen["result"])["boxes"]
    wanted = model.predict(torch.from_numpy(pixels.transpose(2, 0, 1))[None])["ssdlite"][0]
    assert len(found) == len(wanted["scores"]) > 10
    np.testing.assert_allclose([row["score"] for row in found], wanted["scores"], atol=1e-4)
    near = sorted(np.round(row["box"]).tolist() for row in found)
    assert near == sorted(np.round(wanted["boxes"].numpy()).tolist())


@pytest.mark.slow
def test_the_camera_is_looked_at(page, tmp_path):
    folder, _, _ = page
    with served(folder / "web") as address:
        seen, errors = visit(f"{address}/?camera", "document.body.dataset.result", tmp_path, phone=True)
    assert not errors and json.loads(seen["result"])["took"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("fit", "channels"), [("stretch", 1), ("pad", 3), ("crop", 3)])
def test_the_page_fits_pictures_as_python_does(fit, channels, runtime, tmp_path):
    import torch

    model = make("classifier", channels=channels, spread=0.2)
    path, about = written("onnx", model, tmp_path)
    told = {**about, "tasks": {"classifier": "classification"}, "classes": {"classifier": list("abcde")}, "fit": fit}
    told["preprocessing"] = {"channels": "grey" if channels == 1 else "RGB"}
    (tmp_path / "model.json").write_text(json.dumps({**told, "files": {path.name: about}}))
    write_page(path, tmp_path / "web", runtime)
    coarse, turn = np.random.default_rng(0).integers(0, 256, (12, 7, 3), np.uint8), Image.Exif()
    turn[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(coarse).resize((140, 240), Image.Resampling.BICUBIC).save(tmp_path / "web" / "a.png", exif=turn)
    with served(tmp_path / "web") as address:
        seen, errors = visit(f"{address}/?picture=a.png", "document.body.dataset.result", tmp_path)
    assert not errors
    image = read_image(tmp_path / "web" / "a.png")
    moved = plain((96, 128), fit, tuple(image.shape[1:]))(image)
    moved = v2.Grayscale()(moved) if channels == 1 else moved
    wanted = model.predict(moved.as_subclass(torch.Tensor)[None])["classifier"][0]["scores"]
    for row in json.loads(seen["result"])["labels"]:
        assert abs(row["score"] - float(wanted[row["label"]])) < 0.05


def test_the_page_knows_nothing_private(page):
    assert "private" not in (page[0] / "web" / "model.json").read_text()


def test_without_the_runtime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="npm install onnxruntime-web"):
        find_runtime()
