"""Tail indices and the gate against laws whose tails are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import genpareto

from pixelpath.data.normalise.propose import pareto_shape
from pixelpath.errors import UserError
from pixelpath.evaluation.histograms import Values
from pixelpath.evaluation.tails import (
    ValueTail,
    compare_tails,
    hill,
    log_spread,
    radii,
    require_light_tails,
    tail_error,
    tail_gate,
    value_tails,
    within_reach,
)
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.student import fit_student


def student(count: int, values: int, freedom: float, seed: int) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    rows = chance.standard_normal((count, values)) / np.sqrt(chance.chisquare(freedom, (count, 1)) / freedom)
    return torch.from_numpy(rows).reshape(count, 1, 1, values)


def test_the_index_of_a_power_law_and_its_standard_error() -> None:
    """For a Pareto law the estimate is the index times k / Gamma(k, 1): no bias beyond k / (k - 1), deviation index / sqrt(k)."""
    chance = np.random.default_rng(0)
    found = [hill(torch.from_numpy(chance.pareto(2.5, 4000) + 1), 200) for _ in range(200)]
    values = np.array([index.value for index in found])
    assert values.mean() == pytest.approx(2.5 * 200 / 199, abs=0.03)
    assert values.std() == pytest.approx(2.5 / math.sqrt(200), rel=0.12)
    assert found[0].error == pytest.approx(found[0].value / math.sqrt(200))
    assert (found[0].count, found[0].total) == (200, 4000)


def test_the_index_of_five_values_by_hand() -> None:
    values = torch.tensor([1.0, math.e, math.e**2] + [math.e**3] * 18)
    assert hill(values, 20).value == pytest.approx(20 / (1 + 2 + 18 * 3))


def test_columns_have_an_index_each_with_the_last_row_as_the_threshold() -> None:
    greatest = torch.tensor([[math.e**3, math.e**4], [math.e, math.e**2], [1.0, math.e]])
    assert log_spread(greatest).tolist() == pytest.approx([(3 + 1) / 2, (3 + 1) / 2])
    assert log_spread(greatest[:, 0] * 7).item() == pytest.approx(2.0)


def test_the_index_tells_heavy_tails_from_light() -> None:
    for seed in range(3):
        assert hill(radii(student(10000, 2, 1.5, seed))).value < 2.2
        assert 2.2 < hill(radii(student(10000, 2, 3.0, seed))).value < 4
        assert hill(radii(student(10000, 2, 3.0, seed))).heavy
        assert not hill(radii(student(10000, 2, 1e6, seed))).heavy


def test_radii_are_distances_from_the_median_image() -> None:
    images = torch.tensor([[0.0, 1.0], [3.0, 1.0], [0.0, 5.0]]).reshape(3, 2, 1, 1)
    assert radii(images).tolist() == [0.0, 3.0, 4.0]


def test_a_density_of_light_tails_is_refused_where_the_data_have_heavy_ones() -> None:
    for seed in range(5):
        for freedom in (1.5, 3.0):
            with pytest.raises(UserError, match="tails are heavy"):
                require_light_tails(hill(radii(student(10000, 2, freedom, seed))))
        require_light_tails(hill(radii(student(10000, 2, 1e6, seed))))


def test_the_errors_of_quantiles_are_those_of_the_law() -> None:
    """Samples of another deviation have every quantile in error by the ratio."""
    truth, drawn = student(20000, 3, 1e6, 1), student(20000, 3, 1e6, 2) * 0.8
    report = compare_tails(drawn, truth)
    assert not report.passes
    for quantile in report.quantiles[:2]:
        assert quantile.error == pytest.approx(-0.2, abs=0.02)
        assert quantile.interval[0] < -0.2 < quantile.interval[1] < 0
    radius = report.quantiles[1]
    assert (radius.what, radius.probability, radius.exceedances, radius.expected) == ("radius", 0.999, 20, 20)
    assert radius.held_out == pytest.approx(stats.chi.ppf(0.999, 3), rel=0.04)
    assert radius.samples == pytest.approx(0.8 * stats.chi.ppf(0.999, 3), rel=0.04)
    assert radius.beyond == pytest.approx(20000 * stats.chi.sf(radius.held_out / 0.8, 3), abs=4)


def test_the_worst_direction_is_found_where_radii_agree() -> None:
    """Two laws of equal radius: one isotropic, one with all its heavy side to the right along the first value."""
    truth, drawn = student(20000, 2, 1e6, 1), student(20000, 2, 1e6, 2)
    angle = torch.rand(20000, dtype=torch.float64) * 2 * math.pi
    radius = drawn.flatten(1).norm(dim=1)
    squeezed = torch.stack([radius * angle.cos().abs() ** 0.25, radius * angle.sin()], 1)
    squeezed = squeezed * (radius / squeezed.norm(dim=1))[:, None]
    report = compare_tails(squeezed.reshape(-1, 1, 1, 2), truth)
    assert not any(quantile.wrong(0.1) for quantile in report.quantiles if quantile.what == "radius")
    assert report.quantiles[3].what == "worst direction"
    assert report.quantiles[3].wrong(0.1)


def test_intervals_hold_the_truth_99_times_in_100() -> None:
    """Two sets of one law: the error 0 is outside an interval in about 1 case of 100, for radius and worst direction alike."""
    outside = {"radius": 0, "worst direction": 0}
    for seed in range(60):
        report = compare_tails(student(2000, 2, 3.0, 2 * seed), student(2000, 2, 3.0, 2 * seed + 1), (0.99,), seed=seed)
        for quantile in report.quantiles:
            outside[quantile.what] += not quantile.interval[0] <= 0 <= quantile.interval[1]
    assert outside["radius"] <= 3
    assert outside["worst direction"] <= 3


@pytest.mark.parametrize("side", [0, 1])
def test_a_detectable_error_is_found_in_8_of_10_repetitions_and_half_of_it_rarely(side: int) -> None:
    """Samples whose every quantile errs by what the gate says it can see, and by the square root of that ratio."""
    found = {1.0: 0, 0.5: 0}
    error = compare_tails(student(2000, 2, 3.0, 1), student(2000, 2, 3.0, 2), (0.99,)).quantiles[0].detectable[side]
    pairs = [(student(2000, 2, 3.0, 100 + 2 * seed), student(2000, 2, 3.0, 101 + 2 * seed)) for seed in range(40)]
    for seed, (drawn, truth) in enumerate(pairs):
        for power in found:
            report = compare_tails(drawn * (1 + error) ** power, truth, (0.99,), seed=seed)
            found[power] += report.quantiles[0].wrong(report.tolerance)
    assert found[1.0] >= 24
    assert found[0.5] <= 0.6 * 40 <= found[1.0]
    sentence = compare_tails(*pairs[-1], (0.99,)).sentence()
    assert sentence.startswith("tails not rejected to the 0.99 quantile (errors of its radius between -")


def test_a_quantile_of_few_exceedances_is_not_certified_and_decides_nothing() -> None:
    report = compare_tails(student(20000, 2, 1e6, 1), student(20000, 2, 3.0, 2))
    far = report.quantiles[2]
    assert (far.probability, far.exceedances, far.certified, far.wrong(0.1)) == (0.9999, 2, False, False)
    assert "not certified, with 2 exceedances of 20" in far.sentence()
    assert "not certified" not in report.quantiles[1].sentence()
    assert report.certified_to == 0.999


@pytest.mark.parametrize("seed", range(5))
def test_the_gate_rejects_laws_without_the_tail_and_accepts_the_one_that_has_it(seed: int) -> None:
    data, held_out = student(10000, 2, 3.0, 2 * seed), student(8000, 2, 3.0, 2 * seed + 1)
    verdicts = {
        "moments": tail_gate(fit_gaussian(data), held_out, 1.05, seed=seed),
        "freedom 10": tail_gate(fit_student(data, freedom=10.0), held_out, 1.05, seed=seed),
        "freedom fitted": tail_gate(fit_student(data), held_out, 1.05, seed=seed),
    }
    assert {name: report.passes for name, report in verdicts.items()} == {
        "moments": False,
        "freedom 10": False,
        "freedom fitted": True,
    }


def test_the_gate_rejects_a_gaussian_mixture_and_its_draws_are_functions_of_the_seed() -> None:
    data, held_out = student(10000, 2, 3.0, 1), student(5000, 2, 3.0, 2)
    density = fit_mixture(data, components=3)
    first = tail_gate(density, held_out, 1.05, count=6000, seed=4)
    assert not first.passes
    assert [quantile.expected for quantile in first.quantiles] == pytest.approx([60, 6, 0, 60, 6, 0])
    assert tail_gate(density, held_out, 1.05, count=6000, seed=4) == first


def test_mistakes_are_named() -> None:
    few = student(1999, 2, 3.0, 1)
    with pytest.raises(ValueError, match="has 19 exceedances, fewer than 20: hold out at least 2000 images"):
        compare_tails(few, few)
    with pytest.raises(ValueError, match="from 19 of 1999 values cannot be relied on"):
        hill(radii(few))
    with pytest.raises(ValueError, match="positive in the tail"):
        hill(-torch.ones(100), 20)
    enough = student(2000, 2, 3.0, 1)
    with pytest.raises(ValueError, match="images of one shape"):
        compare_tails(student(2000, 3, 3.0, 1), enough)
    with pytest.raises(ValueError, match="samples are not finite"):
        compare_tails(enough / 0, enough)
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare_tails(enough, enough, (0.99, 1.0))


@pytest.mark.parametrize("count", [40, 45, 54, 60, 80, 99, 100, 130])
def test_few_held_out_images_have_finite_intervals_or_no_tails(count: int) -> None:
    source = torch.Generator().manual_seed(count)
    held_out, samples = (torch.randn(count, 1, 3, 3, generator=source) for _ in range(2))
    reached = within_reach(count)
    assert bool(reached) == (count >= 100)
    for quantile in compare_tails(samples, held_out, reached or (0.5,)).quantiles:
        assert math.isfinite(quantile.interval[1])


def test_exponential_draws_are_rarely_called_heavy_and_heavy_ones_nearly_always() -> None:
    """By the normal law 2.3 % of exponential draws lie 2 standard errors above 0; Hill's index is low in most."""
    found = [hill(torch.from_numpy(np.random.default_rng(seed).exponential(size=5000))) for seed in range(300)]
    assert sum(index.value < 6 for index in found) > 200
    assert sum(index.heavy for index in found) < 20
    pareto = [hill(torch.from_numpy(np.random.default_rng(seed).pareto(2.0, 20_000))) for seed in range(100)]
    assert sum(index.heavy for index in pareto) > 85


