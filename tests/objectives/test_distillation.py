"""The distillation loss is the pseudo-Huber distance of the estimate at the highest sigma from what the teacher made."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.objectives.distillation import Distillation, Taught
from pixelpath.types import Batch

NOISE = NoiseRange(0.02, 20.0, shift=0.5)


class Scaled(nn.Module):
    """Estimates `value` times the noise, and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.asked: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor, drop: Tensor) -> Tensor:
        self.asked.append((sigma, labels, drop))
        return self.value * noisy


def teach(seeds: Sequence[int]) -> Taught:
    """Noise of 10 times the seed, and images that are a tenth of it."""
    noise = torch.tensor([10.0 * seed for seed in seeds]).reshape(-1, 1, 1, 1).expand(-1, 2, 3, 3)
    return Taught(noise, noise / 10, torch.tensor(seeds))


def batch(*seeds: int) -> Batch:
    return Batch(torch.full((len(seeds), 2, 3, 3), math.nan), torch.zeros(len(seeds), dtype=torch.int64), seeds, 0)


def test_loss_and_gradient_in_closed_form() -> None:
    """Errors (v - .1) 10 s at 18 values: S = 18 (v - .1)^2 100 s^2; the images of the batch count for nothing."""
    student, c = Scaled(0.3), 2.0
    loss = Distillation(NOISE, softening=c).through(teach)(student, student, batch(1, 4), 0.5).total
    loss.backward()
    roots = [math.sqrt(18 * 0.2**2 * 100 * seed**2 + c**2) for seed in (1, 4)]
    assert float(loss.detach()) == pytest.approx(sum(root - c for root in roots) / 2, rel=1e-6)
    slopes = [18 * 0.2 * 100 * seed**2 / root for seed, root in zip((1, 4), roots, strict=True)]
    assert student.value.grad is not None
    assert float(student.value.grad) == pytest.approx(sum(slopes) / 2, rel=1e-6)


def test_the_student_is_asked_at_the_shifted_highest_sigma_for_the_teachers_condition() -> None:
    student = Scaled(0.1)
    loss = Distillation(NOISE).through(teach)(student, student, batch(5, 2), 0.0).total
    sigma, labels, drop = student.asked[0]
    assert sigma.tolist() == [10.0, 10.0]
    assert labels.tolist() == [5, 2]
    assert not drop.any()
    assert float(loss) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("setting", "value"), [("images", 0), ("nfe", 0), ("softening", 0.0), ("softening", math.inf), ("guidance", math.nan)]
)
def test_settings_that_cannot_be_are_refused(setting: str, value: float) -> None:
    with pytest.raises(UserError) as caught:
        Distillation(NOISE, **{setting: value})  # pyright: ignore[reportArgumentType]
    assert caught.value.setting == setting


def test_micro_batches_are_the_whole_batch() -> None:
    student, objective = Scaled(0.3), Distillation(NOISE).through(teach)
    whole, first, second = (objective(student, student, batch(*seeds), 0.0).total for seeds in ((1, 4, 2, 8), (1, 4), (2, 8)))
    assert float(whole) == pytest.approx(float(first + second) / 2, rel=1e-6)
