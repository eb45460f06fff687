"""Both settings that can be `auto`: numbers in the settings, and a training as if they had been typed."""

import json

import pytest
import torch
import yaml
from builders import settled
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from refusal import refused

from mnv2_tasks import train
from mnv2_tasks.assembly import auto
from mnv2_tasks.assembly.overrides import CONFIGS, expand
from mnv2_tasks.assembly.settings import settle, settle_training
from mnv2_tasks.assembly.trainer import make_trainer
from mnv2_tasks.training.fitting import fit
from mnv2_tasks.training.run_folder import open_folder

TINY = ("task=classifier", "size=32", "backbone.width=0.35", "loader.workers=0", "examples=0", "data.train=40")
TINY = (*TINY, "data.val=6", "trainer.max_epochs=1", "trainer.accelerator=cpu", "data.size=32")


def composed(*typed: str) -> dict:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settle_training(compose("train", expand(list(typed))))


@pytest.fixture(scope="module")
def asked() -> dict:
    return settled("loader.batch_size=auto", "optim.optimizer.lr=auto")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("optim.optimizer.lr=atuo", ("optim.optimizer.lr=atuo: give a number, or auto", "did you mean auto?")),
        ("loader.batch_size=atuo", ("loader.batch_size=atuo: give a number, or auto",)),
        ("loader.batch_size=many", ("give a number, or auto",)),
    ],
)
def test_another_word_is_refused_before_anything_is_read(typed, words):
    refused(lambda: composed(typed), *words)


def test_evaluation_has_no_batch_to_find():
    from mnv2_tasks.assembly.build import make_data

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = settle(compose("evaluate", ["loader.batch_size=auto"]))
    settings |= {key: settled("task=classifier")[key] for key in ("data", "heads", "backbone", "size", "fit")}
    refused(lambda: make_data(settings), "loader.batch_size=auto", "give a whole number of images")


def test_numbers_take_the_place_of_auto_alone(asked):
    both = auto.filled(asked, {auto.BATCH: 7, auto.RATE: 0.3})
    assert (both["loader"]["batch_size"], both["optim"]["optimizer"]["lr"]) == (7, 0.3) and not auto.asked(both)
    assert auto.asked(asked) == [auto.BATCH, auto.RATE]
    assert auto.filled(both, {auto.BATCH: 9}) == both


def test_a_line_that_starts_again_keeps_what_its_run_found(asked):
    own = {"loader": {"batch_size": 7}, "optim": {"optimizer": {"lr": 0.3}}, "auto": {auto.BATCH: {"chosen": 7}}}
    again = auto.kept(asked, own)
    assert auto.asked(again) == [auto.RATE] and again["loader"]["batch_size"] == 7 and again["auto"] == own["auto"]
    assert auto.kept(asked, {"loader": {"batch_size": 7}}) == asked  # a run that was given a number


@pytest.mark.slow
def test_a_run_trains_with_the_numbers_as_if_they_had_been_typed(cli, tmp_path):
    _, out = cli("train", *TINY, "loader.batch_size=auto", "optim.optimizer.lr=auto", f"runs={tmp_path}", "name=found")
    folder = tmp_path / "classifier" / "found"
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    size, rate = settings["loader"]["batch_size"], settings["optim"]["optimizer"]["lr"]
    assert size == 40 and f"loader.batch_size={size}: a step takes" in out and "1 step an epoch" in out
    assert f"optim.optimizer.lr={rate:g} of a range test" in out
    assert {"lr_range.csv", "lr_range.png"} <= {path.name for path in folder.iterdir()}
    found = json.loads((folder / "metrics.json").read_text())["auto"]
    assert found == settings["auto"] and found[auto.RATE]["chosen"] == rate
    assert found[auto.BATCH]["measured"] < found[auto.BATCH]["free"]
    numbers = (f"loader.batch_size={size}", f"optim.optimizer.lr={rate}")
    resolved, task, _, _ = train.prepare(composed(*TINY, *numbers, f"runs={tmp_path}", "name=typed"))
    fit(make_trainer(resolved.settings, open_folder(resolved.settings)), task, resolved.data, None)
    one, other = (torch.load(tmp_path / "classifier" / n / "checkpoints" / "last.ckpt") for n in ("found", "typed"))
    for state in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, other[state][name]) for name, value in one[state].items())
    _, error = cli("train", f"resume={folder}", "optim.optimizer.lr=auto", "trainer.max_epochs=2", fails=True)
    assert "optim.optimizer.lr=auto is for the beginning of a run" in error
