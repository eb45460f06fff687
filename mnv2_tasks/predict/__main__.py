"""Predict on pictures and videos: `python -m mnv2_tasks.predict model=<file> source=<image, folder, video, ...>`."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import FULL, InputError, amount
from mnv2_tasks.machine import tune_for_cpu
from mnv2_tasks.processes import Stop

if TYPE_CHECKING:
    from mnv2_tasks.predict.embeddings import Embeddings
    from mnv2_tasks.predict.films import Film, NamedPicture, Video
    from mnv2_tasks.predict.heat_maps import HeatMaps
    from mnv2_tasks.predict.pictures import Pictures
    from mnv2_tasks.predict.prediction_files import Drawings, Results
    from mnv2_tasks.predict.predictor import Predictor

MINUTE = 60  # seconds between two lines of a log
KEPT = (
    "size",
    "depth",
    "draw",
    "explain",
    "embed",
    "frames",
    "score",
    "classes",
    "iou",
)  # settings that a folder is of
BATCH_BYTES = 2**27  # of pictures that wait for a batch to be full


def main(config: Any) -> None:
    tune_for_cpu()
    settings = settle(config)
    check(settings)
    from mnv2_tasks.predict.embeddings import Embeddings
    from mnv2_tasks.predict.films import Film, Video, is_remote, without_password
    from mnv2_tasks.predict.heat_maps import HeatMaps, taps_for
    from mnv2_tasks.predict.pictures import Pictures, find
    from mnv2_tasks.predict.prediction_files import Drawings, Results, fingerprint, mark_complete, open_folder
    from mnv2_tasks.predict.predictor import Predictor, usable_device

    device = usable_device(settings["device"])
    name, size = str(settings["source"]), settings["size"]
    source = find(name, frames=settings["frames"], runs=settings["runs"])
    if source.left_out:
        print(source.left_out)
    predictor = Predictor(
        settings["model"],
        size=(size, size) if isinstance(size, int) else tuple(size) if size else None,
        device=device,
        threads=settings["threads"],
        trust=settings["trust"],
    )
    if settings["explain"] and isinstance(source, Video):
        raise InputError(f"explain: source={name} is a film or a camera; give pictures, or leave explain out")
    explained = taps_for(predictor, settings["explain"]) if settings["explain"] else ()
    if settings["embed"] is not None:
        predictor.keep("embed", [settings["embed"]])
    predictor.choose(**{key: settings[key] for key in ("score", "classes", "iou")})
    if settings["depth"]:
        predictor.depth = settings["depth"]
    if isinstance(source, Pictures):
        source.depth = predictor.depth
        depth = source.find_depth()
        if depth not in (None, predictor.depth):
            print(f"16-bit files: their values use {depth} bits, scaled by {predictor.depth}; depth={depth} changes it")
    label = without_password(name) if is_remote(name) else name
    record = {
        "model": fingerprint(predictor.path),
        "source": label if is_remote(name) else os.path.abspath(name),
        "source_bytes": os.path.getsize(name) if os.path.isfile(name) else None,
        **{key: settings[key] for key in KEPT},
    }
    folder, lock, complete = open_folder(settings["runs"], settings["name"], record)
    with lock, Stop() as stop:
        if complete and isinstance(source, Video):
            print(f"predictions: {folder}, complete since an earlier run: nothing is left; or choose another name=")
            return
        results = Results(predictor, folder, timed=isinstance(source, Video))
        if source.endless and results.next_id:
            raise InputError(f"{folder}: what a camera showed before is there; choose another name=")
        drawings: list[Film | Drawings | HeatMaps] = []
        if settings["draw"] and isinstance(source, Video):
            drawings.append(Film(predictor, folder, source))
        elif settings["draw"]:
            drawings.append(Drawings(predictor, folder))
        if explained:
            drawings.append(HeatMaps(predictor, folder, explained))
            print(f"explain: heat maps of {', '.join(explained)}, of one view of each picture")
        embeddings = Embeddings(predictor, folder, settings["embed"], results) if settings["embed"] else None
        before, began = len(results.done), time.monotonic()
        if results.next_id:
            print(f"{folder}: {amount(before, 'image')} of it done before")
        failure: OSError | None = None  # of writing: what is wrong with a picture comes as its error
        stopped, reasons = False, list[str]()
        try:
            batch_size = 1 if source.endless else settings["batch_size"]
            stopped = _run(predictor, source, batch_size, results, drawings, embeddings, stop, reasons)
        except OSError as error:
            failure = error
        finally:  # what came until then is worth keeping
            closing = [drawing.close for drawing in drawings] + ([embeddings.close] if embeddings else [])
            at_the_end = _close([*closing, results.finish, results.close])
            failure = failure or at_the_end
        _report(source, results, folder, before, time.monotonic() - began)
        again = f"; the same command with name={settings['name'] or folder.name} goes on"
        if failure:
            reason = f"{failure.filename or folder}: cannot be written ({failure.strerror})"
            fix = "free some space" if failure.errno in FULL else "mend that"
            raise InputError(f"{reason}; {_tally(source, results, len(reasons))}; {fix}{again.replace(';', ', then')}")
        if stopped and not (source.endless and stop.number == signal.SIGINT):  # Ctrl-C is how a camera is stopped
            assert stop.number
            line = f"stopped by {signal.Signals(stop.number).name}: {_tally(source, results, len(reasons))}"
            print(line + ("" if source.endless else again), file=sys.stderr)
            raise SystemExit(128 + stop.number)
        if not (stopped or reasons or source.hurt):
            mark_complete(folder)
    if reasons and isinstance(source, Video):
        raise InputError(f"{reasons[0]}; what came before is done")
    if reasons:
        raise InputError(
            f"{len(reasons):,} of {source.count:,} images could not be read; the others are done. {reasons[0]}"
        )
    if source.hurt and not source.endless:
        raise InputError(
            f"source={label}: {source.hurt} of its packets could not be decoded; all other frames are done"
        )


def check(settings: dict[str, Any]) -> None:
    """Raises InputError for a setting that has no such value."""
    from mnv2_tasks.datasets.reading.depth import DEPTHS

    def counts(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value > 0

    for key in ("model", "source"):
        value = settings[key]
        if value is None or value == "" or not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise InputError(f"{key} is not given: add {key}=<value>, one path or address, to the command")
    if settings["name"] is not None and not str(settings["name"]).strip("./ "):
        raise InputError(f"name={settings['name']}: give the folder for these results a name")
    if settings["depth"] not in (None, *DEPTHS):
        raise InputError(f"depth={settings['depth']}: the values of 16-bit files use {DEPTHS} bits")
    for key in ("batch_size", "threads", "frames"):
        if not counts(settings[key]) and (settings[key] is not None or key == "batch_size"):
            raise InputError(f"{key}={settings[key]}: use a whole number above 0")
    for key in ("score", "iou"):
        value = settings[key]
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1
        ):
            raise InputError(f"{key}={value}: use a number from 0 to 1")
    if isinstance(settings["classes"], (str, int, float)):
        settings["classes"] = [settings["classes"]]
    if settings["classes"] is not None:
        settings["classes"] = [str(name) for name in settings["classes"]]
        if not settings["classes"]:
            raise InputError("classes=[]: name some of the model's classes, or leave it out")
    explain = settings["explain"]
    if not (explain is None or isinstance(explain, bool) or isinstance(explain, list) and explain):
        raise InputError(f"explain={explain}: use true, or [taps of the trunk], such as [c4x,c5x]")
    settings["explain"] = [str(tap) for tap in explain] if isinstance(explain, list) else explain or None
    if not (settings["embed"] is None or isinstance(settings["embed"], str) and settings["embed"]):
        raise InputError(f"embed={settings['embed']}: use a tap of the trunk, such as c5x")
    if not isinstance(settings["draw"], bool):
        raise InputError(f"draw={settings['draw']}: use true or false")
    size = settings["size"]
    if not (size is None or counts(size) or isinstance(size, list) and len(size) == 2 and all(map(counts, size))):
        raise InputError(f"size={size}: use a side or [height, width], whole numbers above 0")


def _run(
    predictor: "Predictor",
    source: "Pictures | Video",
    batch_size: int,
    results: "Results",
    drawings: "Sequence[Drawings | Film | HeatMaps]",
    embeddings: "Embeddings | None",
    stop: Stop,
    reasons: list[str],
) -> bool:
    """Predict batch by batch; whether it was stopped. Fills `reasons` with what is wrong with unread pictures."""
    from tqdm import tqdm

    waiting: list[NamedPicture] = []
    images: list[Any] = []
    watched = sys.stderr.isatty()
    last_line = time.monotonic()

    def flush() -> None:
        nonlocal last_line
        rows = predictor.predict(images, batch_size=batch_size) if images else []
        if embeddings and images:
            embeddings.add(images)
        for named, row in zip(waiting, rows, strict=True):
            for drawing in drawings:
                drawing.add(named, row)
            results.add(named, row)
        bar.total = source.count
        bar.update(len(waiting))
        if not watched and time.monotonic() - last_line >= MINUTE:
            last_line = time.monotonic()
            of = f" of {source.count:,}" if source.count is not None else ""
            print(f"{len(results.done):,}{of} images are done", file=sys.stderr, flush=True)
        waiting.clear()
        images.clear()

    with tqdm(
        total=source.count, initial=len(results.done), unit="image", desc="predicting", disable=not watched
    ) as bar:
        for named in source.read(results.done):
            if stop.number:
                return True
            if named.name in results.done:  # a frame of a film that was stopped, which is drawn anew
                for drawing in drawings:
                    drawing.add(named, results.recall(named))
                continue
            if isinstance(named.image, InputError):
                flush()
                results.add_error(named)
                reasons.append(str(named.image))
                bar.write(f"skipped: {named.image}", file=sys.stdout)
                bar.update()
                continue
            waiting.append(named)
            images.append(named.image)
            if len(waiting) == batch_size or sum(image.numel() for image in images) >= BATCH_BYTES:
                flush()
        flush()
    return False


def _close(steps: Sequence[Callable[[], None]]) -> OSError | None:
    """Finish all files; what cannot be written of them, if anything."""
    failure = None
    for step in steps:
        try:
            step()
        except OSError as error:
            failure = failure or error
    return failure


def _report(source: Any, results: "Results", folder: Path, before: int, seconds: float) -> None:
    fresh = len(results.done) - before
    if source.views:
        views = ", ".join(f"{count:,} {kind}" for kind, count in source.views.items())
        print(f"further frames that belong to one picture (views, layers, thumbnails) are left out: {views}")
    if source.hurt:
        print(f"{source.hurt:,} packets could not be decoded")
    for line in results.counts():
        print(line)
    if fresh:
        print(f"{amount(fresh, 'image')}, {1000 * seconds / fresh:.1f} ms each")
    print(f"predictions: {folder}")


def _tally(source: Any, results: "Results", failed: int) -> str:
    """ "120 of 400 images are done, 280 are missing"."""
    done = source.among(results.done)
    if source.count is None:
        return f"{amount(done, 'image')} done and the rest is missing"
    return f"{done:,} of {source.count:,} images are done, {max(0, source.count - done - failed):,} missing"


if __name__ == "__main__":
    command(main, "predict")
