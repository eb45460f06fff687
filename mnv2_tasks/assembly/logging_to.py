"""The loggers of a config, for training and for commands that train nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.utils import instantiate


def make_loggers(config: Mapping[str, Any], folder: Path, **usual: str) -> list[Any]:
    """Those of the section `logger`; `usual` is taken where a logger has such a setting and it is null."""
    made = []
    for node in (config.get("logger") or {}).values():
        if not node:
            continue
        filled = {key: value for key, value in usual.items() if key in node and node[key] is None}
        made.append(instantiate({**node, **filled}, folder=str(folder)))
    return made


@contextmanager
def logging_to(config: Mapping[str, Any], folder: Path, **usual: str) -> Iterator[list[Any]]:
    """The loggers of a command, with its settings; they end with the block."""
    if not any((config.get("logger") or {}).values()):
        yield []
        return
    from mnv2_tasks.training.loggers import closing_wandb

    with closing_wandb():
        loggers = make_loggers(config, folder, **usual)
        for logger in loggers:
            logger.log_hyperparams(dict(config))
        yield loggers
        for logger in loggers:
            logger.finalize("success")
