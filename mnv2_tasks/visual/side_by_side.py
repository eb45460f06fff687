"""One image several times in a row: as it is true, and as several models see it."""

from collections.abc import Sequence

from PIL import Image, ImageDraw
from torch import Tensor

from mnv2_tasks.visual.drawing import MARGIN, load_font, shorten_text, to_pil


def side_by_side(shown: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """Pictures uint8 (3, H, W) of one size, each under its title, which is cut where it is too long."""
    pictures = [(title, to_pil(picture)) for title, picture in shown]
    width, height = (max(getattr(picture, side) for _, picture in pictures) for side in ("width", "height"))
    font = load_font(min(max(width // 20, 15), 28))
    head = sum(font.getmetrics()) + MARGIN
    size = (MARGIN + len(pictures) * (width + MARGIN), head + height + MARGIN)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for column, (title, picture) in enumerate(pictures):
        left = MARGIN + column * (width + MARGIN)
        text = shorten_text(title, font, width)
        pen.text((left + width / 2, head / 2), text, fill="black", font=font, anchor="mm")
        canvas.paste(picture, (left, head))
    return canvas
