"""The laws of noise levels: steps fall to 0, weights and draws have their closed forms, every image has its own randomness."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelpath import randomness
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, FlatWeight, GridLogNormal, GridWeight, LogNormal, LogUniform, NoiseRange
from pixelpath.objectives.pairs import Gap, InverseGap, RelativeGap, SmoothGap, StagedGap

ranges = st.builds(
    NoiseRange,
    sigma_min=st.floats(1e-4, 0.1),
    sigma_max=st.floats(1.0, 500.0),
    shift=st.floats(0.1, 10.0),
)


@given(ranges, st.integers(1, 200))
def test_steps_fall_strictly_from_highest_to_zero(levels: NoiseRange, count: int) -> None:
    steps = levels.sigmas(count)
    assert len(steps) == count + 1
    assert bool((steps[:-1] > steps[1:]).all())
    assert float(steps[0]) == pytest.approx(levels.sigma_max * levels.shift)
    assert float(steps[-1]) == 0
    if count > 1:
        assert float(steps[-2]) == pytest.approx(levels.sigma_min * levels.shift)


@given(ranges, st.integers(2, 50), st.floats(0.2, 0.99))
def test_steps_from_a_lower_start(levels: NoiseRange, count: int, share: float) -> None:
    start = levels.sigma_max * levels.shift * share
    steps = levels.sigmas(count, start)
    assert float(steps[0]) == pytest.approx(start)
    assert float(steps[-2]) == pytest.approx(levels.sigma_min * levels.shift)
    lower = NoiseRange(levels.sigma_min, start / levels.shift, levels.shift)
    assert torch.allclose(steps, lower.sigmas(count))


def test_grid_is_even_in_the_seventh_root() -> None:
    roots = NoiseRange().grid(9) ** (1 / 7)
    assert torch.allclose(roots.diff(), (roots[-1] - roots[0]).expand(8) / 8)
    assert float(NoiseRange().grid(3)[1]) == pytest.approx(((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7)
    beyond = NoiseRange().grid(9, beyond=1) ** (1 / 7)
    assert float(beyond[-1] - beyond[-2]) == pytest.approx(float(roots[1] - roots[0]))


def test_shift_of_a_resolution() -> None:
    levels = NoiseRange().for_resolution(256.0)
    assert levels.sigmas(1).tolist() == [320.0, 0.0]
    assert torch.allclose(levels.sigmas(5), 4 * NoiseRange().sigmas(5))
    assert levels.for_resolution(256.0) == levels
    assert torch.equal(levels.grid(5), NoiseRange().grid(5))


@pytest.mark.parametrize(("lowest", "highest", "shift"), [(0.0, 80.0, 1.0), (2.0, 1.0, 1.0), (0.1, 1.0, 0.0), (1.0, 1.0, 1.0)])
def test_impossible_ranges(lowest: float, highest: float, shift: float) -> None:
    with pytest.raises(ValueError, match=r"noise range|sigma_min"):
        NoiseRange(lowest, highest, shift)


def test_impossible_steps() -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        NoiseRange().sigmas(0)
    with pytest.raises(ValueError, match="at least 2 levels"):
        NoiseRange().grid(1)
    for start in (0.0005, 41.0):
        with pytest.raises(ValueError, match="cannot start"):
            NoiseRange(shift=0.5).sigmas(4, start)


def test_nearest_is_nearest() -> None:
    levels = NoiseRange()
    sigma = torch.cat([torch.logspace(-4, 3, 200, dtype=torch.float64), levels.grid(40)])
    distance = (levels.grid(40)[None] - sigma[:, None]).abs()
    assert torch.equal(levels.nearest(sigma, 40), distance.argmin(1))


def test_edm_weight_undoes_the_output_scaling() -> None:
    """With EDM's scalings the weighted error of the estimate is the plain error of the network: weight out^2 = 1."""
    levels = NoiseRange(shift=0.25)
    sigma = levels.grid(20)
    out = EDMPreconditioning(0.4)(sigma * levels.shift).out
    assert torch.allclose(EDMWeight(0.4)(sigma, levels) * out**2, torch.ones_like(sigma))
    assert float(EDMWeight(0.4, limit=100.0)(sigma, levels).max()) == 100


def test_grid_weight_is_a_density() -> None:
    """1 / spacing: the weighted sum of the spacings of any part of the grid is the number of its levels."""
    levels = NoiseRange(shift=4.0)
    grid = levels.grid(64, beyond=1)
    weights = GridWeight(64)(grid[:-1], levels)
    assert torch.allclose(weights * (grid[:-1] - grid[1:]), torch.ones_like(weights), rtol=1e-4)


