"""Distances against closed forms, and against independent implementations to 1e-3 relative and better."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors

from pixelpath.errors import UserError
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import (
    FAR,
    Floor,
    density_coverage,
    drawn,
    frechet,
    frechet_of_rows,
    frechet_of_sets,
    kernel,
    manifolds,
    precision_recall,
    real_floor,
    rounded,
)
from pixelpath.evaluation.statistics import Moments, Statistics
from pixelpath.randomness import Streams, permutation


def gaussian(mean: list[float], covariance: list[list[float]]) -> Statistics:
    return Statistics(101, torch.tensor(mean, dtype=torch.float64), torch.tensor(covariance, dtype=torch.float64) * 100)


def features(count: int, width: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=source) @ torch.randn(width, width, generator=source) / width**0.5 + shift


def test_frechet_of_commuting_gaussians() -> None:
    first = gaussian([0.0, 0.0, 1.0], [[4.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.25]])
    second = gaussian([1.0, 2.0, 1.0], [[1.0, 0.0, 0.0], [0.0, 16.0, 0.0], [0.0, 0.0, 0.25]])
    assert frechet(first, second) == pytest.approx(5.0 + (2 - 1) ** 2 + (3 - 4) ** 2, rel=1e-12)


def test_frechet_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), here with M similar to A B."""
    a, b = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[5.0, -2.0], [-2.0, 1.0]])
    assert not np.allclose(a @ b, b @ a)
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    expected = 3**2 + 4**2 + np.trace(a) + np.trace(b) - 2 * root
    assert frechet(gaussian([0.0, 4.0], a.tolist()), gaussian([3.0, 0.0], b.tolist())) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("count", [400, 20])  # 20 images in 32 dimensions: both covariances are singular
def test_frechet_agrees_with_the_matrix_root_of_scipy(count: int) -> None:
    first, second = features(count, 32, 1), features(count + 5, 32, 2, shift=0.1)
    mean, other_mean = first.double().numpy().mean(0), second.double().numpy().mean(0)
    covariance, other = np.cov(first.double().numpy(), rowvar=False), np.cov(second.double().numpy(), rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(covariance @ other + 1e-14 * np.eye(32))))
    expected = ((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other) - 2 * np.trace(root)
    assert frechet(statistics.of(first), statistics.of(second)) == pytest.approx(expected, rel=1e-4)


def test_frechet_is_symmetric_and_does_not_see_rotations_or_shifts_and_scales_as_a_square() -> None:
    first, second = features(300, 8, 1).double(), features(200, 8, 2, shift=0.3).double()
    rot90 = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64)).Q
    expected = frechet(statistics.of(first), statistics.of(second))
    assert frechet(statistics.of(second), statistics.of(first)) == pytest.approx(expected, rel=1e-9)
    assert frechet(statistics.of(first @ rot90 + 7), statistics.of(second @ rot90 + 7)) == pytest.approx(expected, rel=1e-9)
    assert frechet(statistics.of(first * 3), statistics.of(second * 3)) == pytest.approx(9 * expected, rel=1e-9)
    assert frechet(statistics.of(first), statistics.of(first)) == pytest.approx(0, abs=1e-6)


def test_frechet_says_that_widths_differ() -> None:
    with pytest.raises(ValueError, match="one width, got 3 and 4"):
        frechet(statistics.of(torch.randn(5, 3)), statistics.of(torch.randn(5, 4)))


def test_kernel_distance_of_two_pairs_by_hand() -> None:
    first, second = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[2.0, 2.0], [0.0, 0.0]])
    across = (2**3 + 1 + 3**3 + 1) / 4  # x.y / 2 + 1 is 2, 1, 3 and 1
    expected = 1 + 1 - 2 * across  # within each set the only product is 0: kernel 1
    found = kernel(first, second, subsets=3)
    assert found.mean == pytest.approx(expected, rel=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12)
    assert (found.size, found.subsets) == (2, 3)


def test_kernel_distance_agrees_with_scikit_learn() -> None:
    first, second = features(150, 10, 1), features(150, 10, 2, shift=0.2)

    def unbiased(x: np.ndarray, y: np.ndarray) -> float:
        within = [polynomial_kernel(z, degree=3, gamma=1 / 10, coef0=1)[~np.eye(len(z), dtype=bool)].mean() for z in (x, y)]
        return sum(within) - 2 * polynomial_kernel(x, y, degree=3, gamma=1 / 10, coef0=1).mean()

    expected = unbiased(first.double().numpy(), second.double().numpy())
    assert kernel(first, second, subsets=1).mean == pytest.approx(expected, rel=1e-9)
    parts = kernel(first, second, subsets=60, size=60)
    assert parts.mean == pytest.approx(expected, abs=4 * parts.std / 60**0.5)
    assert parts.std > 0


