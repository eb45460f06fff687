"""Boxes, sheets and plots: what is drawn where, and that odd data still gives a picture."""

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from mnv2_tasks.backbone import Tap
from mnv2_tasks.heads.ssdlite import SSDLite
from mnv2_tasks.training.example_pictures import example_sheet
from mnv2_tasks.visual.classification_plots import plot_class_bars
from mnv2_tasks.visual.confusion import _count, plot_confusion
from mnv2_tasks.visual.curves import _curve, plot_losses, plot_scores
from mnv2_tasks.visual.detection_plots import plot_precision_recall
from mnv2_tasks.visual.drawing import _inside, _place, draw_boxes, load_font, palette, sheet, shorten_text
from mnv2_tasks.visual.figure import ends
from mnv2_tasks.visual.segmentation_plots import plot_iou

CLASSES = ("cat", "dog", "кот café $x$")


def grey(height: int, width: int) -> Tensor:
    return torch.full((3, height, width), 100, dtype=torch.uint8)


def is_colour(picture: Tensor, colour: tuple[int, int, int]) -> Tensor:
    return (picture == torch.tensor(colour, dtype=torch.uint8)[:, None, None]).all(dim=0)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.array(image.convert("RGB"))
    assert min(pixels.shape[:2]) > 200 and 0.001 < (pixels.min(axis=2) < 250).mean() < 0.95
    return pixels


def test_palette_is_distinct_and_stable() -> None:
    assert palette(0) == [] and palette(5) == palette(300)[:5]
    assert len(set(palette(300))) == 300
    colours = np.array(palette(80), dtype=float)
    gaps = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(80)
    assert gaps[:21, :21].min() > 30 and gaps.min() > 8


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 96), (256, 384)),
        ((300, 400), (300, 400)),
        ((960, 1280), (480, 640)),
        ((20, 1000), (13, 640)),
        ((40, 300), (85, 640)),
        ((1, 1), (256, 256)),
    ],
)
def test_picture_size(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = grey(*size)
    drawn = draw_boxes(image, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([0]), CLASSES)
    assert drawn.dtype == torch.uint8 and drawn.shape == (3, *shown)
    assert (image == 100).all(), "the given image stays as it is"


def test_box_lies_where_it_should_in_its_class_colour() -> None:
    boxes = torch.tensor([[20.0, 30.0, 60.0, 50.0]])
    drawn = draw_boxes(grey(64, 96), boxes, torch.tensor([1]), CLASSES, scores=torch.tensor([0.5]))
    frame = is_colour(drawn, palette(3)[1])
    x1, y1, x2, y2 = 80, 120, 240, 200  # four times as large
    assert frame[y1, x1:x2].all() and frame[y2 - 1, x1:x2].all()
    assert frame[y1:y2, x1].all() and frame[y1:y2, x2 - 1].all()
    assert not frame[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].any(), "the inside stays visible"
    rows, columns = frame.nonzero(as_tuple=True)
    assert (rows.max(), columns.min(), columns.max()) == (y2 - 1, x1, x2 - 1)
    assert 100 < rows.min() < y1, "the label stands on the box"
    assert (drawn[:, : int(rows.min())] == 100).all() and (drawn[:, y2:] == 100).all()


def test_crowd_is_dashed() -> None:
    boxes, labels = torch.tensor([[50.0, 50.0, 250.0, 250.0]]), torch.tensor([0])
    drawn = draw_boxes(grey(300, 300), boxes, labels, CLASSES, crowd=torch.tensor([True]))
    edge = is_colour(drawn, palette(1)[0])[249, 50:250]
    assert 0.3 < edge.float().mean() < 0.7


@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_label_is_whole_at_the_border(corner: tuple[int, int]) -> None:
    x, y = 380 * corner[0], 280 * corner[1]
    box = torch.tensor([[x - 5.0, y - 5.0, x + 25.0, y + 25.0]])
    drawn = draw_boxes(grey(300, 400), box, torch.tensor([0]), ("a rather long name",))
    middle = draw_boxes(grey(300, 400), box * 0 + 150, torch.tensor([0]), ("a rather long name",))
    colour = palette(1)[0]
    ink = (middle == 0).all(dim=0).sum()
    assert ink > 50 and (drawn == 0).all(dim=0).sum() >= ink
    assert is_colour(drawn, colour).sum() >= is_colour(middle, colour).sum()


def test_label_places_stay_inside_and_avoid_each_other() -> None:
    taken: list[tuple[int, int, int, int]] = []
    for _ in range(4):
        x1, y1, x2, y2 = place = _place((300, 0, 400, 90), (120, 20), (400, 300), taken)
        assert 0 <= x1 < x2 <= 400 and 0 <= y1 < y2 <= 300
        taken.append(place)
    assert len(set(taken)) > 1 and taken[0][1] == 0


def test_no_boxes_and_boxes_that_show_nothing() -> None:
    empty = draw_boxes(grey(300, 300), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), CLASSES)
    assert (empty == 100).all()
    nan, inf = math.nan, math.inf
    odd = torch.tensor([[nan, 0, 9, 9], [0, 0, inf, 9], [400, 0, 500, 9], [-9, -9, -1, -1], [90, 9, 10, 99]])
    drawn = draw_boxes(grey(300, 300), odd, torch.zeros(5, dtype=torch.int64), CLASSES, scores=torch.ones(5))
    assert (drawn == 100).all()
    assert _inside(torch.tensor([10.2, 10.2, 10.3, 10.3]), (50, 50)) == (10, 10, 11, 11)
    assert _inside(torch.tensor([-5.0, 48.0, 60.0, 60.0]), (50, 50)) == (0, 48, 50, 50)


