"""Stage one: the curriculum, temperatures, and which parts of the two terms carry gradients."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.noise import LogNormal, NoiseRange, expand
from pixelpath.objectives.contrast import info_nce
from pixelpath.objectives.representation import (
    ConstantTemperature,
    Curriculum,
    InterpolatedTemperature,
    RepresentationLearning,
)
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.types import Views

NOISE = NoiseRange(shift=0.125)


def build() -> Representation:
    encoder = Encoder(1, 8, 8, patch=4, width=12, depth=2, heads=2)
    return Representation(encoder, Projector(12, hidden=10, out=6), XPrediction())


def views(count: int = 5, seed: int = 11) -> Views:
    clean, first, second = (torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(number)) for number in range(3))
    return Views(clean, first, second, tuple(seed_of(seed, position) for position in range(count)), seed_of(seed))


class Record(torch.nn.Module):
    """A representation that remembers the level, images and mode of every call."""

    def __init__(self, model: Representation) -> None:
        super().__init__()
        self.model = model
        self.calls: list[tuple[Tensor, Tensor, bool]] = []

    def forward(self, noisy: Tensor, sigma: Tensor, project: bool = True):
        self.calls.append((noisy, sigma.squeeze(), torch.is_grad_enabled()))
        return self.model(noisy, sigma, project)


def test_curriculum_doubles_until_the_last_grid() -> None:
    curriculum = Curriculum(first=20, last=1280)  # log2(64 + 1) = 6.02 stages
    span = 1 / math.log2(65)
    counts = {0: 21, 1e-6: 41, 0.99 * span: 41, 1.01 * span: 81, 2.99 * span: 161, 3.01 * span: 321, 4.99 * span: 641}
    counts |= {5.01 * span: 1281, 1.0: 1281}
    assert {progress: curriculum(progress) for progress in counts} == counts
    assert Curriculum(first=16, last=16)(0.5) == 17
    assert [Curriculum(first=10, last=20)(progress) for progress in (0.0, 0.62, 1.0)] == [11, 21, 21]


@pytest.mark.parametrize(("first", "last"), [(0, 5), (6, 5)])
def test_impossible_curricula(first: int, last: int) -> None:
    with pytest.raises(UserError) as caught:
        Curriculum(first, last)
    assert caught.value.setting == "objective.curriculum.first"


def test_temperatures() -> None:
    assert ConstantTemperature(0.3)(5.0, NOISE, 0.7) == 0.3
    temperature = InterpolatedTemperature(lowest=0.1, highest=0.4)
    assert temperature(NOISE.sigma_min, NOISE, 0.5) == pytest.approx(0.1)
    assert temperature(NOISE.sigma_max, NOISE, 0) == pytest.approx(0.4)
    assert temperature((NOISE.sigma_min + NOISE.sigma_max) / 2, NOISE, 0) == pytest.approx(0.25)
    assert temperature.top(0.5) == pytest.approx(0.1 + 0.3 * (1 - 0.5**0.5))
    assert temperature.top(1.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        (lambda: ConstantTemperature(0.0), "temperature.value"),
        (lambda: InterpolatedTemperature(lowest=-1.0), "temperature.lowest"),
        (lambda: InterpolatedTemperature(highest=math.inf), "temperature.highest"),
        (lambda: RepresentationLearning(NOISE, Curriculum(), view_temperature=0.0), "view_temperature"),
    ],
)
def test_impossible_temperatures(wrong: Callable[[], object], setting: str) -> None:
    with pytest.raises(UserError) as caught:
        wrong()
    assert caught.value.setting == f"objective.{setting}"


def test_the_terms_add_up() -> None:
    objective = RepresentationLearning(NOISE, Curriculum(), ConstantTemperature(0.1))
    student, batch = build(), views()
    losses = objective(student, copy.deepcopy(student).eval(), batch, 0.3)
    assert losses.total.item() == pytest.approx(sum(part.item() for part in losses.parts.values()))
    assert losses.parts.keys() == {"contrast", "consistency"}
    losses.total.backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_an_image_that_occurs_twice_is_not_its_own_negative() -> None:
    """In both terms the first of five images, which is the last again, has the loss of a batch without the last."""
    objective, student = RepresentationLearning(NOISE, Curriculum()), build().eval()
    index = torch.tensor([0, 1, 2, 3, 0])
    clean = views()
    batch = Views(clean.images[index], clean.first, clean.second, clean.seeds, clean.seed, index)
    noise, pair = torch.randn(5, 1, 8, 8), (1.0, 0.8)
    contrast = objective.contrast(student, student, batch, noise), objective.contrast(student, student, batch[:4], noise[:4])
    features = (
        objective.consistency(student, batch, noise, pair, 0.1),
        objective.consistency(student, batch[:4], noise[:4], pair, 0.1),
    )
    for whole, without in (contrast, features):
        assert whole[0].item() == pytest.approx(without[0].item(), rel=1e-5)
        assert whole[1].item() != pytest.approx(without[1].item(), rel=1e-5)


def test_one_noise_is_every_images_and_follows_from_the_step() -> None:
    """The difference of two noisy images is that of the clean ones, on both levels; another step has another noise."""
    student, batch = Record(build()), views()
    objective = RepresentationLearning(NOISE, Curriculum(), one_noise=True)
    objective(student, build().eval(), batch, 0)
    for images, *_ in student.calls[2:]:
        torch.testing.assert_close(images - images[:1], batch.images - batch.images[:1], rtol=0, atol=1e-4)
    other = Record(build())
    objective(other, build().eval(), replace(batch, seed=batch.seed + 1), 0)
    noises = [(calls.calls[2][0] - batch.images)[0] for calls in (student, other)]
    assert (noises[0] / noises[0].std() - noises[1] / noises[1].std()).abs().max() > 0.1


def test_drawn_levels_are_of_the_students_views_alone() -> None:
    """Each view has a level and a noise of its own; the teacher's views stay at the lowest level."""
    student, teacher, batch = Record(build()), Record(build().eval()), views()
    objective = RepresentationLearning(NOISE, Curriculum(), view_draw=LogNormal(0.0, 1.0))
    objective(student, teacher, batch, 0)
    lowest = NOISE.sigma_min * NOISE.shift
    assert [float(sigma) for _, sigma, _ in teacher.calls] == pytest.approx([lowest])
    (first, sigma, _), (second, again, _) = student.calls[:2]
    assert len(set(sigma.tolist())) == len(batch.images)
    assert torch.equal(sigma, again)
    noises = [((noisy - clean) / expand(sigma, noisy)) for noisy, clean in ((first, batch.first), (second, batch.second))]
    for noise in noises:
        assert 0.8 < float(noise.std()) < 1.2
    assert abs(float((noises[0] * noises[1]).mean())) < 0.2


