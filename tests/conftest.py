"""One thread, fixed seeds, and every annotated shape of the package checked while the tests run."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from jaxtyping import install_import_hook

install_import_hook("pixelpath", "beartype.beartype")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test begins with the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of tensors computed by the reference implementation."""
    return Path(__file__).parent / "parity"
