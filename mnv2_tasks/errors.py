"""The one exception that is meant for people."""

from typing import Any

LONGEST = 500  # characters of a message: file and fix stand at its ends, and what is quoted between them is cut


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
