"""`experiment=finetune` takes an own folder, and any head; the trunk learns after the head, with the norms it had."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mnv2_tasks.backbone import MobileNetV2

TINY = ("backbone.width=0.35", "size=64", "loader.batch_size=4", "loader.workers=0", "examples=0", "name=a")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(MobileNetV2(0.35).state_dict(), tmp_path / "trunk.pth")
    return tmp_path / "trunk.pth"


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "moves"), [(3, False), (4, True)])
def test_the_trunk_of_a_classifier_learns_after_the_head(
    epochs: int, moves: bool, weights: Path, tmp_path: Path, cli: Any
) -> None:
    noise = np.random.default_rng(0)
    for side, name in ((side, name) for side in ("train", "val") for name in ("cat", "dog")):
        (tmp_path / "own" / side / name).mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(noise.integers(0, 256, (48, 72, 3), np.uint8))
            picture.save(tmp_path / "own" / side / name / f"{i}.png")
    own = (f"data.root={tmp_path / 'own'}", f"backbone.weights={weights}", f"trainer.max_epochs={epochs}")
    cli("train", "experiment=finetune", *own, *TINY, "ema=null", f"runs={tmp_path}")
    state = torch.load(tmp_path / "classifier" / "a" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    trunk = {name.removeprefix("model.backbone."): value for name, value in state.items() if ".backbone." in name}
    changed = {name for name, before in torch.load(weights).items() if not torch.equal(trunk[name], before)}
    assert bool(changed) == moves
    assert not any("running" in name for name in changed)  # the norms keep the statistics of the weights


@pytest.mark.parametrize(("task", "data", "size"), [("ssdlite", "coco", 320), ("deeplabv3", "masks", 512)])
def test_other_heads_keep_their_size(task: str, data: str, size: int, cli: Any) -> None:
    _, printed = cli("train", "experiment=finetune", f"task={task}", f"data={data}", "--cfg", "job", "--resolve")
    config = yaml.safe_load(printed)
    assert config["size"] == size and list(config["heads"]) == [task] and list(config["data"]) == [data]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ssdlite", "deeplabv3"])
def test_other_heads_learn(task: str, weights: Path, tmp_path: Path, cli: Any) -> None:
    scenes = (f"task={task}", "data=scenes", "data.train=8", "data.val=4")
    own = (f"backbone.weights={weights}", "trainer.max_epochs=1", f"runs={tmp_path}")
    cli("train", "experiment=finetune", *scenes, *own, *TINY)
    assert (tmp_path / task / "a" / "metrics.json").exists()