def test_flat_weight_is_one() -> None:
    assert FlatWeight()(torch.tensor([0.1, 3.0]), NoiseRange()).tolist() == [1.0, 1.0]


COUNT = 8000
SOURCES = [randomness.seed_of(1, number) for number in range(COUNT)]
EVEN = (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT


def furthest(draws: torch.Tensor, quantiles: torch.Tensor) -> float:
    """The Kolmogorov-Smirnov distance of draws given as their probabilities under the claimed law."""
    return float((draws.sort().values - quantiles).abs().max())


def test_log_normal_draws() -> None:
    sigma = LogNormal(-0.4, 1.1)(randomness.generators(SOURCES), NoiseRange(1e-9, 1e9)).double()
    law = NormalDist(-0.4, 1.1)
    assert furthest(torch.tensor([law.cdf(math.log(value)) for value in sigma]), EVEN) < 1.63 / COUNT**0.5
    standard = randomness.normal(randomness.generators(SOURCES), ()).double()
    assert torch.allclose((sigma.log() + 0.4) / 1.1, standard, atol=1e-5)
    narrow = LogNormal(-0.4, 1.1)(randomness.generators(SOURCES[:200]), NoiseRange(0.5, 2.0))
    assert float(narrow.min()) == 0.5
    assert float(narrow.max()) == 2.0


def test_log_uniform_draws() -> None:
    sigma = LogUniform(0.01, 10.0)(randomness.generators(SOURCES), NoiseRange()).double()
    assert furthest(sigma.log10() / 3 + 2 / 3, EVEN) < 1.63 / COUNT**0.5
    assert 0.01 <= float(sigma.min()) < 0.0101 < 9.9 < float(sigma.max()) <= 10.0


def test_grid_log_normal_draws_are_levels() -> None:
    levels = NoiseRange()
    sources = SOURCES[:500]
    sigma = GridLogNormal(-1.2, 1.6, 40)(randomness.generators(sources), levels)
    plain = LogNormal(-1.2, 1.6)(randomness.generators(sources), levels)
    grid = levels.grid(40).float()
    assert torch.equal(sigma, grid[(grid[None] - plain[:, None]).abs().argmin(1)])


@pytest.mark.parametrize("draw", [randomness.normal, randomness.uniform])
def test_what_an_image_draws_does_not_depend_on_its_neighbours(draw) -> None:
    seeds = [randomness.seed_of(5, 3, position) for position in range(10)]
    ten = draw(randomness.generators(seeds), (1, 4, 4))
    three = draw(randomness.generators(seeds[6:9]), (1, 4, 4))
    assert torch.equal(ten[7], three[1])
    assert len({row.sum().item() for row in ten}) == 10


def test_seeds_are_fixed_and_differ() -> None:
    assert randomness.seed_of(1, 2, 3) == 1517167407554927345
    seeds = {randomness.seed_of(run, step, image) for run in range(10) for step in range(10) for image in range(20)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert randomness.seed_of(1, 23) != randomness.seed_of(12, 3)


SIGMAS = torch.tensor([0.002, 0.01, 0.3, 1.0, 7.0, 80.0])


def test_the_gap_in_closed_form() -> None:
    gap, noise = StagedGap(total=700, stages=7), NoiseRange()
    assert [gap.stage(step) for step in (0, 99, 100, 350, 699, 700, 10**6)] == [1, 1, 2, 4, 7, 7, 7]
    lower = gap(torch.tensor([2.0]), noise, 250)  # stage 3: a share of 1/8, times 1 + 8 / (1 + e^2)
    assert lower.item() == pytest.approx(2 * (1 - (1 + 8 / (1 + math.exp(2))) / 8), rel=1e-5)
    assert StagedGap(1, base=3.0, widening=2.0, steepness=0.5)(torch.tensor([4.0]), noise, 0).item() == pytest.approx(
        4 * (1 - (1 + 2 / (1 + math.exp(2))) / 3), rel=1e-5
    )


def test_the_gap_is_the_same_share_of_any_run() -> None:
    """A short run passes through the same stages as a long one."""
    for step in (0, 3, 41, 99):
        assert torch.equal(
            StagedGap(total=100)(SIGMAS, NoiseRange(), step), StagedGap(total=10_000)(SIGMAS, NoiseRange(), 100 * step)
        )


@pytest.mark.parametrize("gap", [StagedGap(100), StagedGap(100, 4, 0), SmoothGap(100), SmoothGap(100, 0.5, 12.0, 1.5)])
def test_lower_levels_approach_the_upper_ones(gap: Gap) -> None:
    noise = NoiseRange()
    lowers = torch.stack([gap(SIGMAS, noise, step) for step in range(0, 101, 5)])
    assert bool((lowers >= noise.sigma_min).all())
    assert bool((lowers <= SIGMAS).all())
    assert bool((lowers[1:] >= lowers[:-1]).all())
    assert bool((lowers[-1, 1:] > lowers[0, 1:]).all())


def test_only_a_stage_of_number_zero_denoises() -> None:
    gap = StagedGap(total=90, stages=3, first=0)
    assert [gap.denoises(step) for step in (0, 29, 30, 89)] == [True, True, False, False]
    assert torch.equal(gap(SIGMAS, NoiseRange(), 29), torch.full_like(SIGMAS, 0.002))
    assert not StagedGap(total=90).denoises(0)
    assert not SmoothGap(total=90, first=0.0).denoises(0)


def test_a_smooth_gap_halves_at_each_whole_exponent() -> None:
    gap, sigma = SmoothGap(total=80, first=2.0, last=6.0, widening=0.0), torch.tensor([8.0])
    gaps = [8 - gap(sigma, NoiseRange(), step).item() for step in (0, 20, 30, 80, 800)]
    assert gaps == pytest.approx([2, 1, 2**-0.5, 1 / 8, 1 / 8], rel=1e-5)


def test_a_gap_needs_the_length_of_its_run() -> None:
    for gap in (StagedGap(), SmoothGap()):
        with pytest.raises(ValueError, match="close its recipe with for_data"):
            gap(SIGMAS, NoiseRange(), 0)
    for wrong in ({"base": 1.0}, {"first": -1}, {"total": -1}, {"widening": -1.0}):
        for gap in (StagedGap(), SmoothGap()):
            with pytest.raises(ValueError, match="A gap needs base > 1"):
                replace(gap, **wrong)


def test_weights_of_pairs() -> None:
    sigma, lower, noise = torch.tensor([3.0, 0.5, 0.002]), torch.tensor([1.0, 0.25, 0.002]), NoiseRange(shift=0.25)
    assert InverseGap()(sigma, lower, noise).tolist() == pytest.approx([2.0, 16.0, 0.0])
    assert RelativeGap()(sigma, lower, noise).tolist() == pytest.approx([1.5, 2.0, 0.0])


def test_levels_to_visit() -> None:
    """The grid but for its lowest level, where there is nothing to see."""
    noise = NoiseRange(shift=0.5)
    assert noise.consistency_sigmas(1).tolist() == [40.0, 0.0]
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert noise.consistency_sigmas(2).tolist() == pytest.approx([40.0, middle / 2, 0.0])
    assert len(noise.consistency_sigmas(8)) == 9
    with pytest.raises(ValueError, match="at least 1 step"):
        noise.consistency_sigmas(0)


@pytest.mark.parametrize("draw", [LogNormal(-1.2, 1.6), GridLogNormal(0.3, 1.2, 4000), LogUniform(0.01, 10.0)])
def test_the_share_of_draws_below_a_level(draw: LogNormal | GridLogNormal | LogUniform) -> None:
    """That of 20,000 draws, to four deviations of a share."""
    sigma = draw(randomness.generators(range(20_000)), NoiseRange(1e-4, 1e4))
    for level in (0.02, 0.3, 1.0, 5.0):
        share = draw.below(level)
        assert float((sigma < level).double().mean()) == pytest.approx(
            share, abs=4 * math.sqrt(share * (1 - share) / 20_000) + 1e-3
        )
    assert LogUniform(0.01, 10.0).below(0.001) == 0
    assert LogUniform(0.01, 10.0).below(100.0) == 1


@pytest.mark.parametrize(
    ("wrong", "setting", "sentence"),
    [
        (lambda: LogNormal(math.nan), "p_mean", "must be finite, got nan"),
        (lambda: LogNormal(0.0, 0.0), "p_std", "must be above 0 and finite, got 0.0"),
        (lambda: GridLogNormal(0.0, -1.0), "p_std", "must be above 0 and finite, got -1.0"),
        (lambda: LogUniform(0.0, 1.0), "sigma_min", "must be above 0 and below .*, got 0.0 and 1.0"),
        (lambda: LogUniform(2.0, 1.0), "sigma_min", "must be above 0 and below .*, got 2.0 and 1.0"),
    ],
)
def test_draws_that_are_none(wrong: Callable[[], object], setting: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        wrong()
    assert caught.value.setting == f"objective.draw.{setting}"
