"""Copies are found in the share in which they are there, and chance is not taken for copying: closed forms and enumerations."""

import itertools
import math

import pytest
import torch
from scipy.stats import betabinom
from sklearn.neighbors import NearestNeighbors

from pixelpath.evaluation.copies import Neighbours, closeness, quantiles, search, suspects


def draw(count: int, seed: int, width: int = 3) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + 100


def close(samples: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor):
    (near, _), hits = search(samples, [training[None], held_out[None]])
    real = search(held_out, [training[None]])[0][0]
    return closeness(near.distance, real.distance, hits)


def test_neighbours_are_those_of_another_implementation() -> None:
    rows, others = draw(50, 0), draw(70, 1)
    (found,), hits = search(rows, [others[None]])
    distances, indices = NearestNeighbors(n_neighbors=1).fit(others.double().numpy()).kneighbors(rows.double().numpy())
    assert found.index.tolist() == indices[:, 0].tolist()
    assert found.distance.tolist() == pytest.approx(distances[:, 0].tolist(), rel=1e-9)
    assert found.view.tolist() == [0] * 50
    assert torch.equal(hits, torch.bincount(found.index, minlength=70).double())


def test_the_nearest_view_counts_and_is_named() -> None:
    others = torch.tensor([[[0.0], [10.0]], [[5.0], [-3.0]]])  # images at 0 and 10, mirrored at 5 and -3
    (found,), hits = search(torch.tensor([[1.0], [4.0], [-4.0], [9.0]]), [others])
    assert found.index.tolist() == [0, 0, 1, 1]
    assert found.view.tolist() == [0, 1, 1, 0]
    assert found.distance.tolist() == [1, 1, 1, 1]
    assert hits.tolist() == [2, 2]


def test_images_equally_near_share_a_hit() -> None:
    (_, _), hits = search(torch.zeros(3, 2), [torch.zeros(1, 2, 2), torch.tensor([[[0.0, 0.0], [1.0, 0.0]]])])
    assert hits.tolist() == pytest.approx([1, 1, 1, 0])


def test_a_copy_is_at_distance_0_exactly_far_from_the_origin_too() -> None:
    images = draw(40, 3, width=64) + 1e5
    (found,), _ = search(images[7:9], [images[None]])
    assert found.distance.tolist() == [0, 0]
    assert found.index.tolist() == [7, 8]


@pytest.mark.parametrize("held_out", [60, 15])
def test_copies_alone_and_half_of_them(held_out: int) -> None:
    """All copies: 1. As many copies as samples that hit every image of the pool once: exactly half copies, so 3/4."""
    training, others = draw(60, 0), draw(held_out, 1)
    assert close(training, training, others).closer == pytest.approx(1)
    pool = torch.cat([training, others])
    copied = training[torch.arange(len(pool)) % 60]
    assert close(torch.cat([pool, copied]), training, others).closer == pytest.approx(0.75)


@pytest.mark.parametrize("held_out", [40, 10])
def test_samples_of_the_same_law_are_within_the_error_that_is_given(held_out: int) -> None:
    """Over many draws (closer - 1/2) / error has mean 0 and deviation 1, and `below` its expectation."""
    scores, below = [], []
    for seed in range(150):
        found = close(draw(30, 3 * seed), draw(40, 3 * seed + 1), draw(held_out, 3 * seed + 2))
        scores.append((found.closer - 0.5) / found.closer_error)
        below.append((found.below - found.below_expected) / found.below_error)
    for values in (torch.tensor(scores), torch.tensor(below)):
        assert abs(float(values.mean())) < 4 / 150**0.5
        assert float(values.std()) == pytest.approx(1, abs=4 / 300**0.5)


def test_the_error_is_the_deviation_over_all_ways_to_have_split_the_pool() -> None:
    hits = torch.tensor([5.0, 0.0, 2.5, 0.5, 1.0, 3.0], dtype=torch.float64)
    values = []
    for seen in itertools.combinations(range(6), 4):
        order = [*seen, *(place for place in range(6) if place not in seen)]
        values.append(closeness(torch.ones(12), torch.ones(2), hits[order]))
    shares = torch.tensor([value.closer for value in values], dtype=torch.float64)
    assert float(shares.mean()) == pytest.approx(0.5)
    assert [value.closer_error for value in values] == pytest.approx([float(shares.std(correction=0))] * len(values))


def test_as_near_as_the_nearest_hundredth() -> None:
    """With 199 held-out distances the limit is the 2nd smallest: a Beta-binomial number of samples is as near."""
    held_out, samples = torch.arange(1, 200).double(), torch.tensor([0.5, 1.0, 2.0, 2.5, 7.0]).double()
    found = closeness(samples, held_out, torch.ones(300).double())
    assert (found.below, found.below_expected) == (pytest.approx(3 / 5), pytest.approx(2 / 200))
    assert found.below_error == pytest.approx(betabinom.std(5, 2, 198) / 5)
    tied = closeness(samples.clamp(min=3), held_out.clamp(min=3), torch.ones(300).double())  # three at the limit
    assert (tied.below, tied.below_expected) == (pytest.approx(4 / 5), pytest.approx(3 / 200))


def test_copying_is_said_when_it_is_certain() -> None:
    training, others = draw(60, 0), draw(60, 1)
    assert close(training, training, others).copying
    assert not close(draw(60, 2), training, others).copying


def test_suspects_are_nearer_than_held_out_images_come() -> None:
    training = Neighbours(torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.tensor([3.0, 0.0, 1.0, 0.0]).double())
    held_out = Neighbours(torch.arange(4), torch.zeros(4, dtype=torch.int64), torch.tensor([30.0, 0.0, 2.0, 5.0]).double())
    assert suspects(training, held_out, 3) == [3, 0, 2]  # ratios 0, .1, .5; the blank one that both sides have last
    assert suspects(training, None, 2) == [1, 3]


def test_quantiles_of_distances() -> None:
    found = quantiles(torch.arange(1, 102).double())
    assert found == {"least": 1, "hundredth": pytest.approx(2), "tenth": pytest.approx(11), "median": pytest.approx(51)}
    assert not any(math.isnan(value) for value in found.values())


def test_empty_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="one image in every set"):
        search(draw(3, 0), [torch.zeros(1, 0, 3)])
