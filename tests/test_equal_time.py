"""Systems of any make are trained for the same time and measured alike, at toy size; the measures are those of closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.equal_time import __main__ as program
from benchmarks.equal_time.clock import Clock
from benchmarks.equal_time.errors import SIGMAS, errors
from benchmarks.equal_time.jobs import DataSet
from benchmarks.equal_time.judge import seam
from benchmarks.equal_time.systems import changed

from pixelpath import recipes
from pixelpath.errors import UserError
from pixelpath.runs.digits import write_digits


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Some digits, with a test part."""
    with np.load(write_digits(tmp_path / "all.npz")) as found:
        images, labels = found["images"], found["labels"]
    file = tmp_path / "digits.npz"
    parts = {"train_images": images[:200], "test_images": images[200:300]}
    np.savez(file, **parts, train_labels=labels[:200], test_labels=labels[200:300])
    return file


@pytest.mark.parametrize("system", ["ours", "edm-small", "ddpm-v"])
def test_a_job_is_trained_sampled_and_measured_once(
    system: str, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ("size=nano", "batch_size=8") if system == "ours" else ("channels=8,16", "layers=1", "batch_size=8")
    out = tmp_path / "out"

    def run() -> None:
        program.run(digits, out, system, 0.005, change=changes, label="toy", steps=2, samples=20, classifier_steps=2)

    run()
    result = out / "digits" / "toy_0.005min_s0" / "result.json"
    first = json.loads(result.read_text(encoding="utf-8"))
    numbers = first["samples"]["2m-2-g1.5"]
    assert first["training"]["seconds"] >= 0.3
    assert first["training"]["images"] == 8 * first["training"]["steps"]
    assert numbers["features_held_out"] > 0
    assert 0 <= numbers["recognised"] <= 1
    run()
    assert json.loads(result.read_text(encoding="utf-8")) == first
    capsys.readouterr()
    program.show(out, (digits,))
    assert "| toy | 0.005 | 2m-2-g1.5 | 1 |" in capsys.readouterr().out
    assert (out / "digits.png").exists()
    if system != "ddpm-v":
        program.by_level((result.parent,), digits, out, "edm-small", () if system == "ours" else changes, count=20)
        row = capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]
        assert row[0].strip() == "toy_0.005min_s0"
        assert all(float(error) > 0 for error in row[1:])
        assert len(row) == 1 + len(SIGMAS)


def test_a_denoiser_that_changes_nothing_is_off_by_the_noise(digits: Path, tmp_path: Path) -> None:
    found = errors(lambda noisy, sigma, labels: noisy, DataSet(digits, tmp_path), 100)
    assert found == pytest.approx([sigma**2 for sigma in SIGMAS], rel=0.05)


def test_errors_of_what_is_no_denoiser_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trained network: it has no weights"):
        program.by_level((tmp_path,), digits, tmp_path)
    with pytest.raises(UserError, match="only the UNets under EDM estimate clean images"):
        program.by_level((tmp_path,), digits, tmp_path, "ddpm-v")


def test_floats_without_classes_have_tails_and_a_spectrum(tmp_path: Path) -> None:
    rain = np.random.default_rng(0).gamma(0.5, 2.0, (120, 1, 8, 8)).astype(np.float32)
    rain[:, :, :3] = 0
    np.savez(tmp_path / "rain.npz", train=rain[:80], test=rain[80:])
    changes = ("channels=8,16", "layers=1", "batch_size=8")
    data = tmp_path / "rain.npz"
    program.run(data, tmp_path, "edm-small", 0.005, change=changes, label="toy", steps=2, samples=20, classifier_steps=2)
    real = json.loads((tmp_path / "rain" / "real.json").read_text(encoding="utf-8"))["20"]
    assert real["dry"] == pytest.approx(3 / 8)
    assert real["dry_error"] == pytest.approx(0)
    assert real["q999"] > 5
    assert real["q999_error"] == pytest.approx(real["q999"] / float(np.quantile(rain[:80], 0.999)) - 1, rel=1e-6)
    assert real["seam"] == pytest.approx(1, abs=0.1)  # of 20 of the 80 held-out images
    assert 0 < real["spectrum_low"] <= 1 <= real["spectrum_high"]
    result = json.loads((tmp_path / "rain" / "toy_0.005min_s0" / "result.json").read_text(encoding="utf-8"))
    assert "recognised" not in result["samples"]["2m-2-g1.5"]
    assert np.isfinite(list(result["samples"]["2m-2-g1.5"].values())).all()


def test_samples_from_elsewhere_enter_the_table(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(digits) as arrays:
        np.savez(tmp_path / "theirs.npz", images=arrays["test_images"][:, None], labels=arrays["test_labels"])
    program.judge(tmp_path / "theirs.npz", digits, tmp_path, "theirs", classifier_steps=2)
    program.show(tmp_path)
    found = json.loads((tmp_path / "digits" / "theirs_0min_s0" / "result.json").read_text(encoding="utf-8"))
    assert found["samples"]["given"]["pixels_held_out"] == pytest.approx(0, abs=1e-9)
    assert "| theirs |" in capsys.readouterr().out


def test_only_what_runs_counts() -> None:
    clock = Clock(1e6, torch.device("cpu"))
    sum(range(10**5))
    assert clock.spent == 0
    with clock.running():
        sum(range(10**6))
    assert 0 < clock.share < 1
    clock.spent = 0.25e6
    assert clock.steps(101) == 400


def test_a_seam_is_the_ratio_of_differences() -> None:
    cells = torch.arange(3.0).repeat_interleave(4) * 7
    ramp = torch.arange(12.0) * 2
    images = (cells[:, None] + cells + ramp[:, None] + ramp)[None, None]
    assert seam(images, 4) == pytest.approx((7 + 2) / 2)


def test_changes_are_read_as_on_the_command_line() -> None:
    recipe = changed(recipes.cpu_32_diffusion(), ["objective.draw.p_mean=.7", "optimizer=adamw", "flip=False"])
    assert recipe.objective.draw.p_mean == 0.7
    assert type(recipe.optimizer).__name__ == "AdamW"
    assert not recipe.flip
    with pytest.raises(UserError):
        changed(recipe, ["flip"])
