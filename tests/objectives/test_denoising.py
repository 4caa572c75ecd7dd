"""The loss of diffusion is the weighted squared error at the drawn sigmas; conditions are dropped with their probability."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.noise import EDMWeight, FlatWeight, LogNormal, LogUniform, NoiseRange
from pixelpath.objectives.denoising import Denoising
from pixelpath.randomness import seed_of
from pixelpath.types import Batch


class Watched(nn.Module):
    """A denoiser that estimates `value` everywhere and remembers what it was asked."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.noisy = self.sigma = self.labels = self.drop = torch.empty(0)

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        self.noisy, self.sigma, self.labels, self.drop = noisy, sigma, labels, drop
        return self.value.expand_as(noisy)


NOISE = NoiseRange(shift=0.5)


def batch(first: int, last: int, images: float = 0.0) -> Batch:
    seeds = tuple(seed_of(3, 17, position) for position in range(first, last))
    count = last - first
    return Batch(torch.full((count, 1, 4, 4), images), torch.arange(count) % 10, seeds, seed_of(3, 17))


def test_loss_in_closed_form() -> None:
    """Images of 0.5, an estimate of 0.2: an error of 0.09 at every level, times the mean weight."""
    student = Watched(0.2)
    objective = Denoising(NOISE, LogUniform(), EDMWeight())
    losses = objective(student, student, batch(0, 50, 0.5), 0)
    sigma = student.sigma.double()
    weight = ((sigma**2 + 0.25) / (sigma / 2) ** 2).mean()
    assert losses.total.item() == pytest.approx(0.09 * float(weight), rel=1e-5)
    assert losses.parts["squared_error"].item() == pytest.approx(0.09, rel=1e-5)
    assert not losses.parts["squared_error"].requires_grad
    losses.total.backward()
    assert student.value.grad is not None
    assert student.value.grad.item() == pytest.approx(2 * (0.2 - 0.5) * float(weight), rel=1e-5)


def test_noise_has_the_shifted_std() -> None:
    student = Watched()
    data = batch(0, 400, 0.5)
    Denoising(NOISE, LogNormal(-1.2, 1.2), FlatWeight())(
        student, student, replace(data, images=data.images.expand(-1, 1, 4, 4)), 0
    )
    standard = (student.noisy - 0.5) / student.sigma.view(-1, 1, 1, 1)
    assert float(standard.std()) == pytest.approx(1.0, abs=3 / (2 * standard.numel()) ** 0.5)
    assert float(standard.mean()) == pytest.approx(0.0, abs=3 / standard.numel() ** 0.5)
    assert float((student.sigma / NOISE.shift).log().mean()) == pytest.approx(-1.2, abs=4 * 1.2 / 400**0.5)


@pytest.mark.parametrize("chance", [0.0, 0.1, 1.0])
def test_frequency_of_dropped_labels(chance: float) -> None:
    student, count = Watched(), 4000
    Denoising(NOISE, LogUniform(), FlatWeight(), label_dropout=chance)(student, student, batch(0, count), 0)
    spread = 3 * (chance * (1 - chance) / count) ** 0.5
    assert float(student.drop.float().mean()) == pytest.approx(chance, abs=spread + 1e-9)
    assert torch.equal(student.labels, torch.arange(count) % 10)


def test_an_image_is_treated_alike_in_any_batch() -> None:
    """Image 7 meets the same level, noise and drop in a batch of ten and in one of three."""
    objective = Denoising(NOISE, LogUniform(), FlatWeight(), label_dropout=0.5)
    ten, three = Watched(), Watched()
    objective(ten, ten, batch(0, 10), 0)
    objective(three, three, batch(6, 9), 0)
    for name in ("noisy", "sigma", "drop"):
        assert torch.equal(vars(ten)[name][7], vars(three)[name][1])
    assert len(set(ten.sigma.tolist())) == 10


def test_step_and_run_change_the_draws() -> None:
    student, sigmas = Watched(), []
    for seed in (seed_of(3, 17, 0), seed_of(3, 18, 0), seed_of(4, 17, 0)):
        data = replace(batch(0, 1), seeds=(seed,))
        Denoising(NOISE)(student, student, data, 0)
        sigmas.append(student.sigma.item())
    assert len(set(sigmas)) == 3


def test_an_impossible_probability() -> None:
    with pytest.raises(UserError) as caught:
        Denoising(NOISE, label_dropout=-0.1)
    assert caught.value.setting == "objective.label_dropout"
