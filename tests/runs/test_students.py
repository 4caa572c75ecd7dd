"""The network that a run trains, before its first step, and the range of values that its weights know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.application import call, train

from pixelpath.runs.opened import open_run


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    """Images like those of the encoder run in shape, and darker."""
    path = tmp_path / "dark.npz"
    images = np.random.default_rng(0).integers(0, 60, (40, 3, 8, 8), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(40) % 2)
    return path


@pytest.mark.parametrize(("recipe", "option"), [("digits-diffusion", "--encoder"), ("digits-encoder", "--init-from")])
def test_a_run_keeps_the_range_of_values_of_the_weights_it_begins_with(
    recipe: str, option: str, encoder_run: Path, dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(recipe, dark, tmp_path / "run", option, encoder_run) == 0
    assert open_run(tmp_path / "run").normaliser == open_run(encoder_run).normaliser
    assert str(encoder_run) in capsys.readouterr().err
    assert train(recipe, dark, tmp_path / "run", option, encoder_run) == 0  # taken up in that range


def test_values_of_another_kind_are_refused(
    encoder_run: Path, dark: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("digits-diffusion", dark, tmp_path / "a", "--encoder", encoder_run, "--data.normaliser.kind", "asinh") == 2
    assert "--data.normaliser" in capsys.readouterr().err
    wide = tmp_path / "wide.npy"
    np.save(wide, np.load(dark)["images"].astype(np.uint16) * 100)
    assert call("train", "digits-diffusion", "--data", wide, "--out", tmp_path / "b", "--encoder", encoder_run) == 2
    assert "uint16" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()
