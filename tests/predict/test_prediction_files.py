"""Predict loses nothing: results as they come, stopped and gone on with, names of all kinds, full disks, own output."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from builders import film, frames, serve
from PIL import Image
from places import ROOT

from mnv2_tasks.predict import prediction_files
from mnv2_tasks.predict.prediction_files import Results, open_folder


@pytest.fixture
def pictures(tmp_path):
    """12 pictures, one of which is broken."""
    folder = tmp_path / "p"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number:02}.png")
    (folder / "05.png").write_bytes(b"no picture")
    return folder


def told(folder):
    """{file: image_id} of results.jsonl, which tells of no picture twice."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["file"] for row in rows}) == len({row["image_id"] for row in rows}) == len(rows)
    return {row["file"]: row["image_id"] for row in rows}


def labels(folder):
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        return [row["file"] for row in csv.DictReader(file)]


def after(monkeypatch, number, act):
    """Do `act` when the results of `number` pictures are written."""
    count, add = 0, Results.add

    def counted(*args):
        nonlocal count
        add(*args)
        count += 1
        if count == number:
            act()

    monkeypatch.setattr(Results, "add", counted)


@pytest.mark.slow
def test_a_run_killed_under_another_locale_goes_on_where_it_was(cli, checkpoint, pictures, tmp_path):
    model = checkpoint("ssdlite", "classifier", "deeplabv3")
    given = [f"model={model}", f"source={pictures}", f"runs={tmp_path}", "batch_size=2"]
    kill = (
        "import os, runpy, sys; from mnv2_tasks.predict.prediction_files import Results; add = Results.add\n"
        "def one(self, named, row):\n"
        "    os.kill(os.getpid(), 9) if len(self.done) == 4 else add(self, named, row)\n"
        "Results.add = one; sys.argv[0] = 'predict'; runpy.run_module('mnv2_tasks.predict', run_name='__main__')"
    )
    (pictures / "00.png").rename(pictures / "00é.png")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", kill, *given, "name=k"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **ascii_only}, capture_output=True)
    folder, whole = tmp_path / "predict" / "k", tmp_path / "predict" / "w"
    assert done.returncode == -signal.SIGKILL and len(told(folder)) == 4 == len(labels(folder / "classifier"))
    with (folder / "results.jsonl").open("ab") as file:
        file.write(b'{"image_id": 4, "file": "04')  # torn
    code, said = cli("predict", *given, "name=k", fails=True)
    assert code == 2 and "1 of 12 images could not be read" in said
    cli("predict", *given, "name=w", fails=True)
    names = ["00é.png", *(f"{number:02}.png" for number in range(1, 12))]
    assert told(folder) == told(whole) == {name: number for number, name in enumerate(names)}
    assert labels(folder / "classifier") == labels(whole / "classifier") == [name for name in names if name != "05.png"]
    rows = [json.loads((place / "ssdlite/detections.json").read_text(encoding="utf-8")) for place in (folder, whole)]
    assert [{(row["file"], row["image_id"]) for row in part} for part in rows] == [
        {*told(whole).items()} - {("05.png", 5)}
    ] * 2
    assert (folder / "deeplabv3" / "masks" / "00é.png").exists() and (folder / "deeplabv3/pictures/11.png").exists()
    Image.new("RGB", (20, 20)).save(pictures / "05.png")  # mended
    assert "11 images of it done before" in cli("predict", *given, "name=k")[1]
    assert sorted(labels(folder / "classifier")) == sorted(told(whole))


