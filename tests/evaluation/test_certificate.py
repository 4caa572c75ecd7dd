"""Certificates against divergences known in closed form or by sampling from both laws."""

import math

import pytest
import torch
from benchmarks.coverage import laws, truth
from torch import Tensor

from pixelpath.evaluation.certificate import Certificate, Divergence, certify, certify_density, upper_limit, weights
from pixelpath.randomness import Streams
from pixelpath.starts.gaussian import Full, MomentGaussian, fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.start import Density
from pixelpath.starts.student import fit_student
from pixelpath.types import LabelledDenoise

LEVELS = [20 * 0.82**place for place in range(19)]  # 20 to 0.56


def clusters(count: int, seed: int = 0) -> Tensor:
    """Points of two values about four centres."""
    source = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[2.0, 0.0], [0.0, 1.5], [-2.0, -0.5], [0.5, -1.0]])
    chosen = torch.randint(4, (count,), generator=source)
    return (centres[chosen] + 0.2 * torch.randn(count, 2, generator=source)).view(-1, 1, 1, 2)


def exact(density: Density) -> LabelledDenoise:
    return lambda noisy, sigma, labels: density.denoise(noisy, sigma, labels)


def normals(variance: float, mean: float = 0.0) -> MomentGaussian:
    """N(mean, variance) of one value."""
    spread = math.sqrt(variance)
    return fit_gaussian(torch.tensor([mean - spread, mean, mean + spread], dtype=torch.float64).view(3, 1, 1, 1), form=Full())


def divergence_of_normals(own: float, other: float, apart: float, sigma: float) -> float:
    """KL(N(0, own + sigma^2) || N(apart, other + sigma^2))."""
    ours, theirs = own + sigma**2, other + sigma**2
    return (math.log(theirs / ours) + (ours + apart**2) / theirs - 1) / 2


def test_the_certificate_of_one_gaussian_for_another_is_their_divergence() -> None:
    true, other = normals(1.0), normals(2.25)
    images = true.sample(Streams(range(1500)), 0.0)
    found = certify(exact(true), {"other": other}, images, None, LEVELS)["other"]
    for row in found.rows:
        expected = divergence_of_normals(1.0, 2.25, 0.0, row.sigma)
        assert row.direct == pytest.approx(expected, rel=0.01, abs=4 * row.direct_error)
        assert row.cross == pytest.approx(expected, rel=0.01, abs=4 * row.cross_error)
        assert row.direct_error < 0.1 * expected


def test_no_limit_is_below_what_so_many_images_tell() -> None:
    true = normals(1.0)
    images = true.sample(Streams(range(250)), 0.0)
    found = certify(exact(true), {"same": true, "near": normals(1.0, mean=0.01)}, images, None, LEVELS, repeats=2)
    assert all(row.limit == 1 / 500 for each in found.values() for row in each.rows)


def test_a_difference_of_means_reaches_beyond_the_highest_level() -> None:
    """The tail above the highest level is counted as falling like sigma^-4, and that of a shift falls like sigma^-2."""
    true, other = normals(1.0), normals(1.0, mean=0.5)
    images = true.sample(Streams(range(500)), 0.0)
    top, *_, last = certify(exact(true), {"other": other}, images, None, LEVELS)["other"].rows
    assert top.direct == pytest.approx(divergence_of_normals(1.0, 1.0, 0.5, 20.0) / 2, rel=0.02)
    assert last.direct == pytest.approx(divergence_of_normals(1.0, 1.0, 0.5, last.sigma), rel=0.01)


def test_the_weights_integrate_powers_of_sigma() -> None:
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    for power, tolerance in ((2, 1e-3), (4, 1e-2), (6, 4e-2)):
        found = weights(LEVELS) @ levels**-power
        beyond = (1 / 4 - 1 / power) * LEVELS[0] ** -power
        torch.testing.assert_close(found, levels**-power / power + beyond, rtol=tolerance, atol=0)


def test_the_certificate_of_a_gaussian_for_a_mixture_agrees_with_sampling_both_densities() -> None:
    true = fit_mixture(clusters(4000), components=4, coordinates=2)
    images = true.sample(Streams(range(2000)), 0.0)
    density = fit_gaussian(clusters(4000, seed=1))
    found = certify(exact(true), {"law": density}, images, None, LEVELS)["law"]
    for row in found.rows[9::3]:
        noisy = true.sample(Streams(range(10_000, 16_000)), row.sigma).double()
        apart = true.log_prob(noisy, row.sigma) - density.log_prob(noisy, row.sigma)
        error = float(apart.std()) / len(apart) ** 0.5
        assert abs(row.cross - float(apart.mean())) < max(0.1 * row.cross, 0.003, 3 * math.hypot(error, row.cross_error))


