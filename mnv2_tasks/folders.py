"""A new folder for what one run of a command leaves, and files that are there whole or as they were."""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from mnv2_tasks.errors import InputError


def new_folder(base: Path, name: str | None) -> Path:
    """<base>/<name>, or <base>/<time>, with a number where a run of the same second has that.

    The system makes it or refuses it in one step, so that no two runs share one. It goes again at the end where nothing
    was written. Raises InputError where the name is taken.
    """
    named = name is not None and name != ""
    stem = str(name) if named else datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    folder, number = base / stem, 1
    folder.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            folder.mkdir()
        except FileExistsError as error:
            if named:
                raise InputError(f"{folder}: exists already; choose another name=, or delete it") from error
            number += 1
            folder = base / f"{stem}_{number}"
        else:
            atexit.register(_remove_empty, folder)
            return folder


@contextmanager
def replacing(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """Where to write a file, by default beside it as <stem>.tmp: it is moved to `path` once it is whole.

    So a full disk or a kill leaves the one before. What fails leaves no draft, a kill may.
    """
    draft = draft or path.with_suffix(".tmp")
    try:
        yield draft
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):  # it holds something
        folder.rmdir()