@pytest.mark.parametrize("xi", [-0.2, 0.0, 0.25])
def test_the_shape_and_its_error_are_those_of_a_generalised_pareto_distribution(xi: float) -> None:
    draws = genpareto.rvs(xi, size=(400, 2000), random_state=0)
    found = [pareto_shape(np.sort(row)[::-1].copy(), np.ones(2000)) for row in np.asarray(draws)]
    shapes, errors = (np.array(column) for column in zip(*found, strict=True))
    assert shapes.mean() == pytest.approx(xi, abs=0.02)
    assert errors.mean() == pytest.approx(shapes.std(), rel=0.2)


def test_channels_of_heavy_tails_are_told_by_their_values() -> None:
    """Of normal, Pareto and exponential values the second ones alone: P(|value - median| > r) falls like r^-2.5."""
    chance = np.random.default_rng(0)
    heavy = 280 + chance.pareto(2.5, (400, 1, 16, 16)) * chance.choice([-1, 1], (400, 1, 16, 16))
    light = chance.standard_normal((400, 1, 16, 16)), chance.exponential(size=(400, 1, 16, 16))
    images = np.concatenate([light[0], heavy, light[1]], 1)
    values = Values(400, 3, 16, 16)
    values.add(images)
    (found,) = value_tails(values, 3)
    assert (found.channel, found.median) == (1, pytest.approx(280, abs=0.02))
    assert found.quantile == pytest.approx(1000 ** (1 / 2.5) - 1, rel=0.1)
    few = Values(70, 3, 16, 16)
    few.add(images[:70])
    assert value_tails(few, 3) == ()  # 18 values beyond the quantile


def test_tail_errors_are_those_of_the_worst_channel() -> None:
    values = Values(10, 2, 20, 20)
    row = np.arange(4000.0).reshape(10, 1, 20, 20)
    values.add(np.concatenate([row, 50 - row], 1))
    away = 0.999 * 3999
    tails = (ValueTail(0, 0.0, away / 1.1), ValueTail(1, 50.0, away / 0.8))
    assert tail_error(tails, values) == pytest.approx(-0.2)
    assert tail_error(tails[:1], values) == pytest.approx(0.1)


@pytest.mark.parametrize(("images", "values"), [(400, 200), (400, 400), (400, 2000)])
def test_two_sets_of_one_law_are_not_told_apart_however_many_values_they_have(images: int, values: int) -> None:
    """Centred on the median of one of them, two sets of noise differ most along the axes that their own noise has."""
    numbers = torch.Generator().manual_seed(0)
    for seed in range(3):
        first, second = (torch.randn(images, 1, 1, values, generator=numbers) for _ in range(2))
        assert compare_tails(first, second, within_reach(images), seed=seed).passes
