"""The trials of a search, in Optuna's storage, and who does them: no two runners ever do the same.

A trial is RUNNING in the storage from its first moment, with the mark of the folder that its runner works in. Whoever
does it holds a lock on a file of that folder, which the system lets go when the process ends, however it ends: a
RUNNING trial of this folder that nobody holds is one whose runner has died, and the next one goes on with it.
"""

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from filelock import FileLock, Timeout

from mnv2_tasks.assembly.build import make_part
from mnv2_tasks.assembly.overrides import override_value
from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.files import read_text, write_settings
from mnv2_tasks.lab.jobs.run_settings import refuse_others
from mnv2_tasks.lab.search.space import Space, draw

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "score": "maximize",
    "parameters": "minimize",
    "madds": "minimize",
    "latency_ms": "minimize",
}
HOME = "folder"  # the attribute of a trial that tells whose folder it is of
ATTEMPTS = 5  # at opening a database that is new
BEYOND = "beyond search.trials"  # why a trial is none: two folders on one database asked for the last one at once


@dataclass
class Taken:
    """A trial that this runner does: its number, the settings drawn for it, whether it was begun before."""

    trial: "Trial"
    number: int
    settings: dict[str, Any]
    lock: FileLock
    goes_on: bool
    reported: set[int]  # epochs that the pruner has seen

    @property
    def name(self) -> str:
        return trial_name(self.number)


