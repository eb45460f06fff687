"""Every exported file of a folder on this machine: `python -m mnv2_tasks.benchmark model=<folder of an export>`."""

from functools import partial
from pathlib import Path
from typing import Any

from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.export.metadata import FIX
from mnv2_tasks.files import read_json
from mnv2_tasks.machine import describe_processor, tune_for_cpu


def main(config: Any) -> None:
    tune_for_cpu()
    settings = settle(config)
    if not isinstance(settings["model"], str) or not settings["model"]:
        raise InputError("model is not given: add model=<the folder that an export wrote> to the command")
    from mnv2_tasks.assembly.logging_to import logging_to
    from mnv2_tasks.files import new_folder, write_json
    from mnv2_tasks.visual.export_plot import plot_formats

    place = Path(settings["model"])
    if not place.exists():
        raise InputError(f"model={place}: no such file or folder; give the folder that an export wrote")
    home = place if place.is_dir() else place.parent
    names = _files(home) if place.is_dir() else [place.name]
    metrics = proved(home)
    folder = new_folder(Path(settings["runs"]) / "benchmark", settings["name"])
    print(f"benchmark: {amount(len(names), 'file')}, some seconds each", flush=True)
    rows = [_measure(home / name, settings, metrics.get(name, {})) for name in names]
    processor = describe_processor()
    write_json(folder / "benchmark.json", {"processor": processor, "batch": settings["batch"], "files": rows})
    table = f"{_table(rows, settings['threads'])}\n\nmeasured on {processor}"
    (folder / "benchmark.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    if any("latency_ms" in row for row in rows):
        plot_formats(rows, str(settings["threads"][0]), folder / "benchmark.png")
    with logging_to(settings, folder, job_type="benchmark") as loggers:
        if loggers:
            from mnv2_tasks.training.logged_results import log_rows

            log_rows(loggers, {row["file"]: row for row in rows}, folder)
    print(f"benchmark: {folder}")


def _files(home: Path) -> list[str]:
    from mnv2_tasks.export.session import ABOUT

    path = home / ABOUT
    if not path.is_file():
        raise InputError(f"{home}: no {ABOUT} there; give the folder that an export wrote")
    about = read_json(path, fix=FIX)
    files = about.get("files") if isinstance(about, dict) else None
    if not isinstance(files, dict) or not all(Path(name).name == name for name in files):
        raise InputError(f'{path}: its "files" are not the names of files beside it; {FIX}')
    return list(files)


def proved(home: Path) -> dict[str, dict[str, Any]]:
    """What export.json says of each file; nothing where there is none."""
    path = home / "export.json"
    if not path.is_file():
        return {}
    report = read_json(path, fix=FIX)
    rows = report.get("files") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise InputError(f'{path}: its "files" are not what an export writes; {FIX}')
    return {row["file"]: row for row in rows}


def _is_row(row: Any) -> bool:
    """Whether it has the file's name and, perhaps, its metrics."""
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not isinstance(row.get("after", {}), dict):
        return False
    return all(isinstance(value, (int, float)) for value in row.get("after", {}).values())


def _measure(path: Path, settings: dict[str, Any], proof: dict[str, Any]) -> dict[str, Any]:
    """{"file", "format", "precision", "bytes", "metrics", "latency_ms"}, or why it does not run here."""
    from mnv2_tasks.export.compare import random_images, size_of
    from mnv2_tasks.export.session import Exported
    from mnv2_tasks.machine import milliseconds

    row: dict[str, Any] = {"file": path.name, "bytes": 0, "metrics": proof.get("after", {})}
    try:
        row["bytes"] = size_of(path)
        for threads in settings["threads"]:
            network = Exported(path, threads=threads, trust=settings["trust"])
            about = network.about
            batch = settings["batch"] if "batch" in about.dynamic else about.input.shape[0]
            shape = [1, about.input.channels, *about.size]
            images = random_images(shape, 1)[0].repeat(batch, 1, 1, 1)
            row |= {"format": network.name, "precision": about.precision, "batch": batch}
            took = milliseconds(partial(network, images), seconds=settings["seconds"])
            row.setdefault("latency_ms", {})[str(threads)] = took
    except Exception as error:  # every runtime has its own; the other files are timed all the same
        row["skipped"] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return row


def _table(rows: list[dict[str, Any]], threads: list[int]) -> str:
    tasks = list(dict.fromkeys(task for row in rows for task in row["metrics"]))
    titles = ["file", "MB", *tasks, *(f"ms, {n} thread{'s' if n > 1 else ''}" for n in threads)]
    lines = [titles, ["---"] * len(titles)]
    for row in rows:
        scores = [f"{row['metrics'][task]:.4f}" if task in row["metrics"] else "" for task in tasks]
        times = [f"{row['latency_ms'][str(n)]:.2f}" if str(n) in row.get("latency_ms", {}) else "" for n in threads]
        lines.append([row["file"], f"{row['bytes'] / 1e6:.2f}", *scores, *times])
    notes = [f"- {row['file']}: {row['skipped']}" for row in rows if "skipped" in row]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(["", *notes] if notes else [])])
