"""The distillation loss is the pseudo-Huber distance, pixel by pixel, of the estimate at the highest sigma from the teacher's."""

import math

import pytest
import torch
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.objectives.distillation import Distillation
from pixelpath.randomness import Streams, normal, seed_of
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


def noise(*seeds: int) -> Tensor:
    """The noise that sampling begins with for these seeds, of the std 10."""
    return 10 * normal(Streams([seed_of(seed) for seed in seeds]), (2, 3, 3))


def batch(*seeds: int, valid: Tensor | None = None) -> Batch:
    """Images that are a tenth of their noise."""
    return Batch(noise(*seeds) / 10, torch.tensor(seeds), seeds, 0, valid)


def test_loss_and_gradient_in_closed_form() -> None:
    """Errors (v - .1) n: S = (v - .1)^2 |n|^2 at every pixel."""
    student, c = Scaled(0.3), 2.0
    loss = Distillation(NOISE, softening=c)(student, student, batch(1, 4), 0.5).total
    loss.backward()
    squares = noise(1, 4).double().square().sum(1).flatten().tolist()
    roots = [math.sqrt(0.2**2 * square + c**2) for square in squares]
    assert float(loss.detach()) == pytest.approx(sum(root - c for root in roots) / 18, rel=1e-6)
    slopes = [0.2 * square / root for square, root in zip(squares, roots, strict=True)]
    assert student.value.grad is not None
    assert float(student.value.grad) == pytest.approx(sum(slopes) / 18, rel=1e-6)


def test_pixels_without_a_value_count_for_nothing() -> None:
    student, valid = Scaled(0.3), torch.ones(1, 2, 3, 3, dtype=torch.bool)
    valid[0, 0, 1] = False
    squares = noise(7).masked_fill(~valid, 0.0).square().sum(1).flatten().tolist()
    loss = Distillation(NOISE, softening=2.0)(student, student, batch(7, valid=valid), 0.0).total
    roots = [math.sqrt(0.2**2 * square + 4) - 2 for square in squares]
    assert float(loss.detach()) == pytest.approx(sum(roots) / 9 / (15 / 18), rel=1e-5)  # 15 of 18 values are valid


def test_the_student_is_asked_at_the_shifted_highest_sigma_for_the_condition() -> None:
    student = Scaled(0.1)
    loss = Distillation(NOISE)(student, student, batch(5, 2), 0.0).total
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
    student, objective = Scaled(0.3), Distillation(NOISE)
    whole, first, second = (objective(student, student, batch(*seeds), 0.0).total for seeds in ((1, 4, 2, 8), (1, 4), (2, 8)))
    assert float(whole) == pytest.approx(float(first + second) / 2, rel=1e-6)
