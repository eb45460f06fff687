"""Fit how scores are to be read: `python -m mnv2_tasks.calibrate ckpt=<best.ckpt>`, on images of val."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2_tasks.assembly.command import command
from mnv2_tasks.assembly.overrides import typed
from mnv2_tasks.assembly.restore import assemble, need_model
from mnv2_tasks.assembly.settings import settle
from mnv2_tasks.errors import InputError, amount, shorten
from mnv2_tasks.machine import tune_for_cpu

if TYPE_CHECKING:
    import numpy as np

    from mnv2_tasks.kinds import Calibration
    from mnv2_tasks.metrics.classification import LogitMetric

LISTED = 40  # classes, at most, with rows in the table
Fitted = tuple["Calibration", dict[str, Any]]  # and what calibration.json tells of it


def main(config: Any) -> None:
    check(settle(config))
    need_model(config)
    tune_for_cpu()
    from pytorch_lightning import seed_everything
    from pytorch_lightning.utilities import rank_zero_only

    from mnv2_tasks.assembly.trainer import agree, make_trainer
    from mnv2_tasks.files import new_folder, place_of, write_json
    from mnv2_tasks.kinds import Calibration
    from mnv2_tasks.metrics.classification import ClassificationMetric, LogitMetric, MultiLabelMetric
    from mnv2_tasks.metrics.detection import CocoMAP
    from mnv2_tasks.training.module import MultiTask
    from mnv2_tasks.training.results import evaluate
    from mnv2_tasks.weights.checkpoint import write_calibrated

    resolved, model = assemble(config, typed().names)
    settings, data = resolved.settings, resolved.data
    assert data is not None
    for line in resolved.said:
        rank_zero_only(print)(line)
    seed_everything(settings["seed"], verbose=False)
    split, precision = settings["split"], settings["precision"]
    data.tell([split])
    for head in model.heads.values():
        head.calibration = Calibration()  # of an earlier time
    task = MultiTask(model, data.classes)
    for name, metric in task.metrics.items():
        if isinstance(metric, ClassificationMetric):
            task.metrics[name] = LogitMetric(data.classes[name])
    trainer = make_trainer(settings, None)
    folder = agree(trainer, lambda: new_folder(Path(settings["runs"]) / "calibrate", settings["name"]))
    evaluate(task, data, trainer, split)
    if not trainer.is_global_zero:
        return
    fitted: dict[str, Fitted] = {}
    for name, metric in task.metrics.items():
        classes = task.classes[name]
        if isinstance(metric, LogitMetric):
            place = place_of(folder, name, model.heads)
            place.mkdir(parents=True, exist_ok=True)
            fitted[name] = temperature_of(name, metric, place)
        elif isinstance(metric, (MultiLabelMetric, CocoMAP)):
            usual = model.heads[name].kind.usual_score
            fitted[name] = thresholds_of(name, metric.fitted_to(), classes, usual=usual, precision=precision)
        else:
            print(f"{name}: nothing is fitted, for a temperature leaves every pixel's likeliest class as it is")
    if not fitted:
        raise InputError(f"ckpt={config.ckpt}: no head of it can be calibrated; give that of a classifier or detector")
    told = {name: numbers for name, (_, numbers) in fitted.items()}
    write_json(folder / "calibration.json", {"ckpt": str(config.ckpt), "split": split, **told})
    path = write_calibrated(config.ckpt, {name: calibration for name, (calibration, _) in fitted.items()})
    print(f"\nall numbers are of {split}, which it was fitted to: on other images they are a little worse")
    print(f"results: {folder}")
    print(f"calibrated: {path}, for predict, evaluate and export; {config.ckpt} stays as it is")


def check(settings: Mapping[str, Any]) -> None:
    """Raises InputError for a setting that has no such value."""
    ckpt, precision = settings["ckpt"], settings["precision"]
    if not ckpt:
        raise InputError("ckpt is not given: add ckpt=<a run's best.ckpt>")
    if Path(str(ckpt)).suffix != ".ckpt" and ":" not in str(ckpt):
        raise InputError(f"ckpt={ckpt}: an exported file keeps what it has; calibrate the checkpoint, and export that")
    if precision is not None and (
        isinstance(precision, bool) or not isinstance(precision, (int, float)) or not 0 < precision <= 1
    ):
        raise InputError(f"precision={precision}: use a number above 0, up to 1, or null")


def temperature_of(name: str, metric: "LogitMetric", folder: Path) -> Fitted:
    """The temperature of a classifier, and its likelihood and calibration error before and after, as plots, too."""
    import numpy as np

    from mnv2_tasks.kinds.calibration import COOLEST, HOTTEST, Calibration
    from mnv2_tasks.metrics.classification import calibration
    from mnv2_tasks.metrics.temperature import fit_temperature, negative_log_likelihood, softmax
    from mnv2_tasks.visual.classification_plots import plot_reliability

    logits, labels = metric.fitted_to()
    found = fit_temperature(logits, labels, coolest=COOLEST, hottest=HOTTEST) if len(labels) else None
    told: dict[str, Any] = {"images": len(labels), "temperature": found or 1.0}
    if found is None:
        why = "every image is right, or classes are guessed" if len(labels) else "no image has a label"
        print(f"{name}: no temperature between {COOLEST:g} and {HOTTEST:g} is the best ({why}); it stays 1")
        return Calibration(), told
    for when, temperature in (("before", 1.0), ("after", found)):
        scores = softmax(logits / temperature)
        bins = calibration(scores.max(1), scores.argmax(1) == labels)
        plot_reliability(*bins, folder / f"reliability_{when}.png")
        error = float(np.abs(bins[2] - bins[1]).sum() / len(labels))
        told[when] = {"nll": negative_log_likelihood(logits, labels, temperature), "ece": error}
    print(f"\n{name}: temperature {found:.3f}, of {amount(len(labels), 'image')}")
    print(f"{'':30}{'before':>9}{'after':>9}")
    for key, words in (("nll", "negative log-likelihood"), ("ece", "expected calibration error")):
        print(f"{words:30}{told['before'][key]:9.4f}{told['after'][key]:9.4f}")
    return Calibration(temperature=found), told


def thresholds_of(
    name: str,
    columns: "Sequence[tuple[np.ndarray, np.ndarray, int]]",
    classes: Sequence[str],
    *,
    usual: float,
    precision: float | None,
) -> Fitted:
    """A threshold a class, of its scores, which of them are right, and how many there are to be found."""
    from mnv2_tasks.kinds.calibration import Calibration
    from mnv2_tasks.metrics.thresholds import at_threshold, best_threshold

    rows: list[dict[str, Any]] = []
    kept, short = [], []
    for label, column in zip(classes, columns, strict=True):
        best = best_threshold(*column, precision=precision)
        if best is None and precision is not None and (best := best_threshold(*column)):
            short.append(label)
        if best is None:
            kept.append(label)
            best = at_threshold(*column, usual)
        before = at_threshold(*column, usual)
        figures = {"before": before._asdict(), "after": best._asdict()}
        rows.append({"class": label, "threshold": best.value, "there": column[2], **figures})
    wanted = "best F1" if precision is None else f"the most found at a precision of {precision:g}"
    print(f"\n{name}: thresholds of {wanted}")
    print(f"{'':24}{'there':>7}{'from':>8}{'precision':>11}{'recall':>8}{'F1':>8}{f'F1 at {usual:g}':>11}")
    for row in rows[:LISTED]:
        values = row["after"]
        print(
            f"{shorten(row['class'], 22):24}{row['there']:7d}{values['value']:8.3f}{values['precision']:11.3f}"
            f"{values['recall']:8.3f}{values['f1']:8.3f}{row['before']['f1']:11.3f}"
        )
    if len(rows) > LISTED:
        print(f"and {len(rows) - LISTED} classes more, in calibration.json")
    if short:
        print(f"{name}: no score is as precise for {shorten(', '.join(short), 100)}: thresholds of best F1 there")
    if kept:
        print(f"{name}: nothing there, or nothing found, of {shorten(', '.join(kept), 100)}: {usual:g} stays")
    return Calibration(thresholds=tuple(row["threshold"] for row in rows)), {"thresholds": rows}


if __name__ == "__main__":
    command(main, "calibrate")
