"""Reading images: odd but valid files, and broken ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from places import SHARED
from torchvision import tv_tensors

from mnv2_tasks.datasets.reading import images
from mnv2_tasks.datasets.reading.images import check_image, check_images, image_size, read_image
from mnv2_tasks.errors import InputError


def gradient(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, 0 * x], -1).astype(np.uint8))


def save(folder: Path, image: Image.Image, name: str = "image.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def message(raised: pytest.ExceptionInfo[InputError]) -> str:
    text = str(raised.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    white = Image.new("RGB", (30, 20), "white").convert(mode)
    image = read_image(save(tmp_path, white))
    assert isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
    assert image.shape == (3, 20, 30) and image.is_contiguous()
    assert (image == 255).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    image = read_image(save(tmp_path, Image.new("CMYK", (30, 20), (0, 255, 255, 0)), "red.jpg"))
    assert image.float().mean((1, 2)).tolist() == pytest.approx([255, 0, 0], abs=12)


def test_palette_with_transparency_does_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = save(tmp_path, gradient(20, 30).convert("P"), transparency=bytes(range(256)))
    assert read_image(path).shape == (3, 20, 30)
    assert not recwarn.list


@pytest.mark.parametrize(("name", "dtype"), [("a.png", "<u2"), ("a.tif", "<u2"), ("a.tif", ">u2"), ("a.tif", "<i4")])
def test_16_bit_values_keep_their_upper_byte(tmp_path: Path, name: str, dtype: str) -> None:
    values = np.tile(np.array([0, 255, 256, 32768, 65535]), (20, 4))
    path = save(tmp_path, Image.fromarray(values.astype(dtype)), name)
    assert read_image(path)[:, 0, :5].tolist() == [[0, 0, 1, 128, 255]] * 3


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="8 or 16 bits") as raised:
        read_image(save(tmp_path, Image.new("F", (20, 20)), "a.tif"))
    assert "a.tif" in message(raised)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_agrees_with_pil(tmp_path: Path, orientation: int, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, gradient(24, 40), name, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), upright)
    assert image_size(path) == upright.shape[:2]
    check_image(path, declared=upright.shape[:2])
    check_image(path, declared=(24, 40))


def test_exif_rotation_follows_the_declared_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = gradient(24, 40)
    path = save(tmp_path, stored, exif=exif)
    assert np.array_equal(read_image(path, declared=(24, 40)).permute(1, 2, 0).numpy(), np.asarray(stored))
    assert read_image(path, declared=(40, 24)).shape == (3, 40, 24)
    for look in (read_image, check_image):
        with pytest.raises(InputError) as raised:
            look(path, declared=(48, 80))
        assert all(part in message(raised) for part in ("image.png", "40x24", "24x40", "80x48", "correct"))


def test_square_image_with_exif_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    stored = gradient(20, 20)
    image = read_image(save(tmp_path, stored, exif=exif), declared=(20, 20))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(stored)[::-1, ::-1])


@pytest.mark.parametrize(("size", "shape"), [((1, 50), (50, 16)), ((50, 1), (16, 50)), ((1, 1), (16, 16))])
def test_thin_images_are_stretched(tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]) -> None:
    image = read_image(save(tmp_path, Image.new("RGB", size, (9, 8, 7))), declared=size[::-1])
    assert image.shape == (3, *shape)
    assert image.unique(dim=1).unique(dim=2).flatten().tolist() == [9, 8, 7]


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (W, H) of every image whose pixels are decoded from now on."""
    sizes: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def spy(self: ImageFile.ImageFile) -> object:
        sizes.append(self.size)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", spy)
    return sizes


def test_huge_jpeg_is_decoded_at_an_eighth(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, Image.new("L", (16000, 12000), 200), "huge.jpg")  # PIL alone refuses it as a bomb
    sizes = decoded(monkeypatch)
    check_image(path, declared=(12000, 16000))
    assert not sizes
    image = read_image(path, declared=(12000, 16000), max_side=1000)
    assert max(sizes) == (2000, 1500)
    assert image.shape == (3, 750, 1000) and (image == 200).all()
    assert not recwarn.list


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize(("size", "shape"), [((300, 200), (67, 100)), ((90, 60), (60, 90)), ((4000, 2), (16, 100))])
def test_long_side_is_reduced(tmp_path: Path, size: tuple[int, int], shape: tuple[int, int], name: str) -> None:
    path = save(tmp_path, Image.new("RGB", size, (90, 80, 70)), name)
    assert read_image(path, max_side=100).shape == (3, *shape)


def broken(folder: Path, kind: str) -> Path:
    path = save(folder, gradient(200, 300), "bad.png" if kind == "truncated png" else "bad.jpg")
    if kind.startswith("truncated"):
        path.write_bytes(path.read_bytes()[:-500])
    else:
        path.write_bytes({"empty": b"", "text": b"404: not found"}[kind])
    return path


@pytest.mark.parametrize("look", [read_image, check_image, lambda path: check_images([path])])
@pytest.mark.parametrize("kind", ["truncated jpeg", "truncated png", "empty", "text"])
def test_broken_files_are_named(tmp_path: Path, kind: str, look) -> None:
    with pytest.raises(InputError) as raised:
        look(broken(tmp_path, kind))
    assert "bad." in message(raised) and "replace it, or remove it" in message(raised)


@pytest.mark.parametrize("look", [read_image, check_image, image_size])
def test_missing_file_is_named(tmp_path: Path, look) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg: no such image"):
        look(tmp_path / "gone.jpg")


def test_bytes_after_the_end_of_a_jpeg_are_harmless(tmp_path: Path) -> None:
    path = save(tmp_path, gradient(20, 30), "image.jpg")
    path.write_bytes(path.read_bytes() + bytes(10_000))
    check_image(path)
    assert read_image(path).shape == (3, 20, 30)


def test_check_images_counts_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = save(tmp_path, gradient(20, 30), "good.jpg"), broken(tmp_path, "text")
    check_images([])
    check_images([good, good], declared=[(20, 30), None])
    with pytest.raises(InputError, match="a.jpg.*2 of 4 images are missing"):
        check_images([good, tmp_path / "a.jpg", bad, tmp_path / "no folder" / "b.jpg"])
    with pytest.raises(InputError, match=r"bad\.jpg.*\(2 of 3 images are bad\)"):
        check_images([good, bad, bad])
    with pytest.raises(InputError, match="declare 31x20"):
        check_images([good], declared=[(20, 31)])
    monkeypatch.setattr(images, "MAX_CHECKED", 2)
    check_images([good, bad, bad])  # beyond the limit, only existence counts
    with pytest.raises(InputError, match="missing"):
        check_images([good, bad, tmp_path / "a.jpg"])


@pytest.mark.skipif(not (SHARED / "data" / "bccd").is_dir(), reason="needs the BCCD data set")
def test_checking_bccd_decodes_no_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted((SHARED / "data" / "bccd" / "images").iterdir())
    sizes = decoded(monkeypatch)
    check_images(paths)
    assert len(paths) == 364 and not sizes
