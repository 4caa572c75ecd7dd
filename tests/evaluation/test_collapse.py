"""Alarms of collapse against closed forms."""

import math

import pytest
import torch

from pixelpath.evaluation.collapse import effective_rank, feature_std


def test_deviation_is_one_on_the_sphere_and_zero_for_one_feature() -> None:
    assert feature_std(torch.cat([torch.eye(16), -torch.eye(16)])) == pytest.approx(1, rel=1e-12)
    assert feature_std(torch.randn(4000, 64)) == pytest.approx(1, rel=5e-3)
    assert feature_std(torch.randn(1, 8).expand(5, 8)) == pytest.approx(0, abs=1e-7)


def test_deviation_does_not_see_the_length_of_features() -> None:
    rows = torch.randn(20, 6)
    assert feature_std(rows * torch.rand(20, 1).add(0.1)) == pytest.approx(feature_std(rows), rel=1e-6)
    a, b = 0.6, 0.8  # features (a, b) and (a, -b): deviations 0 and b
    assert feature_std(torch.tensor([[a, b], [a, -b]]) * 7) == pytest.approx(b / 2 * math.sqrt(2), rel=1e-6)


def test_effective_rank_counts_equal_directions() -> None:
    directions = torch.linalg.qr(torch.randn(12, 12)).Q[:, :5]
    rows = torch.cat([torch.eye(5), -torch.eye(5)]) @ directions.T
    assert effective_rank(rows + 100 * torch.randn(12)) == pytest.approx(5, rel=1e-4)


def test_effective_rank_of_unequal_singular_values() -> None:
    shares = torch.tensor([0.7, 0.2, 0.1])
    rows = torch.cat([torch.diag(shares), -torch.diag(shares)])
    entropy = -sum(share * math.log(share) for share in (0.7, 0.2, 0.1))
    assert effective_rank(rows) == pytest.approx(math.exp(entropy), rel=1e-6)


def test_effective_rank_of_collapsed_features_is_zero() -> None:
    assert effective_rank(torch.randn(1, 8).expand(9, 8)) == 0
    assert effective_rank(torch.zeros(9, 8)) == 0