class Trials:
    """The trials of one search; several runners may have it open, in one folder and in several.

    Args:
        search: the section of the settings.
        folder: of the search.
        name: of the search in its storage.
        settings: of all trials, as typed; a search that was begun with others is refused.
        space: what is drawn, by the sampler's seed, the trial's number and the trials that have ended by then.

    Raises InputError where Optuna or the storage's driver is not there, or the storage cannot be opened.
    """

    def __init__(
        self, search: Mapping[str, Any], folder: Path, *, name: str, settings: Sequence[str], space: Space
    ) -> None:
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise InputError("search needs its extra: pip install 'mnv2_tasks[search]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.objective = parse_objective(search["objective"])
        self.prunes = len(self.objective) == 1 and search["pruner"] is not None
        self.space = space
        self._sampler, self._folder = search["sampler"], folder
        pruner = make_part("search.pruner", search["pruner"]) if self.prunes else optuna.pruners.NopPruner()
        self._make_sampler(0)  # a wrong setting is told before anything is asked
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self.asking = FileLock(folder / "locks" / "asking.lock")
        shown = {"space": dict(sorted(search["space"].items())), "objective": self.objective}
        told = [*settings, *(f"search.{key}={override_value(value)}" for key, value in shown.items())]
        with self.asking:
            self._home = _mark(folder, told)
            self._storage = optuna.storages.get_storage(_open_storage(search["storage"], folder))
            try:
                self.study = optuna.create_study(
                    storage=self._storage,
                    study_name=name,
                    directions=[DIRECTIONS[one] for one in self.objective],
                    pruner=pruner,
                    load_if_exists=True,
                )
                before = self.study.user_attrs.get("settings")
                if before is None:
                    self.study.set_user_attr("settings", told)
            except optuna.exceptions.StorageInternalError as error:
                raise InputError(f"search.storage: {reason_of(error)}") from error
        refuse_others(folder, "search", before or told, told)

    def all(self) -> list["FrozenTrial"]:
        """Every trial, in the order of their numbers, whoever does it."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.user_attrs.get("error") != BEYOND]

    def take(self, most: int) -> Taken | None:
        """A trial whose runner has died, else a new one while there are fewer than `most`; hold `asking` meanwhile."""
        from optuna.trial import TrialState

        known = self.all()
        for one in known:
            if one.state is TrialState.RUNNING and one.user_attrs.get(HOME) == self._home:
                lock = self._lock(one.number)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                if self._storage.get_trial(self._id(one.number)).state is TrialState.RUNNING:
                    return self._taken(one.number, lock, goes_on=True)
                lock.release()  # its runner has told it and let go in this moment
        return self._ask(most) if len(known) < most else None

    def _ask(self, most: int) -> Taken | None:
        from optuna.trial import TrialState, create_trial

        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        draft = create_trial(state=TrialState.RUNNING, user_attrs={HOME: self._home})
        number = self._storage.get_trial(self._storage.create_new_trial(study_id, draft)).number
        if sum(one.number < number for one in self.all()) >= most:
            self._fail(number, BEYOND)
            return None
        lock = self._lock(number)
        lock.acquire()
        return self._taken(number, lock, goes_on=False)

    def _taken(self, number: int, lock: FileLock, *, goes_on: bool) -> Taken:
        import optuna

        self.study.sampler = self._make_sampler(number)
        trial = optuna.Trial(self.study, self._id(number))
        reported = set(self._storage.get_trial(self._id(number)).intermediate_values)
        return Taken(trial, number, draw(trial, self.space), lock, goes_on, reported)

    def _make_sampler(self, number: int) -> Any:
        """A sampler for one trial, whose seed is of the section's and the trial's number.

        With the section's alone, a search that goes on would draw its first trials again.
        """
        section = dict(self._sampler or {})
        if isinstance(section.get("seed"), int):
            section["seed"] = int(np.random.SeedSequence([section["seed"], number]).generate_state(1)[0])
        return make_part("search.sampler", section)

    def report(self, taken: Taken, rows: Sequence[Mapping[str, float]]) -> bool:
        """Tell the pruner the epochs of a run that it has not seen; whether it would end the run."""
        for row in rows if self.prunes else ():
            epoch = int(row["epoch"])
            if "val/score" in row and epoch not in taken.reported:
                taken.reported.add(epoch)
                taken.trial.report(row["val/score"], epoch)
                if taken.trial.should_prune():  # asked of every epoch, so that it does not hang on when one looks
                    return True
        return False

    def complete(self, taken: Taken, values: Sequence[float], about: Mapping[str, Any]) -> None:
        self._note(taken, about)
        self.study.tell(taken.number, list(values))
        taken.lock.release()

    def prune(self, taken: Taken, about: Mapping[str, Any]) -> None:
        from optuna.trial import TrialState

        self._note(taken, about)
        self.study.tell(taken.number, state=TrialState.PRUNED)
        taken.lock.release()

    def fail(self, taken: Taken, error: str) -> None:
        self._fail(taken.number, error)
        taken.lock.release()

    def let_go(self, taken: Taken) -> None:
        """Of a runner that ends: the next one goes on with the trial."""
        taken.lock.release()

    def _fail(self, number: int, error: str) -> None:
        from optuna.trial import TrialState

        self._storage.set_trial_user_attr(self._id(number), "error", error)
        self.study.tell(number, state=TrialState.FAIL)

    def _note(self, taken: Taken, about: Mapping[str, Any]) -> None:
        for key, value in about.items():
            taken.trial.set_user_attr(key, value)

    def _id(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self.study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _lock(self, number: int) -> FileLock:
        return FileLock(self._folder / "locks" / f"{trial_name(number)}.lock")

    def ended(self) -> int:
        return sum(one.state.is_finished() for one in self.all())

    def running(self, *, here: bool) -> int:
        """How many trials have not ended: of this folder, whoever does them, or of others."""
        from optuna.trial import TrialState

        homes = [one.user_attrs.get(HOME) for one in self.all() if one.state is TrialState.RUNNING]
        return sum((home == self._home) == here for home in homes)


def trial_name(number: int) -> str:
    return f"trial_{number:04d}"


def parse_objective(objective: Any) -> list[str]:
    """`search.objective` as a list. Raises InputError for one that there is not, or without the score."""
    names = [objective] if isinstance(objective, str) else list(objective or [])
    if unknown := [name for name in names if name not in DIRECTIONS]:
        raise InputError(f"search.objective={unknown[0]}: there is none of that name, of {', '.join(DIRECTIONS)}")
    if names[:1] != ["score"] or len(set(names)) < len(names):
        raise InputError(f"search.objective={names}: score comes first, then what it is weighed against, each once")
    return names


def _mark(folder: Path, settings: Sequence[str]) -> str:
    """What tells the runners of this folder from those of others; search.yaml has it, and what is searched."""
    path = folder / "search.yaml"
    if not path.exists():
        write_settings(path, {"settings": list(settings), HOME: uuid.uuid4().hex})
    fix = "give this search a name=, or remove that folder"
    try:
        return str(yaml.safe_load(read_text(path, fix=fix))[HOME])
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise InputError(f"{path}: it does not tell which search it is of; {fix}") from error


def _open_storage(url: str | None, folder: Path) -> "BaseStorage":
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    if url is None:
        path = str(folder / "journal.log")
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError as error:
        raise InputError("search.storage: not the address of a database, as postgresql://user@host/name is") from error
    try:
        for _ in range(ATTEMPTS - 1):
            with suppress(IntegrityError, ProgrammingError):  # two runners make the tables at the same time
                return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
            time.sleep(random.uniform(0.5, 2.0))
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        driver = getattr(error, "name", None) or reason_of(error)
        raise InputError(f"search.storage={shown}: needs {driver}, which is not installed; install it") from error
    except Exception as error:  # whatever a driver makes of a wrong address
        raise InputError(f"search.storage={shown}: {reason_of(error)}") from error
