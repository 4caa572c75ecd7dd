"""The examples run; what they print is what a known denoiser and known samples give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers", reason="the example is about its networks: pip install diffusers")

from examples import foreign_model

from pixelpath.interop.denoisers import from_diffusers
from pixelpath.runs.starting.families import FAMILIES, Known
from pixelpath.runs.starting.search import find_start
from pixelpath.starts.gaussian import MomentGaussian, fit_gaussian
from pixelpath.types import Images


class Exact(nn.Module):
    """The noise that a perfect network would find in digits, if these were a Gaussian; it counts how often it is asked."""

    def __init__(self, density: MomentGaussian, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.density, self.alphas_cumprod, self.calls = density, alphas_cumprod.double(), 0

    def forward(self, seen: Images, level: Tensor, class_labels: None, return_dict: bool) -> tuple[Images]:
        self.calls += 1
        steps = ((1 - self.alphas_cumprod) / self.alphas_cumprod).log() / 2
        below = level.double().floor().long().clamp(max=len(steps) - 2)
        sigma = torch.lerp(steps[below], steps[below + 1], level.double() - below).exp()
        noisy = seen.double() * (1 + sigma**2).sqrt().view(-1, 1, 1, 1)
        return (((noisy - self.density.denoise(noisy, sigma)) / sigma.view(-1, 1, 1, 1)).to(seen),)


def by_eigenvalues(first: Images, second: Images) -> float:
    """|m1 - m2|^2 + tr C1 + tr C2 - 2 sum of the roots of the eigenvalues of C1 C2, of pixels in 0 .. 1."""
    rows = [(each.double().flatten(1).numpy() + 1) / 2 for each in (first, second)]
    one, other = (numpy.cov(each, rowvar=False) for each in rows)
    shared = numpy.sqrt(numpy.linalg.eigvals(one @ other).real.clip(0)).sum()
    return float(((rows[0].mean(0) - rows[1].mean(0)) ** 2).sum() + numpy.trace(one + other) - 2 * shared)


def test_digits_are_in_range_and_none_is_held_out_and_trained_on() -> None:
    known = foreign_model.digits()
    assert (len(known.training), len(known.held_out)) == (1198, 599)
    assert float(known.training.min()) == float(known.held_out.min()) == -1
    assert float(known.training.max()) == float(known.held_out.max()) == 1
    distances = torch.cdist(known.training.flatten(1), known.held_out.flatten(1))
    assert float(distances.min()) > 0


def test_measured_distance_of_shifted_images_is_the_square_of_the_shift() -> None:
    """All 64 pixels moved by 0.2 of [-1, 1] are 0.1 of [0, 1] away: 64 x 0.01; half of the seeds lie as far on the other side."""
    known = foreign_model.digits()
    same = Known(known.training, known.training)
    condition: list[range] = []

    def shifted(seeds: Sequence[int], steps: int) -> Images:
        assert isinstance(seeds, range)
        condition.append(seeds)
        return known.training + (0.2 if seeds[0] else 0.4)

    assert foreign_model.measured(shifted, 9, same, 2) == "17 evaluations, distance 1.6000 (2.5600, 0.6400)"
    assert [len(seeds) for seeds in condition] == [1198, 1198]
    assert all(first[-1] < second[0] for first, second in pairwise(condition))


def test_printed_evaluations_are_those_of_the_network_and_its_warm_samples_are_nearer() -> None:
    scheduler = SimpleNamespace(
        alphas_cumprod=torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0), config=SimpleNamespace(prediction_type="epsilon")
    )
    whole = foreign_model.digits()
    known = Known(whole.training, whole.held_out[:200])
    network = Exact(fit_gaussian(known.training), scheduler.alphas_cumprod)
    denoiser = from_diffusers(network, scheduler)
    found = find_start(denoiser, denoiser.noise, known, {"moment": FAMILIES["moment"]}, sigma=2.0, points=64)
    network.calls = 0
    lines = foreign_model.comparison(denoiser, found.warm, known, steps=8, sets=1)
    assert network.calls == 15 + 15 + 7 + 7
    assert [line.split(" distance ")[0] for line in lines] == [
        "cold from sigma 157: 15 evaluations,",
        "cold from sigma 20: 15 evaluations,",
        "warm from sigma 2: 7 evaluations,",
        "cold from sigma 20: 7 evaluations,",
        "floor, 200 held-out digits:",
    ]
    distances = [float(line.split(" distance ")[1].split()[0]) for line in lines]
    assert distances[2] < distances[3]
    assert distances[4] == pytest.approx(by_eigenvalues(known.held_out, known.training), abs=1e-4)


def test_training_is_seeded_and_a_saved_network_comes_back(tmp_path: Path) -> None:
    images = foreign_model.digits().training
    (network, scheduler), (again, _) = (foreign_model.trained(images, steps=2, batch=4) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), again.parameters(), strict=True))
    network.save_pretrained(tmp_path)
    scheduler.save_pretrained(tmp_path)
    denoiser, opened = from_diffusers(network, scheduler), from_diffusers(*foreign_model.opened(tmp_path))
    noisy, sigma = images[:3] + 0.5, torch.tensor(0.5)
    with torch.no_grad():
        assert torch.equal(denoiser(noisy, sigma), opened(noisy, sigma))
    kept = math.prod(1 - (1e-4 + (0.02 - 1e-4) * step / 999) for step in range(1000))
    assert opened.noise.sigma_max == pytest.approx(math.sqrt((1 - kept) / kept), rel=1e-4)
    assert opened.noise.sigma_min == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-3)
