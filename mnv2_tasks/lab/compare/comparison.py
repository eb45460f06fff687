"""Runs compared: `mnv2 compare <folders, studies, patterns>`, to a table, plots, pictures and a page."""

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, amount, shorten
from mnv2_tasks.files import new_folder, place_of, read_rows, replacing, write_json
from mnv2_tasks.lab.compare import rows as in_rows
from mnv2_tasks.lab.compare.rows import Row, mean_of
from mnv2_tasks.lab.compare.table import cells, markdown, spread, titles, told
from mnv2_tasks.lab.study.summary import curve_of
from mnv2_tasks.machine import tune_for_cpu

if TYPE_CHECKING:
    from mnv2_tasks.lab.compare.significance import Verdict

SAME_IMAGES = (
    "A paired bootstrap draws the images anew, for both models the same ones: it tells whether a difference would hold "
    "on other images of the kind. Another seed may do otherwise."
)
QUALITY = (
    "In brackets, how good a prediction is: the probability of the true classes, a detector's F1, the image's mIoU."
)


def main(config: Any) -> None:
    tune_for_cpu()
    from mnv2_tasks.lab.compare.found_runs import find
    from mnv2_tasks.lab.compare.shown_pictures import show
    from mnv2_tasks.lab.compare.significance import judge
    from mnv2_tasks.training.kept_images import check_count
    from mnv2_tasks.visual.page import Section, write_report

    settings = settle(config)
    check_count(settings["intervals"])
    paths, trust = [str(path) for path in settings["paths"]], settings["trust"]
    folder = new_folder(Path(settings["runs"]) / "compare", settings["name"])
    runs, left_out = find(paths, trust=trust, downloads=folder / "wandb")
    rows = in_rows.with_baseline(in_rows.together(runs), settings["baseline"])
    baseline = rows[0]
    side, rows, others = in_rows.choose_side(rows, settings["side"])
    said = [*left_out, *others]
    if settings["baseline"] and rows[0] is not baseline:
        raise InputError(f"baseline={settings['baseline']}: it was not evaluated on {side}; do so, or give another")
    headlines = in_rows.headlines(rows, side)
    print(f"compare: {amount(len(runs), 'run')} in {amount(len(rows), 'row')}, on {side}", flush=True)
    measured = {name: in_rows.measured(rows, side, name) for name in headlines}
    verdicts = [
        one
        for name in headlines
        if settings["intervals"]
        for one in judge(rows, side, name, count=settings["intervals"])
    ]
    others_first = ((name, in_rows.reference(rows, side, name)) for name in headlines)
    said += [
        f"{name}: {rows[0].name} has none; Δ is from {row.name}" for name, row in others_first if row is not rows[0]
    ]
    apart, unknown = in_rows.settings_apart(rows)
    said += [f"{name}: its settings are not known: no config.yaml" for name in unknown]
    plots = [plot for name in headlines for plot in _plots(rows, name, measured[name], side, folder, headlines)]
    pictures = {}
    for task in dict.fromkeys(headlines.values()):
        pictures[task], lines = show(rows, side, task, folder / "pictures", count=settings["examples"], trust=trust)
        said += lines
    _write_json(folder, rows, side, measured, verdicts, apart, said)
    _write_csv(folder / "compare.csv", rows, side)
    table = markdown(rows, side, measured, verdicts, apart, said)
    (folder / "compare.md").write_text(table, encoding="utf-8", errors="backslashreplace")
    names = [row.name for row in rows]
    settings_rows = [[name, *(shorten(str(value), 80) for value in values)] for name, values in apart.items()]
    sections = [
        Section("Table", titles=titles(rows, measured, verdicts), rows=cells(rows, measured, verdicts)),
        Section("On the same images", text=[SAME_IMAGES, *map(told, verdicts)] if verdicts else ()),
        Section("Settings that differ", titles=["setting", *names], rows=settings_rows),
        Section("Curves and costs", figures=plots),
        *(
            Section(
                f"{task}: where they differ most", text=[QUALITY], figures=[(one.path, one.caption) for one in shown]
            )
            for task, shown in pictures.items()
            if shown
        ),
        Section(f"All metrics on {side}", titles=["metric", *names], rows=_all_metrics(rows, side)),
        Section("Left out", text=said),
        Section("Again", commands=[("This page", "mnv2 compare " + shlex.join([*paths, *_typed(settings)]))]),
    ]
    write_report(
        folder / "report.html",
        title=f"{len(rows)} models compared on {side}",
        about=f"Δ is the difference from {rows[0].name}. {spread(rows)}",
        numbers=[_best(rows, name, measured[name]) for name in headlines],
        sections=sections,
    )
    print(f"\n{table}\ncompare folder: {folder} (report.html shows all of it)")


