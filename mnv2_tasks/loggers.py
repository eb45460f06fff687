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
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from mnv2_tasks.cli import one_line
from mnv2_tasks.errors import InputError, reason_of
from mnv2_tasks.examples import Example
from mnv2_tasks.model import Classes

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
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")  # type: ignore[assignment]
    if mode not in ("offline", "disabled", "dryrun") and not logged_in():  # W&B would ask
        raise InputError(f"logger.wandb.mode={mode}, but no one is logged in: run `wandb login`, or use mode=offline")
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
        mode=mode,
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
    classes: Classes,
    sources: Iterable[str],
    make: Callable[[str], dict[str, list[Example]]],
    step: int,
) -> None:
    """Send {task: examples} of each source to a logger that shows them; `make` is not called for one that does not."""
    if not isinstance(logger, WandbLogger) or logger.experiment.disabled:
        return
    for source in sources:
        for task, shown in make(source).items():
            heights, widths = zip(*(example.image.shape[1:] for example in shown), strict=True)
            canvas = (max(heights), max(widths))  # W&B shows together what has one size
            pictures = [wandb_image(example, task, classes[task], canvas) for example in shown]
            logger.experiment.log({f"{task}/val/examples": pictures, "trainer/global_step": step})


def wandb_image(example: Example, task: str, names: tuple[str, ...], canvas: tuple[int, int]) -> Any:
    """An example as a `wandb.Image`: boxes and masks, true and predicted, to switch on and off; labels as a caption.

    The picture lies in the upper left of a black canvas (H, W), which is at least as large.
    """
    from wandb import Image

    sides = {"ground_truth": example.targets[task], "predictions": example.predictions[task]}
    pixels = _on_canvas(example.image, canvas, fill=0).permute(1, 2, 0).numpy()
    found = sides["predictions"]
    if "boxes" in found:
        height, width = example.image.shape[1:]
        whole = (example.seen[0] * canvas[0] / height, example.seen[1] * canvas[1] / width)  # in the input's pixels
        boxes = {side: _wandb_boxes(shown, whole, names) for side, shown in sides.items()}
        return Image(pixels, boxes=boxes, caption=f"predictions: score at least {LEAST:g}")
    if "mask" in found:
        masks = {side: _wandb_mask(shown["mask"], example, names, canvas) for side, shown in sides.items()}
        return Image(pixels, masks=masks)
    return Image(pixels, caption=_caption(sides["ground_truth"], found["scores"], names))


def _on_canvas(picture: Tensor, canvas: tuple[int, int], *, fill: int) -> Tensor:
    """(C, h, w) -> (C, H, W)."""
    height, width = picture.shape[1:]
    return torch.nn.functional.pad(picture, (0, canvas[1] - width, 0, canvas[0] - height), value=fill)


def _wandb_boxes(shown: dict[str, Tensor], whole: tuple[float, float], names: tuple[str, ...]) -> dict[str, Any]:
    height, width = whole
    scores = shown.get("scores")
    data = []
    for i, (x0, y0, x1, y1) in enumerate(shown["boxes"].tolist()):
        label = int(shown["labels"][i])
        if label < 0 or (scores is not None and scores[i] < LEAST):
            continue
        corners = {"minX": x0 / width, "minY": y0 / height, "maxX": x1 / width, "maxY": y1 / height}
        box: dict[str, Any] = {"position": corners, "class_id": label, "box_caption": names[label]}
        if scores is not None:
            box["scores"] = {"score": float(scores[i])}
        data.append(box)
    return {"box_data": data, "class_labels": dict(enumerate(names))}


def _wandb_mask(mask: Tensor, example: Example, names: tuple[str, ...], canvas: tuple[int, int]) -> dict[str, Any]:
    part = mask[: example.seen[0], : example.seen[1]].to(torch.uint8)
    whole = resize(part[None], list(example.image.shape[1:]), InterpolationMode.NEAREST)
    return {
        "mask_data": _on_canvas(whole, canvas, fill=255)[0].numpy(),
        "class_labels": {**dict(enumerate(names)), 255: "unknown"},
    }


def _caption(target: dict[str, Tensor], scores: Tensor, names: tuple[str, ...]) -> str:
    if "presence" in target:
        true = ", ".join(names[i] for i in (target["presence"] > 0).nonzero().flatten().tolist()) or "nothing"
        found = [i for i in range(len(names)) if scores[i] > 0.5]
    else:
        label = int(target["label"])
        true, found = names[label] if label >= 0 else "unknown", [int(scores.argmax())]
    return f"{true} | " + (", ".join(f"{names[i]} {scores[i]:.2f}" for i in found) or "nothing")
