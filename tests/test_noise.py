"""The laws of noise levels: steps fall to 0, weights and draws have their closed forms, every image has its own randomness."""

import math
from collections.abc import Callable
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelpath import randomness
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, FlatWeight, GridLogNormal, GridWeight, LogNormal, LogUniform, NoiseRange

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


@pytest.mark.parametrize(
    ("sigma_min", "sigma_max", "shift", "setting"),
    [
        (0.0, 80.0, 1.0, "objective.noise.sigma_min"),
        (2.0, 1.0, 1.0, "objective.noise.sigma_min"),
        (1.0, 1.0, 1.0, "objective.noise.sigma_min"),
        (1.0, math.inf, 1.0, "objective.noise.sigma_min"),
        (0.1, 1.0, 0.0, "shift"),
    ],
)
def test_impossible_ranges(sigma_min: float, sigma_max: float, shift: float, setting: str) -> None:
    with pytest.raises(UserError) as caught:
        NoiseRange(sigma_min, sigma_max, shift)
    assert caught.value.setting == setting


def test_impossible_steps() -> None:
    for sigmas in (NoiseRange().sigmas, NoiseRange().consistency_sigmas):
        with pytest.raises(UserError) as caught:
            sigmas(0)
        assert caught.value.setting == "steps"
    with pytest.raises(ValueError, match="at least 2"):
        NoiseRange().grid(1)
    for start in (0.0005, 41.0):
        with pytest.raises(UserError) as caught:
            NoiseRange(shift=0.5).sigmas(4, start)
        assert caught.value.setting == "start"


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
    sigma = LogNormal(-0.4, 1.1)(randomness.Streams(SOURCES), NoiseRange(1e-9, 1e9)).double()
    law = NormalDist(-0.4, 1.1)
    assert furthest(torch.tensor([law.cdf(math.log(value)) for value in sigma]), EVEN) < 1.63 / COUNT**0.5
    standard = randomness.normal(randomness.Streams(SOURCES), ()).double()
    assert torch.allclose((sigma.log() + 0.4) / 1.1, standard, atol=1e-5)
    narrow = LogNormal(-0.4, 1.1)(randomness.Streams(SOURCES[:200]), NoiseRange(0.5, 2.0))
    assert float(narrow.min()) == 0.5
    assert float(narrow.max()) == 2.0


def test_log_uniform_draws() -> None:
    sigma = LogUniform(0.01, 10.0)(randomness.Streams(SOURCES), NoiseRange()).double()
    assert furthest(sigma.log10() / 3 + 2 / 3, EVEN) < 1.63 / COUNT**0.5
    assert 0.01 <= float(sigma.min()) < 0.0101 < 9.9 < float(sigma.max()) <= 10.0


def test_grid_log_normal_draws_are_levels() -> None:
    levels = NoiseRange()
    sources = SOURCES[:500]
    sigma = GridLogNormal(-1.2, 1.6, 40)(randomness.Streams(sources), levels)
    plain = LogNormal(-1.2, 1.6)(randomness.Streams(sources), levels)
    grid = levels.grid(40).float()
    assert torch.equal(sigma, grid[(grid[None] - plain[:, None]).abs().argmin(1)])


@pytest.mark.parametrize("draw", [randomness.normal, randomness.uniform])
def test_what_an_image_draws_does_not_depend_on_its_neighbours(draw) -> None:
    seeds = [randomness.seed_of(5, 3, position) for position in range(10)]
    ten = draw(randomness.Streams(seeds), (1, 4, 4))
    three = draw(randomness.Streams(seeds[6:9]), (1, 4, 4))
    assert torch.equal(ten[7], three[1])
    assert len({row.sum().item() for row in ten}) == 10


def test_seeds_are_fixed_and_differ() -> None:
    assert randomness.seed_of(1, 2, 3) == 1517167407554927345
    seeds = {randomness.seed_of(run, step, image) for run in range(10) for step in range(10) for image in range(20)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert randomness.seed_of(1, 23) != randomness.seed_of(12, 3)


def test_levels_to_visit() -> None:
    """The grid but for its lowest level, where there is nothing to see."""
    noise = NoiseRange(shift=0.5)
    assert noise.consistency_sigmas(1).tolist() == [40.0, 0.0]
    middle = ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert noise.consistency_sigmas(2).tolist() == pytest.approx([40.0, middle / 2, 0.0])
    assert len(noise.consistency_sigmas(8)) == 9


@pytest.mark.parametrize("draw", [LogNormal(-1.2, 1.6), GridLogNormal(0.3, 1.2, 4000), LogUniform(0.01, 10.0)])
def test_the_share_of_draws_below_a_level(draw: LogNormal | GridLogNormal | LogUniform) -> None:
    """That of 20,000 draws, to four deviations of a share."""
    sigma = draw(randomness.Streams(range(20_000)), NoiseRange(1e-4, 1e4))
    for level in (0.02, 0.3, 1.0, 5.0):
        share = draw.below(level)
        assert float((sigma < level).double().mean()) == pytest.approx(
            share, abs=4 * math.sqrt(share * (1 - share) / 20_000) + 1e-3
        )
    assert LogUniform(0.01, 10.0).below(0.001) == 0
    assert LogUniform(0.01, 10.0).below(100.0) == 1


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        (lambda: LogNormal(math.nan), "draw.p_mean"),
        (lambda: LogNormal(0.0, 0.0), "draw.p_std"),
        (lambda: GridLogNormal(0.0, -1.0), "draw.p_std"),
        (lambda: GridLogNormal(count=1), "draw.count"),
        (lambda: GridWeight(1), "weight.count"),
        (lambda: LogUniform(0.0, 1.0), "draw.sigma_min"),
        (lambda: LogUniform(2.0, 1.0), "draw.sigma_min"),
    ],
)
def test_impossible_draws_and_weights(wrong: Callable[[], object], setting: str) -> None:
    with pytest.raises(UserError) as caught:
        wrong()
    assert caught.value.setting == f"objective.{setting}"
