"""The data doctor: `python -m mnv2_tasks.doctor data=<data set> data.root=<folder> task=<task>`."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import typed
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.machine import tune_for_cpu

if TYPE_CHECKING:
    from mnv2_tasks.datasets.datamodule import DataModule
    from mnv2_tasks.doctor.findings import Finding, Report
    from mnv2_tasks.doctor.looking import Side

OWN = ("examples", "runs", "name", "predictions")  # settings of this command that training has not, or means otherwise


def main(config: Any) -> None:
    tune_for_cpu()
    from tqdm import tqdm

    from mnv2_tasks.assembly.build import make_data
    from mnv2_tasks.assembly.resolve import resolve
    from mnv2_tasks.assembly.suggestions import describe_suggestions
    from mnv2_tasks.datasets.reading.problems import heard
    from mnv2_tasks.doctor import labels, telling
    from mnv2_tasks.doctor.balance import look_at_balance
    from mnv2_tasks.doctor.duplicates import Looks
    from mnv2_tasks.doctor.findings import Finding, Report, Shown
    from mnv2_tasks.doctor.leaks import look_at_duplicates
    from mnv2_tasks.doctor.looking import look, sides_of
    from mnv2_tasks.doctor.marks import look_at_marks
    from mnv2_tasks.doctor.quality import look_at_quality
    from mnv2_tasks.files import new_folder

    said = describe_suggestions(config, ("size", "batch_size"))
    kept = {}
    if config.predictions:
        labels.need_cleanlab()
        kept = {task: labels.read_predictions(Path(config.predictions), str(task)) for task in config.heads}
    report = Report()
    with heard() as problems:
        resolved = resolve(settle(config), make_data, said=said)
        settings, data = resolved.settings, resolved.data
        assert data is not None
        splits = data.with_splits(("train", "val", "test"))
        report.sides, warnings = data.described(splits)
    for line in (*resolved.said, *report.sides):
        print(line, flush=True)
    folder = new_folder(Path(settings["runs"]) / "doctor", settings["name"])
    if refused := list(dict.fromkeys(problems)):
        text = f"{amount(len(refused), 'problem')} at which a training stops: {refused[0]}"
        report.findings.append(Finding("refused", "stops", text, "", [Shown((), line) for line in refused]))
    report.findings += [Finding("labels", "look", line.removeprefix("warning: ")) for line in warnings]
    try:
        data.check_training()
    except InputError as error:
        report.findings.append(Finding("sides", "stops", str(error)))

    sides = sides_of(splits, data.learnt)
    count = sum(map(len, sides))
    looks = Looks(count)
    with tqdm(total=count, desc="reading", unit="image", disable=None) as bar:
        look(sides, looks, bar)
    with tqdm(total=count, desc="comparing", unit="image", disable=None) as bar:
        report.findings += look_at_duplicates(sides, looks, lambda done, of: bar.update(done - bar.n) and None)
    for found, tables in (look_at_quality(sides), look_at_balance(sides, weighings(settings, data))):
        report.findings += found
        report.tables += tables
    report.findings += look_at_marks(sides)
    if kept:
        report.findings += look_at_labels(settings, data, sides, folder, kept)
    look_at_detectors(report, settings, data, sides)

    line = training_command(report)
    title = f"{', '.join(settings['data'])} for {', '.join(settings['heads'])}"
    telling.write_report(report, splits, folder, title=title, command=line, examples=settings["examples"])
    print(*telling.lines(report), sep="\n")
    print(f"settings: {line}\npage: {folder / 'doctor.html'}")


def look_at_detectors(report: "Report", settings: dict[str, Any], data: "DataModule", sides: "list[Side]") -> None:
    """What the default boxes of each head that has some reach of its training objects."""
    from functools import partial

    from mnv2_tasks.doctor.boxes import look_at_boxes
    from mnv2_tasks.heads.ssdlite import SSDLite
    from mnv2_tasks.weights.trust import look_up

    for task, head in settings["heads"].items():
        made = look_up(head["_target_"])
        source = data.source_of(task)
        train = [side for side in sides if (side.source, side.name) == (source, "train")]
        if isinstance(made, type) and issubclass(made, SSDLite) and train:
            setting = "head.sources" if len(settings["heads"]) == 1 else f"head.{task}.sources"
            build = partial(build_head, settings, data, task)
            found, tables = look_at_boxes(train[0], task, build, size=data.sizes[source], setting=setting)
            report.findings += found
            report.tables += tables


def look_at_labels(
    settings: dict[str, Any], data: "DataModule", sides: "list[Side]", folder: Path, kept: dict[str, Any]
) -> "list[Finding]":
    """The labels that out-of-fold predictions contradict, {task: those `kept`}, with a file of each task to edit."""
    from mnv2_tasks.doctor import labels
    from mnv2_tasks.files import place_of

    found = []
    for task, kind in data.tasks.items():
        mine = [side for side in sides if side.source == data.source_of(task) and side.name in ("train", "val")]
        seen = [(side, row) for side in mine for row in range(len(side))]  # train's, then val's, as folds have them
        rows, first = kept[task]["rows"].tolist(), str(kept[task]["names"][0])
        places = [side.place(row) for side, row in seen]
        if max(rows) >= len(seen) or first not in ("", os.path.abspath(places[rows[0]].name)):
            raise InputError(
                f"predictions={settings['predictions']}: they are of other images than data={','.join(data.sources)}; "
                "give the data set that the folds were of"
            )
        chosen, images = [seen[row] for row in rows], [places[row] for row in rows]
        doubts = labels.doubts_of(kind.name, chosen, kept[task], mine[0].kinds[kind.name])
        place = place_of(folder, task, data.tasks)
        place.mkdir(exist_ok=True)
        labels.write_corrections(place / "corrected_labels.csv", doubts, images)
        found += labels.finding_of(task, doubts, images)
    return found


def build_head(settings: dict[str, Any], data: "DataModule", task: str, size: Any, sources: Any) -> Any:
    """The network with one of its heads alone, for a size and taps of it."""
    import torch

    from mnv2_tasks.assembly.network import build_model

    head = dict(settings["heads"][task])
    if sources is not None:
        head["sources"] = list(sources)
    torch.manual_seed(settings["seed"])
    return build_model({**settings, "heads": {task: head}}, {task: data.classes[task]})


def weighings(settings: dict[str, Any], data: "DataModule") -> list[str]:
    """The settings by which these heads could even out uneven classes."""
    heads = settings["heads"]
    found = []
    if all(kind.name == "classification" for kind in data.tasks.values()) and not settings["loader"]["balanced"]:
        found.append("loader.balanced=true")
    for task, kind in data.tasks.items():
        if kind.name == "segmentation" and heads[task].get("class_weights", False) is None:
            found.append(f"head.{'' if len(heads) == 1 else f'{task}.'}class_weights=balanced")
    return found


def training_command(report: "Report") -> str:
    """The command line that trains with what was typed and what is suggested."""
    suggested = report.settings()
    taken = [*OWN, *(setting.partition("=")[0] for setting in suggested)]
    kept = [setting for setting in typed().settings if setting.partition("=")[0].lstrip("+") not in taken]
    return shlex.join(["mnv2", "train", *kept, *suggested])


if __name__ == "__main__":
    command(main, "doctor")
