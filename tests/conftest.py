"""One thread, fixed seeds, and every annotated shape of the package checked while the tests run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OMP_NUM_THREADS"] = "1"  # also in the processes that tests start: other numbers of threads round otherwise

from jaxtyping import install_import_hook

# A whole number is accepted where a float is annotated, as PEP 484 has it.
install_import_hook("pixelpath", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

import numpy as np
import pytest
import torch
from PIL import Image

from pixelpath.networks import layers
from tests.agreement import reference_frequencies
from tests.application import train
from tests.reliability import harness

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which what a shell starts in the background ignores


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test begins with the same random state."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of tensors computed by the reference implementation."""
    return Path(__file__).parent / "parity"


@pytest.fixture(autouse=True)
def same_rounding(request: pytest.FixtureRequest, parity: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of parity take the reference's frequencies of width 64, which its processor rounded, wherever they are used."""
    if request.module.__name__.rpartition(".")[2].startswith("test_parity"):
        known, exact = reference_frequencies(parity), layers.frequencies
        monkeypatch.setattr(layers, "frequencies", lambda count, longest: known if count == 32 else exact(count, longest))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 RGB pictures of 8 x 8 pixels in two classes: horizontal and vertical ramps, with noise."""
    folder = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0)
    ramp = np.linspace(40, 200, 8)
    for name, image in (("across", ramp[None, :, None]), ("down", ramp[:, None, None])):
        (folder / name).mkdir()
        for place in range(20):
            noisy = image + numbers.normal(0, 10, (8, 8, 3))
            Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(folder / name / f"{place:02d}.png")
    return folder


@pytest.fixture(scope="session")
def encoder_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of stage one."""
    out = tmp_path_factory.mktemp("runs") / "encoder"
    assert train("digits-encoder", pictures, out, report=True) == 0
    return out


@pytest.fixture(scope="session")
def diffusion_run(pictures: Path, encoder_run: Path) -> Path:
    """A finished run of stage two that began with the encoder of stage one."""
    out = encoder_run.parent / "diffusion"
    assert train("digits-diffusion", pictures, out, "--encoder", encoder_run, report=True) == 0
    return out


@pytest.fixture(scope="session")
def onestep_run(pictures: Path, encoder_run: Path) -> Path:
    """A finished one-step run that began with the encoder of stage one and compares features through it."""
    out = encoder_run.parent / "onestep"
    words = ("--encoder", encoder_run, "--objective.features", "contrastive")
    assert train("digits-onestep", pictures, out, *words, report=True) == 0
    return out


@pytest.fixture(scope="session")
def plain_run(encoder_run: Path) -> Path:
    """A finished run of stage two on float images of 2 channels, 8 x 12, without classes or held-out images."""
    data, out = encoder_run.parent / "plain.npy", encoder_run.parent / "plain"
    np.save(data, np.random.default_rng(1).normal(5, 3, (12, 2, 8, 12)).astype(np.float32))
    assert train("digits-diffusion", data, out, "--data.held-out-share", 0) == 0
    return out


@pytest.fixture(scope="session")
def starter(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[harness.Starter]:
    """A program that forks a child for each command; it has trained a one-step run of its own, so that everything is imported."""
    warm = [word for word in harness.train("digits-onestep", pictures, "") if word not in ("--out", "")]
    found = harness.Starter((*warm, "--seed", "77"), tmp_path_factory.mktemp("starter"))
    yield found
    found.close()
