"""A published checkpoint becomes a run like any other."""

import json
from pathlib import Path

import pytest
import torch
from tests.application import call

from pixelpath.interop import official
from pixelpath.models.representation import Representation
from pixelpath.runs.opened import open_run


def test_a_generator_can_be_sampled(parity: Path, tmp_path: Path) -> None:
    file, out = parity / "weights_epg.safetensors", tmp_path / "run"
    assert call("import-official", file, "--out", out, "--encoder-heads", 4, "--decoder-heads", 4) == 0
    run, model = open_run(out), official.load(file, 4, 4)
    noisy, sigma, labels = torch.randn(2, 3, 32, 32), torch.tensor([0.3, 7.0]), torch.tensor([1, 9])
    assert torch.equal(run.denoiser(noisy, sigma, labels), model(noisy, sigma, labels))
    assert run.noise.sigmas(1)[0] == pytest.approx(40)
    assert call("sample", out, "--count", 2, "--steps", 2, "--out", tmp_path / "samples") == 0
    settings = json.loads((tmp_path / "samples" / "samples.json").read_text())
    assert settings["guidance"] == 2.5
    assert len(list((tmp_path / "samples").glob("0*.png"))) == 2


def test_an_encoder_can_start_stage_two(parity: Path, tmp_path: Path) -> None:
    file, out = parity / "weights_rcm_online.safetensors", tmp_path / "run"
    assert call("import-official", file, "--out", out, "--encoder-heads", 4) == 0
    noisy = torch.randn(2, 3, 32, 32)
    model = official.load(file, 4)
    assert isinstance(model, Representation)
    features = open_run(out).representation.features(noisy, torch.tensor(0.5))
    assert torch.equal(features, model.features(noisy, torch.tensor(0.5)))


def test_what_cannot_be_imported_is_said(parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("import-official", parity / "weights_epg.safetensors", "--out", tmp_path / "run") == 2
    assert "encoder_heads" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
