"""The report of an export: every file beside PyTorch in one run, as JSON, Markdown and a table on the terminal."""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.errors import InputError, shorten
from mnv2_tasks.export.compare import Proof, eager, random_images, size_of
from mnv2_tasks.export.decode import Arrays
from mnv2_tasks.export.formats import FORMATS, need
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.html_report import write_export_report
from mnv2_tasks.export.metadata import Metadata, one_view
from mnv2_tasks.export.session import Exported
from mnv2_tasks.files import write_json
from mnv2_tasks.kinds.kind import apart
from mnv2_tasks.machine import describe_processor, milliseconds

THREADS = (1, 2)
NOISE = 4  # random images that are compared besides the real ones
SUPPRESSION = {
    "native": "in the graph, by the format's own operator",
    "portable": "in the graph, by operations of fixed shape",
    "app": "left to the app (nms.py)",
}


@dataclass
class ExportRow:
    """A file of an export, a row of export.json: what it tells of itself, and what its proof found."""

    file: str
    about: Metadata
    boxes: bool  # whether it gives a detector's
    seconds: float = 0.0  # that writing it took
    bytes: int | None = None
    apart: dict[str, dict[str, float]] = field(default_factory=dict)  # {task or tap: see `compare.difference`}
    before: dict[str, float] = field(default_factory=dict)  # {task: its metric by PyTorch}
    after: dict[str, float] = field(default_factory=dict)  # {task: its metric by the file}
    latency_ms: dict[str, float] = field(default_factory=dict)  # {threads: median of a call}
    note: str | None = None
    error: str | None = None  # why it was not written, or what is wrong with it

    def as_dict(self) -> dict[str, Any]:
        """As JSON; what was not measured is left out."""
        names = ("boxes", "seconds", "bytes", "apart", "before", "after", "latency_ms", "note", "error")
        values = {name: getattr(self, name) for name in names}
        return {"file": self.file, **self.about.of_file()} | {k: v for k, v in values.items() if v not in (None, {})}


Rows = list[ExportRow]


def prove(model: Any, settings: Mapping[str, Any], data: Any, classes: Any, rows: Rows, folder: Path) -> list[str]:
    """Fill in the rows, write export.json and export.md; returns a line for each file that failed."""
    taps = settings["taps"] if settings["what"] == "taps" else ()
    reference = Graph(model, masks=settings["masks"], nms="native", candidates=settings["candidates"], taps=taps).eval()
    alive: dict[str, Exported] = {}
    for row in rows:
        if row.error:
            continue
        path, target = folder / row.file, need(row.about.format)
        row.bytes = size_of(path)
        if not target.runs_here():
            row.note = "written, and its metadata read back; this system has no runtime for it"
            if not target.embedded(path):
                row.error = "its metadata cannot be read back"
            continue
        try:
            alive[row.file] = Exported(path, trust=FORMATS)
        except InputError as error:
            row.error = str(error)
    _compare(reference, model, data, classes, settings, alive, rows, folder)
    shape = [1, len(model.mean), *_size(data)]
    pytorch = {"format": "pytorch", **_time_pytorch(reference, shape, compiled=settings["compile"])}
    for row in rows:
        if row.file in alive and not row.error:
            image = random_images(shape, 1)[0]
            if "batch" not in row.about.dynamic:
                image = image.repeat(row.about.input.shape[0], 1, 1, 1)
            for threads in THREADS:
                network = Exported(folder / row.file, threads=threads, trust=FORMATS)
                row.latency_ms[str(threads)] = milliseconds(partial(network, image))
    for row in rows:
        if not row.error and (line := _verdict(row, settings)):
            row.error = line
    side = settings["split"]
    processor = describe_processor()
    files = [row.as_dict() for row in rows]
    whole = {"side": side, "processor": processor, "pytorch": pytorch, "files": files}
    write_json(folder / "export.json", whole)
    remarks = [*one_view(model), f"measured on {processor}"]
    table = markdown(pytorch, rows, side, remarks)
    (folder / "export.md").write_text(table + "\n", encoding="utf-8")
    notes = _notes(rows, remarks) + _columns(_tasks(rows), side)
    write_export_report(folder, rows, table_of(pytorch, rows, side), notes)
    print(table)
    return [f"{row.file}: {row.error}" for row in rows if row.error]


