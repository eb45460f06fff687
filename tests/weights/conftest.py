"""What the tests of checkpoints share: the settings of a run."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from mnv2_tasks.assembly.overrides import CONFIGS
from mnv2_tasks.assembly.settings import settle


@pytest.fixture(scope="module")
def run_config() -> dict:
    """The settings of a new run, as its config.yaml holds them."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return settle(compose("train", ["task=classifier", "backbone.width=0.35", "size=64"]))
