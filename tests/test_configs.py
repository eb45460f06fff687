"""Every shipped config composes, names classes that exist, and its model runs a step; mistakes are told in a line."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf

from mnv2_tasks.cli import CONFIGS, settle
from mnv2_tasks.model import build_model

OPTIONS = [
    f"{path.parent.name}={path.stem}"
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.parent != CONFIGS and path.parent.name != "block"
]


def settled(*overrides: str) -> dict:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", list(overrides))
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "somewhere")
    return settle(config)


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("option", OPTIONS)
def test_composes_and_runs_a_step(option):
    config = settled(option, "size=64", "backbone.width=0.35")
    assert all(callable(get_object(target)) for target in targets(config))
    model = build_model(config, {task: ("a", "b") for task in config["heads"]})
    optimizer = instantiate(config["optim"]["optimizer"])(model.parameters())
    schedule = instantiate(config["optim"]["schedule"])(optimizer, steps=10)
    out = model(torch.randint(0, 255, (2, 3, 64, 64), dtype=torch.uint8))
    sum(o.scores.sum() + o.deltas.sum() for o in out.values()).backward()
    optimizer.step(), schedule.step()


def test_evaluate_composes():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert settle(compose("evaluate"))["split"] == "val"


def test_head_shorthand():
    config = settled("++head.boxes=fit", "++head.nms=0.5")
    assert config["heads"]["ssdlite"]["boxes"] == "fit" and config["heads"]["ssdlite"]["nms"] == 0.5
    assert "head" not in config


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.optimizer.lrr=0.1", ("optim.optimizer.lrr", "did you mean optim.optimizer.lr?")),
        ("head.boxs=fit", ("head.boxs", "did you mean boxes?")),
        ("data=cocoo", ("data/cocoo", "coco")),
        ("data=coco", ("data.root", "add data.root=<value>")),
        ("trainer.max_epoch=3", ("trainer.max_epoch", "did you mean trainer.max_epochs?")),
        ("backbone.output_stride=12", ("backbone.output_stride", "8, 16 or 32")),
        ("head.loss=dice", ("head.loss", "focal")),
        ("size=16", ("size", "at least 32")),
        ("loader.batch_size=1", ("loader.batch_size", "at least 2")),
        ("trainer.precision=16-mixd", ("trainer", "16-mixd")),
        ("resume=nowhere", ("nowhere", "config.yaml")),
        ("backbone.weights=nowhere.pth", ("nowhere.pth", "no such")),
    ],
)
def test_mistakes_are_told_in_one_line(cli, tmp_path, override, words):
    small = ("data.train=8", "data.val=4") if override != "data=coco" else ()
    code, err = cli("train", *small, "loader.workers=0", f"runs={tmp_path}", override, fails=True)
    assert code == 2 and err.startswith("error: ") and len(err.strip().splitlines()) == 1, err
    assert all(word in err for word in words), err
    assert not list(Path(tmp_path).iterdir())
