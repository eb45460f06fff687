"""optim.optimizer.lr=auto beside a grid of rates: a short run of each, of one head on one data set after another.

    python benchmarks/auto.py experiment=pets3 photos=<folder> backbone.weights=<npz> size=96 trainer.max_epochs=4

Takes the settings of train.py; `task=` names one head, else it is all three, one after another.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from mnv2_tasks.machine import tune_for_cpu

tune_for_cpu()  # before torch is imported

from hydra import compose, initialize_config_dir  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402

from mnv2_tasks import train  # noqa: E402
from mnv2_tasks.assembly.overrides import CONFIGS, expand  # noqa: E402
from mnv2_tasks.assembly.settings import settle_training  # noqa: E402
from mnv2_tasks.assembly.trainer import make_trainer  # noqa: E402
from mnv2_tasks.datasets.reading.file_split import FileSplit  # noqa: E402
from mnv2_tasks.files import read_rows  # noqa: E402
from mnv2_tasks.training.fitting import fit  # noqa: E402
from mnv2_tasks.training.run_folder import open_folder  # noqa: E402

TASKS = ("classifier", "ssdlite", "deeplabv3")
USUAL = ("trainer.accelerator=cpu", "loader.workers=0", "examples=0")
GRIDS = {"SGD": (0.003, 0.01, 0.03, 0.1, 0.3), "AdamW": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)}
read = FileSplit.__getitem__
kept: dict[Path, dict[str, Any]] = {}


def read_once(split: FileSplit, index: int) -> dict[str, Any]:
    """A sample of all runs, which is read for the first."""
    path = split.path(index)
    if path not in kept:
        kept[path] = read(split, index)
    return dict(kept[path])


def settings_of(*typed: str) -> dict[str, Any]:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settle_training(compose("train", expand(list(typed))))


def run(runs: str, *typed: str) -> tuple[float, dict[str, float]]:
    """The rate of a run, and the last row of its metrics.csv; an empty one of a run that diverged."""
    resolved, task, _, _ = train.prepare(settings_of(*typed, f"runs={runs}"))
    folder = open_folder(resolved.settings)
    if resolved.rates:
        resolved.rates.write(folder)
    try:
        fit(make_trainer(resolved.settings, folder), task, resolved.data, None)
    except ValueError as error:
        print(error)
        return resolved.settings["optim"]["optimizer"]["lr"], {}
    return resolved.settings["optim"]["optimizer"]["lr"], read_rows(folder / "metrics.csv")[-1]


def main(typed: list[str]) -> None:
    tasks = [text.partition("=")[2] for text in typed if text.startswith("task=")] or TASKS
    others = [text for text in typed if not text.startswith("task=")]
    FileSplit.__getitem__ = read_once  # type: ignore[method-assign]
    table = ["| head | rate | val score | val loss |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as runs:
        for task in tasks:
            settings = (f"task={task}", *USUAL, *others)
            optimizer = settings_of(*settings)["optim"]["optimizer"]["_target_"].rpartition(".")[2]
            for rate in ("auto", *GRIDS[optimizer]):
                chosen, row = run(runs, *settings, f"optim.optimizer.lr={rate}", f"name={rate}")
                shown = f"auto: {chosen:g}" if rate == "auto" else f"{rate:g}"
                loss = row.get(f"{task}/val/loss", float("nan"))
                table.append(f"| {task} | {shown} | {row.get('val/score', 0):.4f} | {loss:.3f} |")
    print(*table, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
