"""Pictures with a line below each, in rows."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from mnv2_tasks.visual.drawing import MARGIN, load_font, shorten_text

CELL = 300  # pixels, of a picture's longer side
ACROSS = 4  # pictures in a row


def contact_sheet(shown: Sequence[tuple[Sequence[Image.Image], str]]) -> Image.Image:
    """[(pictures that belong together, what stands below them)] -> one picture, rows from left to right."""
    font = load_font(14)
    below = sum(font.getmetrics()) + MARGIN
    most = max((len(pictures) for pictures, _ in shown), default=1)
    across = max(1, ACROSS // most)
    width = most * (CELL + MARGIN) + MARGIN
    fitted = []
    for pictures, words in shown:
        copies = [picture.convert("RGB") for picture in pictures]
        for copy in copies:
            copy.thumbnail((CELL, CELL))
        fitted.append((copies, words))
    rows = [fitted[i : i + across] for i in range(0, len(fitted), across)]
    heights = [max(copy.height for copies, _ in row for copy in copies) for row in rows]
    size = (width * min(across, max(len(fitted), 1)) + MARGIN, sum(heights) + len(rows) * (below + MARGIN) + MARGIN)
    sheet, y = Image.new("RGB", size, "white"), MARGIN
    pen = ImageDraw.Draw(sheet)
    for row, height in zip(rows, heights, strict=True):
        for column, (copies, words) in enumerate(row):
            x = MARGIN + column * width
            for place, copy in enumerate(copies):
                sheet.paste(copy, (x + place * (CELL + MARGIN), y))
            pen.text((x, y + height), shorten_text(words, font, width - 2 * MARGIN), fill="black", font=font)
        y += height + below + MARGIN
    return sheet
