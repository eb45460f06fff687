"""Trained backbones for other libraries' training code: torchvision, timm, and a folder in the Hub's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.blocks import InvertedResidual
from mnv2_tasks.errors import InputError
from mnv2_tasks.foreign import read_json
from mnv2_tasks.heads.classifier import Classifier
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.weights import State, from_timm, from_torchvision

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# What torchvision's and timm's networks are fixed to.
BLOCK = {"linear": True, "shortcut": "bottleneck", "kernel_size": 3, "activation": "relu6"}
BACKBONE = {"expansion": 6, "divisor": 8, "in_channels": 3, "stem_stride": 2, "padding": "symmetric", "norm_eps": 1e-5}
TIMM = {
    0.35: "mobilenetv2_035",
    0.5: "mobilenetv2_050",
    0.75: "mobilenetv2_075",
    1.0: "mobilenetv2_100",
    1.4: "mobilenetv2_140",
}


def write_backbone(model: Model, settings: Mapping[str, Any], classes: Classes, folder: Path) -> None:
    """Write what `settings["as"]` asks for: hub, torchvision, timm, or several."""
    wanted = [settings["as"]] if isinstance(settings["as"], str) else list(settings["as"])
    if unknown := set(wanted) - {"hub", "torchvision", "timm"}:
        raise InputError(f"as={sorted(unknown)[0]}: use hub, torchvision or timm")
    for name in wanted:
        if name == "hub":
            write_hub(model, settings, classes, folder)
        else:
            state = (torchvision_state if name == "torchvision" else timm_state)(model, settings["backbone"])
            save_file(state, folder / f"{name}.safetensors", metadata={"format": "pt"})


def torchvision_state(model: Model, section: Mapping[str, Any]) -> State:
    """The tensors under the names of `torchvision.models.mobilenet_v2(width_mult=..., num_classes=...)`.

    Its classifier comes along where the model has a classifier head; else the state is that of its `features`, prefixed
    (give the network `classifier = nn.Identity()`). Raises InputError for what torchvision's network cannot express.
    """
    import torch
    from torchvision.models import mobilenet_v2

    own = _published(model, section, "torchvision")
    if model.backbone.last is None:
        raise InputError(
            "as=torchvision: its network has the last convolution (tap c5x), which this model's heads do without"
        )
    with torch.device("meta"):
        theirs = mobilenet_v2(width_mult=section["width"])
    state = {name: own[ours] for name in theirs.state_dict() if (ours := from_torchvision(name))}
    for head in model.heads.values():
        if isinstance(head, Classifier):
            linear = head.linear
            state |= {"classifier.1.weight": linear.weight.detach(), "classifier.1.bias": linear.bias.detach()}
            break
    return _plain(state)


def timm_state(model: Model, section: Mapping[str, Any]) -> State:
    """The tensors under the names of `timm.create_model("mobilenetv2_100", features_only=True)`.

    Raises InputError for what timm's network cannot express.
    """
    import timm

    own = _published(model, section, "timm")
    name = TIMM.get(section["width"])
    if name is None:
        raise InputError(f"as=timm: it has widths {', '.join(map(str, TIMM))}, not {section['width']:g}")
    theirs = timm.create_model(name, features_only=True).state_dict()
    state = {name: own[ours] for name in theirs if (ours := from_timm(name)) and ours in own}
    if missing := [name for name in theirs if name not in state]:
        raise InputError(
            f"as=timm: its network goes on to {missing[-1].rpartition('.')[0]}, which this model's heads do without"
        )
    return _plain(state)


def _published(model: Model, section: Mapping[str, Any], library: str) -> State:
    """The backbone's tensors, where its structure is the published one; `section` is its part of the config."""
    block = section.get("block") or {}
    reasons = {
        "it is not MobileNetV2's table": type(model.backbone) is not MobileNetV2,
        "its blocks are not inverted residuals": any(type(b) is not InvertedResidual for b in model.backbone.blocks),
        "its blocks differ from the published ones": any(block.get(key, own) != own for key, own in BLOCK.items()),
        **{f"its {key} is {section.get(key)}": section.get(key, own) != own for key, own in BACKBONE.items()},
        "its output stride is not 32": library == "torchvision" and section.get("output_stride", 32) != 32,
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise InputError(f"as={library}: that library cannot express this backbone ({wrong[0]}); use as=hub")
    return dict(model.backbone.state_dict())


def _plain(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def write_hub(model: Model, settings: Mapping[str, Any], classes: Classes, folder: Path) -> None:
    """config.json, model.safetensors and a model card: a folder that the Hugging Face Hub takes as it is."""
    from mnv2_tasks.export.about import structure, trained_metrics

    metrics = trained_metrics(settings.get("ckpt"))
    config = {
        "backbone": structure(settings["backbone"]),
        "taps": {name: [tap.channels, tap.stride] for name, tap in model.backbone.taps.items()},
        "kept": list(model.backbone.kept),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "trained_on": {task: list(names) for task, names in classes.items()},
        "metrics": metrics,
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(_plain(model.backbone.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
    rows = [f"| {side} | {name} | {value} |" for side, its in metrics.items() for name, value in its.items()]
    card = [
        "---",
        *([f"license: {settings['license']}"] if settings["license"] else []),
        "library_name: mnv2_tasks",
        "tags: [mobilenet_v2, image-feature-extraction]",
        "---",
        "",
        "# A MobileNetV2 backbone",
        "",
        f"Width {settings['backbone']['width']:g}, output stride {settings['backbone']['output_stride']}, "
        f"trained for {', '.join(classes)} on {', '.join(settings['data'])}. "
        f"Licence of the weights: {settings['license'] or 'not stated; ask their author'}.",
        "",
        "```python",
        "import mnv2_tasks",
        f'backbone = mnv2_tasks.load_backbone("{folder.name}")  # this folder, or its id on the Hub',
        "taps = backbone((images - mean) / std)  # images (B, 3, H, W) in 0..1; mean and std stand in config.json",
        "```",
        "",
        "Written by `python -m mnv2_tasks.export what=backbone as=hub ckpt=<checkpoint>`.",
        *(["", "| side | metric | value |", "|---|---|---|", *rows] if rows else []),
    ]
    (folder / "README.md").write_text("\n".join(card) + "\n", encoding="utf-8")


def read_hub(where: str) -> MobileNetV2:
    """The backbone of a folder as `write_hub` made it, or of one on the Hugging Face Hub, in eval mode.

    Raises InputError where there is none, or where its config asks for anything but this package's networks.
    """
    from hydra.utils import instantiate

    from mnv2_tasks.model import build_and_fill
    from mnv2_tasks.trust import refuse_foreign
    from mnv2_tasks.weights import read_state

    folder = Path(where)
    if not folder.is_dir():
        folder = _download(where)
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise InputError(f"{folder}: no {missing[0]} there; give a folder that what=backbone as=hub wrote")
    try:
        config = read_json(folder / CONFIG, fix="copy it again")
        section, kept = dict(config["backbone"]), list(config["kept"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / CONFIG}: not the config of a backbone ({error})") from error
    refuse_foreign({"backbone": section}, folder / CONFIG)
    for key in ("mean", "std"):
        section.pop(key, None)

    def build() -> MobileNetV2:
        backbone: MobileNetV2 = instantiate(section)
        backbone.keep(kept)
        return backbone

    return build_and_fill(
        build,
        read_state(folder / WEIGHTS),
        config_at=str(folder / CONFIG),
        tensors_at=str(folder / WEIGHTS),
        hint=f"{CONFIG} tells of another network",
    )


def _download(where: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, allow_patterns=[CONFIG, WEIGHTS, "README.md"]))
    except Exception as error:  # of the network, of the name, of the rights
        raise InputError(
            f"{where}: no such folder, and it cannot be had from the Hub ({type(error).__name__}); check the path "
            "or the id"
        ) from error
