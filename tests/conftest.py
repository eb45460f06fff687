"""What several tests share."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"  # reference weights and data, where there are any
torch.set_num_threads(2)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no reference data beside the project")
    return SHARED