def _compare(
    reference: Graph,
    model: Any,
    data: Any,
    classes: Any,
    settings: Mapping[str, Any],
    alive: dict[str, Exported],
    rows: Rows,
    folder: Path,
) -> None:
    """Every file's outputs on real and random images, and its metrics, beside the reference's."""
    call = eager(reference)
    if reference.taps:
        _compare_taps(reference, data, settings, alive, rows, folder)
        return
    base = Proof(call, model, classes)
    proofs = {name: Proof(network, model, classes) for name, network in alive.items()}
    by_name = {row.file: row for row in rows}
    seen: list[str] = []
    for images, targets in batches(data, settings["split"], settings["images"]):
        seen += [task for task in targets if task not in seen]
        expected = call(images)
        base.count(expected, targets)
        for name, proof in proofs.items():
            if (outputs := _attempt(by_name[name], folder, partial(proof.compare, expected, images))) is not None:
                proof.count(outputs, targets)
    for image in random_images([1, len(model.mean), *_size(data)], NOISE):
        expected = call(image)
        for name, proof in proofs.items():
            _attempt(by_name[name], folder, partial(proof.compare, expected, image))
    before = base.scores(seen)
    for name, proof in proofs.items():
        row = by_name[name]
        if not row.error:
            row.apart, row.before, row.after = proof.differences(), before, proof.scores(seen)


def _attempt(row: ExportRow, folder: Path, work: Callable[[], Arrays]) -> Arrays | None:
    if not row.error:
        try:
            return work()
        except Exception as error:  # every runtime has its own
            row.error = noted(error, row.file, folder)
    return None


def noted(error: Exception, file: str, folder: Path) -> str:
    """What went wrong, in a line; errors/<file>.txt has all of it, where a converter gives its reasons."""
    path = folder / "errors" / f"{file}.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8", errors="backslashreplace")
    return f"{type(error).__name__}: {shorten(str(error).strip(), 300)} (all of it: {path})"


def _compare_taps(
    reference: Graph, data: Any, settings: Mapping[str, Any], alive: dict[str, Any], rows: Rows, folder: Path
) -> None:
    call = eager(reference)
    for images, _ in batches(data, settings["split"], settings["images"] or 32):
        expected = call(images)
        for row in rows:
            network = alive.get(row.file)
            if network and (outputs := _attempt(row, folder, partial(network, images))):
                for tap, values in expected.items():
                    largest = row.apart.setdefault(tap, {})
                    for key, value in apart(values, outputs[tap]).items():
                        largest[key] = max(largest.get(key, 0.0), value)


def batches(data: Any, side: str, most: int | None) -> Iterator[tuple[Tensor, dict[str, dict[str, Tensor]]]]:
    """The evaluation batches of every source of a side, with at most `most` images of each."""
    for loader in data.loaders(side).values():
        count = 0
        for images, targets in loader:
            if most is not None and count + len(images) > most:
                left = most - count
                images = images[:left]
                targets = {
                    task: {name: value[:left] for name, value in fields.items()} for task, fields in targets.items()
                }
            if len(images):
                yield images, targets
            count += len(images)
            if most is not None and count >= most:
                break


def _size(data: Any) -> tuple[int, int]:
    return next(iter(data.sizes.values()))


def _time_pytorch(graph: Graph, shape: Sequence[int], *, compiled: bool) -> dict[str, Any]:
    """Milliseconds of eager PyTorch, and compiled, by threads."""
    (image,) = random_images(shape, 1)
    times: dict[str, dict[str, float]] = {}
    threads_before = torch.get_num_threads()
    variants: dict[str, Any] = {"eager": graph}
    if compiled:
        variants["compile"] = torch.compile(graph, dynamic=False)
    with torch.inference_mode():
        for name, call in variants.items():
            times[name] = {}
            for threads in THREADS:
                torch.set_num_threads(threads)
                times[name][str(threads)] = milliseconds(partial(call, image))
    torch.set_num_threads(threads_before)
    return {"latency_ms": times}


