"""Pictures for people: boxes and class names drawn on images, and sheets of truth beside prediction."""

import colorsys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SHORT_SIDE = 256  # an image with a shorter side is enlarged until its labels can be read
LONG_SIDE = 640  # and never made larger than this
MARGIN = 8
Colour = tuple[int, int, int]
PLAIN: Colour = (64, 64, 64)  # under words that are no class
Box = tuple[int, int, int, int]  # x1, y1, x2, y2; the right and lower edges are outside, as in a slice
# Okabe and Ito, "Color Universal Design" (2008), without black.
OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def palette(n: int) -> list[Colour]:
    """`n` RGB colours; colour `i` is the same for every `n`, so a class keeps its colour.

    The first seven are Okabe and Ito's. The next ones step around the hues and cycle through four
    lightnesses, which every kind of colour vision sees; the numbers come from a search for wide gaps in
    CIELAB among the first 12, 21 and 80.
    """
    colours = list(OKABE_ITO[: max(0, n)])
    for i in range(len(colours), n):
        rgb = colorsys.hls_to_rgb((0.1 + i * 0.5698403) % 1, (0.45, 0.8, 0.6, 0.3)[i % 4], 0.8)
        colours.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return colours


def draw_boxes(
    image: Tensor,
    boxes: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    scores: Tensor | None = None,
    crowd: Tensor | None = None,
) -> Tensor:
    """Boxes with class names (and scores) on an image.

    image uint8 (3, H, W); boxes (N, 4) xyxy in pixels of `image`; labels (N,) int64 into `classes`; scores
    (N,); crowd (N,) bool, drawn dashed. Returns uint8 (3, H', W') on the CPU: the image enlarged until its
    short side has 256 pixels or reduced until its long side has 640, the second winning. Every given box is
    drawn, so drop the weak ones first; boxes that are not finite or lie wholly outside the image are left
    out. Labels stay inside the picture.
    """
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3, "image: uint8 (3, H, W)"
    assert len(boxes) == len(labels), "one label a box"
    assert scores is None or len(scores) == len(boxes), "one score a box"
    picture = fit_view(to_pil(image))
    stretch = torch.tensor([picture.width / image.shape[2], picture.height / image.shape[1]]).repeat(2)
    corners = torch.as_tensor(boxes).detach().cpu().float().reshape(-1, 4) * stretch
    # Strong boxes, or small ones when there are no scores, choose their label's place first and lie on top.
    small = -(corners[:, 2:] - corners[:, :2]).prod(dim=1)
    rank = small if scores is None else scores.detach().cpu().float()
    colours = palette(len(classes))
    font = load_font(round(min(max(max(picture.size) / 36, 13), 18)))
    line = 2 if max(picture.size) < 400 else 3

    marks: list[tuple[Box, Colour, bool]] = []
    tags: list[tuple[Box, Colour, str]] = []
    for i in rank.argsort(descending=True).tolist():
        box = _inside(corners[i], picture.size)
        if box is None:
            continue
        index = int(labels[i])
        assert 0 <= index < len(classes), f"label {index} for {len(classes)} classes"
        dashed = crowd is not None and bool(crowd[i])
        tail = (" (crowd)" if dashed else "") + (f" {float(scores[i]):.2f}" if scores is not None else "")
        text = shorten_text(classes[index], font, round(picture.width * 0.7), tail=tail)
        size = (int(font.getlength(text)) + 8, sum(font.getmetrics()) + 2)
        tags.append((_place(box, size, picture.size, [tag[0] for tag in tags]), colours[index], text))
        marks.append((box, colours[index], dashed))

    pen = ImageDraw.Draw(picture)
    for box, colour, dashed in reversed(marks):
        _outline(pen, box, colour, width=line, dashed=dashed)
    for (x1, y1, x2, y2), colour, text in reversed(tags):
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colour)
        pen.text((x1 + 4, y1 + 1), text, fill=ink_on(colour), font=font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def draw_label(
    image: Tensor, labels: Tensor, classes: tuple[str, ...], *, scores: Tensor | None = None, empty: str = "none"
) -> Tensor:
    """Class names (and scores) in the top left corner, each on its class's colour.

    image uint8 (3, H, W); labels (N,) int64 into `classes`, from top to bottom; scores (N,); `empty` stands there
    without labels. Returns uint8 (3, H', W') on the CPU, of the size that `draw_boxes` gives. Names that do not fit
    are cut, and lines that do not fit are counted.
    """
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3, "image: uint8 (3, H, W)"
    assert scores is None or len(scores) == len(labels), "one score a label"
    picture = fit_view(to_pil(image))
    colours = palette(len(classes))
    font = load_font(round(min(max(max(picture.size) / 28, 14), 20)))
    height = sum(font.getmetrics()) + 2
    lines: list[tuple[str, str, Colour]] = []
    for i, index in enumerate(labels.tolist()):
        tail = f" {float(scores[i]):.2f}" if scores is not None else ""
        lines.append((classes[index], tail, colours[index]))
    room = max(1, picture.height // height)
    if len(lines) > room:
        lines = [*lines[: room - 1], (f"{len(lines) - room + 1} more", "", PLAIN)]
    pen = ImageDraw.Draw(picture)
    for row, (name, tail, colour) in enumerate(lines or [(empty, "", PLAIN)]):
        text = shorten_text(name, font, picture.width - MARGIN, tail=tail)
        pen.rectangle((0, row * height, int(font.getlength(text)) + MARGIN - 1, (row + 1) * height - 1), fill=colour)
        pen.text((MARGIN // 2, row * height + 1), text, fill=ink_on(colour), font=font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def sheet(pairs: list[tuple[Tensor, Tensor]], *, heading: str = "") -> Image.Image:
    """One picture of many examples, each as truth and prediction side by side, two examples a row.

    pairs: uint8 (3, H, W) pictures of any sizes, fitted into cells of equal width, as high as their row needs;
    `heading`: a line above all, cut where it is too long. Every column has a title.
    """
    pictures = [(to_pil(left), to_pil(right)) for left, right in pairs]
    width = max((p.width for pair in pictures for p in pair), default=SHORT_SIDE)
    height = max((p.height for pair in pictures for p in pair), default=SHORT_SIDE)
    fitted = [[_scaled(p, min(width / p.width, height / p.height)) for p in pair] for pair in pictures]
    font, bold = load_font(min(max(width // 26, 13), 22)), load_font(min(max(width // 20, 15), 28))
    top = sum(font.getmetrics()) + MARGIN if heading else 0
    head = sum(bold.getmetrics()) + MARGIN
    gap = 3 * MARGIN  # between two examples, so that it is plain which two pictures belong together
    pair_width = 2 * width + MARGIN
    across = min(2, max(1, len(fitted)))
    rows = [fitted[i : i + 2] for i in range(0, len(fitted), 2)] or [[]]
    heights = [max((p.height for pair in row for p in pair), default=height) for row in rows]
    whole = 2 * MARGIN + across * pair_width + (across - 1) * gap
    size = (whole, MARGIN + top + head + sum(heights) + MARGIN * len(rows))
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)

    if heading:
        pen.text((MARGIN, MARGIN), shorten_text(heading, font, size[0] - 2 * MARGIN), fill="#444444", font=font)
    for column in range(2 * across):
        x = MARGIN + column // 2 * (pair_width + gap) + column % 2 * (width + MARGIN)
        text = shorten_text(("ground truth", "prediction")[column % 2], bold, width)
        pen.text((x + width / 2, top + MARGIN / 2 + head / 2), text, fill="black", font=bold, anchor="mm")
    y = MARGIN + top + head
    for i, pair in enumerate(fitted):
        x, tall = MARGIN + i % 2 * (pair_width + gap), heights[i // 2]
        for side, picture in enumerate(pair):
            left = x + side * (width + MARGIN) + (width - picture.width) // 2
            canvas.paste(picture, (left, y + (tall - picture.height) // 2))
        if i % 2:
            y += tall + MARGIN
    return canvas


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.detach().cpu().permute(1, 2, 0).contiguous().numpy())


def fit_view(picture: Image.Image) -> Image.Image:
    enlarged = max(1.0, SHORT_SIDE / min(picture.size))
    return _scaled(picture, min(enlarged, LONG_SIDE / max(picture.size)))


def _scaled(picture: Image.Image, scale: float) -> Image.Image:
    if scale == 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BILINEAR)


@lru_cache(maxsize=16)
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: it has accents, Greek, Cyrillic; Pillow's own has ASCII."""
    import matplotlib

    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(path, size)


def shorten_text(text: str, font: ImageFont.FreeTypeFont, width: int, *, tail: str = "") -> str:
    """`text` on one line and then `tail`, the end of `text` cut off where both would pass `width` pixels."""
    text = " ".join(text.split())
    whole = text + tail
    while text and font.getlength(whole) > width:
        text = text[:-1]
        whole = text.rstrip() + "…" + tail
    return whole


def _inside(corners: Tensor, size: tuple[int, int]) -> Box | None:
    """A box in whole pixels of a picture of `size` (width, height), at least 1 x 1; None if nothing shows."""
    x1, y1, x2, y2 = corners.tolist()
    if not corners.isfinite().all() or x2 < x1 or y2 < y1:
        return None
    if x1 >= size[0] or y1 >= size[1] or x2 <= 0 or y2 <= 0:
        return None
    left, top = min(max(round(x1), 0), size[0] - 1), min(max(round(y1), 0), size[1] - 1)
    return left, top, max(min(round(x2), size[0]), left + 1), max(min(round(y2), size[1]), top + 1)


def _place(box: Box, size: tuple[int, int], canvas: tuple[int, int], taken: list[Box]) -> Box:
    """Where a label of `size` (width, height) goes: inside the canvas, at the box, off those `taken`."""
    (x1, y1, x2, y2), (w, h) = box, size
    spots = [(x1, y1 - h), (x1, y2), (x1, y1), (x2 - w, y1 - h), (x2 - w, y2), (x1, y2 - h), (x2 - w, y2 - h)]
    places = []
    for x, y in spots:
        x, y = max(0, min(x, canvas[0] - w)), max(0, min(y, canvas[1] - h))
        places.append((x, y, x + w, y + h))
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def ink_on(colour: Colour) -> str:
    return "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else "white"


def _outline(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, *, width: int, dashed: bool) -> None:
    """A frame just inside the box, with a thin black or white line inside it to show on any photo."""
    x1, y1, x2, y2 = box
    inner = (x1 + width, y1 + width, x2 - 1 - width, y2 - 1 - width)
    if inner[0] < inner[2] and inner[1] < inner[3]:
        pen.rectangle(inner, outline=ink_on(colour))
    if not dashed:
        pen.rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=width)
        return
    dash = 4 * width
    for x in range(x1, x2, 2 * dash):
        for y in (y1, y2 - width):
            pen.rectangle((x, y, min(x + dash, x2) - 1, y + width - 1), fill=colour)
    for y in range(y1, y2, 2 * dash):
        for x in (x1, x2 - width):
            pen.rectangle((x, y, x + width - 1, min(y + dash, y2) - 1), fill=colour)
