"""Grids, weights, preconditioning, curricula and sinusoids have the reference's values."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelpath.models.preconditioning import EDMPreconditioning, XPrediction, noise_coordinate
from pixelpath.networks.layers import sinusoids
from pixelpath.noise import GridWeight, NoiseRange
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, InterpolatedTemperature
from tests.agreement import each, largest, vectors

NOISE = NoiseRange()


@pytest.fixture(scope="module")
def scalars(parity: Path) -> dict[str, Tensor]:
    return vectors(parity, "scalars")


@pytest.fixture(scope="module")
def results(parity: Path) -> dict[str, dict[str, list[float]]]:
    return json.loads((parity / "parity.json").read_text())["results"]


@pytest.mark.parametrize("count", [21, 41, 1280, 1281, 2560])
def test_training_grid(scalars: dict[str, Tensor], count: int) -> None:
    assert each(NOISE.grid(count), scalars[f"train_sigmas_{count}"]) < 1e-7


@pytest.mark.parametrize("pixels", [32.0, 64.0, 256.0])
@pytest.mark.parametrize("count", [2, 8, 32])
def test_levels_of_sampling(scalars: dict[str, Tensor], count: int, pixels: float) -> None:
    """The reference's are computed in float32, ours in float64."""
    levels = NOISE.for_resolution(pixels).sigmas(count)
    assert each(levels[:-1], scalars[f"sampler_sigmas_n{count}_h{pixels:g}"]) < 2e-6


def test_nearest_level(scalars: dict[str, Tensor]) -> None:
    assert torch.equal(NOISE.nearest(scalars["sigma_probe"], 1280), scalars["find_nearest_1280"])


def test_grid_weight(scalars: dict[str, Tensor]) -> None:
    """The reference's float32 rounding is part of its weights; ours has it too where float32 powers are vectorised."""
    weights = GridWeight()(NOISE.grid(1280).float(), NOISE)
    exact = NOISE.grid(1280, beyond=1)
    assert each(weights, 1 / (exact[:-1] - exact[1:])) < 3e-4
    vectorised = torch.backends.cpu.get_cpu_capability() != "DEFAULT"
    assert each(weights, scalars["weightings_1280_by_index"]) < (1e-6 if vectorised else 3e-4)


@pytest.mark.parametrize("pixels", [32.0, 64.0, 256.0])
def test_consistency_scalings(scalars: dict[str, Tensor], pixels: float) -> None:
    shift = pixels / 64
    factors = EDMPreconditioning(boundary=0.002 * shift)(scalars["sigma_probe"] * shift)
    for name, factor in (("skip", factors.skip), ("out", factors.out), ("in", factors.input)):
        assert each(factor, scalars[f"scalings_h{pixels:g}.c_{name}"]) < 1e-6
    assert each(XPrediction()(scalars["sigma_probe"] * shift).input, scalars[f"scalings_h{pixels:g}.c_in"]) < 1e-6


def test_noise_coordinate(scalars: dict[str, Tensor]) -> None:
    assert each(noise_coordinate(scalars["sigma_probe"]), scalars["rescaled_t"]) < 1e-6


@pytest.mark.parametrize("width", [64, 65])
def test_sinusoids(scalars: dict[str, Tensor], width: int) -> None:
    waves = sinusoids(scalars[f"timestep_embedding_{width}.t"], width)
    assert largest(waves, scalars[f"timestep_embedding_{width}.out"]) < 1e-6


def test_curriculum(results: dict[str, dict[str, list[float]]]) -> None:
    curriculum = Curriculum()
    expected = results["scales_tau.paper"]
    assert {step: curriculum(int(step) / 600_000) for step in expected} == {step: count for step, (count, _) in expected.items()}


def test_highest_temperature(results: dict[str, dict[str, list[float]]]) -> None:
    temperature = InterpolatedTemperature()
    for step, (_, expected) in results["scales_tau.cosine"].items():
        assert temperature.top(int(step) / 400_000) == pytest.approx(expected, rel=1e-12)


def test_temperature_of_a_level(scalars: dict[str, Tensor]) -> None:
    temperature = InterpolatedTemperature(highest=0.3)
    values = torch.tensor([temperature(sigma, NOISE, 0) for sigma in scalars["sigma_probe"].tolist()])
    assert each(values, scalars["tau_interpolated_tmax0.3"]) < 1e-6


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("cfg256", StagedGap(stages=7)),
        ("ect", StagedGap(stages=14, first=0, base=4.0)),
        ("intd", StagedGap(stages=700, first=0)),
    ],
)
@pytest.mark.parametrize("step", [0, 999, 1000, 50_000, 99_999, 100_000, 100_001, 199_999, 200_000, 350_000])
def test_consistency_pairs(scalars: dict[str, Tensor], name: str, gap: StagedGap, step: int) -> None:
    expected = scalars[f"ect_r.{name}.step{step}"]
    assert each(gap(scalars["sigma_probe"], NOISE, step / 700_000), expected) < 1e-6
