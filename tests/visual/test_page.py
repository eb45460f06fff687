"""Pages: one file that needs no other, with nothing of the data taken for HTML."""

import base64
import io
import math
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from mnv2_tasks.visual.page import WIDEST, Section, cell, embedded, write_page, write_report


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.56912, "0.5691"),
        (1234.5, "1,234.5"),
        (-0.0312, "-0.0312"),
        (1200000, "1,200,000"),
        (True, "yes"),
        (None, "–"),
        (math.nan, "–"),
        ("as it is", "as it is"),
    ],
)
def test_how_a_value_is_shown(value: object, shown: str) -> None:
    assert cell(value) == shown


def read(address: str) -> Image.Image:
    kind, _, content = address.partition(";base64,")
    assert kind == "data:image/webp"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_plot_is_kept_exactly_and_a_photo_small(tmp_path: Path) -> None:
    plot, photo = (
        np.full((40, 60, 3), 255, np.uint8),
        np.random.default_rng(0).integers(0, 256, (90, 2000, 3), np.uint8),
    )
    plot[10:20, 5:50] = (200, 30, 30)
    for name, pixels in (("plot", plot), ("photo", photo)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    assert (np.asarray(read(embedded(tmp_path / "plot.png"))) == plot).all()
    address = embedded(tmp_path / "photo.png")
    assert read(address).size == (WIDEST, 72) and len(address) < (tmp_path / "photo.png").stat().st_size


def test_a_report_holds_all_it_shows(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    sections = [
        Section("Left out"),
        Section("Kept", ["<script>alert(1)</script>"], titles=("class", "AP"), rows=[["a&b", 0.5], ["c", None]]),
        Section("Drawn", figures=[(tmp_path / "a.png", "a picture")], commands=[("what it does", "python train.py")]),
    ]
    path = tmp_path / "report.html"
    write_report(path, title="<b>", about="runs/a", numbers=[("AP", 0.25, "on val")], sections=sections)
    page = path.read_text(encoding="utf-8")
    assert "Left out" not in page and "<title>&lt;b&gt;</title>" in page and "<script>alert" not in page
    assert "a&amp;b" in page and 'data-value="0.5">0.5000' in page and "<code>python train.py</code>" in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_a_value_that_lacks_is_an_error_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "page.html", "report.html", {"title": "a"})
    assert not list(tmp_path.iterdir())