def test_long_and_unicode_names_fit() -> None:
    font = load_font(14)
    assert shorten_text("a\nb", font, 100) == "a b"
    cut = shorten_text("x" * 300, font, 120, tail=" 0.50")
    assert cut.endswith("… 0.50") and font.getlength(cut) <= 120
    names = ("猫 🐈", "Ångström", "", "x" * 300)
    boxes = torch.rand(4, 2).repeat(1, 2) * 90 + torch.tensor([0.0, 0.0, 30.0, 30.0])
    assert draw_boxes(grey(120, 120), boxes, torch.arange(4), names).shape == (3, 256, 256)


def test_sheet_puts_pairs_two_a_row_in_cells_of_equal_width() -> None:
    red, blue = torch.zeros(3, 200, 300, dtype=torch.uint8), torch.zeros(3, 200, 300, dtype=torch.uint8)
    red[0], blue[2] = 255, 255
    tall = torch.zeros(3, 300, 150, dtype=torch.uint8)
    one = sheet([(red, blue)])
    three = sheet([(red, blue), (tall, tall), (red, blue)])
    assert 600 < one.width < 640 and 200 < one.height < 260
    assert 1200 < three.width < 1280 and 500 < three.height < 620  # the second row is as low as its own pictures
    headed = sheet([(red, blue)], heading="predictions: score at least 0.4")
    assert headed.width == one.width and headed.height > one.height
    assert (np.array(headed)[: headed.height - one.height].min(axis=2) < 120).any()
    pixels = np.array(three)
    assert (pixels[:, -2:] == 255).all() and (pixels[-2:] == 255).all()
    for rgb, area in (((255, 0, 0), 2 * 200 * 300), ((0, 0, 255), 2 * 200 * 300)):
        assert (pixels == rgb).all(axis=2).sum() == area
    red_columns = np.flatnonzero((pixels == (255, 0, 0)).all(axis=2).any(axis=0))
    blue_columns = np.flatnonzero((pixels == (0, 0, 255)).all(axis=2).any(axis=0))
    assert red_columns.max() < blue_columns.min() < three.width / 2, "truth left, prediction right"
    assert (pixels[:40].min(axis=2) < 50).any(), "headings"
    assert sheet([]).width > 256


def rows(epochs: int) -> list[dict[str, float]]:
    return [
        {
            "epoch": e,
            "train/loss": 5 / (e + 1),
            "ssdlite/train/loss": 4 / (e + 1),
            "ssdlite/train/box_loss": 1 / (e + 1),
            "ssdlite/val/loss": 4.5 / (e + 1),
            "classifier/val/loss": 2.0,
            "ssdlite/val/map": 0.1 * e,
        }
        for e in range(epochs)
    ]


@pytest.mark.parametrize("epochs", [0, 1, 3, 40])
def test_curves_over_epochs(epochs: int, tmp_path: Path) -> None:
    plot_losses(rows(epochs), tmp_path / "losses.png")
    plot_scores(rows(epochs), tmp_path / "scores.png", names=["ssdlite/val/map", "not/there"])
    for name in ("losses.png", "scores.png"):
        pixels = read(tmp_path / name)
        coloured = (np.ptp(pixels.astype(int), axis=2) > 80).sum()
        assert (coloured > 50) == (epochs > 0)


