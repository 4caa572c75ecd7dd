"""Where the quantiles of samples fall by chance, against repetitions and the hypergeometric law."""

from __future__ import annotations

import numpy as np

from pixelpath.evaluation.radii import between


def test_samples_of_the_same_law_fall_between() -> None:
    """In 2,000 repetitions each rank is inside 95 times in 100, for any law; ends beyond all values are infinite."""
    chance = np.random.default_rng(0)
    truth, samples = (np.sort(chance.standard_cauchy((2000, count)), axis=1) for count in (60, 40))
    for rank in (1, 20, 38):
        low, high = np.array([between(row, 40, rank) for row in truth]).T
        inside = (low <= samples[:, rank - 1]) & (samples[:, rank - 1] < high)
        assert 0.94 < inside.mean() < 0.985  # ranks are whole, so that it is at least 0.95 and somewhat more
    assert between(np.array([1.0]), 1, 1) == (-np.inf, np.inf)
    assert between(np.arange(100.0), 100, 100)[1] == np.inf
    assert between(np.arange(100.0), 100, 1)[0] == -np.inf


def test_interval_against_the_hypergeometric_law() -> None:
    """At least a true values lie below the j-th sample if fewer than j samples are among the a + j - 1 least of all."""
    from scipy.stats import hypergeom

    total, count, rank = 83, 57, 50
    low, high = between(np.arange(1.0, total + 1), count, rank)  # the k-th value is k
    below = [1 - hypergeom.cdf(rank - 1, total + count, count, number + rank) for number in range(total + 1)]  # P(K <= number)
    assert low == sum(share <= 0.025 for share in below)
    assert high == next(number for number, share in enumerate(below) if share >= 0.975) + 1
