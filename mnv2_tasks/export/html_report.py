"""report.html of an export: what each file is, and how near it comes to PyTorch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.machine import command_line
from mnv2_tasks.visual.page import Section, machine_section, write_report

if TYPE_CHECKING:
    from mnv2_tasks.export.report import Rows


def write_export_report(folder: Path, rows: "Rows", table: Sequence[Sequence[str]], notes: Sequence[str]) -> None:
    """Write report.html beside the files.

    Args:
        table: the titles, then a line a file.
        notes: what is to be said of the files, a paragraph each.
    """
    titles, *lines = table
    tasks = list(dict.fromkeys(task for row in rows for task in row.before))
    failed = [f"{row.file}: {row.error}" for row in rows if row.error]
    whole = [row for row in rows if not row.error]
    commands = [
        ("Predictions with a file, without PyTorch's network", f"python -m mnv2_tasks.predict model={folder / row.file}"
         " source=<image or folder>")
        for row in whole[:1]
    ]  # fmt: skip
    commands.append(("Every file on another machine", f"python -m mnv2_tasks.benchmark model={folder}"))
    smallest = min((row for row in whole if row.bytes), key=lambda row: row.bytes or 0, default=None)
    numbers: list[tuple[str, Any, str]] = [
        ("files", len(whole), f"{len(failed)} failed" if failed else "all proved against PyTorch")
    ]
    if smallest is not None and smallest.bytes:
        numbers.append((f"the smallest: {smallest.file}", f"{smallest.bytes / 1e6:.2f} MB", ""))
    write_report(
        folder / "report.html",
        title=f"Exported: {', '.join(tasks) or 'taps'}",
        about=str(folder),
        numbers=numbers,
        sections=[
            Section("What failed", failed),
            Section("Files", titles=titles, rows=lines),
            Section("Notes", notes),
            Section("What was done", commands=[("", command_line())]),
            Section("How to go on", commands=commands),
            machine_section(),
        ],
    )