def test_stopped_by_a_signal_it_says_what_is_missing(cli, checkpoint, pictures, tmp_path, monkeypatch):
    given = [f"model={checkpoint('ssdlite')}", f"source={pictures}", f"runs={tmp_path}", "batch_size=2", "draw=false"]
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        name = f"name={code}"
        with monkeypatch.context() as patch:
            after(patch, 4, lambda number=number: os.kill(os.getpid(), number))
            assert cli("predict", *given, name, fails=True)[0] == code
        folder = tmp_path / "predict" / str(code)
        ids = {row["image_id"] for row in json.loads((folder / "detections.json").read_text(encoding="utf-8"))}
        assert ids <= {0, 1, 2, 3}
        with monkeypatch.context() as patch:
            after(patch, 2, lambda number=number: os.kill(os.getpid(), number))
            said = cli("predict", *given, name, fails=True)[1]
        assert f"7 of 12 images are done, 4 missing; the same command with {name} goes on" in said
        assert "1 of 12" in cli("predict", *given, name, fails=True)[1] and len(told(folder)) == 12


def test_a_name_stands_for_one_source_model_and_process(cli, checkpoint, pictures, tmp_path):
    (pictures / "05.png").unlink()
    given = [f"runs={tmp_path}", "name=n", "draw=false"]
    model = checkpoint("classifier")
    cli("predict", f"model={model}", f"source={pictures}", *given)
    assert "11 images of it done before" in cli("predict", f"model={model}", f"source={pictures}", *given)[1]
    said = cli("predict", f"model={model}", f"source={pictures / '01.png'}", *given, fails=True)[1]
    assert "made with another source" in said
    said = cli("predict", f"model={model}", f"source={pictures}", "size=64", *given, fails=True)[1]
    assert "made with another size (null, not 64)" in said
    record = {key: prediction_files.read_record(tmp_path / "predict" / "n")[key] for key in ("model", "source")}
    with open_folder(str(tmp_path), "n", record)[1]:
        said = cli("predict", f"model={model}", f"source={pictures}", *given, fails=True)[1]
    assert "another process predicts there now" in said
    checkpoint("ssdlite")  # of the same name
    assert "made with another model" in cli("predict", f"model={model}", f"source={pictures}", *given, fails=True)[1]
    (tmp_path / "predict" / "other").mkdir()
    (tmp_path / "predict" / "other" / "a.txt").touch()
    said = cli("predict", f"model={model}", f"source={pictures}", *given, "name=other", fails=True)[1]
    assert "other files are there" in said


