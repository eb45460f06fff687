"""What does the runs of a study or a search: processes of this machine, jobs of submitit (SLURM), or tasks of Ray."""

import logging
import os
import re
import socket
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mnv2_tasks import processes
from mnv2_tasks.errors import InputError, amount, reason_of
from mnv2_tasks.files import read_json, write_json
from mnv2_tasks.lab.jobs.job import Job, environment
from mnv2_tasks.machine import cores

WORKERS = 8  # loader processes of a run, at most


class Launcher(Protocol):
    """Starts jobs, tells when they have ended, and what becomes of those that have not.

    Attributes:
        room: how many jobs it takes at a time; None: all.
        about: how and where they run, for the command's first line.
        workers: loader processes that a run has room for; None: the run asks its machine.
        pause: seconds between two looks at the jobs.
    """

    room: int | None
    about: str
    workers: int | None
    pause: float

    def start(self, job: Job) -> Any: ...

    def ended(self, started: Any) -> str | None:
        """None while it runs; what the engine says of its end, "" where there is nothing to say."""
        ...

    def end(self, started: Any) -> None:
        """End one that runs, before its time; `ended` is not asked of it again."""
        ...

    def leave(self, started: Sequence[Any]) -> str:
        """Called at the end, with the jobs that still run; says what the same command does with them."""
        ...


