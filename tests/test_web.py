"""The page that `to=web` writes, in headless Chromium: it finds what Python finds, in a picture and from the camera."""

import json

import numpy as np
import pytest
from browser import CHROMIUM, served, visit
from PIL import Image
from test_export import make, written

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.web import find_runtime, write_page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    try:
        dist = find_runtime()
    except InputError:
        pytest.skip("no onnxruntime-web: npm install onnxruntime-web")
    folder = tmp_path_factory.mktemp("page")
    model = make("ssdlite")
    path, about = written("onnx", model, folder)
    told = {**about, "tasks": {"ssdlite": "detection"}, "classes": {"ssdlite": ["a", "b", "c"]}, "size": [96, 128]}
    told |= {"fit": "stretch", "preprocessing": {"channels": "RGB"}, "config": {"private": "/home"}}
    (folder / "model.json").write_text(json.dumps({**told, "files": {path.name: about}}))
    write_page(path, folder / "web", dist)
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


def test_the_page_knows_nothing_private(page):
    assert "private" not in (page[0] / "web" / "model.json").read_text()


def test_without_the_runtime_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="npm install onnxruntime-web"):
        find_runtime()