def test_kernel_distance_is_unbiased_and_a_function_of_its_seed() -> None:
    rows = features(4000, 6, 1)
    values = [kernel(part[:20], part[20:], subsets=1).mean for part in rows.split(40)]
    error = np.std(values) / len(values) ** 0.5
    assert abs(np.mean(values)) < 3 * error
    first, second = rows[:100], rows[100:200]
    assert kernel(first, second, 4, 30, seed=5) == kernel(first, second, 4, 30, seed=5)
    assert kernel(first, second, 4, 30, seed=5) != kernel(first, second, 4, 30, seed=6)


def test_precision_and_recall_by_hand() -> None:
    """One neighbour on a line: the real balls have radius 1, the generated ones 0.5 about the first pair and 98.5 about 100."""
    real = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    generated = torch.tensor([[1.0], [1.5], [100.0]])
    found = precision_recall(real, generated, neighbours=1)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(3 / 4)  # 1 is near; 10 and 11 are within 98.5 of 100; 0 is in no ball
    assert precision_recall(generated, real, neighbours=1).precision == found.recall


@pytest.mark.parametrize("neighbours", [3, 5])
def test_precision_and_recall_agree_with_scikit_learn(neighbours: int) -> None:
    real, generated = features(120, 4, 1), features(90, 4, 1, shift=0.5) * 0.8

    def inside(rows: np.ndarray, centres: np.ndarray) -> float:
        radii = NearestNeighbors(n_neighbors=neighbours).fit(centres).kneighbors()[0][:, -1]  # without the point itself
        return float((cdist(rows, centres) <= radii).any(1).mean())

    found = precision_recall(real, generated, neighbours)
    assert 0 < found.recall < 1
    assert 0 < found.precision < 1
    assert found.precision == pytest.approx(inside(generated.double().numpy(), real.double().numpy()))
    assert found.recall == pytest.approx(inside(real.double().numpy(), generated.double().numpy()))


def test_equal_sets_have_precision_and_recall_of_one_and_apart_sets_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelpath.evaluation.distances.CHUNK", 100)  # several chunks
    rows = features(50, 5, 1)
    same, apart = precision_recall(rows, rows.clone()), precision_recall(rows, rows + 1000)
    assert (same.precision, same.recall) == (1, 1)
    assert (apart.precision, apart.recall) == (0, 0)


def test_too_few_images_are_said() -> None:
    with pytest.raises(ValueError, match="more than 3 images of each set, got 3 real and 9 generated"):
        precision_recall(torch.randn(3, 2), torch.randn(9, 2))
    with pytest.raises(ValueError, match="at least 2 images"):
        kernel(torch.randn(1, 2), torch.randn(9, 2))


def test_the_floor_compares_disjoint_parts_of_the_asked_counts() -> None:
    rows = torch.arange(30.0).unsqueeze(1)
    floor = real_floor(rows, count=10, seed=3)
    assert (floor.first_count, floor.second_count) == (10, 20)
    order = permutation(Streams([3]), 30)
    assert floor.distance == frechet(statistics.of(rows[order[:10]]), statistics.of(rows[order[10:]]))
    assert real_floor(rows, count=25).first_count == 15  # half of the images, and it says so
    held_out = real_floor(rows, 8, held_out=rows + 100)
    assert (held_out.first_count, held_out.second_count) == (8, 30)
    assert held_out.distance > 90**2
    assert isinstance(held_out, Floor)


def test_the_floor_falls_as_one_over_the_counts() -> None:
    """For a standard normal of one dimension it is about (1/n + 1/m) (1 + 1/2): means and deviations both stray."""
    floors = [real_floor(torch.randn(400, 1), count=100, seed=seed).distance for seed in range(600)]
    expected = 1.5 * (1 / 100 + 1 / 300)
    assert np.mean(floors) == pytest.approx(expected, rel=4 * np.std(floors) / 600**0.5 / expected)