class Local:
    """Processes of this machine, which end with this one.

    Args:
        jobs: how many at a time.
        devices: the GPUs that they share in turn; [None] where there is none.
    """

    pause = 0.1

    def __init__(self, jobs: int, devices: Sequence[str | None]) -> None:
        self.room: int | None = jobs
        self.about = f"{jobs} at a time"
        self.workers: int | None = min(WORKERS, max(0, cores() // jobs - 1))
        self._threads = max(1, cores() // jobs)
        self._free = [devices[i % len(devices)] for i in range(jobs)]
        self._devices: dict[Any, str | None] = {}

    def start(self, job: Job) -> Any:
        device = self._free.pop(0)
        with job.log.open("w", encoding="utf-8") as output:
            process = processes.start(job.command(), output=output, env=self._environment(device))
        self._devices[process] = device
        return process

    def _environment(self, device: str | None) -> dict[str, str]:
        variables = environment()
        if device is None:
            variables.setdefault("OMP_NUM_THREADS", str(self._threads))
        else:
            variables["CUDA_VISIBLE_DEVICES"] = device
        return variables

    def ended(self, started: Any) -> str | None:
        if started.poll() is None:
            return None
        self.end(started)
        return ""

    def end(self, started: Any) -> None:
        processes.stop(started)
        self._free.append(self._devices.pop(started))

    def leave(self, started: Sequence[Any]) -> str:
        for process in started:
            self.end(process)
        return "the same command does the others"


class Submitit:
    """Jobs of submitit. Those of SLURM outlast this process; `jobs.json` in the folder has their numbers.

    Args:
        section: `study.submitit`: the cluster, and submitit's own parameters.
        jobs: how many at a time; None: all.
        folder: of the study.
        of: "study" or "search", of which `section` is.

    Raises InputError where submitit, or SLURM, is not there, or does not know a parameter.
    """

    workers: int | None = None
    pause = 0.5

    def __init__(self, section: Mapping[str, Any], jobs: int | None, folder: Path, *, of: str = "study") -> None:
        self._section = f"{of}.submitit"
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise InputError(f"{of}.launcher=submitit needs its extra: pip install 'mnv2_tasks[submitit]'") from error
        self.room = jobs
        parameters = {key: value for key, value in section.items() if value is not None}
        for key in ("nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node", "slurm_tasks_per_node"):
            if parameters.get(key, 1) != 1:
                raise InputError(
                    f"{self._section}.{key}={parameters[key]}: a run is one task, which starts a process for each of "
                    f"its GPUs; give {self._section}.gpus_per_node"
                )
        first = {key: parameters.pop(key) for key in ("slurm_max_num_timeout", "slurm_python") if key in parameters}
        cluster = parameters.pop("cluster", None)
        os.environ.update(environment())  # sbatch, and submitit's own processes, hand it on
        try:
            self._executor = submitit.AutoExecutor(folder / "jobs", cluster, **first)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:
            here = f"; {self._section}.cluster=local tries it on this machine"
            raise InputError(
                f"{self._section}: {reason_of(error)}{here if isinstance(error, RuntimeError) else ''}"
            ) from error
        self.about = f"jobs of submitit ({self._executor.cluster})"
        self._list = folder / "jobs.json"
        self._numbers()  # where the file is damaged, it says so before anything is queued

    def start(self, job: Job) -> Any:
        name = job.folder.name
        if (before := self._before(name)) is not None:
            print(f"{name}: job {before.job_id} of before has not ended, and is waited for ({self._list})", flush=True)
            return before
        self._executor.update_parameters(name=name)
        try:
            started = self._executor.submit(job)
        except (RuntimeError, OSError) as error:  # sbatch refused it
            raise InputError(f"{self._section}: {reason_of(error)}") from error
        write_json(self._list, {**self._numbers(), name: started.job_id})
        return started

    def _numbers(self) -> dict[str, str]:
        """{run: its job's}, of the commands before this one and beside it."""
        if not self._list.exists():
            return {}
        numbers: dict[str, str] = read_json(self._list, fix="remove it, once no job of it is queued")
        return numbers

    def _before(self, name: str) -> Any:
        """The job of a command before this one that still stands in SLURM's queue, or runs."""
        number = self._numbers().get(name)
        if number is None or not self._outlasts:
            return None
        job = self._executor._executor.job_class(self._executor.folder, number)
        return None if job.done() else job

    @property
    def _outlasts(self) -> bool:
        """Whether jobs go on without this process: not submitit's own for this machine."""
        return self._executor.cluster not in ("local", "debug")

    def ended(self, started: Any) -> str | None:
        if not started.done():
            return None
        if not started.paths.result_pickle.exists():
            return f"job {started.job_id} has ended as {started.state}, see {started.paths.stderr}"
        if (error := started.exception()) is None:
            return ""
        trace = re.split(r"\n-{10,}\n", str(error))  # submitit quotes it between two lines
        return f"job {started.job_id}: {trace[min(1, len(trace) - 1)].strip().splitlines()[-1]}"

    def end(self, started: Any) -> None:
        started.cancel()

    def leave(self, started: Sequence[Any]) -> str:
        if self._outlasts and started:
            numbers = " ".join(job.job_id for job in started)
            stay = "job stays" if len(started) == 1 else "jobs stay"
            return (
                f"{len(started)} {stay} in the queue (scancel {numbers} ends them); "
                "the same command waits for them, does the others and writes the table"
            )
        for job in started:
            self.end(job)
        return "the same command does the others"


class OnRay:
    """Tasks of a Ray cluster, which end with this process.

    Args:
        section: `study.ray`: the address, and what a task asks for.
        jobs: how many at a time; None: all.
        of: "study" or "search", of which `section` is.

    Raises InputError where Ray is not there, or does not know an option.
    """

    pause = 0.5

    def __init__(self, section: Mapping[str, Any], jobs: int | None, *, of: str = "study") -> None:
        os.environ.update(environment())  # a Ray that starts here hands it on
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise InputError(f"{of}.launcher=ray needs its extra: pip install 'mnv2_tasks[ray]'") from error
        self.room = jobs
        self._ray = ray
        self._is_own = not ray.is_initialized()
        options = {key: value for key, value in section.items() if value is not None}
        address = options.pop("address", None)
        if self._is_own:
            _check_reachable(f"{of}.ray.address", address)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what Ray will do in later versions
                    ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(f"{of}.ray.address={address}: {reason_of(error)}") from error
        options.setdefault("num_gpus", 1 if ray.cluster_resources().get("GPU") else 0)
        self.workers: int | None = min(WORKERS, max(0, int(options.get("num_cpus", 1)) - 1))
        self._options, self._function = options, ray.remote(_call)
        try:
            self._function.options(**options)
        except (ValueError, TypeError) as error:
            raise InputError(f"{of}.ray: {reason_of(error)}") from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.about = f"tasks of Ray on {amount(len(machines), 'machine')}"
        for resource, key in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            if all(machine.get(resource, 0) < options.get(key, 0) for machine in machines):
                self.about += f", none of which has {options[key]} {resource}s: the runs wait for one"

    def start(self, job: Job) -> Any:
        return self._function.options(name=job.folder.name, **self._options).remote(job)

    def ended(self, started: Any) -> str | None:
        if not self._ray.wait([started], timeout=0)[0]:
            return None
        try:
            self._ray.get(started)
        except self._ray.exceptions.RayError as error:
            return reason_of(getattr(error, "cause", None) or error)
        return ""

    def end(self, started: Any) -> None:
        self._ray.cancel(started)

    def leave(self, started: Sequence[Any]) -> str:
        for task in started:
            self.end(task)
        if self._is_own:
            self._ray.shutdown()
        return "the same command does the others"


def _check_reachable(name: str, address: Any) -> None:
    """Raises InputError where nothing answers at host:port, which Ray itself tells after minutes."""
    if match := re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", str(address)):
        try:
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise InputError(f"{name}={address}: {reason_of(error)}; give that of `ray start`") from error


def _call(job: Job) -> int:
    return job()
