"""Where numbers and pictures go besides the run folder: Weights & Biases and TensorBoard."""

import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.errors import InputError, one_line, reason_of
from mnv2_tasks.kinds.kind import Kind, Picture
from mnv2_tasks.training.example_pictures import Example
from mnv2_tasks.training.module import MultiTask

Mode = Literal["auto", "online", "offline", "disabled"]


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


def wandb(
    folder: str,
    name: str,
    *,
    project: str = "mnv2_tasks",
    entity: str | None = None,
    group: str | None = None,
    tags: list[str] | None = None,
    mode: Mode = "auto",
    log_model: bool = False,
) -> Logger:
    """W&B in the run folder; "auto" is online when logged in and offline otherwise, and nothing ever prompts.

    WANDB_MODE in the environment goes before "auto". The run's id is kept in the folder, so that a resumed run goes
    on in its old curve. An offline run is sent later with `wandb sync`. `log_model` uploads best.ckpt as an artifact.
    The run starts at once; `closing_wandb` ends it.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise InputError(f"logger.wandb.mode is {mode!r}: use auto, online, offline or disabled")
    setting: Any = mode
    if mode == "auto":
        setting = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    if setting not in ("offline", "disabled", "dryrun") and not logged_in():  # W&B would ask
        raise InputError(
            f"logger.wandb.mode={setting}, but no one is logged in: run `wandb login`, or use mode=offline"
        )
    path = Path(folder) / "wandb_id.txt"
    run_id = path.read_text(encoding="utf-8").strip() if path.exists() else secrets.token_hex(4)
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=project,
        entity=entity,
        group=group,
        tags=tags,
        name=name,
        id=run_id,
        resume="allow",
        mode=setting,
        save_dir=folder,
        log_model=log_model,
    )
    _start(logger, path)
    return logger


@rank_zero_only
def _start(logger: WandbLogger, path: Path) -> None:
    """Start the run and write down its id, which in a sweep is the sweep's choice."""
    from wandb import Error

    try:
        experiment = logger.experiment
    except Error as error:
        raise InputError(f"logger=wandb: {reason_of(error)}; mend it, or use logger.wandb.mode=offline") from error
    if not experiment.disabled:
        path.write_text(experiment.id, encoding="utf-8")


@contextmanager
def closing_wandb() -> Iterator[None]:
    """The W&B run that starts in the block ends with it, so that the next run of a multirun has its own.

    It ends as finished, or as failed with the exit code of what ended the block.
    """
    code = 0
    try:
        yield
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        raise
    except KeyboardInterrupt:
        code = 130
        raise
    except BaseException as error:
        code = 2 if one_line(error) else 1
        raise
    finally:
        package = sys.modules.get("wandb")
        if package is not None and package.run is not None:
            package.finish(exit_code=code)


def tensorboard(folder: str) -> Logger:
    """TensorBoard events in the run folder's `tensorboard/`."""
    try:
        import tensorboard as _  # noqa: F401
    except ImportError as error:
        raise InputError("logger=tensorboard needs its extra: pip install -e '.[tensorboard]'") from error
    return TensorBoardLogger(folder, name="", version="tensorboard")


LEAST = 0.1  # score of the boxes that W&B is sent; its pages have a slider


def log_examples(
    logger: Logger,
    module: MultiTask,
    sources: Iterable[str],
    make: Callable[[str], dict[str, list[Example]]],
    step: int,
) -> None:
    """Send {task: examples} of each source to a logger that shows them; `make` is not called for one that does not."""
    if not isinstance(logger, WandbLogger) or logger.experiment.disabled:
        return
    for source in sources:
        for task, examples in make(source).items():
            heights, widths = zip(*(example.image.shape[1:] for example in examples), strict=True)
            canvas = (max(heights), max(widths))  # W&B shows together what has one size
            kind, names = module.model.heads[task].kind, module.classes[task]
            pictures = [wandb_image(example, task, kind, names, canvas) for example in examples]
            logger.experiment.log({f"{task}/val/examples": pictures, "trainer/global_step": step})


def wandb_image(example: Example, task: str, kind: Kind, names: tuple[str, ...], canvas: tuple[int, int]) -> Any:
    """An example as a `wandb.Image`: boxes and masks, true and predicted, to switch on and off; labels as a caption.

    The picture lies in the upper left of a black canvas (H, W), which is at least as large.
    """
    from wandb import Image

    sides = {"ground_truth": example.targets[task], "predictions": example.predictions[task]}
    height, width = example.image.shape[1:]
    pixels = torch.nn.functional.pad(example.image, (0, canvas[1] - width, 0, canvas[0] - height))
    picture = Picture((height, width), example.seen, canvas)
    return Image(pixels.permute(1, 2, 0).numpy(), **kind.overlays(sides, names, picture=picture, least=LEAST))
