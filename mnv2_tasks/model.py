"""The whole network in pure PyTorch: plain RGB in, every head's outputs out; and how it is built from a config."""

import inspect
from collections.abc import Callable, Collection, ItemsView, Iterator, Mapping, Sequence, ValuesView
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError, quote, reason_of
from mnv2_tasks.heads import Head, Prediction
from mnv2_tasks.trust import MOST_NESTED, refuse_foreign, refuse_unknown, writer
from mnv2_tasks.weights import check_fit, load_exactly, read_file

Module = TypeVar("Module", bound=nn.Module)
Classes = dict[str, tuple[str, ...]]  # task -> its class names
# What versions worked with whose checkpoints do not tell it. Mean and std are buffers, so that the weights bring them.
OLD_BACKBONE = {"in_channels": 3, "mean": [0.5], "std": [0.5], "weights": None, "match": None}
OLD_CONFIG = {"fit": "stretch", "assign": {}}
MOST_PARAMETERS = 10**9  # of a network
DISAGREE = "its config and its tensors disagree: use the settings that it was trained with, or copy the file again"


class Heads(nn.ModuleDict):
    """{task: its head}."""

    if TYPE_CHECKING:

        def __getitem__(self, task: str) -> Head: ...
        def items(self) -> ItemsView[str, Head]: ...
        def values(self) -> ValuesView[Head]: ...


