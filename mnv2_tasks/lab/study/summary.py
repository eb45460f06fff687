"""What a study ends with: study.json, study.csv, study.md, and plots of the curves and of accuracy against cost."""

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from mnv2_tasks.files import read_rows, replacing
from mnv2_tasks.lab.jobs.latency import latency_of
from mnv2_tasks.training.run_record import NAME, read_run

if TYPE_CHECKING:
    from mnv2_tasks.lab.study.plan import Run

EQUAL = 0.02  # costs that differ by no more count as equal


def write(config: Mapping[str, Any], runs: Sequence["Run"], folder: Path) -> dict[str, Any] | None:
    """Write the results of those of the planned runs that are finished, print the table and give study.json's content.

    None where no run of the variant that the others are compared with is finished.
    """
    from mnv2_tasks.files import write_json
    from mnv2_tasks.lab.study.study_report import write_study_report
    from mnv2_tasks.visual.study_plots import plot_curves, plot_pareto, plot_values
    from mnv2_tasks.weights.trust import foreign_modules

    baseline, done = runs[0].variant, [one for one in runs if one.finished]
    if not any(one.variant == baseline for one in done):
        print(f"no table: no run of {baseline}, which the others are compared with, is finished")
        return None
    done.sort(key=lambda one: one.variant != baseline)
    results = {"study": config["study"]["name"], **summarise(done)}
    # What the study's own settings name may be built, such as a head of one's own; not what lies in its folder.
    trust = foreign_modules(config)
    for variant in results["variants"]:
        one = next(one for one in done if one.variant == variant["name"])
        variant["latency_ms"] = latency_of(one.folder, trust)
    write_json(folder / "study.json", results)
    _write_csv(folder / "study.csv", results)
    table = markdown(results)
    (folder / "study.md").write_text(table, encoding="utf-8")
    plot_curves(results, folder / "curves.png")
    picture, other = ("values.png", "pareto.png") if results["equal_cost"] else ("pareto.png", "values.png")
    (folder / other).unlink(missing_ok=True)  # of a time when fewer runs were finished
    (plot_values if results["equal_cost"] else plot_pareto)(results, folder / picture)
    write_study_report(folder, results, remarks(results))
    print(f"\n{table}\nstudy folder: {folder}")
    return results


def summarise(runs: Sequence["Run"]) -> dict[str, Any]:
    """Means, deviations and paired differences of finished runs.

    The metric is the mean of the heads' headlines, on test where all heads have one, else, and of folds, on val.
    Differences are from the first variant, seed by seed, with the 95% interval of Student's t.

    Returns:
        tasks; metric; baseline; equal_cost: whether all variants cost as many multiply-adds within 2%;
        variants: [{name, settings, values: {seed: value}, mean, std, difference: {mean, low, high, pairs} or None,
        parameters, madds, cost_ratio, matched, curve: [{epoch, mean, low, high}]}].
    """
    records = {one.folder: read_run(one.folder / NAME) for one in runs}
    first = records[runs[0].folder]
    headlines = {at: [f"{t}/{name}" for t, name in record.primaries.items()] for at, record in records.items()}
    tested = runs[0].fold is None and all(
        headline in records[at].metrics.get("test", {}) for at, names in headlines.items() for headline in names
    )
    side, metric_names = "test" if tested else "val", list(dict.fromkeys(itertools.chain(*headlines.values())))
    names = list(dict.fromkeys(one.variant for one in runs))
    variants = []
    for name in names:
        variant_runs = [one for one in runs if one.variant == name]
        values = {
            one.repeat: mean(records[one.folder].metrics[side][headline] or 0.0 for headline in headlines[one.folder])
            for one in variant_runs
        }
        record = records[variant_runs[0].folder]
        variants.append(
            {
                "name": name,
                "settings": variant_runs[0].settings,
                "values": values,
                "mean": mean(values.values()),
                "std": stdev(values.values()) if len(values) > 1 else None,
                "parameters": record.parameters,
                "madds": record.madds,
                "cost_ratio": record.madds / first.madds,
                "matched": record.matched,
                "curve": curve_of([read_rows(one.folder / "metrics.csv") for one in variant_runs]),
            }
        )
    for variant in variants:
        same = variant is variants[0]
        variant["difference"] = None if same else paired_difference(variant["values"], variants[0]["values"])
    return {
        "tasks": list(dict.fromkeys(task for record in records.values() for task in record.tasks)),
        "metric": f"{side} {_joined(metric_names, mixed=len(metric_names) > len(headlines[runs[0].folder]))}",
        "baseline": names[0],
        "repeats": "seeds" if runs[0].fold is None else "folds",
        "equal_cost": all(abs(variant["cost_ratio"] - 1) <= EQUAL for variant in variants),
        "variants": variants,
    }


