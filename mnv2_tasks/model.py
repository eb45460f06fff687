"""The whole network in pure PyTorch: plain RGB in, every head's outputs out; and how it is built from a config."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.heads import Prediction

Classes = dict[str, tuple[str, ...]]  # task -> its class names


class Model(nn.Module):
    """Normalisation, backbone and heads.

    forward: (B, C, H, W) uint8, or float in 0..1 -> {task: the head's outputs}
    """

    def __init__(
        self,
        backbone: MobileNetV2,
        heads: Mapping[str, Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleDict(heads)
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
        viewed = [task for task in wanted if getattr(self.heads[task], "has_views", False)]
        outputs = self(images, set(wanted) - set(viewed)) if len(viewed) < len(wanted) else {}
        for task in viewed:
            outputs[task] = self.heads[task].infer(lambda view, only=task: self(view, [only])[only], images)  # type: ignore[operator]
        return outputs

    def predict(self, images: Tensor, tasks: Collection[str] | None = None) -> dict[str, list[Prediction]]:
        """{task: one prediction an image}, in input pixels; of `tasks`, or of all."""
        return {task: self.heads[task].predict(out) for task, out in self.infer(images, tasks).items()}  # type: ignore[operator]


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
    """A checkpoint of ours, read without executing code: {"config", "classes", "state", "epoch"}.

    Raises InputError where it is cut short or is not one of ours.
    """
    from mnv2_tasks.weights import read_file

    held = read_file(path)
    if "mnv2_tasks" not in held:
        raise InputError(f"{path}: not a checkpoint of mnv2_tasks; a bare state dict goes to backbone.weights")
    about = held["mnv2_tasks"]
    classes = {task: tuple(names) for task, names in about["classes"].items()}
    state = {n.removeprefix("model."): value for n, value in held["state_dict"].items() if n.startswith("model.")}
    return {"config": about["config"], "classes": classes, "state": state, "epoch": held.get("epoch")}


def read_trusted(path: str | Path, *, trust: Collection[str] = ()) -> dict[str, Any]:
    """`read_checkpoint`, for a model to be built from it.

    Raises InputError where the checkpoint asks for anything but networks of this package and torch's, and of the
    modules named in `trust`.
    """
    checkpoint = read_checkpoint(path)
    asked = {key: checkpoint["config"][key] for key in ("backbone", "heads")}
    refuse_foreign_targets(asked, path, ("mnv2_tasks", "torch.nn", *trust))
    return checkpoint


def load_model(path: str | Path, *, trust: Collection[str] = ()) -> tuple[Model, dict[str, Any]]:
    """The model of a checkpoint, in eval mode, and the checkpoint as `read_trusted` gives it."""
    from mnv2_tasks.weights import load_exactly

    checkpoint = read_trusted(path, trust=trust)
    model = build_model(checkpoint["config"], checkpoint["classes"])
    load_exactly(model, checkpoint["state"], str(path), hint="the checkpoint's config and weights disagree")
    return model.eval(), checkpoint


def refuse_foreign_targets(node: Any, path: str | Path, trusted: tuple[str, ...]) -> None:
    """Every `_target_` in a checkpoint must name an nn.Module class, where it is defined, in a trusted module."""
    from hydra.utils import get_class

    def within(module: str) -> bool:
        return any(module == one or module.startswith(f"{one}.") for one in trusted)

    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None:
            found = get_class(target) if within(str(target).rpartition(".")[0]) else None
            if not (found and issubclass(found, nn.Module) and within(found.__module__)):
                raise InputError(
                    f"{path}: its config asks to build {target!r}, which is not of this package; if you trust the "
                    f"file, say so with trust=[{str(target).rpartition('.')[0]}]"
                )
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            refuse_foreign_targets(child, path, trusted)
