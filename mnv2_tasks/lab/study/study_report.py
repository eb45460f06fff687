"""report.html of a study: what was varied, what came of it, and every run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnv2_tasks.machine import command_line
from mnv2_tasks.visual.page import Section, machine_section, write_report

CAPTIONS = {
    "curves": "Scores on val over the epochs: mean, least and most",
    "pareto": "Accuracy against cost",
    "values": "The value of every run",
}


def write_study_report(folder: Path, results: Mapping[str, Any], remarks: Sequence[str]) -> None:
    """Write report.html from study.json's content; its pictures are those of the folder.

    remarks: what is to be said of the table, a paragraph each.
    """
    variants: Sequence[Mapping[str, Any]] = results["variants"]
    best = max(variants, key=lambda variant: variant["mean"])
    rows = [[one["name"], one["mean"], one["std"], *_difference(one["difference"]), *_costs(one)] for one in variants]
    titles = ("variant", results["metric"], "std", "difference", "low", "high", "parameters", "multiply-adds", "ms")
    runs = [[one["name"], seed, value] for one in variants for seed, value in one["values"].items()]
    figures = [(folder / f"{name}.png", caption) for name, caption in CAPTIONS.items()]
    write_report(
        folder / "report.html",
        title=f"Study {results['study']} of {', '.join(results['tasks'])}",
        about=str(folder),
        numbers=[
            (f"the best: {best['name']}", best["mean"], results["metric"]),
            ("variants", len(variants), ""),
            ("finished runs", len(runs), ""),
        ],
        sections=[
            Section("Results", remarks, titles=titles, rows=rows),
            Section("Pictures", figures=figures),
            Section("Runs", titles=("variant", results["repeats"].removesuffix("s"), results["metric"]), rows=runs),
            Section("How to go on", commands=[("Once more: what is finished is not done again", command_line())]),
            machine_section(),
        ],
    )


def _difference(change: Mapping[str, Any] | None) -> list[float | None]:
    return [change[key] for key in ("mean", "low", "high")] if change else [None, None, None]


def _costs(variant: Mapping[str, Any]) -> list[Any]:
    return [f"{variant['parameters'] / 1e6:.3f} M", f"{variant['madds'] / 1e6:.2f} M", variant["latency_ms"]]
