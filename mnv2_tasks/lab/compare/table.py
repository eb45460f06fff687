"""The table of a comparison: its columns, as cells of a page and as Markdown, and verdicts in words."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from mnv2_tasks.errors import shorten
from mnv2_tasks.lab.compare.rows import Row

if TYPE_CHECKING:
    from mnv2_tasks.lab.compare.significance import Verdict

Measured: TypeAlias = Mapping[str, Sequence[Mapping[str, Any]]]  # {headline: of each row, see `rows.measured`}
COSTS = ("M parameters", "M multiply-adds", "ms", "epochs", "seconds")


def titles(rows: Sequence[Row], measured: Measured, verdicts: Sequence["Verdict"]) -> list[str]:
    """The columns of `cells`; one that no row has a value for is left out."""
    return ["run", *(title for title, _ in _columns(rows, measured, verdicts)), "seeds", *COSTS]


def cells(rows: Sequence[Row], measured: Measured, verdicts: Sequence["Verdict"]) -> list[list[Any]]:
    """A list of values a row, the baseline's first: numbers, texts, and None for what there is not."""
    columns = _columns(rows, measured, verdicts)
    found = []
    for i, row in enumerate(rows):
        epochs = row.mean_of("epochs")
        costs = [
            row.record.parameters / 1e6 or None,
            row.record.madds / 1e6 or None,
            row.mean_of("latency_ms"),
            None if epochs is None else round(epochs),
            None if row.mean_of("wall_seconds") is None else round(row.mean_of("wall_seconds") or 0),
        ]
        found.append([row.name, *(values[i] for _, values in columns), len(row.runs), *costs])
    return found


def _columns(rows: Sequence[Row], measured: Measured, verdicts: Sequence["Verdict"]) -> list[tuple[str, list[Any]]]:
    """(title, a value for each row)."""
    columns: list[tuple[str, list[Any]]] = []
    for name, values in measured.items():
        own = {verdict.row: verdict.difference for verdict in verdicts if verdict.metric == name}
        changes = [one["difference"] or {} for one in values]
        seeds = [_ends(change.get("low"), change.get("high")) for change in changes]
        images = [_ends(one.low, one.high) if (one := own.get(row.name)) else None for row in rows]
        columns += [(name, [one["mean"] for one in values]), ("± of seeds", [one["std"] for one in values])]
        columns += [("Δ", [change.get("mean") for change in changes]), ("Δ over seeds, 95%", list(seeds))]
        columns.append(("Δ over images, 95%", images))
    return [(title, values) for title, values in columns if any(value is not None for value in values)]


def _ends(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def told(verdict: "Verdict") -> str:
    """A verdict as a sentence."""
    pair = f"{verdict.row} against {verdict.against}, {verdict.metric}"
    if verdict.difference is None:
        return f"{pair}: not told by images ({verdict.why})"
    change = verdict.difference
    word = ("better" if change.value > 0 else "worse") if change.is_clear else "not told apart"
    ends = _ends(change.low, change.high)
    return f"{pair}: {word}, {change.value:+.4f} ({ends}; {verdict.why})"


def markdown(
    rows: Sequence[Row],
    side: str,
    measured: Measured,
    verdicts: Sequence["Verdict"],
    apart: Mapping[str, Sequence[Any]],
    said: Sequence[str],
) -> str:
    """All of the comparison that is text."""
    baseline = rows[0].name
    lines = [f"{len(rows)} rows on {side}; Δ is the difference from {baseline}. {spread(rows)}", ""]
    lines += _table(titles(rows, measured, verdicts), cells(rows, measured, verdicts))
    if verdicts:
        lines += ["", "On the same images (paired bootstrap; another seed may do otherwise):", ""]
        lines += [f"- {told(verdict)}" for verdict in verdicts]
    if apart:
        lines += ["", "Settings that differ:", ""]
        shown = [[name, *(shorten(str(value), 60) for value in values)] for name, values in apart.items()]
        lines += _table(["setting", *(row.name for row in rows)], shown)
    if said:
        lines += ["", "Left out:", "", *(f"- {line}" for line in said)]
    return "\n".join(lines) + "\n"


def spread(rows: Sequence[Row]) -> str:
    """What the seeds of the rows can tell."""
    seeds = [len(row.runs) for row in rows]
    if max(seeds) == 1:
        return "One seed each, which tells nothing of the spread between seeds."
    few = " Rows of one seed tell nothing of it." if min(seeds) == 1 else ""
    return f"± is the standard deviation over seeds; differences are paired by seed (Student's t).{few}"


def _table(head: Sequence[str], body: Sequence[Sequence[Any]]) -> list[str]:
    def row(values: Sequence[Any]) -> str:
        return "| " + " | ".join(str(value).replace("|", "\\|") for value in values) + " |"

    return [row(head), "|" + "---|" * len(head), *(row([_shown(value) for value in values]) for values in body)]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"
    return str(value)
