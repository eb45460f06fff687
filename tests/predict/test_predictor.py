"""Predicting on people's files: from a checkpoint and from an export, the same; broken ones are named and counted."""

import csv
import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from builders import HEAD_CLASSES, film, frames
from PIL import Image
from places import ROOT
from refusal import refused

import mnv2_tasks
from mnv2_tasks.errors import InputError
from mnv2_tasks.export.web import RUNTIME
from mnv2_tasks.predict.films import Video, is_moving
from mnv2_tasks.predict.pictures import Pictures, list_pictures


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, size in {"a.png": (60, 90), "b.jpg": (200, 150), "inner/c.png": (96, 128)}.items():
        Image.fromarray(generator.integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


def test_predictions_are_in_the_pictures_own_pixels(checkpoint, pictures):
    predictor = mnv2_tasks.load(checkpoint("ssdlite", "classifier", "deeplabv3"))
    picture = np.asarray(Image.open(pictures / "b.jpg"))
    (found,) = predictor.predict(picture)
    assert found["deeplabv3"]["mask"].shape == (200, 150)
    assert (
        found["ssdlite"]["boxes"][:, 3].max() > 96
        and (found["ssdlite"]["boxes"].amax(0) <= torch.tensor([150, 200] * 2)).all()
    )
    assert abs(float(found["classifier"]["scores"].sum()) - 1) < 1e-5
    again = predictor.predict([pictures / "b.jpg", torch.from_numpy(picture.copy()).permute(2, 0, 1)], batch_size=1)
    assert all(torch.equal(a["ssdlite"]["boxes"], found["ssdlite"]["boxes"]) for a in again)
    with pytest.raises(InputError, match="uint8"):
        predictor.predict([torch.zeros(3, 8, 8)])


def test_what_predictions_hold_can_be_chosen(checkpoint, pictures):
    path, picture = checkpoint("ssdlite", "classifier", "deeplabv3"), pictures / "b.jpg"
    predictor = mnv2_tasks.load(path)
    (whole,) = predictor.predict(picture)
    boxes = whole["ssdlite"]
    middle = float(boxes["scores"].median())
    predictor.choose(score=middle)
    (found,) = predictor.predict(picture)
    strong = boxes["scores"] >= middle
    assert torch.equal(found["ssdlite"]["boxes"], boxes["boxes"][strong]) and 0 < strong.sum() < len(strong)
    assert predictor.counted_from("ssdlite") == middle
    predictor.choose(score=0.0, iou=1.0)
    (found,) = predictor.predict(picture)
    assert float(found["ssdlite"]["scores"].min()) > float(boxes["scores"].min())  # none of the strongest is suppressed
    assert predictor.model.heads["ssdlite"].decoding.score_threshold < 0.01
    predictor.choose(iou=0.05, classes=["dog", "b", "x"])
    (found,) = predictor.predict(picture)
    assert set(found["ssdlite"]["labels"].tolist()) == {1}
    here = whole["deeplabv3"]["mask"]
    assert torch.equal(found["deeplabv3"]["mask"], torch.where(here == 2, here, 255))
    assert found["classifier"]["scores"].nonzero().flatten().tolist() == [2]
    predictor.choose(classes=["owl"])  # which only the detector knows
    (found,) = predictor.predict(picture)
    assert torch.equal(found["classifier"]["scores"], whole["classifier"]["scores"])
    refused(lambda: predictor.choose(classes=["dog", "owll"]), "'owll'", "did you mean owl?", "background, ")
    lone = mnv2_tasks.load(checkpoint("classifier"))
    refused(lambda: lone.choose(score=0.5), "score=0.5", "no detector")
    refused(lambda: lone.choose(iou=0.5), "iou=0.5", "no detector")


@pytest.mark.parametrize(
    "override", ["score=2", "score=true", "iou=-1", "iou=a", "classes=[]", "classes=[nobody]", "iou=[0.5]"]
)
def test_what_cannot_be_chosen_is_refused_in_a_line(cli, checkpoint, pictures, tmp_path, override):
    model = checkpoint("ssdlite")
    code, said = cli("predict", f"model={model}", f"source={pictures}", f"runs={tmp_path}", override, fails=True)
    assert code == 2 and said.startswith(f"error: {override.split('=')[0]}") and said.count("\n") == 1


@pytest.mark.slow
def test_the_command_writes_files_for_people_and_machines(cli, checkpoint, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes(b"")
    model = checkpoint("ssdlite", "classifier", "deeplabv3")
    command = ("predict", f"model={model}", f"source={pictures}", f"runs={tmp_path}", "name=p", "classes=[dog]")
    code, said = cli(*command, fails=True)
    assert code == 2 and "1 of 4 images could not be read" in said and "broken.jpg" in said and "\r" not in said
    code, said = cli(*command[:-1], "score=0.3", fails=True)
    assert "made with another score" in said
    folder = tmp_path / "predict" / "p"
    rows = json.loads((folder / "ssdlite" / "detections.json").read_text())
    assert {row["file"] for row in rows} == {"a.png", "b.jpg", "inner/c.png"} and rows[0]["category"] in HEAD_CLASSES[
        "ssdlite"
    ]
    assert Image.open(folder / "deeplabv3" / "masks" / "b.png").size == (150, 200)
    with (folder / "classifier" / "labels.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 3 and table[0]["label"] in HEAD_CLASSES["classifier"]
    assert (folder / "ssdlite" / "pictures" / "inner" / "c.png").exists()


@pytest.mark.slow
def test_a_video_comes_out_as_a_video(cli, checkpoint, tmp_path):
    film(tmp_path / "film.mp4")
    cli("predict", f"model={checkpoint('deeplabv3')}", f"source={tmp_path / 'film.mp4'}", f"runs={tmp_path}", "name=v")
    assert frames(tmp_path / "predict" / "v" / "film.mp4") == 10
    assert len(list((tmp_path / "predict" / "v" / "masks").iterdir())) == 10


@pytest.mark.slow
def test_a_film_with_bad_packets_keeps_all_other_frames_at_their_times(cli, checkpoint, tmp_path):
    whole = film(tmp_path / "film.mp4")
    middle = whole.index(b"mdat") + (len(whole) - whole.index(b"mdat")) // 2
    (tmp_path / "film.mp4").write_bytes(whole[:middle] + b"\xff" * 9000 + whole[middle + 9000 :])
    given = [f"model={checkpoint('classifier')}", f"source={tmp_path / 'film.mp4'}", f"runs={tmp_path}", "name=v"]
    assert "2 of its packets could not be decoded" in cli("predict", *given, "batch_size=2", fails=True)[1]
    with (tmp_path / "predict" / "v" / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and [row["time"] for row in rows][-1] == "0.9"
    with pytest.importorskip("av").open(str(tmp_path / "predict" / "v" / "film.mp4")) as made:
        assert [round(frame.time, 3) for frame in made.decode(video=0)] == [float(row["time"]) for row in rows]


def test_films_held_upright_are_seen_upright(tmp_path):
    whole = film(tmp_path / "film.mp4")
    numbers = {"0": "00000000", "1": "00010000", "-": "ffff0000", "w": "40000000"}
    lying, held = (bytes.fromhex("".join(numbers[key] for key in rows)) for rows in ("10001000w", "010-0000w"))
    place = whole.index(lying, whole.index(b"tkhd"))  # the track's matrix, as a phone turned by a quarter writes it
    (tmp_path / "turned.mp4").write_bytes(whole[:place] + held + whole[place + len(lying) :])
    name, stem, image, time = next(Video(str(tmp_path / "turned.mp4")).read())
    assert (name, stem, image.shape, time) == ("turned.mp4#0", "turned_0", (3, 128, 96), 0)
    assert image[:, :25, -15:].float().mean() > 200 > image[:, :25, :15].float().mean()


@pytest.mark.slow
def test_export_proves_itself_and_its_file_predicts_the_same(cli, checkpoint, pictures, tmp_path):
    pytest.importorskip("onnxruntime")
    model, classes = of_scenes(checkpoint("ssdlite")), ["circle", "square", "triangle"]
    data = ["loader.workers=0", "loader.batch_size=4"]
    asked = [f"ckpt={model}", "to=[onnx]", *data, "compile=false", "tolerance=0.01", f"runs={tmp_path}", "name=x"]
    assert "| model.onnx |" in cli("export", *asked)[1]
    folder = tmp_path / "export" / "x"
    report = json.loads((folder / "export.json").read_text())["files"][0]
    assert report["after"] == pytest.approx(report["before"], abs=1e-3) and report["latency_ms"]["1"] > 0
    ours, theirs = (
        mnv2_tasks.load(path).predict(pictures / "a.png")[0]["ssdlite"] for path in (model, folder / "model.onnx")
    )
    assert len(ours["scores"]) == len(theirs["scores"])
    torch.testing.assert_close(ours["scores"], theirs["scores"], atol=1e-5, rtol=1e-4)
    example = ROOT / "examples" / "onnx_predict.py"
    command = [sys.executable, str(example), str(folder / "model.onnx"), str(pictures / "a.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    assert len(said) == int((ours["scores"] >= 0.4).sum()) and said[0].split()[1] in classes
    told = cli(
        "evaluate",
        f"ckpt={folder / 'model.onnx'}",
        "data=scenes",
        "data.val=8",
        "data.size=96",
        *data,
        f"runs={tmp_path}",
        "name=e",
    )[1]
    assert "ssdlite/map" in told
    assert "| model.onnx |" in cli("benchmark", f"model={folder}", "seconds=0.1", f"runs={tmp_path}", "name=b")[1]
    assert (tmp_path / "benchmark" / "b" / "benchmark.png").exists()
    held = json.loads((folder / "model.json").read_text())
    held["files"] = {"gone.onnx": held["files"]["model.onnx"], **held["files"]}
    (folder / "model.json").write_text(json.dumps(held))
    told = cli("benchmark", f"model={folder}", "seconds=0.1", f"runs={tmp_path}", "name=g")[1]
    assert "- gone.onnx: " in told and "No such file" in told
    times = [
        row.get("latency_ms") for row in json.loads((tmp_path / "benchmark/g/benchmark.json").read_text())["files"]
    ]
    assert times[0] is None and times[1]["1"] > 0
    assert "no such file or folder" in cli("benchmark", f"model={folder / 'none.onnx'}", fails=True)[1]
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:5000])
    code, said = cli("predict", f"model={folder / 'model.onnx'}", f"source={pictures}", fails=True)
    assert code == 2 and "onnx cannot read it" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit", "head", "channels"), [("stretch", "classifier", 1), ("crop", "classifier", 3), ("pad", "ssdlite", 3)]
)
def test_the_example_sees_what_the_checkpoint_sees(cli, fit, head, channels, checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    model = checkpoint(head, fit=fit, channels=channels)
    cli("export", f"ckpt={model}", "proof=false", "dynamic=[]", f"runs={tmp_path}", "name=x")
    coarse = np.random.default_rng(0).integers(0, 256, (12, 7, 3), np.uint8)
    stored, turn = Image.fromarray(coarse).resize((140, 240), Image.Resampling.BICUBIC), Image.Exif()
    turn[0x0112] = 6  # to be turned by a quarter
    stored.save(tmp_path / "a.png", exif=turn)
    example = ROOT / "examples" / "onnx_predict.py"
    command = [sys.executable, str(example), str(tmp_path / "export" / "x" / "model.onnx"), str(tmp_path / "a.png")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    (found,) = mnv2_tasks.load(model).predict(tmp_path / "a.png")
    said = [(HEAD_CLASSES[head].index(line.split()[1]), *map(float, line.split()[2:])) for line in lines]
    if head == "classifier":
        assert len(said) == 3 and all(abs(score - float(found[head]["scores"][i])) < 0.05 for i, score in said)
    else:
        rows = zip(found[head]["boxes"][:20].tolist(), found[head]["labels"].tolist(), strict=False)
        far = [min(np.abs(np.subtract(box, row[2:])).max() for row in said if row[0] == label) for box, label in rows]
        assert np.median(far) < 2  # the two resize a little differently


def test_the_examples_prepare_pictures_alike():
    texts = [path.read_text() for path in (ROOT / "examples").glob("*_predict.py")]
    parts = {text[text.index("picture =") : text.index("image.astype")] for text in texts}
    assert len(texts) == 2 and len(parts) == 1


@pytest.mark.slow
def test_the_example_for_litert_says_what_the_checkpoint_says(cli, checkpoint, pictures, tmp_path):
    if find_spec("litert_torch") is None:  # to import it here would take pytest's streams
        pytest.skip("no litert_torch")
    model = checkpoint("classifier")
    cli("export", f"ckpt={model}", "to=litert", "proof=false", f"runs={tmp_path}", "name=x")
    picture = Image.open(pictures / "a.png").resize((128, 96), Image.Resampling.BILINEAR)
    picture.save(tmp_path / "seen.png")
    file = tmp_path / "export" / "x" / "model.tflite"
    command = [sys.executable, str(ROOT / "examples" / "litert_predict.py"), str(file), str(tmp_path / "seen.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.splitlines()
    scores = mnv2_tasks.load(model).predict(tmp_path / "seen.png")[0]["classifier"]["scores"]
    best = scores.argsort(descending=True)[:3].tolist()
    assert [line.split()[1] for line in said] == [HEAD_CLASSES["classifier"][label] for label in best]
    assert [float(line.split()[2]) for line in said] == pytest.approx(scores[best].tolist(), abs=2e-3)


def test_mistakes_are_told(cli, checkpoint, pictures, tmp_path):
    model = checkpoint("classifier")
    for given, said in {
        ("model=nowhere.ckpt", f"source={pictures}"): "no such file",
        (f"model={model}", "source=nowhere"): "no such file or folder",
        (f"model={pictures / 'a.png'}", f"source={pictures}"): "not an exported model",
        (f"model={model}", f"source={pictures}", "runs=/proc/x"): "cannot be written to",
    }.items():
        assert said in cli("predict", *given, fails=True)[1]
    torch.save({"state_dict": {}, "run": print}, tmp_path / "evil.ckpt")
    assert "never run" in cli("predict", f"model={tmp_path / 'evil.ckpt'}", f"source={pictures}", fails=True)[1]
    assert (
        "cannot be written to"
        in cli("export", f"ckpt={model}", "runs=/proc/x", "proof=false", "to=torch_export", fails=True)[1]
    )


def test_sizes_that_cannot_vary_are_refused(cli, checkpoint, tmp_path):
    held = torch.load(checkpoint("classifier"), weights_only=True)
    held["mnv2_tasks"]["config"]["backbone"]["padding"] = "same"
    torch.save(held, tmp_path / "same.ckpt")
    given = [f"ckpt={tmp_path / 'same.ckpt'}", f"runs={tmp_path}", "proof=false", "to=torch_export"]
    assert "even and odd" in cli("export", *given, "dynamic=[height,width]", fails=True)[1]
    assert "batch, height or width" in cli("export", *given, "dynamic=[depth]", fails=True)[1]


def of_scenes(model):
    """The checkpoint of a detector, its classes called as those of the drawn scenes."""
    held = torch.load(model, weights_only=True)
    held["mnv2_tasks"]["classes"]["ssdlite"] = ["circle", "square", "triangle"]
    torch.save(held, model)
    return model


@pytest.mark.slow
def test_a_fixed_batch_of_another_layout_is_calibrated_and_read(cli, checkpoint, pictures, tmp_path):
    pytest.importorskip("onnxruntime")
    model = of_scenes(checkpoint("ssdlite"))
    data, small = ["loader.workers=0", "calibration=3", "proof=false"], ["batch=2", "dynamic=[]", "layout=nhwc"]
    asked = [f"ckpt={model}", "to=[onnx,torch_export]", "precision=[fp32,int8]", *data, *small, f"runs={tmp_path}"]
    assert "torch_export: no int8" in cli("export", *asked, "name=x")[1]
    path = tmp_path / "export" / "x" / "model.int8.onnx"
    told = json.loads((path.parent / "model.json").read_text())["files"]
    assert set(told) == {"model.onnx", path.name, "model.pt2"} and told[path.name]["input"]["shape"] == [2, 96, 128, 3]
    ours, theirs = (mnv2_tasks.load(file).predict(sorted(pictures.rglob("*.*g"))) for file in (model, path))
    for mine, other in zip(ours, theirs, strict=True):
        assert abs(float(mine["ssdlite"]["scores"][0] - other["ssdlite"]["scores"][0])) < 0.2
    assert "choose another name=" in cli("export", *asked, "name=x", fails=True)[1]


@pytest.mark.slow
def test_the_page_is_of_the_precision_asked_for(cli, checkpoint, tmp_path):
    pytest.importorskip("onnxruntime")
    model = of_scenes(checkpoint("ssdlite"))
    (tmp_path / "dist").mkdir()
    for name in RUNTIME:
        (tmp_path / "dist" / name).touch()
    small = ["loader.workers=0", "calibration=2", "proof=false", f"runs={tmp_path}", "name=x"]
    cli("export", f"ckpt={model}", "to=web", "precision=int8", f"web_runtime={tmp_path / 'dist'}", *small)
    assert json.loads((tmp_path / "export" / "x" / "web" / "model.json").read_text())["precision"] == "int8"


@pytest.mark.slow
def test_any_tap_is_exported_proved_and_no_prediction(cli, checkpoint, pictures, tmp_path):
    pytest.importorskip("onnxruntime")
    model = of_scenes(checkpoint("ssdlite"))
    cli(
        "export",
        f"ckpt={model}",
        "what=taps",
        "loader.workers=0",
        f"runs={tmp_path}",
        "name=t",
        "taps=[c2,c3x]",
        "compile=false",
        "tolerance=1e-3",
    )
    path = tmp_path / "export" / "t" / "model.onnx"
    assert set(json.loads((path.parent / "export.json").read_text())["files"][0]["apart"]) == {"c2", "c3x"}
    assert "it gives taps (c2, c3x)" in cli("predict", f"model={path}", f"source={pictures}", fails=True)[1]
    assert "it gives taps (c2, c3x)" in cli("evaluate", f"ckpt={path}", "data=scenes", fails=True)[1]


def test_exports_that_make_no_sense_are_refused_before_any_work(cli, checkpoint, tmp_path):
    given = [f"ckpt={checkpoint('deeplabv3')}", f"runs={tmp_path}", "proof=false"]
    for asked, said in {
        ("layout=nwhc",): "layout=nwhc: use nchw or nhwc",
        ("dtype=int8",): "dtype=int8: use uint8 or float32",
        ("masks=soft",): "masks=soft: use argmax or logits",
        ("to=[]",): "to=[]: name formats",
        ("to=[torch_export]", "precision=int8"): "to=torch_export makes fp32 alone",
        ("to=torch_export", "what=taps", "taps=c9"): "has no tap c9; it has c1, c1x, c2",
        ("to=torch_export", "what=taps", "taps=[c5x]"): "has no tap c5x",
        ("to=web", "nms=false"): "masks=argmax, nms=true",
        ("to=web", "masks=logits"): "masks=argmax, nms=true",
        ("to=web", f"web_runtime={tmp_path}"): "no ort.wasm.min.mjs there",
    }.items():
        assert said in cli("export", *given, *asked, fails=True)[1]
    assert not list(tmp_path.glob("export/*/model.*[!n]"))


def test_sources(pictures):
    assert is_moving("0") and is_moving("a.MP4") and is_moving("rtsp://x/y") and not is_moving("a.jpg")
    assert list_pictures(str(pictures)) == (pictures, ["a.png", "b.jpg", "inner/c.png"], {})
    assert list_pictures(f"{pictures}/*.png") == (pictures, ["a.png"], {})
    assert list_pictures(f"{pictures}/*") == (pictures, ["a.png", "b.jpg"], {"a folder": 1})
    with pytest.raises(InputError, match="no images there"):
        list_pictures(str(pictures / "inner" / "*.gif"))


def test_pictures_keep_their_branches_and_their_names_apart(tmp_path):
    def stems(*names):
        files = [tmp_path / name for name in names]
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20)).save(file)
        return [named[:2] for named in Pictures(tmp_path, list(names)).read()]

    branches = ["train/images/a.png", "val/images/a.png"]
    assert stems(*branches) == [(name, name.removesuffix(".png")) for name in branches]
    assert stems("b#1.png", "b#2.png") == [("b#1.png", "b#1"), ("b#2.png", "b#2")]
    assert stems("c.jpg", "c.png") == [("c.jpg", "c.jpg"), ("c.png", "c.png")]
