"""A run opened from its folder: the average, ready for use, or a sentence."""

import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.application import train

from pixelpath.runs.opened import open_run
from pixelpath.trainer import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage two on random images."""
    folder = tmp_path_factory.mktemp("run")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 255, (20, 8, 8), dtype=np.uint8))
    assert train("digits-diffusion", folder / "data.npy", folder / "run") == 0
    return folder / "run"


def test_a_run_is_its_average_in_evaluation_mode(run: Path) -> None:
    opened = open_run(str(run))
    saved = load_file(run / "checkpoints" / "step-00000006" / "ema.safetensors")
    state = opened.model.state_dict()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert not opened.model.training
    assert not any(parameter.requires_grad for parameter in opened.model.parameters())
    assert (opened.step, opened.shape, opened.classes) == (6, (1, 8, 8), ())
    assert opened.noise == opened.recipe.noise
    assert opened.noise.shift == 8 / 64


def test_an_earlier_checkpoint_is_opened_by_its_folder(run: Path) -> None:
    assert open_run(run, run / "checkpoints" / "step-00000003").step == 3
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        open_run(run, run / "checkpoints" / "step-00000004")


def test_what_is_no_run_is_a_sentence(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no checkpoint of a run"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="is a run of stage two: give a run of stage one"):
        _ = open_run(run).representation


@pytest.mark.parametrize("name", ["recipe.json", "data.json", "normaliser.json", "ema.safetensors"])
def test_a_damaged_file_is_named(name: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-00000006" / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{name} cannot be used .*remove .*step-00000006 to go on from .*step-00000003"):
        open_run(tmp_path / "run")


def test_a_checkpoint_that_training_removes_meanwhile_is_followed_by_the_newest(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    newest, older = (out / "checkpoints" / f"step-{step:08d}" for step in (6, 3))
    os.rename(newest, tmp_path / "later")
    restore = checkpoint.restore

    def pruned(*given: Any) -> None:  # between reading the documents and the weights
        if older.exists():
            os.rename(tmp_path / "later", newest)
            shutil.rmtree(older)
        restore(*given)

    with patch("pixelpath.trainer.checkpoint.restore", pruned):
        assert open_run(out).step == 6
        with pytest.raises(FileNotFoundError, match="step-00000003"):
            open_run(out, older)
