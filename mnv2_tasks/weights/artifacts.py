"""Files that are W&B artifacts: `wandb:<entity>/<project>/<name>:<alias>` in the place of a path."""

import os
from pathlib import Path

from mnv2_tasks.errors import InputError, quote, reason_of, shorten

PREFIX = "wandb:"
_fetched: dict[str, Path] = {}  # of this process


def logged_in() -> bool:
    """Whether a W&B key is at hand, in the environment or in the netrc file that `wandb login` writes."""
    import netrc

    from wandb import Settings

    if os.environ.get("WANDB_API_KEY"):
        return True
    host = Settings().base_url.removeprefix("https://").removeprefix("http://").split("/")[0]
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def local_file(path: str | Path) -> Path:
    """The path itself, or the file that a `wandb:` artifact holds, downloaded once; WANDB_ARTIFACT_DIR is where to.

    Of an artifact with several files, `wandb:<entity>/<project>/<name>:<alias>/<file>` is one. Raises InputError where
    no one is logged in, or there is no such artifact or file.
    """
    text = str(path)
    if not text.startswith(PREFIX):
        return Path(path)
    if text not in _fetched:
        _fetched[text] = _fetch(text)
    return _fetched[text]


def artifact_of(path: str | Path) -> str | None:
    """The artifact that a file, or a `wandb:` path, was fetched from in this process."""
    names = [name for name, file in _fetched.items() if str(path) in (name, str(file))]
    return _split(names[0])[0] if names else None


def _split(text: str) -> tuple[str, str]:
    """(the artifact's name, the file's in it, perhaps "")."""
    name, colon, version = text.removeprefix(PREFIX).partition(":")
    alias, _, file = version.partition("/")
    if name.count("/") > 2 or not name or not alias:
        raise InputError(f"{text}: give wandb:<entity>/<project>/<name>:<alias>")
    return f"{name}{colon}{alias}", file


def _fetch(text: str) -> Path:
    name, file = _split(text)
    if not logged_in():
        raise InputError(f"{text}: no one is logged in to W&B; run `wandb login`, or give a file")
    from wandb import Api

    try:
        folder = Path(Api().artifact(name).download())
    except Exception as error:  # of the network, of W&B, of an old server
        raise InputError(
            f"{text}: it cannot be downloaded ({reason_of(error)}); check its name, or give a file"
        ) from error
    files = sorted(one for one in folder.rglob("*") if one.is_file())
    checkpoints = [one for one in files if one.suffix == ".ckpt"]
    chosen = [folder / file] if file else checkpoints if len(checkpoints) == 1 else files
    if len(chosen) != 1 or not chosen[0].exists():
        names = shorten(", ".join(str(one.relative_to(folder)) for one in files), 200)
        raise InputError(f"{text}: it has no file {quote(file)} of its own, but {names}; add /<file> to the name")
    return chosen[0]
