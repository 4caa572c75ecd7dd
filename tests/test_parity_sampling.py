"""Samples are the reference's, for the same weights and noise.

The reference clamps every guided estimate to [-1, 1] and stops at the lowest level instead of 0. Its levels, computed in float32,
are taken from its files: 250 ln(sigma) is so steep that a relative difference of 1e-6 in a level moves a sample by 1e-4. Whole
runs are held to 1e-5 of the sample's Euclidean norm, single steps to 1e-5 of its largest value.
"""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelpath.interop import official
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.samplers import SigmaSchedule, euler, euler_ancestral, heun, heun_stochastic
from pixelpath.types import Denoise, Images, Noise
from tests.agreement import largest, norm, vectors

TOLERANCE = 1e-5
SHIFT = 32 / 64
INTERVAL = (0.19 * SHIFT, 1.61 * SHIFT)
IMAGES = 3


@pytest.fixture(scope="module")
def tensors(parity: Path) -> dict[str, Tensor]:
    return vectors(parity, "sampling")


@pytest.fixture(scope="module")
def sigmas(parity: Path) -> dict[int, Tensor]:
    scalars = vectors(parity, "scalars")
    return {count: scalars[f"sampler_sigmas_n{count}_h32"] for count in (2, 8, 32)}


@pytest.fixture(scope="module")
def denoiser(parity: Path) -> Denoiser:
    return read(parity, None)


def read(parity: Path, preconditioning: EDMPreconditioning | None) -> Denoiser:
    path = parity / "weights_epg.safetensors"
    model = official.load(path, encoder_heads=4, decoder_heads=4, preconditioning=preconditioning).requires_grad_(False)
    assert isinstance(model, Denoiser)
    return model


def guided(denoiser: Denoiser, labels: Tensor, scale: float, interval: tuple[float, float] = INTERVAL) -> Denoise:
    denoise = guide(denoiser.bind(labels), denoiser.bind(None), scale, interval)
    return lambda noisy, sigma: denoise(noisy, sigma).clamp(-1, 1)  # as the reference clamps every guided estimate


@pytest.mark.parametrize("sampler", [euler, heun])
def test_trajectory(denoiser: Denoiser, tensors: dict[str, Tensor], sigmas: dict[int, Tensor], sampler) -> None:
    denoise = guided(denoiser, tensors["y"], 2.5)
    states = tensors[f"{sampler.__name__}8_cfg2.5_interval_traj"].split(IMAGES)
    falling = sigmas[8]
    x = start = tensors["noise_xT_unit"] * falling[0]
    assert len(states) == len(falling) - 1
    for number, (before, after) in enumerate(itertools.pairwise((start, *states))):
        step = falling[number : number + 2]
        assert largest(sampler(denoise, before, step), after) < TOLERANCE
        x = sampler(denoise, x, step)
    assert norm(x, states[-1]) < TOLERANCE
    assert torch.equal(x, sampler(denoise, start, falling))


@pytest.mark.parametrize(
    ("case", "count", "scale", "interval"),
    [
        ("heun8_nocfg", 8, 1.0, INTERVAL),
        ("heun8_cfg1.5_allsigmas", 8, 1.5, (0.0, 1e9)),
        ("heun32_cfg2.5_interval", 32, 2.5, INTERVAL),
    ],
)
def test_heun(
    denoiser: Denoiser,
    tensors: dict[str, Tensor],
    sigmas: dict[int, Tensor],
    case: str,
    count: int,
    scale: float,
    interval: tuple[float, float],
) -> None:
    denoise = guided(denoiser, tensors["y"], scale, interval)
    images = heun(denoise, tensors["noise_xT_unit"] * sigmas[count][0], sigmas[count])
    assert norm(images, tensors[case]) < TOLERANCE


def test_evaluations_of_heun(denoiser: Denoiser, tensors: dict[str, Tensor], sigmas: dict[int, Tensor]) -> None:
    """The published count for 32 levels, of which 6 are guided: 62 evaluations with a label and 12 without."""
    calls: list[bool] = []

    def counted(labelled: bool) -> Denoise:
        def denoise(noisy: Images, sigma: Tensor) -> Images:
            calls.append(labelled)
            return noisy / 2

        return denoise

    heun(guide(counted(True), counted(False), 2.5, INTERVAL), tensors["noise_xT_unit"], sigmas[32])
    assert (calls.count(True), calls.count(False)) == (62, 12)


def test_preconditioned(parity: Path, tensors: dict[str, Tensor], sigmas: dict[int, Tensor]) -> None:
    denoise = guided(read(parity, EDMPreconditioning(boundary=0.002 * SHIFT)), tensors["y"], 1.0)
    images = heun(denoise, tensors["noise_xT_unit"] * sigmas[8][0], sigmas[8])
    assert norm(images, tensors["heun8_edm"]) < TOLERANCE
    one_step = torch.tensor([80.0 * SHIFT, 0.0])
    assert largest(euler(denoise, tensors["noise_xT_unit"] * one_step[0], one_step), tensors["onestep_edm"]) < TOLERANCE


def fixed_noise(tensors: dict[str, Tensor]) -> Noise:
    draws = iter([tensors[f"sde_noise{number}"] for number in range(8)])
    return lambda: next(draws)


def test_ancestral(denoiser: Denoiser, tensors: dict[str, Tensor], sigmas: dict[int, Tensor]) -> None:
    denoise = guided(denoiser, tensors["y"], 1.0)
    images = euler_ancestral(denoise, tensors["noise_xT_unit"] * sigmas[8][0], sigmas[8], fixed_noise(tensors))
    assert largest(images, tensors["euler_ancestral8"]) < TOLERANCE


def test_churn(denoiser: Denoiser, tensors: dict[str, Tensor], sigmas: dict[int, Tensor]) -> None:
    """The reference's last step is one of Euler although it does not end in 0; below 0.05 no noise is added."""
    denoise = guided(denoiser, tensors["y"], 1.0)
    falling: SigmaSchedule = sigmas[8]
    images = heun_stochastic(denoise, tensors["noise_xT_unit"] * falling[0], falling[:-1], fixed_noise(tensors))
    assert largest(euler(denoise, images, falling[-2:]), tensors["edm_sde8_churn40"]) < TOLERANCE
