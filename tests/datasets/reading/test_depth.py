"""16-bit files whose values use fewer bits: found from the training images, and the same for whoever reads later."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from refusal import refused

from mnv2_tasks.datasets.datamodule import DataModule
from mnv2_tasks.datasets.formats.imagefolder import ImageFolder
from mnv2_tasks.datasets.reading.images import find_depth, read_image
from mnv2_tasks.kinds import CLASSIFICATION
from mnv2_tasks.predict.predictor import as_image

GREY = np.linspace(0, 4095, 20 * 24).reshape(20, 24).astype(np.uint16)
COLOUR = np.stack([GREY, 4095 - GREY, GREY // 2], 2)


def png(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16 bits: grey (H, W), or RGB or RGBA (H, W, C), which PIL cannot write."""
    height, width, channels = (*values.shape, 1)[:3]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + pixels)
    return path


def tiff(path: Path, values: np.ndarray, order: str = "<") -> Path:
    """A TIFF of 16 bits, RGB (H, W, 3)."""
    height, width, channels = values.shape
    data, bits = values.astype(f"{order}u2").tobytes(), struct.pack(f"{order}3H", 16, 16, 16)
    tags = {256: width, 257: height, 258: 0, 259: 1, 262: 2, 273: 0, 277: channels, 278: height, 279: len(data)}
    start = 8 + 2 + 12 * len(tags) + 4
    tags |= {258: start, 273: start + len(bits)}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items() if tag != 258)
    entries = entries[:24] + struct.pack(f"{order}HHII", 258, 3, 3, start) + entries[24:]
    header = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    path.write_bytes(header + entries + struct.pack(f"{order}I", 0) + bits + data)
    return path


@pytest.mark.parametrize("kind", ["grey", "RGB", "RGBA", "TIFF", "TIFF, big end first", "TIFF, LZW"])
def test_values_are_scaled_by_their_depth(tmp_path: Path, kind: str) -> None:
    values = GREY if kind in ("grey", "TIFF, LZW") else COLOUR
    if kind == "TIFF, LZW":
        Image.fromarray(GREY).save(tmp_path / "a.tif", compression="tiff_lzw")
        path = tmp_path / "a.tif"
    elif kind.startswith("TIFF"):
        path = tiff(tmp_path / "a.tif", values, ">" if "big" in kind else "<")
    else:
        path = png(tmp_path / "a.png", np.dstack([COLOUR, GREY]) if kind == "RGBA" else values)
    assert find_depth([path]) == 12
    image = read_image(path, depth=12).permute(1, 2, 0).numpy()
    assert np.array_equal(image, (values >> 4) if values.ndim == 3 else np.repeat((values >> 4)[..., None], 3, 2))
    assert read_image(path).max() == 15 and read_image(path, depth=10).max() == 255
    assert as_image(path, depth=12).max() == 255


@pytest.mark.parametrize(
    ("largest", "depth"), [(200, 8), (1000, 10), (1023, 10), (1024, 12), (9000, 14), (16384, 16), (65535, 16)]
)
def test_the_fewest_bits_that_hold_all_values(tmp_path: Path, largest: int, depth: int) -> None:
    dark = png(tmp_path / "dark.png", np.full((20, 24), 3, np.uint16))
    assert find_depth([dark, png(tmp_path / "a.png", np.full((20, 24), largest, np.uint16))]) == depth


def test_a_tag_may_say_that_values_go_higher(tmp_path: Path) -> None:
    for tag, depth in ((4095, 12), (65535, 10)):
        Image.fromarray(GREY // 5).save(tmp_path / "a.tif", tiffinfo={281: tag})
        assert find_depth([tmp_path / "a.tif"]) == depth


def test_other_files_have_no_depth(tmp_path: Path) -> None:
    Image.new("RGB", (24, 20)).save(tmp_path / "a.png")
    Image.new("L", (24, 20)).save(tmp_path / "a.jpg")
    (tmp_path / "b.png").write_bytes(b"broken")
    assert find_depth([tmp_path / name for name in ("a.png", "a.jpg", "b.png", "none.png")]) is None
    assert find_depth([]) is None


def test_a_data_set_is_scaled_as_a_whole(tmp_path: Path) -> None:
    for name, largest in (("bright", 1400), ("dark", 300)):
        for i in range(6):
            png(tmp_path / name / f"{i}.png", np.linspace(0, largest, 480).reshape(20, 24).astype(np.uint16))
    make: Any = lambda **settings: DataModule(  # noqa: E731
        {"x": ImageFolder(tmp_path)}, {"classifier": CLASSIFICATION}, sizes={"x": (32, 32)}, **settings
    )
    data = make()
    assert data.find_depth() == 12
    data.scale_by(12)
    for side in ("train", "val"):
        split = data.split("x", side)
        tops = {split.class_names[split.label(i)]: int(split[i]["image"].max()) for i in range(len(split))}
        assert tops == {"bright": 87, "dark": 18}
    assert make(depth=12).split("x", "val")[0]["image"].max() in (87, 18)
    refused(lambda: make(depth=11), "depth=11", "10, 12, 14, 16")


@pytest.mark.slow
def test_a_model_keeps_the_depth_of_its_training(tmp_path: Path, cli: Any) -> None:
    import mnv2_tasks

    for name, largest in (("bright", 1400), ("dark", 300)):
        for i in range(8):
            png(tmp_path / "data" / name / f"{i}.png", np.full((40, 40), largest + i, np.uint16))
    tiny = ["size=32", "backbone.width=0.35", "loader.batch_size=4", "loader.workers=0", "examples=0", "name=a"]
    tiny += ["trainer.max_epochs=1", f"runs={tmp_path}"]
    _, printed = cli("train", "task=classifier", "data=imagefolder", f"data.root={tmp_path / 'data'}", *tiny)
    assert "16-bit files hold 12-bit values: scaled by 12 bits" in printed
    model = mnv2_tasks.load(tmp_path / "classifier" / "a" / "checkpoints" / "best.ckpt")
    assert model.depth == 12