def _verdict(row: ExportRow, settings: Mapping[str, Any]) -> str | None:
    """What is wrong with a file, by the tolerances of the settings."""
    if row.about.precision == "fp32":
        for name, differences in row.apart.items():
            if not differences["relative"] <= settings["tolerance"]:
                limit = settings["tolerance"]
                return f"{name} differs from PyTorch by {differences['relative']:.2g}, more than tolerance={limit:g}"
            if not differences.get("unlike", 0.0) <= 10 * settings["tolerance"]:  # near ties are decided either way
                return f"{differences['unlike']:.2%} of {name}'s decisions are not PyTorch's, more than 10 x tolerance"
    elif settings["max_drop"] is not None:
        for task, before in row.before.items():
            drop = 100 * (before - row.after[task])
            if drop > settings["max_drop"]:
                return f"{task} falls by {drop:.2f} points, more than max_drop={settings['max_drop']:g}"
    return None


def table_of(pytorch: Mapping[str, Any], rows: Rows, side: str) -> list[list[str]]:
    """A line a file, below PyTorch's own and the titles."""
    tasks = _tasks(rows)
    titles = ["file", "MB", "largest difference", "relative", "unlike"]
    titles += [f"{task}, {side}" for task in tasks] + [f"ms, {n} thread{'s' if n > 1 else ''}" for n in THREADS]
    lines = [titles]
    before: dict[str, float] = next((row.before for row in rows if row.before), {})
    for name, timed in pytorch["latency_ms"].items():
        scores = [f"{before[task]:.4f}" if task in before else "" for task in tasks]
        lines.append([f"PyTorch, {name}", "", "", "", "", *scores, *(f"{timed[str(n)]:.1f}" for n in THREADS)])
    for row in rows:
        megabytes = "" if row.bytes is None else f"{row.bytes / 1e6:.2f}"
        if row.apart:
            far = [
                max(differences.get(key, 0.0) for differences in row.apart.values())
                for key in ("largest", "relative", "unlike")
            ]
            cells = [f"{value:.1e}" for value in far]
        else:
            cells = ["", "", ""]
        scores = [
            f"{row.after[t]:.4f} ({100 * (row.after[t] - row.before[t]):+.2f})" if t in row.after else "" for t in tasks
        ]
        times = [f"{row.latency_ms[str(n)]:.1f}" if row.latency_ms else "" for n in THREADS]
        lines.append([row.file, megabytes, *cells, *scores, *times])
    return lines


def markdown(pytorch: Mapping[str, Any], rows: Rows, side: str, remarks: Sequence[str] = ()) -> str:
    """The report as a Markdown table, which is also what the terminal shows."""
    titles, *lines = table_of(pytorch, rows, side)
    text = "\n".join(f"| {' | '.join(line)} |" for line in (titles, ["---"] * len(titles), *lines))
    return "\n".join([text, "", *(f"- {line}" for line in (*_notes(rows, remarks), *_columns(_tasks(rows), side)))])


def _tasks(rows: Rows) -> list[str]:
    return list(dict.fromkeys(task for row in rows for task in row.before))


def _notes(rows: Rows, remarks: Sequence[str]) -> list[str]:
    notes = [f"{row.file}: {row.error or row.note}" for row in rows if row.error or row.note] + list(remarks)
    for how, said in SUPPRESSION.items():
        if names := [row.file for row in rows if row.boxes and row.about.nms == how]:
            notes.append(f"suppression {said}: {', '.join(names)}")
    return notes


def _columns(tasks: Sequence[str], side: str) -> list[str]:
    """What the columns of the table say, a line each."""
    metrics = [
        f"{task}, {side}: the task's metric on the {side} images through the file's own runtime, and in brackets "
        "what it gains or loses against PyTorch's, in hundredths"
        for task in tasks
    ]
    return [
        "MB: the file with its weights, in millions of bytes",
        "largest difference: of an output from PyTorch's: a score, a logit, a tap, or a box's corner in pixels",
        "relative: the same, as a share of the largest value, or of the image's longer side for boxes",
        "unlike: share of pixels of another class, or of detections without a partner of the same class and place",
        *metrics,
        "ms: median milliseconds of a call, of one batch, on so many threads",
    ]
