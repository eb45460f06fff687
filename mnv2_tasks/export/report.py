"""The report of an export: every file beside PyTorch in one run, as JSON, Markdown and a table on the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mnv2_tasks.errors import InputError
from mnv2_tasks.export.compare import Proof, eager, random_images, size_of
from mnv2_tasks.export.formats import CODE, need
from mnv2_tasks.export.graph import Graph
from mnv2_tasks.export.metadata import one_view
from mnv2_tasks.export.session import Exported
from mnv2_tasks.files import write_json
from mnv2_tasks.kinds.kind import apart
from mnv2_tasks.machine import describe_processor, latency

THREADS = (1, 2)
NOISE = 4  # random images that are compared besides the real ones
SUPPRESSION = {
    "native": "in the graph, by the format's own operator",
    "portable": "in the graph, by operations of fixed shape",
    "app": "left to the app (nms.py)",
}
Rows = list[dict[str, Any]]


def prove(model: Any, settings: Mapping[str, Any], data: Any, classes: Any, rows: Rows, folder: Path) -> list[str]:
    """Fill in the rows, write export.json and export.md; returns a line for each file that failed."""
    taps = settings["taps"] if settings["what"] == "taps" else ()
    reference = Graph(model, masks=settings["masks"], nms="native", candidates=settings["candidates"], taps=taps).eval()
    alive: dict[str, Exported] = {}
    for row in rows:
        if "error" in row:
            continue
        path = folder / row["file"]
        row["bytes"] = size_of(path)
        if row["format"] == "coreml" and not _on_mac():
            row["note"] = "written, and its metadata read back; it predicts on macOS alone"
            assert need("coreml").embedded(path)
            continue
        try:
            alive[row["file"]] = Exported(path, trust=CODE)
        except InputError as error:
            row["error"] = str(error)
    _compare(reference, model, data, classes, settings, alive, rows)
    shape = [1, len(model.mean), *_size(data)]
    pytorch = {"format": "pytorch", **_time_pytorch(reference, shape, compiled=settings["compile"])}
    for row in rows:
        if row["file"] in alive and "error" not in row:
            image = random_images(shape, 1)[0]
            if row["input"]["shape"][0] > 1 and "batch" not in row["dynamic"]:
                image = image.repeat(row["input"]["shape"][0], 1, 1, 1)
            row["latency_ms"] = {}
            for threads in THREADS:
                network = Exported(folder / row["file"], threads=threads, trust=CODE)
                row["latency_ms"][str(threads)] = latency(lambda network=network, image=image: network(image))  # type: ignore[misc]
    for row in rows:
        if "error" not in row and (line := _verdict(row, settings)):
            row["error"] = line
    side = settings["split"]
    processor = describe_processor()
    whole = {"side": side, "processor": processor, "pytorch": pytorch, "files": rows}
    write_json(folder / "export.json", whole)
    table = markdown(pytorch, rows, side, [*one_view(model), f"measured on {processor}"])
    (folder / "export.md").write_text(table + "\n", encoding="utf-8")
    print(table)
    return [f"{row['file']}: {row['error']}" for row in rows if "error" in row]


def _compare(
    reference: Graph,
    model: Any,
    data: Any,
    classes: Any,
    settings: Mapping[str, Any],
    alive: dict[str, Any],
    rows: Rows,
) -> None:
    """Every file's outputs on real and random images, and its metrics, beside the reference's."""
    call = eager(reference)
    if reference.taps:
        _compare_taps(reference, data, settings, alive, rows)
        return
    base = Proof(call, model, classes)
    proofs = {name: Proof(network, model, classes) for name, network in alive.items()}
    by_name = {row["file"]: row for row in rows}
    seen: list[str] = []
    for images, targets in batches(data, settings["split"], settings["images"]):
        seen += [task for task in targets if task not in seen]
        expected = call(images)
        base.count(expected, targets)
        for name, proof in proofs.items():
            if (found := _attempt(by_name[name], lambda p=proof, e=expected, i=images: p.compare(e, i))) is not None:
                proof.count(found, targets)
    for image in random_images([1, len(model.mean), *_size(data)], NOISE):
        expected = call(image)
        for name, proof in proofs.items():
            _attempt(by_name[name], lambda p=proof, e=expected, i=image: p.compare(e, i))
    before = base.scores(seen)
    for name, proof in proofs.items():
        row = by_name[name]
        if "error" not in row:
            row |= {"apart": proof.differences(), "before": before, "after": proof.scores(seen)}


def _attempt(row: dict[str, Any], work: Any) -> Any:
    if "error" not in row:
        try:
            return work()
        except Exception as error:  # every runtime has its own
            row["error"] = f"{type(error).__name__}: {str(error).strip()}"[:300]
    return None


def _compare_taps(reference: Graph, data: Any, settings: Mapping[str, Any], alive: dict[str, Any], rows: Rows) -> None:
    call = eager(reference)
    for images, _ in batches(data, settings["split"], settings["images"] or 32):
        expected = call(images)
        for row in rows:
            network = alive.get(row["file"])
            if network and (found := _attempt(row, lambda network=network, images=images: network(images))):
                for tap, values in expected.items():
                    kept = row.setdefault("apart", {}).setdefault(tap, {})
                    for key, value in apart(values, found[tap]).items():
                        kept[key] = max(kept.get(key, 0.0), value)


def batches(data: Any, side: str, most: int | None) -> Iterator[tuple[Tensor, dict[str, dict[str, Tensor]]]]:
    """The evaluation batches of every source of a side, with at most `most` images of each."""
    for loader in data.loaders(side).values():
        count = 0
        for images, targets in loader:
            if most is not None and count + len(images) > most:
                left = most - count
                images = images[:left]
                targets = {task: {name: value[:left] for name, value in its.items()} for task, its in targets.items()}
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
    found: dict[str, dict[str, float]] = {}
    kept = torch.get_num_threads()
    variants: dict[str, Any] = {"eager": graph}
    if compiled:
        variants["compile"] = torch.compile(graph, dynamic=False)
    with torch.inference_mode():
        for name, call in variants.items():
            found[name] = {}
            for threads in THREADS:
                torch.set_num_threads(threads)
                found[name][str(threads)] = latency(lambda call=call: call(image))  # type: ignore[misc]
    torch.set_num_threads(kept)
    return {"latency_ms": found}


def _verdict(row: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """What is wrong with a file, by the tolerances of the settings."""
    if "apart" not in row:
        return None
    if row["precision"] == "fp32":
        for name, found in row["apart"].items():
            if not found["relative"] <= settings["tolerance"]:
                limit = settings["tolerance"]
                return f"{name} differs from PyTorch by {found['relative']:.2g}, more than tolerance={limit:g}"
            if not found.get("unlike", 0.0) <= 10 * settings["tolerance"]:  # near ties are decided either way
                return f"{found['unlike']:.2%} of {name}'s decisions are not PyTorch's, more than 10 x tolerance"
    elif settings["max_drop"] is not None:
        for task, before in row.get("before", {}).items():
            drop = 100 * (before - row["after"][task])
            if drop > settings["max_drop"]:
                return f"{task} falls by {drop:.2f} points, more than max_drop={settings['max_drop']:g}"
    return None


def markdown(pytorch: Mapping[str, Any], rows: Rows, side: str, remarks: Sequence[str] = ()) -> str:
    """The report as a Markdown table, which is also what the terminal shows."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.get("before", {})))
    titles = ["file", "MB", "largest difference", "relative", "unlike"]
    titles += [f"{task}, {side}" for task in tasks] + [f"ms, {n} thread{'s' if n > 1 else ''}" for n in THREADS]
    lines = [titles, ["---"] * len(titles)]
    before: dict[str, float] = next((row["before"] for row in rows if "before" in row), {})
    for name, timed in pytorch["latency_ms"].items():
        scores = [f"{before[task]:.4f}" if task in before else "" for task in tasks]
        lines.append([f"PyTorch, {name}", "", "", "", "", *scores, *(f"{timed[str(n)]:.1f}" for n in THREADS)])
    for row in rows:
        megabytes = f"{row['bytes'] / 1e6:.2f}" if "bytes" in row else ""
        if "apart" in row:
            far = [
                max(found.get(key, 0.0) for found in row["apart"].values()) for key in ("largest", "relative", "unlike")
            ]
            cells = [f"{value:.1e}" for value in far]
        else:
            cells = ["", "", ""]
        scores = [
            f"{row['after'][t]:.4f} ({100 * (row['after'][t] - row['before'][t]):+.2f})" if "after" in row else ""
            for t in tasks
        ]
        times = [f"{row['latency_ms'][str(n)]:.1f}" if "latency_ms" in row else "" for n in THREADS]
        lines.append([row["file"], megabytes, *cells, *scores, *times])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [
        f"- {row['file']}: {row.get('error') or row.get('note')}" for row in rows if "error" in row or "note" in row
    ]
    notes += [f"- {remark}" for remark in remarks]
    for how, said in SUPPRESSION.items():
        if names := [row["file"] for row in rows if row.get("boxes") and row["nms"] == how]:
            notes.append(f"- suppression {said}: {', '.join(names)}")
    return "\n".join([text, "", *notes, *_columns(tasks, side)])


def _columns(tasks: Sequence[str], side: str) -> list[str]:
    """What the columns of the table say, a line each."""
    metrics = [
        f"- {task}, {side}: the task's metric on the {side} images through the file's own runtime, and in brackets "
        "what it gains or loses against PyTorch's, in hundredths"
        for task in tasks
    ]
    return [
        "- MB: the file with its weights, in millions of bytes",
        "- largest difference: of an output from PyTorch's: a score, a logit, a tap, or a box's corner in pixels",
        "- relative: the same, as a share of the largest value, or of the image's longer side for boxes",
        "- unlike: share of pixels of another class, or of detections without a partner of the same class and place",
        *metrics,
        "- ms: median milliseconds of a call, of one batch, on so many threads",
    ]


def _on_mac() -> bool:
    import platform

    return platform.system() == "Darwin"