def _best(rows: Sequence[Row], metric: str, measured: Sequence[Mapping[str, Any]]) -> tuple[str, float, str]:
    """The highest value of a headline, and whose it is, for the top of the page."""
    value, name = max(
        (one["mean"], row.name) for row, one in zip(rows, measured, strict=True) if one["mean"] is not None
    )
    return metric, value, f"the highest: {name}"


def _typed(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={settings[key]}" for key in ("baseline", "side") if settings[key]]


def _plots(
    rows: Sequence[Row],
    metric: str,
    measured: Sequence[Mapping[str, Any]],
    side: str,
    folder: Path,
    headlines: Mapping[str, str],
) -> list[tuple[Path, str]]:
    """(file, what it shows): a headline's curves over one another, and the headline against multiply-adds."""
    from mnv2_tasks.visual.study_plots import plot_curves, plot_pareto

    task, name = metric.split("/", 1)
    variants = [
        {
            "name": row.name,
            **values,
            "madds": row.record.madds,
            "curve": curve_of([read_rows(run.folder / "metrics.csv") for run in row.runs], f"{task}/val/{name}"),
        }
        for row, values in zip(rows, measured, strict=True)
        if values["mean"] is not None
    ]
    place, found = place_of(folder, task, headlines), []
    place.mkdir(parents=True, exist_ok=True)
    results = {"variants": variants, "metric": f"{side} {metric}"}
    if any(variant["curve"] for variant in variants):
        plot_curves(results, path := place / "curves.png")
        found.append((path, f"{metric} on val over the epochs; the legend has the mean on {side}"))
    priced = [variant for variant in variants if variant["madds"]]
    if priced:
        plot_pareto({**results, "variants": priced}, path := place / "pareto.png")
        found.append((path, f"{metric} on {side} against multiply-adds"))
    return found


def _all_metrics(rows: Sequence[Row], side: str) -> list[list[Any]]:
    """A metric of a task a row, a column for each row of the table: means over the seeds; not those of each class."""
    names = dict.fromkeys(name for row in rows for name in row.record.metrics.get(side, {}) if name.count("/") == 1)
    return [[name, *(mean_of(row.values(side, name)) for row in rows)] for name in names]


def _write_json(
    folder: Path,
    rows: Sequence[Row],
    side: str,
    measured: Mapping[str, Sequence[Mapping[str, Any]]],
    verdicts: Sequence["Verdict"],
    apart: Mapping[str, Sequence[Any]],
    said: Sequence[str],
) -> None:
    content = {
        "side": side,
        "baseline": rows[0].name,
        "rows": [
            {
                "name": row.name,
                "folders": [str(run.folder) for run in row.runs],
                "seeds": [run.seed for run in row.runs],
                "metrics": {name: values[i] for name, values in measured.items()},
                "parameters": row.record.parameters,
                "madds": row.record.madds,
                **{name: row.mean_of(name) for name in ("latency_ms", "epochs", "wall_seconds")},
                "settings": {name: values[i] for name, values in apart.items()},
            }
            for i, row in enumerate(rows)
        ],
        "same_images": [
            {**asdict(one), "difference": one.difference._asdict() if one.difference else None} for one in verdicts
        ],
        "not_shown": list(said),
    }
    write_json(folder / "compare.json", content)


def _write_csv(path: Path, rows: Sequence[Row], side: str) -> None:
    """A row a run, for other programs, with every metric of the side."""
    metrics = list(dict.fromkeys(n for row in rows for run in row.runs for n in run.record.metrics.get(side, {})))
    costs = ("parameters", "madds", "latency_ms", "epochs", "best_epoch", "wall_seconds")
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "run", "folder", "seed", "side", *costs, *metrics])
        for row in rows:
            for run in row.runs:
                values = [getattr(run.record, name) for name in costs]
                found = [run.record.metrics.get(side, {}).get(name) for name in metrics]
                writer.writerow([row.name, run.name, run.folder, run.seed, side, *values, *found])