def test_what_was_broken_and_is_gone_is_no_longer_counted(cli, checkpoint, pictures, tmp_path, monkeypatch):
    given = [f"model={checkpoint('classifier')}", f"source={pictures}", f"runs={tmp_path}", "name=n", "draw=false"]
    assert "1 of 12 images could not be read" in cli("predict", *given, fails=True)[1]
    for name in ("05.png", "07.png"):
        (pictures / name).unlink()
    Image.new("RGB", (20, 20)).save(pictures / "20.png")
    Image.new("RGB", (20, 20)).save(pictures / "21.png")
    after(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    said = cli("predict", *given, "batch_size=1", fails=True)[1]
    assert "11 of 12 images are done, 1 missing" in said
    cli("predict", *given)


def test_16_bit_files_of_another_depth_are_told(cli, checkpoint, tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(np.full((20, 20), 4000, np.uint16)).save(tmp_path / "p" / "a.png")
    given = [f"model={checkpoint('classifier')}", f"source={tmp_path / 'p'}", f"runs={tmp_path}"]
    assert "their values use 12 bits, scaled by 16; depth=12 changes it" in cli("predict", *given, "name=1")[1]
    assert "16-bit" not in cli("predict", *given, "name=2", "depth=12")[1]
    means = [np.asarray(Image.open(tmp_path / "predict" / name / "pictures" / "a.png")).mean() for name in "12"]
    assert means[0] < 40 < 200 < means[1]


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(prediction_files.FileLock, "acquire", refuse)
    folder, _, complete = open_folder(str(tmp_path), "n", {})
    assert folder.is_dir() and not complete and "no locks on this disk" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_while_loading_and_a_reader_that_goes_leave_no_traceback(checkpoint, pictures, tmp_path):
    given = [f"model={checkpoint('classifier')}", f"source={pictures}", f"runs={tmp_path}", "draw=false"]
    loading = (
        "import os, runpy, signal, sys; from mnv2_tasks.predict import predictor\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = 'predict'\n"
        "predictor.usable_device = lambda name: os.kill(os.getpid(), signal.SIGINT)\n"
        "runpy.run_module('mnv2_tasks.predict', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", loading, *given], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr.strip() == "stopped by SIGINT"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mnv2_tasks.predict", *given, "name=g"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(told(tmp_path / "predict" / "g")) >= 5


def test_names_that_are_no_text_are_written_and_told_apart(cli, checkpoint, tmp_path):
    folder = os.fsencode(tmp_path / "p")
    os.mkdir(folder)
    names = [b"caf\xe9.png", rb"caf\xe9.png", b"new\nline.png", "línea.png".encode(), b"x" * 251 + b".png"]
    for name in names:
        try:
            Image.new("RGB", (20, 20)).save(os.fsdecode(os.path.join(folder, name)), "PNG")
        except OSError:
            pytest.skip("a file system that takes UTF-8 alone")
    model = checkpoint("classifier", "deeplabv3")
    cli("predict", f"model={model}", f"source={tmp_path / 'p'}", f"runs={tmp_path}", "name=n")
    written = [r"caf\xe9.png", r"caf\x5cxe9.png", r"new\x0aline.png", "línea.png", "x" * 251 + ".png"]
    assert sorted(told(tmp_path / "predict" / "n")) == sorted(written)
    assert sorted(labels(tmp_path / "predict" / "n" / "classifier")) == sorted(written)
    masks = os.listdir(os.fsencode(tmp_path / "predict" / "n" / "deeplabv3" / "masks"))
    assert len(masks) == 5 and {*names[:4]} < {*masks}


def test_a_full_disk_stops_it_and_loses_nothing(cli, checkpoint, pictures, tmp_path, monkeypatch):
    (pictures / "05.png").unlink()
    given = [f"model={checkpoint('deeplabv3')}", f"source={pictures}", f"runs={tmp_path}", "name=f", "batch_size=4"]
    replace, count = Path.write_bytes, 0

    def full(path, content):
        nonlocal count
        count += 1
        if count == 12:
            replace(path, content[:9])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return replace(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        code, said = cli("predict", *given, fails=True)
    folder = tmp_path / "predict" / "f"
    assert code == 2 and "No space left" in said and "then the same command with name=f goes on" in said
    assert 0 < len(told(folder)) < 11 and f"{len(told(folder))} of 11 images are done" in said
    assert all(path.stat().st_size > 60 for path in folder.rglob("*.png"))
    cli("predict", *given)
    assert len(told(folder)) == 11 == len(list((folder / "masks").iterdir())) == len(list(folder.glob("pictures/*")))


@pytest.mark.parametrize("head", ["ssdlite", "classifier"])
def test_a_disk_that_is_really_full(cli, checkpoint, pictures, tmp_path, head):
    (pictures / "05.png").unlink()
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.name != "posix"
        or os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", disk]).returncode
    ):
        pytest.skip("file systems cannot be mounted here")
    try:
        given = [f"model={checkpoint(head)}", f"source={pictures}", f"runs={disk}", "name=f", "batch_size=2"]
        said = cli("predict", *given, fails=True)[1]
        assert "No space left" in said and "the same command with name=f goes on" in said
        folder = disk / "predict" / "f"
        count = len(told(folder))
        assert count < 11 and not [path for path in folder.rglob("*.[pc]*") if not path.stat().st_size]
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        cli("predict", *given)
        assert len(told(folder)) == 11 and len(list((folder / "pictures").iterdir())) == 11
    finally:
        subprocess.run(["umount", disk], check=True)


def test_it_never_predicts_on_its_own_output(cli, checkpoint, pictures, tmp_path, monkeypatch):
    (pictures / "05.png").unlink()
    model, runs = checkpoint("deeplabv3"), pictures / "runs"
    (runs / "ssdlite").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(runs / "ssdlite" / "examples.png")
    cli("predict", f"model={model}", f"source={pictures}", f"runs={runs}", "name=1")
    (pictures / "latest").symlink_to(runs / "predict" / "1" / "pictures")
    (pictures / "one.png").symlink_to(runs / "predict" / "1" / "pictures" / "01.png")
    for name, source in enumerate((pictures, f"{pictures}/**/*.png"), 2):
        said = cli("predict", f"model={model}", f"source={source}", f"runs={runs}", f"name={name}")[1]
        assert "of earlier runs" in said and len(told(runs / "predict" / str(name))) == 11
    elsewhere = f"runs={tmp_path / 'x'}"
    cli("predict", f"model={model}", f"source={pictures}", elsewhere, "name=1")
    assert set(told(tmp_path / "x" / "predict" / "1")) == {*told(runs / "predict" / "1"), "runs/ssdlite/examples.png"}
    (runs / "predict" / "1" / "predict.json").unlink()  # as version 0.1 left it
    cli("predict", f"model={model}", f"source={pictures}", elsewhere, "name=2")
    old = {f"runs/predict/{name}" for name in "123"}
    assert not [name for name in told(tmp_path / "x" / "predict" / "2") if name.startswith(tuple(old))]
    assert (
        "an earlier prediction wrote it"
        in cli("predict", f"model={model}", f"source={runs}/predict/1/pictures", elsewhere, fails=True)[1]
    )
    (runs / "predict" / "1" / "predict.json").write_text('{"mnv2_tasks": "0.1.0"}', encoding="utf-8")
    for own in ("", "/pictures", "/masks/01.png"):
        source = f"source={runs / 'predict' / '1'}{own}"
        assert "an earlier prediction wrote it" in cli("predict", f"model={model}", source, elsewhere, fails=True)[1]


@pytest.mark.slow
def test_a_stopped_film_is_drawn_whole(cli, checkpoint, tmp_path, monkeypatch):
    film(tmp_path / "film.mp4")
    given = [f"model={checkpoint('ssdlite', 'classifier', 'deeplabv3')}", f"source={tmp_path / 'film.mp4'}"]
    given += [f"runs={tmp_path}", "batch_size=2"]
    with monkeypatch.context() as patch:
        after(patch, 4, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert "4 of 10 images are done, 6 missing" in cli("predict", *given, "name=v", fails=True)[1]
    folder = tmp_path / "predict" / "v"
    assert frames(folder / "classifier" / "film.mp4") == 4
    cli("predict", *given, "name=v")
    cli("predict", *given, "name=w")
    assert told(folder) == {f"film.mp4#{number}": number for number in range(10)}
    for head in ("ssdlite", "classifier", "deeplabv3"):
        assert frames(folder / head / "film.mp4") == 10
    for name in ("results.jsonl", "ssdlite/detections.json", "classifier/labels.csv", "deeplabv3/film.mp4"):
        assert (folder / name).read_bytes() == (tmp_path / "predict" / "w" / name).read_bytes()
    assert "nothing is left" in cli("predict", *given, "name=v")[1]
    row = json.loads((folder / "ssdlite" / "detections.json").read_text(encoding="utf-8"))[-1]
    assert row["time"] == 0.9 and row["image_id"] == 9


def test_a_camera_on_the_web_is_stopped_by_ctrl_c(cli, checkpoint, tmp_path, monkeypatch):
    pytest.importorskip("av")
    with serve("multipart/x-mixed-replace; boundary=f", endless=True) as address:
        given = [f"model={checkpoint('classifier')}", f"source={address}/video", f"runs={tmp_path}"]
        cli("predict", *given, "name=three", "frames=3")
        after(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGINT))
        cli("predict", *given, "name=c")
    assert len(labels(tmp_path / "predict" / "three")) == 3
    assert len(labels(tmp_path / "predict" / "c")) == 2 == frames(tmp_path / "predict" / "c" / "video.mp4")
