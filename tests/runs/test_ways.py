"""Which ways to sample are chosen, by distance, tails and cost."""

from __future__ import annotations

import pytest

from pixelpath.runs.ways import Way, cheapest, closest, ratios
from pixelpath.sampling.sampler import Sampling


def way(name: str, distance: float, tail_error: float | None, nfe: int = 9) -> Way:
    return Way(name, Sampling(), nfe, {"pixels": distance}, tail_error)


def test_of_ways_that_tie_in_distance_the_one_that_keeps_the_tail_is_chosen() -> None:
    """Rain: DPM-Solver++(2M) loses 18 % of the .999 quantile, stochastic Heun 8 %."""
    plain, stochastic = way("dpmpp_2m", 1.0, -0.18), way("heun_stochastic", 1.0, -0.08)
    assert closest([plain, stochastic]) is closest([stochastic, plain]) is stochastic
    assert closest([plain, way("heun_stochastic", 1.149, 0.08)]).tail_error == 0.08  # too wide is as wrong as too narrow
    assert closest([plain, way("heun_stochastic", 1.0, 0.19)]) is plain
    assert closest([plain, way("heun_stochastic", 1.151, 0.0)]) is plain  # too far
    assert closest([plain, way("heun_stochastic", 1.01, -0.14)]) is plain  # chance may make such a difference of tails


@pytest.mark.parametrize("distances", [(1.0, 1.001), (1.001, 1.0), (1.1, 1.0)])
def test_where_tails_are_light_the_least_distance_is_chosen(distances: tuple[float, float]) -> None:
    ways = [way(str(distance), distance, None) for distance in distances]
    assert closest(ways).distance == min(distances)


def test_the_default_of_heavy_tails_is_the_cheapest_of_about_the_least_tail_error() -> None:
    ways = [
        way(str(nfe), distance, tail, nfe)
        for nfe, distance, tail in ((3, 1.2, 0.0), (5, 1.0, -0.18), (7, 1.05, -0.11), (9, 1.1, -0.1), (13, 1.1, -0.081))
    ]
    steady, loose = [{"pixels": [5.0, 5.0, 5.0]}] * 5, [{"pixels": [0.9, 1.0, 1.1]}] * 5  # a spread of none, and of a tenth
    assert cheapest(ways, steady).nfe == 7
    assert cheapest([each for each in ways if each.nfe != 7], steady).nfe == 9
    assert cheapest(ways, loose).nfe == 3
    light = [way(each.name, each.distance, None, each.nfe) for each in ways]
    assert cheapest(light, steady).nfe == 5


def test_the_cheapest_way_within_two_percent_is_the_default() -> None:
    ways = [
        Way(str(nfe), Sampling(), nfe, {"pixels": distance}) for nfe, distance in ((3, 1.1), (5, 1.019), (7, 1.0), (9, 1.005))
    ]
    steady, loose = [{"pixels": [5.0, 5.0, 5.0]}] * 4, [{"pixels": [0.9, 1.0, 1.1]}] * 4  # a spread of none, and of a tenth
    assert cheapest(ways, steady).nfe == 5
    assert cheapest(ways, loose).nfe == 3
    assert cheapest([*ways[:1], *ways[2:]], steady).nfe == 7


def test_a_ratio_is_that_of_samples_of_the_same_seeds() -> None:
    assert ratios({"pixels": [1.0, 4.0]}, {"pixels": [2.0, 2.0], "other": [1.0, 1.0]}) == {"pixels": [0.5, 2.0]}