@pytest.mark.parametrize("corruption", [0.1, 0.3])
def test_an_imperfect_denoiser_is_bracketed_and_cancels_in_the_cross_estimate(corruption: float) -> None:
    """D's errors, in a direction of their own, add to direct, take from excess, and leave cross as it was."""
    true = fit_mixture(clusters(4000), components=4, coordinates=2)
    images, density = true.sample(Streams(range(2000)), 0.0), fit_gaussian(clusters(4000, seed=1))

    def wrong(noisy: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        estimate = true.denoise(noisy, sigma)
        waves = torch.sin(7 * noisy / (1 + sigma.view(-1, 1, 1, 1) ** 2).sqrt() + 1)
        return estimate + corruption * (noisy - estimate) * waves

    sound, found = (certify(each, {"law": density}, images, None, LEVELS)["law"].rows[-1] for each in (exact(true), wrong))
    assert found.excess < sound.cross < found.direct
    assert found.cross == pytest.approx(sound.cross, rel=0.1)
    assert found.direct - found.excess > 0.1 * corruption**2


def test_labels_make_the_mean_divergence_over_classes() -> None:
    """A law without classes lacks, beside what it lacks of the mixture, the information that the class holds."""
    images = clusters(4000)
    labels = (images[:, 0, 0, 0] > 1).long()
    by_class = fit_mixture(images, labels, 2, components=3, coordinates=2)
    without = fit_mixture(images, components=4, coordinates=2)
    rows = certify(exact(by_class), {"own": by_class, "without": without}, images[:1000], labels[:1000], LEVELS)
    assert abs(rows["own"].rows[-1].direct) < 1e-12
    noisy = images + LEVELS[-1] * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    apart = by_class.log_prob(noisy, LEVELS[-1], labels) - without.log_prob(noisy, LEVELS[-1])
    assert rows["without"].rows[-1].cross == pytest.approx(float(apart.mean()), rel=0.1)


def test_a_law_with_a_density_alone_is_certified_through_another() -> None:
    true, density = normals(1.0), normals(2.25)
    other = normals(4.0)
    images = true.sample(Streams(range(1500)), 0.0)
    base = certify(exact(true), {"law": density}, images, None, LEVELS)["law"]
    for row in certify_density(base, density, other, images, None).rows[6:]:
        assert row.cross == pytest.approx(divergence_of_normals(1.0, 4.0, 0.0, row.sigma), abs=4 * row.cross_error, rel=0.02)


def test_repeats_are_fresh_noise_on_the_same_images_and_seeds_repeat() -> None:
    true, density = normals(1.0), normals(2.25)
    images = true.sample(Streams(range(50)), 0.0)
    once, again, more = (
        certify(exact(true), {"law": density}, images, None, LEVELS, seed=4, repeats=repeats)["law"] for repeats in (1, 1, 8)
    )
    assert once == again
    assert more.rows[-1].cross_error < once.rows[-1].cross_error


def test_levels_end_where_every_law_is_far_beyond() -> None:
    true, images = normals(1.0), normals(1.0).sample(Streams(range(500)), 0.0)
    densities = {"near": normals(1.2), "far": normals(9.0)}
    assert len(certify(exact(true), densities, images, None, LEVELS, enough=1e-3)["near"].rows) < len(LEVELS)
    assert len(certify(exact(true), densities, images, None, LEVELS, enough=10.0)["near"].rows) == len(LEVELS)


def rows(*limits: float, top: float = 0.05, cross: float = 0.0) -> Certificate:
    """A certificate of these limits at levels 8, 4, 2, ..."""
    made = [Divergence(8 / 2**place, 0, 0, cross, 0, 0, 0, top, limit) for place, limit in enumerate(limits)]
    return Certificate(tuple(made))


def test_the_level_for_a_budget_is_a_row_and_never_between_rows_or_below_them() -> None:
    certificate = rows(0.001, 0.016, 0.256)
    assert [certificate.sigma_for(budget) for budget in (0.0005, 0.001, 0.0159, 0.016, 0.2, 1.0)] == [None, 8, 8, 4, 4, 2]
    assert rows(0.001, 0.1, 0.01).sigma_for(0.02) == 8  # a level counts only if all above keep to the budget


@pytest.mark.parametrize("cross", [-0.01, 0.0, 0.015])
def test_a_level_that_fails_by_its_limit_alone_ends_the_search(cross: float) -> None:
    assert rows(0.01, 0.03, cross=cross).sigma_for(0.02) == 8


def test_the_row_that_bounds_a_sigma_lies_at_or_below_it() -> None:
    certificate = rows(0.001, 0.016, 0.256)
    found = [certificate.at(sigma) for sigma in (9.0, 8.0, 7.9, 4.0, 2.1, 1.9)]
    assert [row and row.sigma for row in found] == [8, 8, 4, 4, 2, None]


def test_a_divergence_of_few_images_must_be_far_below_the_budget() -> None:
    assert rows(0.005, top=0.6).sigma_for(0.02) is None
    assert rows(0.004, top=0.6).sigma_for(0.02) == 8
    assert "too few decide it" in rows(0.01, top=0.6).rows[0].sentence()


def test_the_limit_of_many_normal_values_is_the_normal_one() -> None:
    """mean + 1.645 standard errors, and a little for the row that is added; a negative mean counts as 0."""
    values = torch.randn(4000, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    widths = (upper_limit(values) - values.mean(0)) / (values.std(0) / 4000**0.5)
    assert float(widths.mean()) == pytest.approx(1.645 + 3.6 / 4000**0.5, abs=0.06)
    torch.testing.assert_close(upper_limit(values - 3), upper_limit(values) - values.mean(0), rtol=0, atol=2e-3)


def test_limits_of_skewed_values_hold_as_often_as_they_say() -> None:
    """Of the means of 60 log-normal values (skewness 6.2) 95 % must lie below; the limit of normal values holds less often."""
    values = torch.randn(60, 400, generator=torch.Generator().manual_seed(1), dtype=torch.float64).exp()
    normal = values.mean(0) + 1.645 * values.std(0) / 60**0.5
    shares = [float((limit >= math.exp(0.5)).double().mean()) for limit in (upper_limit(values), normal)]
    assert 0.93 <= shares[0] <= 0.99  # with what lies beyond by a Pareto tail, which is heavier than theirs
    assert shares[1] < 0.9


def test_limits_of_values_without_a_variance_hold_in_nine_of_ten() -> None:
    """Pareto values of index 1.3 have a mean, 10 / 3, and no variance: what lies beyond the greatest of 500 is much of it."""
    uniform = torch.rand(500, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = uniform.pow(-1 / 1.3) - 1
    assert float((upper_limit(values) >= 10 / 3).double().mean()) >= 0.9


@pytest.mark.parametrize("law", laws(), ids=str)
def test_limits_of_certificates_hold_in_nine_of_ten_repetitions(law: str) -> None:
    """The quick form of benchmarks/coverage.py: one wrong density, 30 repetitions of 300 held-out images, three levels."""
    target, levels = laws()[law], [20 * 0.75**place for place in range(14)]
    density: Density = fit_gaussian(target.sample(2000, 5).float(), form=Full())
    if law.startswith("Student"):
        density = fit_student(target.sample(2000, 5).float(), freedom=4.0)
    true = {sigma: truth(target, density, sigma, 20_000, 7) for sigma in levels[7::3]}
    held = 0
    for seed in range(30):
        rows = certify(target.denoise, {"": density}, target.sample(300, 100 + seed), None, levels, seed=seed)[""].rows
        held += sum(row.limit >= true[row.sigma] for row in rows if row.sigma in true)
    assert held >= 0.9 * 30 * len(true)


@pytest.mark.parametrize(
    ("images", "labels", "levels", "message"),
    [
        (torch.zeros(1, 1, 1, 1), None, LEVELS, "at least 2 held-out images"),
        (torch.zeros(3, 1, 1, 1), torch.zeros(2, dtype=torch.int64), LEVELS, "3 images and 2 labels"),
        (torch.full((3, 1, 1, 1), torch.nan), None, LEVELS, "finite"),
        (torch.zeros(3, 1, 1, 1), None, [3.0, 2.0, 1.0], "at least 4 levels that fall"),
        (torch.zeros(3, 1, 1, 1), None, [3.0, 2.0, 2.5, 1.0], "at least 4 levels that fall"),
    ],
)
def test_what_cannot_be_certified(images: Tensor, labels: Tensor | None, levels: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(exact(normals(1.0)), {"law": normals(2.0)}, images, labels, levels)


def test_a_denoiser_that_fails_is_named() -> None:
    with pytest.raises(ValueError, match="at sigma 20 are not finite"):
        certify(lambda noisy, sigma, labels: noisy / 0, {"law": normals(2.0)}, torch.zeros(3, 1, 1, 1), None, LEVELS)
