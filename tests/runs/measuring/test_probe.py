"""The probe through the command, of encoders of both stages."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.application import call, train

from pixelpath.runs.opened import open_run


@pytest.mark.parametrize("stage", ["encoder_run", "diffusion_run"])
def test_the_table_has_six_levels_for_encoder_and_pixels(stage: str, request: pytest.FixtureRequest, capsys) -> None:
    run: Path = request.getfixturevalue(stage)
    assert call("probe", run) == 0
    rows = json.loads((run / "probe.json").read_text())
    assert [row["name"] for row in rows] == ["encoder"] * 6 + ["pixels"] * 6
    sigmas = [row["sigma"] for row in rows[:6]]
    opened = open_run(run)
    assert sigmas == pytest.approx(np.geomspace(opened.noise.sigma_min * opened.noise.shift, sigmas[-1], 6).tolist())
    assert {(row["train_count"], row["test_count"]) for row in rows} == {(36, 4)}
    assert rows[6]["nearest"] == 1  # ramps are told apart by their pixels
    assert (run / "probe.png").exists()
    assert "(36 training, 4 held-out images)" in capsys.readouterr().err


def test_the_limit_takes_images_of_all_classes(encoder_run: Path, pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train("digits-encoder", pictures, run, "--data.held-out-share", 0.4) == 0
    assert call("probe", run, "--limit", 8) == 0
    rows = json.loads((run / "probe.json").read_text())
    assert {(row["train_count"], row["test_count"]) for row in rows} == {(8, 8)}


def test_an_encoder_gives_the_same_features_in_both_stages(encoder_run: Path, pictures: Path, tmp_path: Path) -> None:
    for preconditioning in ("x-prediction", "edm"):
        run = tmp_path / preconditioning
        words = ("--encoder", encoder_run, "--freeze-encoder", "--steps", 3, "--preconditioning", preconditioning)
        assert train("digits-diffusion", pictures, run, *words) == 0
        noisy, sigma = torch.randn(5, 3, 8, 8), torch.tensor(0.3)
        one, two = open_run(encoder_run).model, open_run(run).denoiser
        assert not torch.allclose(one.features(noisy, sigma), two.features(noisy, sigma), rtol=1e-5, atol=1e-5)
        two.backbone.classes.weight.zero_()  # stage two has a vector for "no class", stage one has none
        torch.testing.assert_close(one.features(noisy, sigma), two.features(noisy, sigma), rtol=1e-5, atol=1e-5)


def test_sigmas_can_be_chosen(encoder_run: Path, capsys) -> None:
    assert call("probe", encoder_run, "--sigmas", 0.5, 2) == 0
    rows = json.loads((encoder_run / "probe.json").read_text())
    assert [(row["name"], row["sigma"]) for row in rows] == [
        (name, sigma) for name in ("encoder", "pixels") for sigma in (0.5, 2)
    ]
    assert all(0 <= row["by_content"] <= 1 for row in rows)
    capsys.readouterr()
    assert call("probe", encoder_run, "--sigmas", 0.5, 0) == 2
    assert "--sigmas must be above 0" in capsys.readouterr().err
