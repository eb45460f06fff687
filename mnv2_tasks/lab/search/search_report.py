"""report.html of a search: its best trials, what mattered, and every trial."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.lab.search.space import shown
from mnv2_tasks.machine import command_line
from mnv2_tasks.visual.page import Section, machine_section, write_report

CAPTIONS = {
    "history": "The score of every trial in their order, and the best so far",
    "importance": "What mattered: the share of each setting, by PED-ANOVA",
    "parallel": "A line a trial through its settings",
    "pareto": "The front between the objectives",
}


def write_search_report(folder: Path, results: Mapping[str, Any], remarks: Sequence[str], again: str) -> None:
    """Write report.html from search.json's content; its pictures are those of the folder.

    Args:
        remarks: what is to be said of the table, a paragraph each.
        again: the command that trains the best settings.
    """
    best, trials = results["best"], results["trials"]
    names = list(dict.fromkeys(key for row in trials for key in row["settings"]))
    heading = "The front" if len(results["objective"]) > 1 else "The best trials"
    figures = [(folder / f"{name}.png", caption) for name, caption in CAPTIONS.items()]
    failed = [f"{row['name']}: {row['error']}" for row in trials if row["state"] == "failed"]
    numbers: list[tuple[str, Any, str]] = [("best val/score", best[0]["score"], best[0]["name"])]
    numbers += [("trials" if state == "complete" else state, count, "") for state, count in results["counts"].items()]
    write_report(
        folder / "report.html",
        title=f"Search {results['search']} of {', '.join(results['tasks'])}",
        about=str(folder),
        numbers=numbers,
        sections=[
            Section(heading, remarks, titles=_titles(names), rows=_rows(best, names)),
            Section("Pictures", figures=figures),
            Section("Every trial", failed, titles=_titles(names), rows=_rows(trials, names)),
            Section(
                "How to go on",
                commands=[
                    ("The best settings again, or longer", again),
                    ("More trials, with a larger search.trials; what has ended is not done again", command_line()),
                ],
            ),
            machine_section(),
        ],
    )


def _titles(names: Sequence[str]) -> list[str]:
    return ["trial", "state", "score", "epochs", "parameters", "multiply-adds", "ms", "seconds", *names]


def _rows(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[list[Any]]:
    columns = ("name", "state", "score", "epochs", "parameters", "madds", "latency_ms", "seconds")
    return [[*(row[key] for key in columns), *(_drawn(row["settings"].get(name)) for name in names)] for row in trials]


def _drawn(value: Any) -> Any:
    return value if value is None or isinstance(value, (int, float)) else shown(value)
