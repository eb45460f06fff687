"""What the tests of checkpoints share: the settings of a run."""

import pytest
from builders import settled


@pytest.fixture(scope="module")
def run_config() -> dict:
    """The settings of a new run, as its config.yaml holds them."""
    return settled("task=classifier", "backbone.width=0.35", "size=64")