def _joined(headlines: Sequence[str], *, mixed: bool) -> str:
    """What the metric is called; `mixed` where the variants have different heads."""
    if mixed:
        return " or ".join(dict.fromkeys(headline.rpartition("/")[2] for headline in headlines))
    return headlines[0] if len(headlines) == 1 else f"mean of {', '.join(headlines)}"


def paired_difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[str, Any]:
    """The mean of the differences by seed, and its 95% confidence interval (Student's t); None ends with one pair."""
    from scipy.stats import t

    changes = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    if len(changes) < 2:
        return {"mean": changes[0] if changes else None, "low": None, "high": None, "pairs": len(changes)}
    middle, half = mean(changes), t.ppf(0.975, len(changes) - 1) * stdev(changes) / math.sqrt(len(changes))
    return {"mean": middle, "low": middle - half, "high": middle + half, "pairs": len(changes)}


def markdown(results: Mapping[str, Any]) -> str:
    """The table of a study, ready for a README or a paper."""
    lines = remarks(results)
    titles = ("variant", results["metric"].split("/")[-1], "difference", "parameters", "multiply-adds", "latency")
    lines += ["", "| " + " | ".join(titles) + " |", "|---|---|---|---|---|---|"]
    for variant in results["variants"]:
        spread = "" if variant["std"] is None else f" ± {variant['std']:.4f}"
        cost = (f"{variant['parameters'] / 1e6:.3f} M", f"{variant['madds'] / 1e6:.2f} M", _ms(variant["latency_ms"]))
        row = (variant["name"], f"{variant['mean']:.4f}{spread}", _difference(variant["difference"]), *cost)
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What the table of a study tells, and whether costs are equal."""
    seeds, repeats = {len(variant["values"]) for variant in results["variants"]}, results.get("repeats", "seeds")
    paired = f", paired by {repeats[:-1]}, with their 95% interval (Student's t)"
    lines = [
        f"{results['study']} on {'+'.join(results['tasks'])}: {results['metric']}, {_over(seeds, repeats)} "
        f"differences from {results['baseline']}{'' if max(seeds) == 1 else paired}.",
    ]
    if results["equal_cost"] and len(results["variants"]) > 1:
        lines.append("Costs are equal within 2%: values.png has the values of every seed, and there is no pareto.png.")
    if not results["equal_cost"]:
        ratios = [variant["cost_ratio"] for variant in results["variants"]]
        lines.append(f"Costs are not equal: {min(ratios):.2f} to {max(ratios):.2f} times the baseline's multiply-adds.")
    return lines


def _over(seeds: set[int], repeats: str) -> str:
    if seeds == {1}:
        return f"of one {repeats[:-1]}, which tells nothing of the spread between {repeats};"
    return f"mean ± standard deviation over {' or '.join(map(str, sorted(seeds)))} {repeats};"


def _difference(change: Mapping[str, Any] | None) -> str:
    if change is None or change["mean"] is None:
        return "-"
    if change["low"] is None:
        return f"{change['mean']:+.4f}"
    return f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def curve_of(tables: Sequence[list[dict[str, float]]], column: str = "val/score") -> list[dict[str, float]]:
    """A column of metrics.csv over the epochs that all seeds have: its mean, least and most."""
    scores = [{row["epoch"]: row[column] for row in rows if column in row} for rows in tables]
    shared = sorted(set.intersection(*(set(score) for score in scores)))
    points = [(epoch, [score[epoch] for score in scores]) for epoch in shared]
    return [{"epoch": epoch, "mean": mean(each), "low": min(each), "high": max(each)} for epoch, each in points]


def _write_csv(path: Path, results: Mapping[str, Any]) -> None:
    """A row a run, for other programs: variant, seed, value, and what the variant costs."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", results["metric"], "parameters", "madds", "latency_ms"])
        for variant in results["variants"]:
            for seed, value in variant["values"].items():
                costs = (variant["parameters"], variant["madds"], variant["latency_ms"])
                writer.writerow([variant["name"], seed, value, *costs])
