"""What the tests of prediction share: a checkpoint to predict with."""

import pytest
import torch
from builders import HEAD_CLASSES, HEAD_CONFIGS, make


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(*heads) -> a .ckpt as a run writes it, for images of 96 x 128."""

    def save(*heads, fit="stretch", channels=3):
        backbone = {"_target_": "mnv2_tasks.backbone.MobileNetV2", "width": 0.35, "in_channels": channels}
        config = {
            "backbone": {**backbone, "mean": [0.45] * channels, "std": [0.22] * channels},
            "heads": {head: HEAD_CONFIGS[head] for head in heads},
            "size": [96, 128],
            "fit": fit,
            "data": {
                "scenes": {"_target_": "mnv2_tasks.datasets.formats.scenes.Scenes", "size": 96, "train": 8, "val": 8}
            },
            "assign": {},
        }
        state = {f"model.{name}": value for name, value in make(*heads, channels=channels).state_dict().items()}
        path = tmp_path / "best.ckpt"
        about = {"config": config, "classes": {head: HEAD_CLASSES[head] for head in heads}}
        torch.save({"state_dict": state, "mnv2_tasks": about, "epoch": 0}, path)
        return path

    return save
