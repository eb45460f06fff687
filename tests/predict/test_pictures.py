"""Where pictures come from: files with several frames, huge ones, the web, films, arrays, links that lead nowhere."""

import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from builders import serve
from PIL import Image

import mnv2_tasks
from mnv2_tasks.datasets.reading.images import read_image
from mnv2_tasks.errors import InputError
from mnv2_tasks.predict.films import Video, is_moving, without_password
from mnv2_tasks.predict.pictures import Pictures, find
from mnv2_tasks.predict.predictor import as_image


def read(folder, *names):
    pictures = Pictures(folder, list(names))
    return pictures, list(pictures.read())


def test_every_frame_of_a_file_is_a_picture(tmp_path):
    shades = [Image.new("RGB", (30, 20), (40 * i, 0, 0)) for i in range(1, 6)]
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        shades[0].save(tmp_path / name, save_all=True, append_images=shades[1:], lossless=True)
    shades[0].save(tmp_path / "e.png")
    shades[0].save(tmp_path / "f.mpo", save_all=True, append_images=shades[1:2])
    for name in ("a.gif", "b.tif", "c.webp", "d.png"):
        pictures, rows = read(tmp_path, name, "e.png")
        assert [row.name for row in rows] == [*(f"{name}#{i}" for i in range(5)), "e.png"] and pictures.count == 6
        assert [round(row.image[0].float().mean().item() / 40) for row in rows] == [1, 2, 3, 4, 5, 1]
    assert [row.name for row in pictures.read({"d.png#0", "d.png#1", "d.png#2", "e.png"})] == ["d.png#3", "d.png#4"]
    pictures, rows = read(tmp_path, "f.mpo")
    assert [row.name for row in rows] == ["f.mpo"] and pictures.views == {"MPO": 1}
    (tmp_path / "cut.gif").write_bytes((tmp_path / "a.gif").read_bytes()[:-60])
    pictures, rows = read(tmp_path, "cut.gif", "e.png")
    assert [isinstance(row.image, InputError) for row in rows].count(False) >= 3 and rows[-1].name == "e.png"


def test_names_of_what_is_written_differ_where_disks_ignore_case_and_from_those_of_frames(tmp_path):
    shades = [Image.new("RGB", (30, 20), (40 * i, 0, 0)) for i in (1, 2)]
    shades[0].save(tmp_path / "a.gif", save_all=True, append_images=shades[1:])
    for name in ("a.gif#1.png", "b.PNG", "B.bmp", "c.png"):
        shades[0].save(tmp_path / name)
    stems = lambda *names: [row.stem for row in read(tmp_path, *names)[1]]  # noqa: E731
    assert stems("a.gif", "a.gif#1.png") == ["a.gif#0", "a.gif#1", "a.gif#1.png"]
    assert stems("B.bmp", "b.PNG") == ["B.bmp", "b.PNG"] and stems("B.bmp", "c.png") == ["B", "c"]


def test_no_other_program_draws_a_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was started"))
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n"
    (tmp_path / "a.jpg").write_text(text, encoding="utf-8")
    (row,) = read(tmp_path, "a.jpg")[1]
    assert "no image of a known format" in str(row.image)
    with pytest.raises(InputError, match="no image of a known format"):
        read_image(tmp_path / "a.jpg")


def test_folders_called_like_films_or_cameras_are_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "2024"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "a.png")
        assert [row.name for row in find(name).read()] == ["a.png"]