def test_curves_with_gaps(tmp_path: Path) -> None:
    gaps: list[dict] = [
        *rows(4),
        {"epoch": 4},
        {"epoch": 5, "ssdlite/val/map": math.nan, "train/loss": math.inf},
    ]
    gaps[1]["ssdlite/val/loss"], gaps[2]["ssdlite/val/map"] = "", None
    gaps[3]["never/val/loss"] = math.nan
    plot_losses(gaps, tmp_path / "losses.png")
    plot_scores(gaps, tmp_path / "scores.png", names=["ssdlite/val/map"])
    read(tmp_path / "losses.png"), read(tmp_path / "scores.png")
    epochs, values = _curve(gaps, "ssdlite/val/map")
    assert epochs.tolist() == [0, 1, 3] and values == pytest.approx([0, 0.1, 0.3])
    assert _curve([{"a": 1.0}, {"a": 2.0}], "a")[0].tolist() == [0, 1], "no epoch: the place counts"


@pytest.mark.parametrize("n", [1, 3, 20, 80])
def test_precision_recall(n: int, tmp_path: Path) -> None:
    names = tuple(rf"_$\frac{i}$" for i in range(n))  # would be broken mathematics
    recall = np.linspace(0, 1, 101)[:, None]
    precision = np.clip(1.2 - recall - np.linspace(0, 0.8, n), 0, 1)
    if n > 1:
        precision[:, 1] = np.nan
    plot_precision_recall(precision, names, tmp_path / "a.png")
    assert (read(tmp_path / "a.png") < 60).any()
    plot_precision_recall(precision * np.nan, names, tmp_path / "none.png")
    read(tmp_path / "none.png")


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("n", [1, 3, 80])
def test_confusion(n: int, background: bool, tmp_path: Path) -> None:
    matrix = np.diag(np.arange(n + background) * 1000)
    matrix[0, -1] = 7
    plot_confusion(matrix, tuple(f"${i}" for i in range(n)), tmp_path / "c.png", background=background)
    pixels = read(tmp_path / "c.png").astype(int)
    assert (pixels[..., 2] - pixels[..., 0] > 60).sum() > 1000, "cells are blue"
    with pytest.raises(AssertionError, match="background"):
        plot_confusion(matrix, tuple("x" * n), tmp_path / "d.png", background=not background)


def test_predictions_of_no_object_are_never_the_darkest(tmp_path: Path) -> None:
    dark = []
    for false in (0, 7):
        matrix = np.array([[5, 3, 0], [2, 9, 0], [false, 0, 0]])
        plot_confusion(matrix, ("cat", "dog"), tmp_path / "c.png", background=True, title="score at least 0.5")
        pixels = read(tmp_path / "c.png").astype(int)
        dark.append(int(((pixels[..., 2] - pixels[..., 0] > 60) & (pixels[..., 0] < 120)).sum()))
    assert dark[0] == pytest.approx(dark[1], rel=0.02) and dark[0] > 1000
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        "truth / prediction,cat,dog,background", "cat,5,3,0", "dog,2,9,0", "background,7,0,0",
    ]  # fmt: skip


def test_of_many_classes_the_best_and_the_worst_are_drawn_and_all_are_in_the_table(tmp_path: Path) -> None:
    n = 200
    names = tuple(f"class {i}, its name" for i in range(n))
    matrix = np.diag(np.arange(n)) + np.eye(n, k=1, dtype=int)
    plot_confusion(matrix, names, tmp_path / "confusion.png")
    plot_iou(matrix, names, tmp_path / "iou.png")
    plot_class_bars(np.linspace(0, 1, n), np.arange(n), names, tmp_path / "accuracy.png", of="accuracy")
    for name, rows in (("confusion", n), ("iou", n), ("accuracy", n - 1)):  # the first class has no image
        assert max(read(tmp_path / f"{name}.png").shape) < 3200  # sixty names at 0.3 inches, 150 dots each
        with (tmp_path / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            table = list(csv.reader(file))
        assert len(table) == 1 + rows and {row[0] for row in table[1:]} == set(names[n - rows :])
    assert ends(list(range(100))) == [*range(30), *range(70, 100)] and ends([3, 1]) == [3, 1]


def test_counts_fit_their_cells() -> None:
    assert [_count(n) for n in (7, 9999, 10_000, 999_400, 999_999, 3_200_000)] == [
        "7", "9999", "10k", "999k", "1M", "3M",
    ]  # fmt: skip
    assert len(_count(4e12)) <= 5


def titles(figure) -> str:
    """Everything that is written on a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that are saved, in order."""
    saved = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: saved.append(figure))
    return saved