def test_which_calls_are_made() -> None:
    """Teacher and consistency target without a graph; two neighbouring levels of the step's grid, shifted; one noise for all."""
    objective = RepresentationLearning(NOISE, Curriculum(first=4, last=8))
    student, teacher, batch = Record(build()), Record(build().eval()), views()
    objective(student, teacher, batch, 0)
    noise = normal(Streams(batch.seeds), (1, 8, 8))
    lowest = NOISE.sigma_min * NOISE.shift
    ((both, teacher_sigma, teacher_grad),) = teacher.calls
    assert not teacher_grad
    assert [grad for _, _, grad in student.calls] == [True, True, True, False]
    first, second = both.chunk(2)
    seen = [*student.calls[:2], (first, teacher_sigma, False), (second, teacher_sigma, False)]
    for (noisy, sigma, _), images in zip(seen, (batch.first, batch.second) * 2, strict=True):
        assert sigma == pytest.approx(lowest)
        assert torch.allclose(noisy, images + lowest * noise)
    (noisier, high, _), (cleaner, low, _) = student.calls[2:]
    grid = (NOISE.grid(5) * NOISE.shift).tolist()
    index = min(range(4), key=lambda index: abs(grid[index] - high))
    assert (high, low) == pytest.approx((grid[index], grid[index + 1]))
    assert torch.allclose(noisier, batch.images + high * noise, rtol=1e-5)
    assert torch.allclose(cleaner, batch.images + low * noise, rtol=1e-5)


def test_consistency_target_is_a_constant() -> None:
    """The gradient is that of InfoNCE against targets computed beforehand."""
    objective, student, batch = RepresentationLearning(NOISE, Curriculum()), build(), views()
    noise = torch.randn(5, 1, 8, 8)
    pair = NOISE.grid(21)[9:11].tolist()
    objective.consistency(student, batch, noise, (pair[0], pair[1]), 0.15).mean().backward()
    gradients = [parameter.grad.clone() for parameter in student.encoder.parameters() if parameter.grad is not None]
    student.zero_grad()
    high, low = (NOISE.grid(21)[9:11] * NOISE.shift).float()
    targets = student.features(batch.images + low * noise, low).detach()
    info_nce(student.features(batch.images + high * noise, high), targets, 0.15).mean().backward()
    expected = [parameter.grad for parameter in student.encoder.parameters() if parameter.grad is not None]
    for gradient, other in zip(gradients, expected, strict=True):
        assert torch.allclose(gradient, other, rtol=1e-4, atol=1e-6)


def test_contrast_is_the_same_for_swapped_views() -> None:
    objective = RepresentationLearning(NOISE, Curriculum())
    student, teacher, batch = build(), build().eval(), views()
    noise = torch.randn(5, 1, 8, 8)
    swapped = replace(batch, first=batch.second, second=batch.first)
    forth, back = (objective.contrast(student, teacher, views, noise) for views in (batch, swapped))
    assert torch.allclose(forth, back, rtol=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_view_temperature() -> None:
    objective = RepresentationLearning(NOISE, Curriculum(), view_temperature=0.4)
    student, teacher, batch = build().eval(), build().eval(), views()
    noise, lowest = torch.zeros(5, 1, 8, 8), torch.tensor(NOISE.sigma_min * NOISE.shift)
    first, second = (student(images, lowest).projection for images in (batch.first, batch.second))
    ours, theirs = (teacher(images, lowest).projection for images in (batch.first, batch.second))
    expected = info_nce(first, theirs, 0.4) + info_nce(second, ours, 0.4)
    assert torch.allclose(objective.contrast(student, teacher, batch, noise), expected, rtol=1e-5)


def test_the_level_is_that_of_the_whole_step() -> None:
    """All processes draw it from the step's seed, whatever images they hold; over many steps every level comes up."""
    objective = RepresentationLearning(NOISE, Curriculum(first=4, last=4))
    student, teacher = Record(build()), build().eval()
    levels = []
    for step in range(40):
        batch = replace(views(2), seed=seed_of(step), seeds=(seed_of(step, 1), seed_of(step, 2)))
        other = replace(batch, seeds=(seed_of(step, 3), seed_of(step, 4)))
        for share in (batch, other):
            objective(student, teacher, share, step / 40)
        assert student.calls[2][1] == student.calls[6][1]
        levels.append(float(student.calls[2][1]))
        student.calls.clear()
    assert len(set(levels)) == 4