@pytest.mark.parametrize("count", [12, 60])  # fewer and more images than the 20 features
def test_frechet_of_features_and_moments_in_any_mix(count: int) -> None:
    first, second = features(count, 20, 1), features(count + 7, 20, 2, shift=0.2)
    known = [Moments(each.mean, each.covariance) for each in map(statistics.of, (first, second))]
    expected = frechet(*known)
    for mix in ((first, second), (first, known[1]), (known[0], second), tuple(known)):
        assert frechet_of_sets(*mix) == pytest.approx(expected, rel=1e-7)
    with pytest.raises(UserError, match="one width, got 20 and 3"):
        frechet_of_sets(first, Moments(torch.zeros(3), torch.eye(3)))


def test_density_and_coverage_by_hand() -> None:
    """One neighbour: balls of radius 1 about 0 and 1, of 9 about 10; 0.5 is in two of them, 15 and 100 in the last and none."""
    real, generated = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[0.5], [15.0], [100.0]])
    found = density_coverage(real, generated, neighbours=1)
    assert (found.density, found.coverage) == (pytest.approx(3 / 3), pytest.approx(3 / 3))
    fewer = density_coverage(real, generated[[0, 2, 2]], neighbours=1)
    assert (fewer.density, fewer.coverage) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_density_and_coverage_agree_with_scikit_learn() -> None:
    real, generated = features(120, 4, 1), features(90, 4, 1, shift=0.5) * 0.8
    ours, theirs = real.double().numpy(), generated.double().numpy()
    radii = NearestNeighbors(n_neighbors=5).fit(ours).kneighbors()[0][:, -1]
    inside = cdist(theirs, ours) <= radii
    found = density_coverage(real, generated)
    assert found.density == pytest.approx(inside.sum() / 5 / 90)
    assert found.coverage == pytest.approx(inside.any(0).mean())
    assert 0 < found.coverage < 1


def test_neighbours_are_those_of_a_random_subset_of_a_large_set() -> None:
    """Rows in order of two classes: the first ones alone would be one class."""
    rows = torch.cat([torch.zeros(300, 2), torch.ones(300, 2)]) + 0.01 * torch.randn(600, 2)
    chosen = drawn(rows, 100, seed=3)
    assert 25 < int((chosen[:, 0] > 0.5).sum()) < 75
    assert torch.equal(chosen, drawn(rows, 100, seed=3))
    assert torch.equal(drawn(rows, 600, seed=3), rows)
    found = precision_recall(rows, rows[300:], most=100)
    assert (found.real, found.generated) == (100, 100)
    assert 0.25 < found.recall < 0.75  # of the first 100 images alone none


def test_neighbours_do_not_see_a_large_offset() -> None:
    real, generated = features(80, 3, 1).double(), features(70, 3, 2).double()
    near, far = (
        (precision_recall(real + offset, generated + offset), density_coverage(real + offset, generated + offset))
        for offset in (0, 2.0**30)
    )
    assert near == far
    assert frechet_of_rows(real + 2.0**30, generated + 2.0**30) == pytest.approx(frechet_of_rows(real, generated), rel=1e-5)


def test_rounding_at_large_offsets_is_known() -> None:
    rows = features(50, 3, 1).double()
    assert rounded(rows, rows + 1) is None
    assert rounded(rows + 1e8, rows + 1e8) == pytest.approx(1e8 / float(rows.std(0).max()), rel=0.02)
    assert rounded(torch.ones(5, 2), torch.ones(5, 2)) is None
    assert FAR == 1e6


def test_features_that_are_not_finite_are_an_error_everywhere() -> None:
    good, bad = torch.randn(9, 2), torch.randn(9, 2)
    bad[3, 1] = torch.nan
    for measure in (kernel, precision_recall, density_coverage, frechet_of_rows, frechet_of_sets):
        for pair in ((good, bad), (bad, good)):
            with pytest.raises(UserError, match="1 of 9 features are not finite, the first of them number 3"):
                measure(*pair)


@pytest.mark.parametrize("most", [1000, 60])
def test_manifolds_of_one_pass_are_those_of_each_measure(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr("pixelpath.evaluation.distances.CHUNK", 500)  # several chunks
    real, generated = features(120, 4, 1), features(90, 4, 1, shift=0.5) * 0.8
    near, dense = manifolds(real, generated, 3, 5, most)
    assert near == precision_recall(real, generated, 3, most)
    assert dense == density_coverage(real, generated, 5, most)
    assert manifolds(real, generated, 3, None, most) == (near, None)


def test_frechet_of_few_features_and_the_statistics_of_many() -> None:
    few, many = features(12, 40, 1), features(500, 40, 2, shift=0.2)
    assert frechet_of_sets(few, statistics.of(many)) == pytest.approx(frechet_of_sets(few, many), rel=1e-9)
