"""The W&B run of a run folder: one history, however often the run was stopped and resumed."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import loggers
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.errors import InputError, amount, reason_of
from mnv2_tasks.files import replacing

STEP = "trainer/global_step"  # Lightning's name of the horizontal axis
STEPS = "wandb_steps.jsonl"  # what was logged of single steps, a line each


class WandbLogger(loggers.WandbLogger):
    """Lightning's, for a run that may be resumed.

    An offline folder holds the run from its beginning: W&B replaces the history of a run when a second offline folder
    of its id is synced. So what a resumed run did before is sent once more, epochs from metrics.csv and single steps
    from wandb_steps.jsonl, as far as W&B does not have it. Where it does, online, no step is sent a second time.

    Args:
        folder: the run folder.
        watch: "gradients", "parameters" or "all": histograms of them; None: none.
        log_model: whether the checkpoints become an artifact at the end.
        registry: "wandb-registry-<name>/<collection>" that best.ckpt is linked to; None: none.
        predictions: pictures, at most, in each task's table of predictions.
        init: of `wandb.init`, and `save_dir`, `name`, `project`, `id`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        watch: str | None = None,
        log_model: bool = False,
        registry: str | None = None,
        predictions: int = 64,
        **init: Any,
    ) -> None:
        super().__init__(**init)
        self._wandb_init.pop("anonymous")  # Lightning's, at which W&B warns
        self.folder = folder
        self.log_model = log_model
        self.registry = registry
        self.predictions = predictions
        self._watched = watch
        self._sent = -1  # the last step that W&B had when the run started
        self._is_whole = False

    @property
    def is_off(self) -> bool:
        """Whether nothing is logged: mode=disabled, or another process logs."""
        return getattr(rank_zero_only, "rank", 0) != 0 or bool(self.experiment.disabled)

    @rank_zero_only
    def start(self) -> None:
        """Start the run and write down its id, which in a sweep is the sweep's choice."""
        from wandb import Error

        try:
            run = self.experiment
        except (Error, TypeError, ValueError) as error:  # options of wandb.init of another form, too
            raise InputError(f"logger=wandb: {reason_of(error)}; mend it, or use logger.wandb.mode=offline") from error
        if run.disabled:
            return
        (self.folder / "wandb_id.txt").write_text(run.id, encoding="utf-8")
        if run.resumed:
            last = dict(run.summary).get(STEP)
            self._sent = int(last) if isinstance(last, (int, float)) else -1

    @rank_zero_only
    def watch_model(self, model: Any) -> None:
        """Histograms of the model's gradients or parameters, if they are asked for."""
        if self._watched and not self.is_off:
            self.experiment.watch(model, log=self._watched, log_freq=100, log_graph=False)

    @rank_zero_only
    def keep_best(self, *, highest: Iterable[str], lowest: Iterable[str]) -> None:
        """Let the run's summary tell the best value of these numbers, not the last."""
        for best, names in (("max", highest), ("min", lowest)):
            for name in names:
                self.experiment.define_metric(name, summary=best, step_metric=STEP, step_sync=True)

    @rank_zero_only
    def send(self, row: Mapping[str, Any], step: int) -> None:
        """A row of a step that W&B does not yet have, of pictures and tables too."""
        if step >= self._sent:
            self.experiment.log({**row, STEP: step})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is not None and step < self._sent:
            return
        if step is not None and "epoch" not in metrics and not self.is_off:  # those of epochs are in metrics.csv
            with (self.folder / STEPS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({STEP: step, **{name: float(value) for name, value in metrics.items()}}) + "\n")
        super().log_metrics(metrics, step)

    @rank_zero_only
    def send_history(self, epochs: Iterable[Mapping[str, float]], before: int | None = None) -> None:
        """What the run did until the step `before`, None for all, as far as W&B lacks it; once.

        epochs: the rows of metrics.csv.
        """
        if self._is_whole or self.is_off:
            return
        self._is_whole = True
        steps = [row for row in _read_lines(self.folder / STEPS) if before is None or row[STEP] < before]
        ended = [row for row in epochs if before is None or row["step"] <= before]
        rows = [*steps, *({**row, STEP: row["step"] - 1} for row in ended)]
        if not rows:
            return
        with replacing(self.folder / STEPS) as draft:  # without those that come once more
            draft.write_text("".join(json.dumps(row) + "\n" for row in steps), encoding="utf-8")
        for row in sorted(rows, key=lambda row: row[STEP]):  # of one step, the epoch's is the last
            self.send({name: value for name, value in row.items() if name != "step"}, int(row[STEP]))
        if self.experiment.offline:
            self._leave_aside(len(ended))

    def _leave_aside(self, epochs: int) -> None:
        """Mark the offline folders before as synced, as W&B does: this one holds what they do."""
        here = Path(self.experiment.settings.sync_dir)
        for old in sorted(here.parent.glob(f"offline-run-*-{self.experiment.id}")):
            file = old / f"run-{self.experiment.id}.wandb"
            mark = Path(f"{file}.synced")
            if old != here and file.exists() and not mark.exists():
                mark.touch()
                print(f"W&B: {here.name} holds what {old.name} does, {amount(epochs, 'epoch')}: sync the new one alone")


def _read_lines(path: Path) -> list[dict[str, float]]:
    """The rows of a JSONL file; a kill may have cut the last one."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get(STEP), int):
            rows.append(row)
    return rows