def test_thresholds_stand_on_the_pictures_that_they_decide(figures, tmp_path: Path, monkeypatch) -> None:
    head = SSDLite({"c4x": Tap(576, 16), "c5x": Tap(1280, 32)}, 2)
    assert head.kind.drawn == "score at least 0.4" and head.ranked == "by F1 at score 0.5, IoU 0.5"
    metric = head.metrics(("cat", "dog"))
    box, label = torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0])
    truth = {"image_id": 0, "boxes": box, "labels": label, "crowd": label > 0, "area": torch.tensor([81.0])}
    metric.update([{"boxes": box, "scores": torch.tensor([0.9]), "labels": label}], [truth])
    metric.compute()
    head.plot(metric, ("cat", "dog"), tmp_path)
    curves, confusion = figures
    assert "IoU is at least 0.5" in titles(curves) and "score at least 0.5, IoU at least 0.5" in titles(confusion)
    headings = []
    page = Image.new("L", (1, 1))
    monkeypatch.setattr("mnv2_tasks.visual.drawing.sheet", lambda pairs, *, heading: headings.append(heading) or page)
    module = SimpleNamespace(model=SimpleNamespace(heads={"ssdlite": head}), classes={"ssdlite": ("cat", "dog")})
    example_sheet(module, "ssdlite", [], tmp_path / "worst.png", heading=f"the worst {head.ranked}; ")
    assert headings == ["the worst by F1 at score 0.5, IoU 0.5; predictions: score at least 0.4"]


def test_a_curve_ends_with_the_recall_that_its_class_reaches(figures, tmp_path: Path) -> None:
    precision = np.zeros((101, 3))
    precision[:31, 0] = precision[:81, 1] = 0.5
    plot_precision_recall(precision, ("cat", "dog", "cow"), tmp_path / "a.png")
    mean, *curves = figures[0].axes[0].lines
    assert [len(curve.get_xdata()) for curve in (mean, *curves)] == [101, 81, 31, 1]
    assert len({curve.get_linestyle() for curve in curves}) == 3
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == ["class", "dog", "cat", "cow"]


def test_scores_of_several_tasks_have_a_panel_each(figures, tmp_path: Path) -> None:
    table = [{"epoch": e, "a/val/x": 0.5, "a/val/y": 0.5, "b/val/x": 0.5} for e in range(3)]
    plot_scores(table, tmp_path / "scores.png", names=["a/val/x", "a/val/y", "b/val/x"])
    first, second = figures[0].axes
    assert first.get_title() == "a" and second.get_title() == "b"
    assert len({line.get_linestyle() for line in first.lines if line.get_marker() != "*"}) == 2


def test_matplotlib_says_nothing_of_its_fonts(tmp_path: Path) -> None:
    code = (
        "import logging; logging.basicConfig(level=logging.INFO)"
        "\nimport mnv2_tasks.metrics.detection, mnv2_tasks.visual.curves"
    )
    code += "\nimport matplotlib.font_manager"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MPLCONFIGDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "font" not in done.stdout + done.stderr
    assert list(tmp_path.glob("fontlist*")), "the fonts were listed in this process"


def test_plots_leave_the_global_state_alone(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    plot_losses(rows(2), tmp_path / "losses.png")
    assert plt.get_fignums() == []


def test_wandb_pictures_of_several_sizes_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from mnv2_tasks.kinds import DETECTION
    from mnv2_tasks.training.example_pictures import Example
    from mnv2_tasks.training.loggers import wandb_image

    image = torch.full((3, 30, 40), 9, dtype=torch.uint8)
    boxes = {"boxes": torch.tensor([[0.0, 0.0, 32.0, 48.0]]), "labels": torch.tensor([0])}
    whole = Example(image, (48, 64), {"det": boxes}, {"det": boxes | {"scores": torch.tensor([0.9])}})
    shown = wandb_image(whole, "det", DETECTION, ("cat",), (60, 50))
    assert (shown.image.size, shown.image.getpixel((39, 29)), shown.image.getpixel((40, 29))) == (
        (50, 60),
        (9, 9, 9),
        (0, 0, 0),
    )
    (box,) = shown._boxes["predictions"]._val
    assert box["position"] == {"minX": 0.0, "minY": 0.0, "maxX": 0.4, "maxY": 0.5}