@pytest.mark.parametrize("suffix", ["avi", "mkv"])
def test_a_film_that_was_cut_says_so(suffix, tmp_path):
    av = pytest.importorskip("av")
    path, generator = tmp_path / f"v.{suffix}", np.random.default_rng(0)
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(40):
            frame = generator.integers(0, 256, (48, 64, 3), np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        made.mux(stream.encode())
    assert [row.time for row in Video(str(path)).read()][-1] == 3.9
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    *rows, last = Video(str(path)).read()
    assert 2 < len(rows) < 36 and "it breaks off after" in str(last.image) and "repair the film" in str(last.image)


def test_films_without_pictures_or_names_with_passwords(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as made:
        stream = made.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        made.mux(stream.encode(frame))
        made.mux(stream.encode())
    with pytest.raises(InputError, match="sound but no picture"):
        Video(str(tmp_path / "a.mp4"))
    with pytest.raises(InputError) as error:
        Video("http://me:secret@127.0.0.1:1/a.mp4")
    assert "secret" not in str(error.value)
    with pytest.raises(InputError) as error:
        find("http://me:secret@127.0.0.1:1/a.jpg")
    assert "secret" not in str(error.value) and "//127.0.0.1:1/a.jpg" in str(error.value)


def test_pages_that_belong_to_another_are_no_pictures(tmp_path):
    page, small = Image.new("RGB", (40, 30)), Image.new("RGB", (20, 15))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    page.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with Image.open(tmp_path / "a.tif") as opened:
        opened.seek(1)
        if opened.tag_v2.get(254) != 1:
            pytest.skip("this Pillow does not write what a page is")
    pictures, rows = read(tmp_path, "a.tif")
    assert [row.name for row in rows] == ["a.tif#0"] and pictures.count == 1 and pictures.views == {"TIFF": 1}


def test_what_is_no_picture_is_named_and_the_rest_read(tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "z.png")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "text.heic").write_text("x", encoding="utf-8")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
    pictures = find(str(tmp_path))
    rows = {row.name: row.image for row in pictures.read()}
    assert "268,435,456 pixels" in str(rows["bomb.png"]) and "no such image" in str(rows["gone.jpg"])
    assert rows["z.png"].shape == (3, 20, 20) and len(rows) == 3 == pictures.count
    assert pictures.left_out == {".heic": 1, **({"no regular file": 1} if hasattr(os, "mkfifo") else {})}
    for name in ("pipe.png", "pipe.mp4"):
        if hasattr(os, "mkfifo"):
            (tmp_path / "pipe.png").exists() or os.mkfifo(tmp_path / name)
            with pytest.raises(InputError, match="no regular file"):
                find(str(tmp_path / name))
            (tmp_path / "pipe.png").unlink(missing_ok=True)


def test_reading_ahead_is_bounded_by_bytes(tmp_path, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        "mnv2_tasks.predict.pictures.decode", lambda opened: decoded.append(opened) or torch.zeros(3, 8, 8)
    )
    for number in range(8):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{number}.png")
    names = sorted(path.name for path in tmp_path.iterdir())
    for limit, most in ((60_000, 3), (1, 2), (10**9, 8)):
        monkeypatch.setattr("mnv2_tasks.predict.pictures.AHEAD_BYTES", limit)
        decoded.clear()
        reader = Pictures(tmp_path, names).read()
        next(reader)
        assert len(decoded) <= most
        assert len(list(reader)) == 7


def test_pictures_from_the_web(monkeypatch):
    with serve("image/jpeg") as address:
        pictures = find(f"{address}/folder/a.jpg?size=3")
        assert [(row.name, row.stem, row.image.shape) for row in pictures.read()] == [("a.jpg", "a", (3, 48, 64))]
        monkeypatch.setattr("mnv2_tasks.predict.pictures.MOST_BYTES", 100)
        with pytest.raises(InputError, match="save it as a file first"):
            find(f"{address}/a.jpg")
        monkeypatch.undo()
    with serve("text/html", b"<html>") as address:
        (row,) = find(address).read()
        assert "no image of a known format" in str(row.image)
    with serve("image/jpeg", cut=5) as address, pytest.raises(InputError, match="breaks off after"):
        find(f"{address}/a.jpg")
    with pytest.raises(InputError, match="cannot be had"):
        find("http://127.0.0.1:1/a.jpg")
    assert is_moving("http://x/film.mp4?key=1") and not is_moving("http://x/a.jpg?of=film.mp4")
    assert without_password("rtsp://me:secret@host:1/live?x=1") == "rtsp://host:1/live?x=1"


def test_frames_come_at_their_times(tmp_path):
    av = pytest.importorskip("av")
    times = [0, 100, 200, 1200, 5000]
    with av.open(str(tmp_path / "v.mp4"), "w") as made:
        stream = made.add_stream("libx264", rate=1000, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 90, np.uint8), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            made.mux(stream.encode(frame))
        made.mux(stream.encode())
    assert [round(1000 * row.time) for row in Video(str(tmp_path / "v.mp4")).read()] == times
    assert [row.name for row in Video(str(tmp_path / "v.mp4"), 2).read()] == ["v.mp4#0", "v.mp4#1"]


def test_any_picture_of_python_is_taken(tmp_path):
    generator = np.random.default_rng(0)
    rgb = generator.integers(0, 256, (30, 40, 3), np.uint8)
    whole = as_image(rgb)
    assert whole.shape == (3, 30, 40) and torch.equal(as_image(whole), whole)
    grey = torch.from_numpy(rgb[:, :, 0]).expand(3, -1, -1)
    for same in (rgb[:, :, 0], rgb[:, :, :1], torch.from_numpy(rgb[:, :, 0]), Image.fromarray(rgb[:, :, 0])):
        assert torch.equal(as_image(same), grey)
    alpha = np.concatenate([rgb, rgb[:, :, :1]], 2)
    assert torch.equal(as_image(alpha), whole) and torch.equal(as_image(Image.fromarray(alpha)), whole)
    for mode in ("1", "L", "LA", "P", "CMYK", "YCbCr", "HSV", "I", "I;16", "RGBX"):
        assert as_image(Image.new(mode, (40, 30))).shape == (3, 30, 40)
    turn = Image.Exif()
    turn[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=turn)
    turned = as_image(tmp_path / "a.png")
    assert turned.shape == (3, 40, 30) and torch.equal(as_image(Image.open(tmp_path / "a.png")), turned)
    for wrong in (rgb / 255, rgb.astype(np.uint16), rgb[:, :0], rgb.transpose(2, 0, 1), rgb[None, None], None, [1, 2]):
        with pytest.raises(InputError, match="an image must be"):
            as_image(wrong)
    with pytest.raises(InputError, match="bring values of 0..1"):
        as_image(torch.zeros(3, 8, 8))


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
def test_thin_pictures_keep_their_own_pixels(fit, checkpoint, tmp_path):
    predictor = mnv2_tasks.load(checkpoint("ssdlite", "classifier", "deeplabv3", fit=fit))
    for size in ((300, 5), (1, 1), (1, 300)):
        picture = Image.new("RGB", size)
        picture.save(tmp_path / "a.png")
        for one in (tmp_path / "a.png", picture, np.asarray(picture)):
            (row,) = predictor.predict(one)
            assert row["deeplabv3"]["mask"].shape == size[::-1]
            assert (row["ssdlite"]["boxes"] <= torch.tensor(size * 2)).all()
        assert len(predictor.draw(as_image(picture), row)) == 3


def test_settings_are_checked_at_once(cli, checkpoint, tmp_path):
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    given = {"model": checkpoint("classifier"), "source": tmp_path / "a.png", "runs": tmp_path}
    for key, value, said in (
        ("model", None, "model is not given"),
        ("source", None, "source is not given"),
        ("source", "", "source is not given"),
        ("source", "null", "source is not given"),
        ("batch_size", "0", "batch_size=0: use a whole number above 0"),
        ("batch_size", "x", "batch_size=x: use"),
        ("frames", "-1", "frames=-1: use"),
        ("threads", "0", "threads=0: use"),
        ("size", "[1,2,3]", "use a side or [height, width]"),
        ("depth", "11", "depth=11: the values of 16-bit files use"),
        ("name", "''", "give the folder for these results a name"),
        ("draw", "maybe", "draw=maybe: use true or false"),
        ("device", "banana", "device=banana: cannot be used here"),
        ("device", "meta", "device=meta: cannot be used here"),
    ):
        overrides = [f"{k}={v}" for k, v in {**given, key: value}.items() if v is not None]
        code, line = cli("predict", *overrides, fails=True)
        assert code == 2 and said in line and line.count("\n") == 1
    assert not (tmp_path / "predict").exists()
