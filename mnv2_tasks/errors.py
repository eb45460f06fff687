"""What people are told: the one exception that is meant for them, and the words of its line."""

import difflib
import errno
import os
import sys
from pathlib import Path
from typing import Any

LONGEST = 500  # characters of a message: file and fix stand at its ends, and what is quoted between them is cut
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk is
REFUSED = (  # by the system, for a path that someone gave
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO, errno.ENXIO),
)


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the file, the field and the fix; command lines print it and stop with exit
    code 2, without a traceback. What files of others bring into it neither breaks nor floods the line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(line(message))


def line(message: str) -> str:
    """A message as one line of at most `LONGEST` characters; what cannot be printed is escaped.

    A loader's worker wraps a message in its traceback: the last line is it.
    """
    if message.startswith("Caught InputError in"):
        message = message.rstrip().rpartition("\n")[2].removeprefix(f"{InputError.__module__}.InputError: ")
    if len(message) > 20 * LONGEST:  # before every character is looked at
        message = message[: 10 * LONGEST] + message[-10 * LONGEST :]
    text = "".join(map(_printable, " ".join(message.split("\n")).strip()))
    return shorten(text, LONGEST)


def shorten(text: str, most: int) -> str:
    """The text, or its two ends around "..."."""
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - half]}...{text[-half:]}"


def quote(value: Any, most: int = 60) -> str:
    """What a file holds, as a message quotes it; numbers of thousands of digits, too, which `repr` refuses."""
    try:
        return shorten(repr(value), most)
    except (ValueError, RecursionError):  # sys.get_int_max_str_digits
        return f"<{type(value).__name__}, too long to tell>"


def reason_of(error: BaseException) -> str:
    """The first cause of an error, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _printable(character: str) -> str:
    if character.isprintable() or "\ud800" <= character <= "\udfff":  # a file name's bytes that are no UTF-8 stay
        return character
    return character.encode("unicode_escape").decode()


def amount(number: float, one: str, several: str | None = None) -> str:
    """ "1 image", "2,000 images", "2 boxes"."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def without_any(number: int, what: str = "image") -> str:
    """ " (12 images without any)"; "" for none."""
    return f" ({amount(number, what)} without any)" if number else ""


def fail(message: str) -> None:
    print(f"error: {line(message)}", file=sys.stderr)
    raise SystemExit(2)


def one_line(error: BaseException, folder: str | Path = "", *, resumes: bool = False) -> str | None:
    """What to tell a person of an error that is theirs to mend; None for a fault of the program's.

    folder: where the command writes; resumes: whether it can go on where a full disk stopped it.
    """
    for link in _causes(error):
        if isinstance(link, InputError):
            return str(link)
        if isinstance(link, OSError) and link.errno in FULL:
            again = "go on with resume=<run folder>" if resumes else "start the command again"
            # Of a file that is moved, the second name is its new one.
            place = getattr(link, "filename2", None) or link.filename or folder
            return f"{place}: the disk is full; free some space, then {again}"
        if isinstance(link, OSError) and link.filename and link.errno in REFUSED:
            return f"{link.filename}: {os.strerror(link.errno)}; correct the path, or its permissions"
    return None


def is_full(error: BaseException) -> bool:
    """Whether an error, or what led to it, is that of a full disk."""
    return any(isinstance(link, OSError) and link.errno in FULL for link in _causes(error))


def _causes(error: BaseException) -> list[BaseException]:
    """The error, and what led to it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


def suggest(key: str, known: Any) -> str:
    """What the message about an unknown key ends with: the closest of `known`, if one is near."""
    close = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else "; --cfg job prints every setting"
