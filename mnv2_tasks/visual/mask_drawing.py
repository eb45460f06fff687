"""Pictures of segmentation: class colours over the image, and a legend."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mnv2_tasks.visual.drawing import MARGIN, Colour, fit_view, ink_on, load_font, palette, shorten_text, to_pil

OPACITY = 0.6  # of the colours over the image
UNKNOWN: Colour = (128, 128, 128)  # pixels that are no class, such as the ignored 255


def mask_colours(classes: tuple[str, ...]) -> list[Colour | None]:
    """A colour a class, None for one called background; the others have the colours that they have without it."""
    shift = bool(classes) and classes[0].lower() == "background"
    colours: list[Colour | None] = list(palette(len(classes) - shift))
    return [None, *colours] if shift else colours


def draw_mask(image: Tensor, mask: Tensor, classes: tuple[str, ...]) -> Tensor:
    """Class colours over the image, and below it a legend of the classes that are there.

    image uint8 (3, H, W); mask (h, w) integers into `classes`, of the same part of the world at any size; a value
    beyond the classes is unknown, and grey. A first class called "background" is left clear. Returns uint8
    (3, H', W') on the CPU: the image enlarged until its short side has 256 pixels or reduced until its long side has
    640, the second winning, and the lines of the legend.
    """
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3, "image: uint8 (3, H, W)"
    assert mask.ndim == 2, "mask: (H, W)"
    picture = fit_view(to_pil(image))
    indices = Image.fromarray(mask.detach().cpu().numpy().astype(np.uint8))
    index = np.asarray(indices.resize(picture.size, Image.Resampling.NEAREST))
    colours = mask_colours(classes)
    table = np.full((256, 3), UNKNOWN, np.float32)
    opacity = np.full((256, 1), OPACITY, np.float32)
    for i, colour in enumerate(colours):
        table[i] = colour or 0
        opacity[i] = OPACITY if colour else 0
    pixels = np.asarray(picture).astype(np.float32)
    pixels += opacity[index] * (table[index] - pixels)
    border = np.zeros(index.shape, bool)  # a dark line between classes, to show them in any colours
    border[1:] |= index[1:] != index[:-1]
    border[:, 1:] |= index[:, 1:] != index[:, :-1]
    pixels[border] *= 0.4
    overlay = Image.fromarray(pixels.round().astype(np.uint8))

    present = np.flatnonzero(np.bincount(index.ravel(), minlength=256))
    entries = [(classes[i], colour) for i in present if i < len(classes) and (colour := colours[i])]
    if present[-1] >= len(classes):
        entries.append(("unknown", UNKNOWN))
    return torch.from_numpy(np.array(_with_legend(overlay, entries))).permute(2, 0, 1).contiguous()


def _with_legend(picture: Image.Image, entries: list[tuple[str, Colour]]) -> Image.Image:
    """The picture with coloured names below it, at least one line of them so that most pictures are equally high."""
    font = load_font(round(min(max(max(picture.size) / 36, 13), 18)))
    height = sum(font.getmetrics()) + 2
    x, line, places = 0, 0, []
    for name, colour in entries:
        text = shorten_text(name, font, picture.width - MARGIN)
        width = int(font.getlength(text)) + MARGIN
        if x and x + width > picture.width:
            x, line = 0, line + 1
        places.append((x, line, width, text, colour))
        x += width + 2
    canvas = Image.new("RGB", (picture.width, picture.height + 2 + (line + 1) * (height + 2)), "white")
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for x, line, width, text, colour in places:
        top = picture.height + 2 + line * (height + 2)
        pen.rectangle((x, top, x + width - 1, top + height - 1), fill=colour)
        pen.text((x + MARGIN // 2, top + 1), text, fill=ink_on(colour), font=font)
    return canvas
