"""What the command lines share: a config composed, and errors told in one line."""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig

from mnv2_tasks import processes
from mnv2_tasks.assembly.overrides import AUTO, CONFIGS, composing_error, expand, known_keys, set_aside
from mnv2_tasks.errors import fail, one_line
from mnv2_tasks.files import check_writable
from mnv2_tasks.processes import Lasting


def command(main: Callable[[DictConfig], None], config_name: str) -> None:
    """Run `main` on the config that the command line composes; what people can mend is told in one line, exit 2."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    processes.end_with_parent()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # names of files and classes are printed whatever the locale
            own = Lasting(stream.buffer, stream.encoding, "backslashreplace", line_buffering=True)
            setattr(sys, name, own)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # so that errors of composing reach the lines below
    arguments = sys.argv[1:]
    expanded = expand(arguments)
    if config_name == "train":
        expanded = set_aside(expanded)
    composed = False

    @hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
    def run(config: DictConfig) -> None:
        nonlocal composed
        composed = True
        sys.argv[1:] = arguments  # for processes that start this command again
        logging.getLogger("hydra").setLevel(logging.INFO)  # on its own: Hydra has put every library's INFO on stdout
        logging.getLogger().setLevel(logging.WARNING)
        folder = config.get("runs") if config.get("resume") in (None, AUTO) else config.resume
        with in_one_line(
            folder or "", resumes=config_name == "train" and not (config.get("study") or config.get("search"))
        ):
            if folder is not None or "runs" in config:
                check_writable(folder)
            main(config)

    sys.argv[1:] = expanded  # where Hydra looks for them, options and all
    try:
        run()
    except (HydraException, OmegaConfBaseException) as error:
        if composed:
            raise
        fail(composing_error(error, lambda: known_keys(config_name, expanded)))
    except KeyboardInterrupt:
        print("stopped by SIGINT", file=sys.stderr)
        raise SystemExit(130) from None


def name_choice(group: str, *, otherwise: str | None = None) -> None:
    """Of a verb that is a group of `train`, such as `mnv2 study blocks ...`: the first word is the group's choice.

    otherwise: the choice where none is named; None: one has to be.
    """
    if len(sys.argv) > 1 and "=" not in sys.argv[1] and not sys.argv[1].startswith("-"):
        sys.argv[1] = f"{group}={sys.argv[1]}"
    elif not any(argument.startswith((f"{group}=", "-")) for argument in sys.argv):
        if otherwise is None:
            choices = sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
            fail(f"{group} is not given: mnv2 {group} <name>, of {', '.join(choices)}")
        sys.argv.insert(1, f"{group}={otherwise}")


@contextmanager
def in_one_line(folder: str | Path, *, resumes: bool = False) -> Iterator[None]:
    """An error that people can mend ends the program in one line; see `one_line`."""
    try:
        yield
    except Exception as error:
        if message := one_line(error, folder, resumes=resumes):
            fail(message)
        raise
