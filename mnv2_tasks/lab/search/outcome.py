"""What a search ends with: search.json, search.csv, search.md, plots, and the best trials as experiment files."""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.changes import differences
from mnv2_tasks.assembly.experiment_file import beside, experiment_text
from mnv2_tasks.assembly.overrides import override_value
from mnv2_tasks.assembly.settings import settle_anew
from mnv2_tasks.errors import InputError, amount
from mnv2_tasks.files import replacing, write_json
from mnv2_tasks.lab.jobs.latency import latency_of
from mnv2_tasks.lab.search.search_report import write_search_report
from mnv2_tasks.lab.search.space import drawn_before, shown
from mnv2_tasks.lab.search.trials import DIRECTIONS, Trials, trial_name
from mnv2_tasks.visual.figure import write_table

if TYPE_CHECKING:
    from mnv2_tasks.lab.search.ask_and_tell import Runs

LISTED = 10  # trials in the table of one objective; of several it has the front
LEAST = 10  # complete trials from which importances are told
CONFIGS = "configs"  # the folder for `hydra.searchpath`: in that of the search, `runs` would be a group of configs
STATES = {"COMPLETE": "complete", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "running"}
COSTS = ("parameters", "madds", "latency_ms")
NOT_COMPARED = ("name", "runs", "search", "test", "resume", "trust")  # what an experiment file leaves to its user


def write(config: Mapping[str, Any], trials: Trials, runs: "Runs", overrides: Sequence[str]) -> dict[str, Any] | None:
    """Write the results of a search, print the table and give search.json's content; None where no trial is complete.

    Raises InputError where all trials have failed.
    """
    folder, rows = runs.folder, _rows(trials)
    done = [row for row in rows if row["state"] == "complete"]
    if not done:
        failed = [row for row in rows if row["state"] == "failed"]
        if len(failed) == len(rows) and failed:
            raise InputError(f"all {len(failed)} trials failed, first {failed[0]['name']}: {failed[0]['error']}")
        print("no table: no trial is complete")
        return None
    if "latency_ms" in trials.objective:
        _measure_alone(done, runs.trust)
    if len(trials.objective) > 1:
        best = sorted(front(done, trials.objective), key=lambda row: -row["score"])
    else:
        best = sorted(done, key=lambda row: -row["score"])[:LISTED]
    results = {
        "search": config["search"]["name"],
        "tasks": list(config["heads"]),
        "objective": trials.objective,
        "counts": dict(Counter(row["state"] for row in rows)),
        "importance": _importance(trials, len(done)),
        "best": best,
        "trials": rows,
    }
    write_json(folder / "search.json", results)
    _write_csv(folder / "search.csv", results)
    _plot(results, folder)
    place = folder / CONFIGS / "experiment"
    place.mkdir(parents=True, exist_ok=True)
    for name, row in {
        "best": best[0],
        **({row["name"]: row for row in best} if len(trials.objective) > 1 else {}),
    }.items():
        _write_experiment(place / f"{name}.yaml", row, overrides, results)
    table = markdown(results, folder, overrides)
    with replacing(folder / "search.md") as draft:
        draft.write_text(table, encoding="utf-8")
    write_search_report(folder, results, remarks(results), command(folder, overrides))
    print(f"\n{table}\nsearch folder: {folder}")
    return results


def _rows(trials: Trials) -> list[dict[str, Any]]:
    """A record a trial: name, state, score (the best val/score of the run), epochs, costs, settings, run, error."""
    rows = []
    for one in trials.all():
        about = one.user_attrs
        row = {"name": trial_name(one.number), "state": STATES[one.state.name], "score": about.get("score")}
        row |= {key: about.get(key) for key in ("epochs", *COSTS, "seconds", "run", "error")}
        rows.append({**row, "settings": drawn_before(one.params, trials.space)})
    return rows


def _measure_alone(rows: Sequence[dict[str, Any]], trust: Sequence[str]) -> None:
    """Put milliseconds that were measured one model after the other, here, in the place of those of the runs."""
    for row in rows:
        if (Path(row["run"]) / "checkpoints" / "best.ckpt").exists():  # not where the runner of another folder did it
            row["latency_ms"] = latency_of(Path(row["run"]), trust)


def front(rows: Sequence[Mapping[str, Any]], objective: Sequence[str]) -> list[Any]:
    """The trials that no other beats in one objective without losing in another (the Pareto front)."""
    signs = [1 if DIRECTIONS[name] == "maximize" else -1 for name in objective]
    points = [tuple(sign * row[name] for sign, name in zip(signs, objective, strict=True)) for row in rows]
    return [
        row
        for row, point in zip(rows, points, strict=True)
        if not any(other != point and all(a >= b for a, b in zip(other, point, strict=True)) for other in points)
    ]


def _importance(trials: Trials, complete: int) -> dict[str, float] | None:
    """{setting: its share}, the most important first, by PED-ANOVA: the one of Optuna's that needs no scikit-learn.

    None where too few trials are complete for it to tell anything.
    """
    if complete < LEAST or len(trials.space) < 2:
        return None
    import warnings

    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is experimental
        evaluator = PedAnovaImportanceEvaluator()
        shares = get_param_importances(trials.study, evaluator=evaluator, target=lambda trial: trial.values[0])
    return {name: float(share) for name, share in shares.items()}


