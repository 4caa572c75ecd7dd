"""One thread, fixed seeds, and every annotated shape of the package checked while the tests run."""

import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = "1"  # also in the processes that tests start: other numbers of threads round otherwise

from jaxtyping import install_import_hook

# A whole number is accepted where a float is annotated, as PEP 484 has it.
install_import_hook("pixelpath", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

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
