"""Probes against votes counted by hand, and against scikit-learn."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from pixelpath import randomness
from pixelpath.evaluation.probe import by_content, linear_accuracy, nearest_accuracy, noisy_features, probe, probe_levels
from pixelpath.noise import NoiseRange


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    data, target = load_digits(return_X_y=True)
    x, y = torch.tensor(data, dtype=torch.float32), torch.tensor(target)
    return x[:600], y[:600], x[600:800], y[600:800]


@pytest.mark.parametrize(("ratio", "winner"), [(1.99, 0), (2.01, 1)])
def test_a_vote_weighs_the_exponential_of_the_cosine(ratio: float, winner: int) -> None:
    """Two neighbours of class 0 at cosine c against one of class 1 at c + 0.07 ln(ratio): it wins if the ratio is above two."""
    near, far = 0.9, 0.9 - 0.07 * math.log(ratio)
    train = torch.tensor([[c, math.sqrt(1 - c * c)] for c in (far, far, near)], dtype=torch.float64)
    test = torch.tensor([[5.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    assert nearest_accuracy(train, labels, test, torch.tensor([winner])) == 1


def test_only_the_nearest_vote() -> None:
    train = torch.tensor([[1.0, 0.0]] + [[1.0, 0.1]] * 19 + [[1.0, 0.2]] * 40)
    labels = torch.tensor([0] * 20 + [1] * 40)
    test, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert nearest_accuracy(train, labels, test, label) == 1
    assert nearest_accuracy(train, labels, test, label, neighbours=60) == 0


def test_exactly_twenty_neighbours_vote() -> None:
    """Ten of class 1 are a little nearer than ten of class 0; one more of class 0, just beyond, would turn the vote."""
    train = torch.tensor([[1.0, 0.1]] * 10 + [[1.0, 0.1001]] * 10 + [[1.0, 0.1002]] * 5)
    labels = torch.tensor([1] * 10 + [0] * 15)
    assert nearest_accuracy(train, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == 1
    assert nearest_accuracy(train, labels, torch.tensor([[1.0, 0.0]]), torch.tensor([0]), neighbours=21) == 1


def test_nearest_agrees_with_scikit_learn_on_digits() -> None:
    train, train_labels, test, test_labels = digits()
    peer = KNeighborsClassifier(20, metric="cosine")
    peer.set_params(weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = peer.fit(train.numpy(), train_labels.numpy()).score(test.numpy(), test_labels.numpy())
    assert nearest_accuracy(train, train_labels, test, test_labels) == pytest.approx(expected, abs=0.0051)
    assert expected > 0.85


def test_linear_probe_separates_what_is_linear_and_ignores_scale_and_constants() -> None:
    x = torch.randn(200, 5)
    labels = (x[:, 0] - 2 * x[:, 3] > 0).long()
    scaled = torch.cat([x * torch.tensor([1e-3, 1.0, 10.0, 1e3, 1.0]) + 4, torch.full((200, 1), 3.0)], dim=1)
    plain = linear_accuracy(x[:150], labels[:150], x[150:], labels[150:])
    assert plain > 0.9
    assert linear_accuracy(scaled[:150], labels[:150], scaled[150:], labels[150:]) == pytest.approx(plain, abs=0.021)
    circle = (x[:, :2].norm(dim=1) > 1.18).long()
    assert linear_accuracy(x[:150], circle[:150], x[150:], circle[150:]) < 0.75


def test_linear_probe_is_the_penalised_optimum() -> None:
    """The border between two classes on a line is where scipy's minimiser of the objective puts it (1 % of C moves it 0.016)."""
    x, labels = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 9.0]), np.array([0, 0, 0, 0, 1, 0, 1])
    z, signs = (x - x.mean()) / x.std(ddof=1), 2 * labels - 1
    found = minimize(lambda p: np.logaddexp(0, -signs * (p[0] * z + p[1])).sum() + p[0] ** 2 / 2, [0, 0], options={"gtol": 1e-9})
    border = x.mean() - found.x[1] / found.x[0] * x.std(ddof=1)
    points = border + torch.linspace(-1, 1, 2001).unsqueeze(1)
    sides = (points[:, 0] > border).long()
    train = torch.tensor(x, dtype=torch.float32).unsqueeze(1)
    assert linear_accuracy(train, torch.tensor(labels), points.float(), sides) > 0.997


def test_a_single_class_is_said() -> None:
    with pytest.raises(ValueError, match="2 or more classes"):
        linear_accuracy(torch.randn(5, 2), torch.zeros(5, dtype=torch.long), torch.randn(5, 2), torch.zeros(5, dtype=torch.long))


def test_levels_are_even_in_their_logarithm() -> None:
    levels = probe_levels(NoiseRange(), 6)
    assert (levels[0], levels[-1]) == pytest.approx((0.002, 5.0), rel=1e-12)
    steps = [math.log(b / a) for a, b in pairwise(levels)]
    assert steps == pytest.approx([math.log(2500) / 5] * 5, rel=1e-12)
    small = probe_levels(NoiseRange(sigma_max=16.0).for_resolution(8.0), 3)  # runs from 0.00025 to 2
    assert (small[0], small[-1]) == pytest.approx((0.00025, 2.0), rel=1e-12)


def test_rows_name_their_features_level_and_counts_and_noise_hurts() -> None:
    train, train_labels, test, test_labels = digits()
    levels = (0.002, 5.0)

    images = (((train / 16 - 0.3).reshape(-1, 1, 8, 8)), (test / 16 - 0.3).reshape(-1, 1, 8, 8))
    clean, noisy = probe(lambda noisy, _: noisy.flatten(1), images, (train_labels, test_labels), levels, "pixels")
    assert (clean.name, clean.sigma, clean.train_count, clean.test_count) == ("pixels", 0.002, 600, 200)
    assert min(clean.nearest, clean.linear) > 0.85
    assert max(noisy.nearest, noisy.linear) < 0.4


def test_noise_of_an_image_is_its_seeds_alone() -> None:
    images, seeds = torch.randn(7, 1, 4, 4), list(range(7))
    whole, parts = (noisy_features(lambda noisy, _: noisy.flatten(1), images, 2.0, seeds, batch_size=size) for size in (7, 3))
    assert torch.equal(whole, parts)
    drawn = randomness.normal(randomness.Streams([4]), (1, 4, 4))[0]
    torch.testing.assert_close(whole[4], (images[4] + 2.0 * drawn).flatten())
    assert noisy_features(lambda noisy, sigma: sigma.unsqueeze(1), images, 2.0, seeds).tolist() == [[2.0]] * 7


def test_features_know_images_by_content_or_by_noise() -> None:
    """The mean of a flat image is its content, the rest is noise; of pixels the larger of the two counts."""
    images = torch.linspace(-1, 1, 64)[torch.randperm(64)][:, None, None, None].expand(-1, 1, 16, 16)

    def mean(noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = noisy.mean((1, 2, 3))
        return torch.stack([level.cos(), level.sin()], dim=1)

    assert by_content(mean, images, 0.1) > 0.9
    assert by_content(lambda noisy, _: (noisy - noisy.mean((1, 2, 3), keepdim=True)).flatten(1), images, 0.1) < 0.1
    patterns = torch.randn(64, 1, 16, 16)
    assert by_content(lambda noisy, _: noisy.flatten(1), patterns, 0.1) > 0.9
    assert by_content(lambda noisy, _: noisy.flatten(1), patterns, 10.0) < 0.1
