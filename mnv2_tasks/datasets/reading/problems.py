"""What is wrong with the files of a data set: training stops at the first, and the doctor hears of all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from mnv2_tasks.errors import InputError

_heard: ContextVar[list[str] | None] = ContextVar("problems", default=None)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Within it what `refuse` would refuse is gathered in the list, a line a problem, and the data is read on."""
    problems: list[str] = []
    token = _heard.set(problems)
    try:
        yield problems
    finally:
        _heard.reset(token)


def hearing() -> bool:
    """Whether problems are gathered, so that what cannot be read has to be stood in for."""
    return _heard.get() is not None


def refuse(problems: Sequence[str], others: str = "") -> None:
    """Raise InputError of the first problem, with `others`, what is said of all; nothing where there is none."""
    gathered = _heard.get()
    if gathered is not None:
        gathered += problems
    elif problems:
        raise InputError(f"{problems[0]}{others}")
