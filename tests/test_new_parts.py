"""A data format, a balance and an export format of one's own are a file each, as docs/extend.md shows them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import batch, make
from PIL import Image

from mnv2_tasks.export import formats
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import InputForm, Metadata
from mnv2_tasks.export.session import Exported

NEW = Path(__file__).with_name("new_parts")


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(NEW)  # as PYTHONPATH=<folder> does


@pytest.mark.slow
def test_a_run_takes_a_data_format_and_a_balance(cli, tmp_path):
    for i in range(24):
        name = f"{'cat' if i % 2 else 'dog'}_{i}.png"
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "images" / name)
    cli(
        *("train", f"hydra.searchpath=[file://{NEW}]", "task=classifier", "data=named_files"),
        *(f"data.root={tmp_path / 'images'}", "balance=geometric_mean", "size=64", "backbone.width=0.35"),
        *("loader.batch_size=4", "loader.workers=0", "trainer.max_epochs=1", "examples=0"),
        *(f"runs={tmp_path}", "name=new"),
    )
    metrics = json.loads((tmp_path / "classifier" / "new" / "metrics.json").read_text())
    assert 0 <= metrics["val"]["classifier/top1"] <= 1


def test_the_geometric_mean_looks_at_no_scale():
    from geometric_mean import GeometricMean

    weight = torch.tensor([2.0, 8.0, 0.0], requires_grad=True)
    losses = dict(zip("abc", weight, strict=True))
    total = GeometricMean(tuple("abc"))(losses)
    total.backward()
    assert total.item() == pytest.approx(4)  # of 2 and 8
    assert (weight * weight.grad)[:2].tolist() == pytest.approx([2, 2])


@pytest.mark.slow
def test_a_file_in_the_folder_of_formats_is_a_format(monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    there = [path.stem for path in Path(formats.__file__).parent.glob("*.py") if path.stem != "__init__"]
    assert sorted(there) == list(formats.FORMATS)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(NEW)])  # as if the file lay there
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, "ort"))
    model = make("classifier")
    model.backbone.keep(["c1"])  # the first block alone, which is soon converted
    graph = Graph(model, taps=("c1",)).eval()
    images, path = batch(3, (32, 32)), tmp_path / "model.ort"
    form = InputForm("nchw", "uint8", (1, 3, 32, 32))
    about = Metadata({"license": "x"}, (32, 32), form, ("c1",), ("batch",), "ort", "fp32")
    about = formats.need("ort").write(graph, images, path, about, ())
    exported = Exported(path)
    assert exported.about == about
    np.testing.assert_allclose(exported(images)["c1"], graph(images)[0].detach(), atol=1e-5)