def markdown(results: Mapping[str, Any], folder: Path, overrides: Sequence[str]) -> str:
    """The table of a search: its best trials, what mattered, and how to use the best."""
    objective, best, lines = results["objective"], results["best"], remarks(results)
    settings = list(dict.fromkeys(key for row in best for key in row["settings"]))
    timed = ["latency"] if "latency_ms" in objective else []
    titles = ["trial", "score", "epochs", "parameters", "multiply-adds", *timed, *settings]
    lines += ["", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in best:
        costs = [f"{row['parameters'] / 1e6:.3f} M", f"{row['madds'] / 1e6:.2f} M"]
        costs += [f"{row['latency_ms']:.2f} ms" for _ in timed]
        drawn = [shown(row["settings"].get(key)) for key in settings]
        cells = [row["name"], f"{row['score']:.4f}", str(row["epochs"]), *costs, *drawn]
        lines.append(f"| {' | '.join(cells)} |")
    if results["importance"]:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in results["importance"].items())
        lines += ["", f"What mattered (PED-ANOVA, shares of 1): {shares}."]
    if failed := [row for row in results["trials"] if row["state"] == "failed"]:
        lines += ["", f"{amount(len(failed), 'trial')} failed, first {failed[0]['name']}: {failed[0]['error']}"]
    return "\n".join([*lines, "", "The best again, or longer:", "", f"    {command(folder, overrides)}"]) + "\n"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What the table of a search tells."""
    objective, best = results["objective"], results["best"]
    counts = ", ".join(f"{count} {state}" for state, count in results["counts"].items())
    lines = [
        f"{results['search']} on {'+'.join(results['tasks'])}: {amount(len(results['trials']), 'trial')} ({counts}). "
        f"Best val/score {best[0]['score']:.4f}, of {best[0]['name']}.",
    ]
    if len(objective) > 1:
        lines.append(f"The front of {' against '.join(objective)}: no other trial is better in one and as good in all.")
    if "latency_ms" in objective:
        lines.append("Milliseconds were measured again, one model after the other, once the trials had ended.")
    return lines


def command(folder: Path, overrides: Sequence[str], name: str = "best") -> str:
    """What trains the settings of a trial."""
    return shlex.join(["python", "train.py", *_again(folder, overrides, name)])


def _again(folder: Path, overrides: Sequence[str], name: str) -> list[str]:
    """The settings of a run of an experiment file of the search."""
    places, without = [f"file://{folder.absolute() / CONFIGS}"], []
    for one in beside(overrides):
        if one.startswith("hydra.searchpath="):
            places += [place.strip() for place in one.partition("=")[2].strip("[]").split(",")]
        else:
            without.append(one)
    return [f"hydra.searchpath=[{','.join(places)}]", f"experiment={name}", *without]


def _write_experiment(path: Path, row: Mapping[str, Any], overrides: Sequence[str], results: Mapping[str, Any]) -> None:
    """Write a trial as an experiment file, and say so where it does not do quite what the trial did."""
    drawn = [f"{key}={override_value(value)}" for key, value in row["settings"].items()]
    own = [one for one in overrides if not one.startswith("search=")]
    settings = settle_anew([*overrides, *drawn, "search.trial=x"])
    costs = f"{row['parameters'] / 1e6:.3f} M parameters, {row['madds'] / 1e6:.2f} M multiply-adds"
    about = [
        f"{row['name']} of {results['search']} on {'+'.join(results['tasks'])}, the best of "
        f"{amount(len(results['trials']), 'trial')}:"
        if path.stem == "best"
        else f"{row['name']} of {results['search']} on {'+'.join(results['tasks'])}, on the front of "
        f"{' against '.join(results['objective'])}:",
        f"  {command(path.parents[2], overrides, path.stem)}",
        f"Result: val/score {row['score']:.4f} after {amount(row['epochs'], 'epoch')}; {costs}.",
    ]
    with replacing(path) as draft:
        draft.write_text(experiment_text([*own, *drawn], settings, about), encoding="utf-8")
    again = settle_anew(_again(path.parents[2], overrides, path.stem))
    other = [name for name in differences(settings, again) if name.partition(".")[0] not in NOT_COMPARED]
    if other:
        print(f"{path}: differs from the trial in {', '.join(other)}, which the file of the search sets", flush=True)


def _plot(results: Mapping[str, Any], folder: Path) -> None:
    from mnv2_tasks.visual.search_plots import plot_fronts, plot_history, plot_importance, plot_parallel

    plot_history(results, folder / "history.png")
    plot_parallel(results, folder / "parallel.png")
    if results["importance"]:
        plot_importance(results["importance"], folder / "importance.png")
    else:
        print(f"no importance.png: it needs two settings, and {LEAST} complete trials")
    if len(results["objective"]) > 1:
        plot_fronts(results, folder / "pareto.png")


def _write_csv(path: Path, results: Mapping[str, Any]) -> None:
    """A row a trial, for other programs."""
    names = list(dict.fromkeys(key for row in results["trials"] for key in row["settings"]))
    columns = ("name", "state", "score", "epochs", *COSTS, "seconds")
    rows = [
        [*(row[key] for key in columns), *(_raw(row["settings"].get(name)) for name in names), row["error"]]
        for row in results["trials"]
    ]
    with replacing(path) as draft:
        write_table(draft, [*columns, *names, "error"], rows)


def _raw(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else override_value(value)
