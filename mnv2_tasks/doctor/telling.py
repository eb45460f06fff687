"""What the doctor leaves: doctor.html to read, doctor.json for programs, and the pictures of its findings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mnv2_tasks.doctor.findings import WEIGHTS, Finding, Report, Shown
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import replacing, write_json
from mnv2_tasks.visual.contact_sheet import contact_sheet
from mnv2_tasks.visual.drawing import to_pil
from mnv2_tasks.visual.page import write_page

LISTED = 200  # images of a finding in the page's list; doctor.json has all
BAD = ("stops", "wrong")
Splits = Mapping[tuple[str, str], Any]  # (source, side) -> its samples


def write_report(report: Report, splits: Splits, folder: Path, *, title: str, command: str, examples: int) -> None:
    """Write all files; `command` is the training that is suggested; `examples` cases of a finding are drawn."""
    findings = report.worst_first()
    drawn = {finding.name: _draw(finding, splits, folder, examples) for finding in findings}
    write_json(
        folder / "doctor.json",
        {
            "sides": report.sides,
            "findings": [asdict(finding) for finding in findings],
            "tables": [asdict(table) for table in report.tables],
            "settings": report.settings(),
            "command": command,
        },
    )
    counts = [(what, sum(finding.weight == weight for finding in findings), "") for weight, what in WEIGHTS.items()]
    values = {
        "title": title,
        "sides": report.sides,
        "numbers": counts,
        "findings": [_entry(finding, drawn[finding.name]) for finding in findings],
        "commands": [("What suits this data, by what was computed above", command)],
        "tables": report.tables,
    }
    write_page(folder / "doctor.html", "doctor.html", values)


def lines(report: Report) -> list[str]:
    """The findings for a terminal, the worst first."""
    told = []
    for finding in report.worst_first():
        where = f", such as {finding.cases[0].places[-1].name}" if finding.cases and finding.cases[0].places else ""
        told.append(f"{WEIGHTS[finding.weight]}: {finding.text}{where}{f'; {finding.fix}' if finding.fix else ''}")
    return told or ["nothing was found that needs a look"]


def _entry(finding: Finding, picture: tuple[Path, int] | None) -> dict[str, Any]:
    cases = finding.cases[:LISTED]
    rows = [
        [*(place.name for place in case.places[:2]), *[None] * (2 - len(case.places)), case.words] for case in cases
    ]
    more = f"the first {LISTED} of {len(finding.cases):,}, all in doctor.json" if len(finding.cases) > LISTED else ""
    return {
        "name": finding.name,
        "text": finding.text,
        "weight": WEIGHTS[finding.weight],
        "bad": finding.weight in BAD,
        "fix": finding.fix,
        "picture": picture[0] if picture else None,
        "caption": f"{picture[1]} of {len(finding.cases):,}" if picture else "",
        "rows": rows,
        "listed": more or amount(len(rows), "case"),
    }


def _draw(finding: Finding, splits: Splits, folder: Path, examples: int) -> tuple[Path, int] | None:
    """The sheet of a finding's first cases, and how many it shows; None where none can be drawn."""
    shown = []
    for case in finding.cases[:examples]:
        try:
            pictures = _pictures(case, splits)
        except InputError:  # told as broken
            continue
        if pictures:
            names = " | ".join(f"{place.side}: {Path(place.name).name}" for place in case.places)
            shown.append((pictures, f"{names} {case.words}".strip()))
    if not shown:
        return None
    path = folder / "pictures" / f"{finding.name}.png"
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as draft:
        contact_sheet(shown).save(draft, "PNG")
    return path, len(shown)


def _pictures(case: Shown, splits: Splits) -> Sequence[Image.Image]:
    pictures = [to_pil(splits[place.source, place.side][place.index]["image"]) for place in case.places]
    if case.boxes:
        picture = pictures[0]
        pen = ImageDraw.Draw(picture)
        for x0, y0, x1, y1 in case.boxes:
            corners = (x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height)
            pen.rectangle(corners, outline="#d55e00", width=max(2, max(picture.size) // 200))
    return pictures