class Model(nn.Module):
    """Normalisation, backbone and heads.

    forward: (B, C, H, W) uint8, or float in 0..1 -> {task: the head's outputs}
    """

    def __init__(
        self,
        backbone: MobileNetV2,
        heads: Mapping[str, Head],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, Heads(heads)
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        needs = [need for head in heads.values() for need in head.needs]
        backbone.keep(needs)

    def forward(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, Any]:
        """Outputs of `tasks`, or of all; one forward of the backbone serves them."""
        size = (images.shape[-2], images.shape[-1])
        if not images.is_floating_point():
            images = images.to(self.mean.dtype) / 255
        taps = self.backbone((images - self.mean) / self.std)
        return {task: head(taps, size) for task, head in self.heads.items() if tasks is None or task in tasks}

    def infer(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, Any]:
        """`forward` as evaluation wants it: a head with `has_views` looks at several views of the images."""
        wanted = [task for task in self.heads if tasks is None or task in tasks]
        viewed = [task for task in wanted if self.heads[task].has_views]
        outputs = self(images, set(wanted) - set(viewed)) if len(viewed) < len(wanted) else {}
        for task in viewed:
            outputs[task] = self.heads[task].infer(partial(self._outputs_of, task), images)
        return outputs

    def _outputs_of(self, task: str, images: Tensor) -> Any:
        return self(images, [task])[task]

    def predict(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, list[Prediction]]:
        """{task: one prediction an image}, in input pixels; of `tasks`, or of all."""
        return {task: self.heads[task].predict(out) for task, out in self.infer(images, tasks).items()}


def build_model(config: Mapping[str, Any], classes: Classes) -> Model:
    """A model, without pretrained weights, from the `backbone` and `heads` sections of a plain config."""
    from hydra.utils import instantiate

    section = dict(config["backbone"])
    mean, std = section.pop("mean"), section.pop("std")
    for key in ("weights", "match", "match_to"):  # the wiring's
        section.pop(key, None)
    backbone = instantiate(section)
    channels = section.get("in_channels", 3)
    mean, std = ([values[0]] * channels if len(set(values)) == 1 else list(values) for values in (mean, std))
    if len(mean) != channels or len(std) != channels:
        raise InputError(f"backbone.mean and backbone.std must have in_channels={channels} values")
    heads = {task: instantiate(head)(backbone.taps, len(classes[task])) for task, head in config["heads"].items()}
    return Model(backbone, heads, mean=mean, std=std)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of ours, read without executing code: {"config", "classes", "state", "epoch", "step", "writer"}.

    Settings that its version did not have yet get the values that it worked with. Raises InputError where the file is
    cut short, damaged, or not one of ours.
    """
    held = read_file(path)
    about = held.get("mnv2_tasks")
    if about is None:
        lightning = "; it is another Lightning project's" if "pytorch-lightning_version" in held else ""
        raise InputError(f"{path}: not a checkpoint of mnv2_tasks{lightning}; weights alone go to backbone.weights")
    by = writer(about)
    if isinstance(about, Mapping) and about.get("config", by) is None:
        raise InputError(
            f"{path} ({by}): its task was built in Python without config=..., so that it does not tell its network; "
            "build the same model and call MultiTask.load_from_checkpoint(<this file>, model=<it>, classes=<{task: "
            "names}>), or train with config=<its backbone, heads and size as config.yaml holds them>"
        )
    try:
        config, classes = checked_config(about)
        config["size"]  # has to be there
        tensors = held["state_dict"]
        if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
            raise InputError("state_dict holds no named tensors")
    except InputError as error:
        raise InputError(f"{path} ({by}): {error}; train or export the model again, or copy the file again") from error
    except KeyError as error:
        raise InputError(f"{path} ({by}): it has no {error.args[0]}; copy the whole file again") from error
    state = {n.removeprefix("model."): value for n, value in tensors.items() if n.startswith("model.")}
    epoch, step = (held.get(n) if isinstance(held.get(n), int) else None for n in ("epoch", "global_step"))
    return {"config": config, "classes": classes, "state": state, "epoch": epoch, "step": step, "writer": by}


def checked_config(about: Any) -> tuple[dict[str, Any], Classes]:
    """The "config" and "classes" that a file tells of a model, of the form that a model is built from.

    Raises InputError, without the file's name, for what is of another form; KeyError for what is missing.
    """
    if not isinstance(about, Mapping) or not isinstance(about["config"], Mapping):
        raise InputError("its config is no dictionary")
    config = {str(key): value for key, value in about["config"].items()}
    for section in ("backbone", "heads"):
        if not isinstance(config[section], Mapping) or not config[section]:
            raise InputError(f"its {section} section is {quote(config[section])}")
    backbone, heads, classes = config["backbone"], config["heads"], about["classes"]
    for name, part in {"backbone": backbone, **heads}.items():
        if not isinstance(name, str) or not isinstance(part, Mapping) or not isinstance(part.get("_target_"), str):
            raise InputError(f"its {quote(name)} section does not say what to build")
    if not isinstance(classes, Mapping) or set(classes) != set(heads):
        raise InputError("its classes are not those of its heads")
    for task, names in classes.items():
        if not isinstance(names, (list, tuple)) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"its classes of {task} are {quote(names)}, not a list of names")
    config["backbone"] = complete_backbone(backbone)
    config = {**OLD_CONFIG, **config}
    if not isinstance(config["assign"], Mapping) or not all(isinstance(v, str) for v in config["assign"].values()):
        raise InputError(f"its assign is {quote(config['assign'])}")
    for number in _numbers([config["backbone"], heads]):
        if not abs(number) <= 1e6:  # nor NaN
            raise InputError(f"its backbone or heads hold the number {quote(number)}")
    if "size" in config and not all(map(_is_size, _each_size(config["size"]))):
        raise InputError(f"its size is {quote(config['size'])}")
    if config["fit"] not in ("stretch", "pad", "crop"):
        raise InputError(f"its fit is {quote(config['fit'])}")
    return config, {task: tuple(names) for task, names in classes.items()}


def complete_backbone(section: Mapping[str, Any]) -> dict[str, Any]:
    """A `backbone` section with the defaults of what its version did not have yet; an own class brings its own."""
    ours = {}
    if str(section.get("_target_")).startswith("mnv2_tasks."):
        parameters = inspect.signature(MobileNetV2).parameters.values()
        ours = {p.name: p.default for p in parameters if isinstance(p.default, (bool, int, float, str))}
    return {**ours, **OLD_BACKBONE, **section}


def _numbers(node: Any, depth: int = 0) -> Iterator[float]:
    if depth > MOST_NESTED:
        raise InputError("its backbone or heads section is nested too deep")
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from _numbers(child, depth + 1)
    elif isinstance(node, (int, float)):
        yield node


def _each_size(size: Any) -> list[Any]:
    return list(size.values()) if isinstance(size, Mapping) else [size]


def _is_size(size: Any) -> bool:
    sides = [size, size] if isinstance(size, int) else size
    return (
        isinstance(sides, (list, tuple))
        and len(sides) == 2
        and all(isinstance(side, int) and 32 <= side <= 2**14 for side in sides)
    )


def read_trusted(path: str | Path, *, trust: Collection[str] = ()) -> dict[str, Any]:
    """`read_checkpoint`, for a model to be built from it.

    Raises InputError where a section of the checkpoint asks for anything but what belongs there and is of this package
    or of the modules named in `trust`.
    """
    checkpoint = read_checkpoint(path)
    config, where = checkpoint["config"], f"{path} ({checkpoint['writer']})"
    refuse_foreign(config, where, trust=trust)
    refuse_unknown({key: config[key] for key in ("backbone", "heads")}, where)
    return checkpoint


def load_model(path: str | Path, *, trust: Collection[str] = ()) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, in eval mode, and the checkpoint as `read_trusted` gives it."""
    checkpoint = read_trusted(path, trust=trust)
    return fill_model(checkpoint["config"], checkpoint, path), checkpoint


def fill_model(config: Mapping[str, Any], checkpoint: Mapping[str, Any], path: str | Path) -> Model:
    """The model that `config` describes, in eval mode, with the tensors of a checkpoint that was read from `path`."""
    where = f"{path} ({checkpoint['writer']})"
    build = partial(build_model, config, checkpoint["classes"])
    return build_and_fill(build, checkpoint["state"], config_at=where, tensors_at=where, hint=DISAGREE)


def build_and_fill(
    build: Callable[[], Module], state: Mapping[str, Tensor], *, config_at: str, tensors_at: str, hint: str
) -> Module:
    """As `build_told`, filled with the tensors `state`, in eval mode. Raises InputError that ends with `hint`."""
    module = build_told(build, config_at, state, tensors_at=tensors_at, hint=hint)
    load_exactly(module, dict(state), tensors_at, hint=hint)
    return module.eval()


def build_told(
    build: Callable[[], Module],
    config_at: str,
    state: Mapping[str, Tensor] | None = None,
    *,
    tensors_at: str = "",
    hint: str = DISAGREE,
) -> Module:
    """What `build` makes of the config of somebody's file: without memory first, so that a damaged config costs none.

    Raises InputError, in which the files of the config and of the tensors `state` are called `config_at` and
    `tensors_at`, where it builds none, one larger than any network, or one that `state` does not fit.
    """
    try:
        with torch.device("meta"):
            outline = build()
        if state is not None:
            check_fit(outline, dict(state), tensors_at or config_at, hint=hint)
        elif (count := sum(p.numel() for p in outline.parameters())) > MOST_PARAMETERS:
            raise InputError(f"its network would have {count:,} parameters; copy the file again")
        return build()
    except InputError as error:
        raise (
            error if str(error).startswith(tensors_at or config_at) else InputError(f"{config_at}: {error}")
        ) from error
    except Exception as error:  # whatever a damaged setting leads to
        raise InputError(f"{config_at}: its config builds no model ({reason_of(error)}); {hint}") from error
