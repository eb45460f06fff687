"""Pages for a browser, each one file that needs no other: style, script and pictures stand in it.

The templates are Jinja's, in `pages/`: `base.html` is what all pages are, `parts.html` what they are made of.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2_tasks.files import replacing
from mnv2_tasks.machine import environment

WIDEST = 1600  # pixels of a picture in a page; wider ones are made smaller
QUALITY = 80  # of a photo, as WebP counts it
COLOURS = 1 << 14  # more than a plot has


@dataclass(frozen=True)
class Section:
    """A part of a report; what it has stands in this order.

    Args:
        text: a paragraph each.
        commands: (what it does, the command).
        titles, rows: of a table, which a click on a title sorts.
        figures: (the file of a picture, what it shows); one whose file is not there is left out.
        folded: a long text that is seen when asked for.
    """

    heading: str
    text: Sequence[str] = ()
    commands: Sequence[tuple[str, str]] = ()
    titles: Sequence[str] = ()
    rows: Sequence[Sequence[str | float | None]] = ()
    figures: Sequence[tuple[Path, str]] = ()
    folded: str = ""


def machine_section() -> Section:
    """What this process runs on."""
    return Section("Machine", titles=("what", "which"), rows=[list(row) for row in environment().items()])


def write_report(
    path: Path, *, title: str, about: str, numbers: Sequence[tuple[str, Any, str]], sections: Sequence[Section]
) -> None:
    """A page of headline numbers, each (name, value, remark), and sections; those without content are left out."""
    there = [replace(one, figures=[pair for pair in one.figures if pair[0].exists()]) for one in sections]
    shown = [one for one in there if one.text or one.commands or one.rows or one.figures or one.folded]
    write_page(path, "report.html", {"title": title, "about": about, "numbers": numbers, "sections": shown})


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Fill a template of `pages/` and write it; what comes from data is escaped, and a value that lacks is an error.

    Args:
        template: the name of its file.
        values: by the names that the template uses; a picture is the path of its file.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader("mnv2_tasks.visual", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(cell=cell, embedded=embedded)
    text = pages.get_template(template).render(values)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def cell(value: Any) -> str:
    """How a table shows a value: four digits of a fraction, thousands apart, a dash for what there is not."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return str(value)


def embedded(path: str | Path) -> str:
    """A picture as a `data:` address: WebP, exact for a plot, and small for what has the many colours of photos."""
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > WIDEST:
        picture.thumbnail((WIDEST, picture.height), Image.Resampling.LANCZOS)
    plot = picture.getcolors(COLOURS) is not None
    picture.save(buffer := io.BytesIO(), "webp", lossless=plot, quality=QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
