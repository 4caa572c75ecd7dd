"""Copies, near-copies and series are found where they were put, and nowhere else."""

import numpy as np
import pytest
from tests.arrays import array_source

from pixelpath.evaluation import alike
from pixelpath.evaluation.survey import survey

NUMBERS = np.random.default_rng(0)


def smooth(count: int, side: int = 16) -> np.ndarray:
    """Images of a few waves, float32."""
    waves = NUMBERS.normal(0, 1, (count, 1, 5, 5))
    return np.stack([[np.kron(plane, np.ones((4, 4)))[:side, :side] for plane in image] for image in waves]).astype(np.float32)


def test_the_difference_is_what_its_definition_says() -> None:
    a, b, scale = NUMBERS.normal(0, 1, (1, 40, 40)), NUMBERS.normal(0, 1, (1, 40, 40)), np.ones(1)
    assert alike.difference(a, a + 5, scale) == pytest.approx(0, abs=1e-12)
    assert alike.difference(a, -a, scale) == pytest.approx(2)
    assert alike.difference(a, b, scale) == pytest.approx(np.sqrt(2), rel=0.05)
    noisy = a + 0.1 * b
    expected = 0.1 * b.std() / np.sqrt((a.var() + noisy.var()) / 2)
    assert alike.difference(a, noisy, scale) == pytest.approx(expected)
    assert np.isinf(alike.difference(np.ones((1, 4, 4)), np.ones((1, 4, 4)), scale))


def test_near_copies_are_found_and_confirmed_mirrored_ones_if_asked_for() -> None:
    images = smooth(60)
    images[10] = images[11] + NUMBERS.normal(0, 0.05, images[11].shape)
    images[20] = images[21][..., ::-1]
    images[30] = np.rot90(images[31], 1, (-2, -1))
    images[40] = 3.0
    found = survey(array_source(images))
    scale = np.array([channel.std for channel in found.channels])
    for views, expected in (
        (alike.AS_IS, {(10, 11)}),
        (alike.views_of(16, 16, True), {(10, 11), (20, 21), (30, 31)}),
        (alike.views_of(16, 20, True), {(10, 11), (20, 21)}),
    ):
        near = alike.nearest(found.signatures, views=views)
        assert np.isinf(near.difference[40])
        pairs = alike.confirmed(near, lambda n: images[n], lambda n: images[n], scale, 100, within=True)
        assert {(min(pair.first, pair.second), max(pair.first, pair.second)) for pair in pairs} == expected
        assert len(pairs) == len(expected)


def test_nearest_by_signatures_is_the_nearest_by_all_pairs() -> None:
    ours, theirs = (NUMBERS.normal(0, 1, (20, 2, 4, 4)) for _ in range(2))
    ours, theirs = ours - ours.mean((2, 3), keepdims=True), theirs - theirs.mean((2, 3), keepdims=True)
    table = np.array([[alike.difference(a, b, np.ones(2)) for b in theirs] for a in ours])
    found = alike.nearest(ours, theirs)
    assert np.array_equal(found.index, table.argmin(1))
    assert np.allclose(found.difference, table.min(1), atol=1e-5)


def test_equal_hashes_are_grouped_and_found_across_sets() -> None:
    digests = np.array([b"a", b"b", b"a", b"c", b"c", b"a"])
    nothing = np.zeros(6, bool)
    assert alike.groups_of(digests, nothing) == [[0, 2, 5], [3, 4]]
    assert alike.groups_of(digests, digests == b"c") == [[0, 2, 5]]
    assert alike.shared(np.array([b"x", b"c"]), digests, np.zeros(2, bool)) == [(1, 3)]


def test_a_series_is_told_from_a_set_sorted_by_class() -> None:
    labels = np.repeat(np.arange(5), 40)
    kinds = NUMBERS.normal(0, 1, (5, 1, 8, 8))
    by_class = kinds[labels] + 0.3 * NUMBERS.normal(0, 1, (200, 1, 8, 8))
    steps = np.cumsum(NUMBERS.normal(0, 1, (200, 1, 8, 8)), axis=0)
    for images, series in ((by_class, False), (steps, True)):
        found = alike.nearest(images - images.mean((2, 3), keepdims=True))
        assert alike.in_order(found, np.arange(200), labels * (not series)).matters is series


def test_runs_are_evenly_spread() -> None:
    assert np.array_equal(alike.chosen_runs(70, 100), np.arange(70))
    found = alike.chosen_runs(100_000, 1000)
    assert len(found) == 1000
    assert (found[0], found[49], found[50], found[-1]) == (0, 49, 5261, 99_999)
