"""Losses and gradients are the reference's, for the same weights, images, noise and levels.

Losses agree to 1e-5 each, gradients to 1e-5 of their Euclidean norm: single entries of the reference's own gradients are 1e-5
away from what float64 arithmetic gives. The levels of diffusion are the reference's own float32 ones, 1e-6 away from ours.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pixelpath.interop import official
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning, Preconditioning, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.noise import GridWeight, NoiseRange
from pixelpath.objectives.consistency import Consistency, Pairs
from pixelpath.objectives.contrast import info_nce
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import ContrastiveFeatures, NoFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import (
    ConstantTemperature,
    Curriculum,
    InterpolatedTemperature,
    RepresentationLearning,
    Temperature,
)
from pixelpath.types import Batch, Views
from tests.agreement import each, norm, vectors

TOLERANCE = 1e-5
NOISE = NoiseRange().for_resolution(32.0)
SEEDS = (0,) * 6


@pytest.fixture(scope="module")
def results(parity: Path) -> dict[str, Any]:
    return json.loads((parity / "parity.json").read_text())["results"]


def check_gradients(model: nn.Module, result: dict[str, Any], tensors: dict[str, Tensor], case: str) -> None:
    gradients = {official.official_name(name): value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert gradients.keys() == result["grad_norms"].keys()
    for key, expected in result["grad_norms"].items():
        assert float(gradients[key].norm()) == pytest.approx(expected, rel=TOLERANCE), key
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert float(total) == pytest.approx(result["grad_norm_total"], rel=TOLERANCE)
    kept = {key.removeprefix(f"{case}.grad."): value for key, value in tensors.items() if key.startswith(f"{case}.grad.")}
    assert len(kept) >= 4
    for key, expected in kept.items():
        assert norm(gradients[key], expected) < TOLERANCE, key


def test_info_nce(parity: Path) -> None:
    tensors = vectors(parity, "contrastive")
    queries, targets = tensors["f"], tensors["f_target"]
    assert each(info_nce(queries, targets, 0.1), tensors["nce_constant_tau0.1"]) < TOLERANCE
    assert each(info_nce(queries, targets, 0.2), tensors["nce_default_tau0.2"]) < TOLERANCE
    temperature = InterpolatedTemperature(highest=0.3)
    each_level = torch.tensor([temperature(sigma, NOISE, 0) for sigma in tensors["sigmas"].tolist()])
    assert each(info_nce(queries, targets, each_level), tensors["nce_interpolated_intended_B"]) < TOLERANCE


@pytest.mark.parametrize(
    ("case", "temperature"),
    [
        ("const", ConstantTemperature(0.1)),
        ("interp", InterpolatedTemperature(lowest=0.1, highest=0.3)),
        ("last", ConstantTemperature(0.1)),
    ],
)
def test_stage_one(parity: Path, results: dict[str, Any], case: str, temperature: Temperature) -> None:
    tensors, result = vectors(parity, "pretrain_step"), results[f"pretrain.{case}"]
    student = official.load(parity / "weights_rcm_online.safetensors", encoder_heads=4).train()
    teacher = official.load(parity / "weights_rcm_target.safetensors", encoder_heads=4)
    assert isinstance(student, Representation)
    objective = RepresentationLearning(NOISE, Curriculum(), temperature)
    views = Views(tensors["x_start"], tensors["x_aug"], tensors["x_aug2"], SEEDS, 0)

    contrast = objective.contrast(student, teacher, views, tensors["noise"])
    high, low = NOISE.grid(result["N"])[result["index"] :][:2].tolist()
    consistency = objective.consistency(student, views, tensors["noise"], (high, low), temperature(high, NOISE, 0.0))
    assert each(contrast, tensors[f"{case}.contrastive_loss"]) < TOLERANCE
    expected = tensors[f"{case}.consistency"]
    assert each(consistency, expected.mean(0) if expected.dim() == 2 else expected) < TOLERANCE  # a known quirk makes it square
    loss = (contrast + consistency).mean()
    assert loss.item() == pytest.approx(result["loss_mean"], rel=TOLERANCE)
    loss.backward()
    check_gradients(student, result, tensors, case)


@pytest.mark.parametrize(
    ("case", "preconditioning"), [("x0", XPrediction()), ("edm", EDMPreconditioning(boundary=0.002 * NOISE.shift))]
)
def test_diffusion(parity: Path, results: dict[str, Any], case: str, preconditioning: Preconditioning) -> None:
    tensors, result = vectors(parity, "denoise_step"), results[f"denoise.{case}"]
    student = official.load(
        parity / "weights_epg.safetensors", encoder_heads=4, decoder_heads=4, preconditioning=preconditioning
    ).train()
    assert isinstance(student, Denoiser)
    index = NOISE.nearest(tensors["sigmas"], 1280)
    assert torch.equal(index, tensors["idx"])
    sigma = tensors["t_shifted"] / NOISE.shift
    assert each(NOISE.grid(1280)[index], sigma) < 2e-6
    weights = GridWeight()(sigma, NOISE)
    assert each(weights, tensors["weights"]) < TOLERANCE

    batch = Batch(tensors["x_start"], tensors["y"], SEEDS, 0)
    drop = torch.zeros(len(SEEDS), dtype=torch.bool)
    losses = weights * Denoising(NOISE).errors(student, batch, tensors["noise"], sigma, drop)
    assert each(losses, tensors[f"{case}.loss_per_sample"]) < TOLERANCE
    assert losses.mean().item() == pytest.approx(result["loss_mean"], rel=TOLERANCE)
    losses.mean().backward()
    check_gradients(student, result, tensors, case)


@pytest.mark.parametrize(
    ("case", "gap", "steps", "features"),
    [
        ("stage0", StagedGap(stages=2, first=0, base=4.0), 100_000, NoFeatures()),
        ("stage1", StagedGap(), 700_000, NoFeatures()),
        ("stage1_perc", StagedGap(), 700_000, ContrastiveFeatures(0.1)),
        ("stage4_perc", StagedGap(), 700_000, ContrastiveFeatures(0.1)),
    ],
)
def test_consistency(
    parity: Path, results: dict[str, Any], case: str, gap: StagedGap, steps: int, features: NoFeatures | ContrastiveFeatures
) -> None:
    """The reference's targets come from a second network here; in stage 0 they are the clean images."""
    tensors, result = vectors(parity, "consis_step"), results[f"consis.{case}"]
    progress = result["step"] / steps
    preconditioning = EDMPreconditioning(boundary=NOISE.sigma_min * NOISE.shift)
    student = official.load(
        parity / "weights_epg.safetensors", encoder_heads=4, decoder_heads=4, preconditioning=preconditioning
    ).train()
    teacher = official.load(
        parity / "weights_epg_target.safetensors", encoder_heads=4, decoder_heads=4, preconditioning=preconditioning
    )
    frozen = official.load(parity / "weights_rcm_online.safetensors", encoder_heads=4).requires_grad_(False)
    assert isinstance(frozen, Representation)
    objective = Consistency(NOISE, gap, features=features)
    lower = gap(tensors[f"{case}.t"], NOISE, progress)
    assert each(lower, tensors[f"{case}.r"]) < 1e-6

    batch = Batch(tensors["x_start"], tensors["y"], SEEDS, 0)
    pairs = Pairs(tensors["noise"], tensors[f"{case}.t"], lower, torch.zeros(len(SEEDS), dtype=torch.bool))
    consistency, alike = objective.terms(student, None if gap.denoises(progress) else teacher, batch, pairs, frozen)
    if objective.needs_encoder:
        assert each(alike, tensors[f"{case}.perceptual_loss"]) < TOLERANCE
    losses = consistency + alike
    assert each(losses, tensors[f"{case}.loss"]) < TOLERANCE
    assert losses.mean().item() == pytest.approx(result["loss_mean"], rel=TOLERANCE)
    losses.mean().backward()
    check_gradients(student, result, tensors, case)
