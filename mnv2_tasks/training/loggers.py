"""Where numbers and pictures go besides the run folder: Weights & Biases, TensorBoard and MLflow."""

import hashlib
import json
import logging
import os
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only

from mnv2_tasks.errors import InputError, one_line, reason_of
from mnv2_tasks.kinds.kind import Kind, Picture
from mnv2_tasks.training.example_pictures import Example
from mnv2_tasks.training.module import MultiTask
from mnv2_tasks.training.wandb_logger import WandbLogger
from mnv2_tasks.weights.artifacts import logged_in

Mode = Literal["auto", "online", "offline", "disabled"]


OURS = ("project", "entity", "group", "tags", "name", "job_type", "mode", "id", "dir", "resume")  # of wandb.init


def wandb(
    folder: str,
    name: str | None = None,
    *,
    project: str | None = None,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] | None = None,
    mode: Mode = "auto",
    log_model: bool = False,
    registry: str | None = None,
    predictions: int = 64,
    watch: Literal["gradients", "parameters", "all"] | None = None,
    save_code: bool = False,
    init: Mapping[str, Any] | None = None,
) -> Logger:
    """W&B in the run folder; "auto" is online when logged in and offline otherwise, and nothing ever prompts.

    What is None is taken from W&B's environment variables, and else from the run: its folder's name, its tasks as tags,
    its settings without the seed as the group. The run's id is kept in the folder, so that a resumed run goes on in its
    old curve. An offline run is sent later with `wandb sync`. The run starts at once; `closing_wandb` ends it.

    Args:
        folder: of the run.
        name, project, entity, group, job_type, tags: as in `wandb.init`.
        mode: auto, online, offline or disabled; WANDB_MODE in the environment goes before auto.
        log_model, registry, predictions, watch: see `WandbLogger`.
        save_code: whether this package's code is kept with the run.
        init: other options of `wandb.init`. Its `settings` are left to W&B's environment variables: a run folder may be
            a stranger's, and they could send the key to another server.
    """
    if mode not in ("auto", "online", "offline", "disabled"):
        raise InputError(f"logger.wandb.mode is {mode!r}: use auto, online, offline or disabled")
    if watch not in (None, "gradients", "parameters", "all"):
        raise InputError(f"logger.wandb.watch is {watch!r}: use gradients, parameters, all or null")
    setting: Any = mode
    if mode == "auto":
        setting = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    if setting not in ("offline", "disabled", "dryrun") and not logged_in():  # W&B would ask
        raise InputError(
            f"logger.wandb.mode={setting}, but no one is logged in: run `wandb login`, or use mode=offline"
        )
    if registry and not log_model:
        raise InputError("logger.wandb.registry: there is nothing to link without logger.wandb.log_model=true")
    others = _init_options(init or {})
    place = Path(folder)
    file = place / "wandb_id.txt"
    run_id = file.read_text(encoding="utf-8").strip() if file.exists() else os.environ.get("WANDB_RUN_ID")
    os.environ.setdefault("WANDB_SILENT", "true")
    settings = _settings_of(place)
    usual: dict[str, tuple[str, Any]] = {  # option -> W&B's environment variable, and what else it is
        "name": ("WANDB_NAME", place.name),
        "project": ("WANDB_PROJECT", "mnv2_tasks"),
        "entity": ("WANDB_ENTITY", None),
        "group": ("WANDB_RUN_GROUP", _group(settings)),
        "job_type": ("WANDB_JOB_TYPE", "train"),
        "tags": ("WANDB_TAGS", sorted({*(settings.get("heads") or {}), *(settings.get("data") or {})})),
    }
    given = {"name": name, "project": project, "entity": entity, "group": group, "job_type": job_type, "tags": tags}
    options = {}
    for option, (variable, value) in usual.items():
        told = os.environ.get(variable)  # W&B itself reads them once a process
        if told and option == "tags":
            value = told.split(",")
        elif told:
            value = told
        options[option] = value if given[option] is None else _plain(given[option])
    logger = WandbLogger(
        place,
        watch=watch,
        log_model=log_model,
        registry=registry,
        predictions=predictions,
        **others,
        **options,
        id=run_id or secrets.token_hex(4),
        resume="allow",
        mode=setting,
        save_dir=os.environ.get("WANDB_DIR") or folder,
        save_code=save_code,
    )
    logger.start()
    if save_code and not logger.is_off:
        logger.experiment.log_code(str(Path(__file__).parents[1]))
    return logger


