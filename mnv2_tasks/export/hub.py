"""Trained backbones for other libraries' training code: torchvision, timm, and a folder in the Hub's layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from mnv2_tasks.backbone import MobileNetV2
from mnv2_tasks.errors import InputError
from mnv2_tasks.files import read_json
from mnv2_tasks.model import Classes, Model
from mnv2_tasks.weights.layouts import plain_state, timm_state, torchvision_state

CONFIG, WEIGHTS = "config.json", "model.safetensors"


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


def write_hub(model: Model, settings: Mapping[str, Any], classes: Classes, folder: Path) -> None:
    """config.json, model.safetensors and a model card: a folder that the Hugging Face Hub takes as it is."""
    from mnv2_tasks.export.metadata import structure, trained_metrics

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
    save_file(plain_state(model.backbone.state_dict()), folder / WEIGHTS, metadata={"format": "pt"})
    rows = [f"| {side} | {name} | {value} |" for side, values in metrics.items() for name, value in values.items()]
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
    from mnv2_tasks.assembly.network import build_and_fill, build_backbone
    from mnv2_tasks.weights.moved_names import with_new_names
    from mnv2_tasks.weights.tensors import read_state
    from mnv2_tasks.weights.trust import refuse_foreign

    folder = Path(where)
    if not folder.is_dir():
        folder = _download(where)
    if missing := [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]:
        raise InputError(f"{folder}: no {missing[0]} there; give a folder that what=backbone as=hub wrote")
    try:
        config = read_json(folder / CONFIG, fix="copy it again")
        section, kept = with_new_names(dict(config["backbone"])), list(config["kept"])
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / CONFIG}: not the config of a backbone ({error})") from error
    refuse_foreign({"backbone": section}, folder / CONFIG)
    for key in ("mean", "std"):
        section.pop(key, None)

    def build() -> MobileNetV2:
        backbone = build_backbone(section)
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
