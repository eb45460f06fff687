"""A tap of the trunk as an array a picture."""

import numpy as np
import pytest
import torch
from PIL import Image

import mnv2_tasks


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    generator = np.random.default_rng(0)
    for name in ("a\tb.png", "c.png", "d.png"):
        Image.fromarray(generator.integers(0, 256, (70, 90, 3), np.uint8)).save(tmp_path / "in" / name)
    return tmp_path / "in"


def test_embeddings_are_the_tap_averaged_and_go_on_where_a_run_stopped(cli, checkpoint, folder, tmp_path):
    path = checkpoint("classifier", "ssdlite")
    command = ("predict", f"model={path}", f"source={folder}", f"runs={tmp_path}", "draw=false", "batch_size=2")
    cli(*command, "embed=c4", "name=p")
    place = tmp_path / "predict" / "p"
    with np.load(place / "embeddings.npz") as arrays:
        names, vectors = arrays["names"].tolist(), arrays["vectors"]
    predictor = mnv2_tasks.load(path)
    images = [torch.from_numpy(np.array(Image.open(folder / name))).permute(2, 0, 1) for name in ("c.png", "d.png")]
    predictor.keep("embed", ["c4"])
    batch = torch.stack([predictor.prepare(image) for image in images])
    with torch.inference_mode():
        expected = predictor.model.backbone((batch / 255 - 0.45) / 0.22)["c4"].mean((2, 3)).numpy()
    assert names[1:] == ["c.png", "d.png"] and vectors.dtype == np.float32
    assert np.abs(vectors[1:] - expected).max() < 1e-5
    lines = (place / "vectors.tsv").read_text(encoding="utf-8").splitlines()
    assert np.array_equal(np.array([line.split("\t") for line in lines], np.float32), vectors)  # to the last bit
    table = [line.split("\t") for line in (place / "metadata.tsv").read_text(encoding="utf-8").splitlines()]
    assert table[0] == ["file", "classifier"] and len(table) == 4 and {len(row) for row in table} == {2}
    # As if it had been killed after the first picture's line, when a second vector was there already.
    rows = (place / "results.jsonl").read_bytes().splitlines(keepends=True)
    (place / "results.jsonl").write_bytes(rows[0])
    (place / "vectors.tsv").write_text("\n".join(lines[:2]) + "\n0.5\t", encoding="utf-8")
    (place / "embeddings.npz").unlink()
    cli(*command, "embed=c4", "name=p")
    with np.load(place / "embeddings.npz") as arrays:
        assert arrays["names"].tolist() == names and np.abs(arrays["vectors"] - vectors).max() < 1e-5
    (place / "vectors.tsv").write_text("", encoding="utf-8")
    _, said = cli(*command, "embed=c4", "name=p", fails=True)
    assert "it has 0 of 3 pictures" in said


def test_what_has_no_such_tap_is_refused_in_a_line(cli, checkpoint, folder, tmp_path):
    path = checkpoint("deeplabv3")  # without the last convolution
    command = ("predict", f"model={path}", f"source={folder}", f"runs={tmp_path}")
    _, said = cli(*command, "embed=c5x", fails=True)
    assert said == "error: embed=c5x: the backbone has no tap c5x; it has c1, c1x, c2, c2x, c3, c3x, c4, c4x, c5\n"
    _, said = cli(*command, "embed=5", fails=True)
    assert "embed=5: use a tap" in said