def _init_options(init: Mapping[str, Any]) -> dict[str, Any]:
    from inspect import signature

    from wandb import init as function

    for key in init:
        if key in OURS or key == "save_code":
            raise InputError(f"logger.wandb.init.{key}: it is set otherwise, see logger.wandb")
        if key == "settings":
            raise InputError("logger.wandb.init.settings: give them as W&B's environment variables, WANDB_<NAME>")
        if key not in signature(function).parameters:
            raise InputError(f"logger.wandb.init.{key}: wandb.init has no such option")
    return {key: _plain(value) for key, value in init.items()}


def _plain(value: Any) -> Any:
    """A value that Hydra may have wrapped, as W&B takes it."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, Sequence) and not isinstance(value, str) else value


def _settings_of(folder: Path) -> dict[str, Any]:
    """A run folder's config.yaml; nothing where there is none."""
    file = folder / "config.yaml"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    return content if isinstance(content, dict) else {}


def _group(settings: Mapping[str, Any]) -> str | None:
    """One name for the runs that differ in nothing but the seed: their tasks, and a checksum of the settings."""
    if not settings:
        return None
    apart = ("seed", "name", "runs", "resume", "trust", "logger", "hydra")
    same = {key: value for key, value in settings.items() if key not in apart}
    digest = hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()
    return f"{'+'.join(settings.get('heads') or ())} {digest[:8]}"


@contextmanager
def closing_wandb() -> Iterator[None]:
    """The W&B run that starts in the block ends with it, so that the next run of a multirun has its own.

    It ends as finished, or as failed with the exit code of what ended the block; a line says where it is to be seen.
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
        run = getattr(package, "run", None)
        if package is not None and run is not None:
            url = None if run.disabled else f"wandb sync {shlex.quote(run.settings.sync_dir)}"
            if url and not run.offline:
                url = run.url
            package.finish(exit_code=code)
            if url:
                print(f"W&B: {url}")


def tensorboard(folder: str) -> Logger:
    """TensorBoard events in the run folder's `tensorboard/`."""
    try:
        import tensorboard as _  # noqa: F401
    except ImportError as error:
        raise InputError("logger=tensorboard needs its extra: pip install 'mnv2_tasks[tensorboard]'") from error
    return TensorBoardLogger(folder, name="", version="tensorboard")


class MLflowRun(MLFlowLogger):
    """Lightning's, for a run that may be resumed: MLflow refuses parameters that change, so the first ones stay."""

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        if not self.experiment.get_run(self.run_id).data.params:
            super().log_hyperparams(params)


def mlflow(
    folder: str,
    name: str | None = None,
    *,
    experiment: str | None = None,
    uri: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Logger:
    """MLflow; its files are in the run folder's `mlruns/`, where neither `uri` nor MLFLOW_TRACKING_URI names a server.

    The run's id is kept in the folder, so that a resumed run goes on in its old curve.

    Args:
        folder: of the run.
        name: of the run; None: the folder's.
        experiment: that it is listed in; None: MLFLOW_EXPERIMENT_NAME, or mnv2_tasks.
        uri: of the tracking server, or of a folder as file:<path>.
        tags: of the run.
    """
    try:
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise InputError("logger=mlflow needs its extra: pip install 'mnv2_tasks[mlflow]'") from error
    place, file = Path(folder), Path(folder) / "mlflow_id.txt"
    if not uri and not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions want to be asked for files
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logger = MLflowRun(
        experiment_name=experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "mnv2_tasks",
        run_name=name or place.name,
        tracking_uri=uri or os.environ.get("MLFLOW_TRACKING_URI") or (place / "mlruns").absolute().as_uri(),
        tags=_plain(tags) if tags else None,
        run_id=file.read_text(encoding="utf-8").strip() if file.exists() else None,
    )

    @rank_zero_only
    def start() -> None:
        try:
            file.write_text(str(logger.run_id), encoding="utf-8")
        except MlflowException as error:
            raise InputError(f"logger=mlflow: {reason_of(error)}; mend it, or choose another uri") from error

    start()
    return logger


LEAST = 0.1  # score of the boxes that W&B is sent; its pages have a slider


def log_examples(
    logger: Logger,
    module: MultiTask,
    sources: Iterable[str],
    make: Callable[[str], dict[str, list[Example]]],
    step: int,
) -> None:
    """Send {task: examples} of each source to a logger that shows them; `make` is not called for one that does not."""
    if not isinstance(logger, WandbLogger) or logger.is_off:
        return
    for source in sources:
        for task, examples in make(source).items():
            heights, widths = zip(*(example.image.shape[1:] for example in examples), strict=True)
            canvas = (max(heights), max(widths))  # W&B shows together what has one size
            kind, names = module.model.heads[task].kind, module.classes[task]
            pictures = [wandb_image(example, task, kind, names, canvas) for example in examples]
            logger.send({f"{task}/val/examples": pictures}, step)


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
