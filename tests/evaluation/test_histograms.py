"""Distances of distributions against closed forms and scipy, and values chosen evenly."""

import math

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from pixelpath.evaluation import histograms
from pixelpath.evaluation.histograms import Values, atom, difference, drawn_edges, histogram, share_of, shares, wasserstein


def test_every_value_of_a_small_set_is_kept() -> None:
    images = np.random.default_rng(0).integers(0, 60000, (9, 7, 3, 5)).astype(np.uint16)
    found = Values(9, 7, 3, 5)
    found.add(images[:4])
    found.add(images[4:])
    for number in range(7):
        assert np.array_equal(found.channel(number), np.sort(images[:, number].ravel()).astype(float))


def test_values_of_a_large_set_are_chosen_evenly_over_places_and_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histograms, "MOST", 2000)
    images = np.arange(100 * 2 * 8 * 12, dtype=np.float32).reshape(100, 2, 8, 12)
    found = Values(100, 2, 8, 12)
    for first in range(0, 100, 9):
        found.add(images[first : first + 9])
    chosen = found.channel(1).astype(int)
    assert 800 < len(chosen) <= 1000
    place, image = chosen % 96, chosen // 192
    assert np.bincount(place, minlength=96).tolist() == pytest.approx(np.full(96, len(chosen) / 96), abs=1)
    assert np.bincount(image, minlength=100).tolist() == pytest.approx(np.full(100, len(chosen) / 100), abs=1)


def test_values_that_are_not_valid_are_left_out() -> None:
    images = np.array([1.0, math.nan, 3.0, -9999.0, math.inf, 0.0], np.float32).reshape(1, 1, 2, 3)
    found = Values(1, 1, 2, 3)
    found.add(images, images != -9999)
    assert found.channel(0).tolist() == [0, 1, 3]
    empty = Values(1, 1, 2, 3)
    empty.add(np.full((1, 1, 2, 3), math.nan))
    with pytest.raises(ValueError, match="Channel 0 holds no valid value"):
        empty.channel(0)


def test_wasserstein_agrees_with_scipy_and_with_a_shift() -> None:
    numbers = np.random.default_rng(1)
    first, second = np.sort(numbers.normal(size=300)), np.sort(numbers.exponential(size=170).round(1))
    assert wasserstein(first, second) == pytest.approx(wasserstein_distance(first, second), rel=1e-12)
    assert wasserstein(first, first + 0.37) == pytest.approx(0.37)


def test_the_difference_of_a_shifted_uniform_law() -> None:
    """Uniform on [0, 1] and on [.25, 1.25]: total variation 1/4, Wasserstein 1/4, every quantile .25 too large."""
    uniform = (np.arange(20000) + 0.5) / 20000
    found = difference(uniform, uniform + 0.25)
    assert found.total_variation == pytest.approx(0.25, abs=1e-3)
    assert found.wasserstein == pytest.approx(0.25, rel=1e-9)
    assert found.errors == pytest.approx([0.25] * 4, rel=1e-9)
    same = difference(uniform, uniform)
    assert (same.total_variation, same.wasserstein, same.errors) == (0, 0, (0, 0, 0, 0))


def test_zeros_that_became_nearly_zero_are_seen() -> None:
    """60 % zeros in training, 40 % and 20 % of 1e-6 in samples: the atom is a bin of its own, so a fifth has moved."""
    rest = np.linspace(1, 2, 400)
    training, samples = np.sort(np.r_[np.zeros(600), rest]), np.sort(np.r_[np.zeros(400), np.full(200, 1e-6), rest])
    assert atom(training) == 0
    assert (share_of(training, 0.0), share_of(samples, 0.0)) == (0.6, 0.4)
    assert difference(training, samples).total_variation == pytest.approx(0.2)
    assert difference(training, samples).wasserstein == pytest.approx(200 * 1e-6 / 1000)


def test_outer_bins_go_on() -> None:
    assert shares(np.array([-5.0, 0.0, 1.0, 1.5, 2.0, 9.0]), np.array([0.0, 1.0, 2.0])).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_bins_of_whole_numbers_lie_between_them() -> None:
    edges = drawn_edges(np.array([0.0, 3.0, 255.0]), whole=True)
    assert edges.tolist() == [place * 4 - 0.5 for place in range(65)]
    assert drawn_edges(np.array([2.0, 5.0]), whole=True).tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]
    assert len(drawn_edges(np.array([3.0, 3.0]), whole=False)) == 2


def test_rows_of_a_histogram() -> None:
    rows = histogram("a", np.array([0.0, 1.0, 1.0, 2.0]), None, np.array([-1.0, 2.0]), whole=True)
    assert [(row.lower, row.upper, row.training, row.held_out, row.samples) for row in rows] == [
        (-0.5, 0.5, 0.25, None, 0.5), (0.5, 1.5, 0.5, None, 0), (1.5, 2.5, 0.25, None, 0.5),
    ]  # fmt: skip
