"""Streaming statistics against numpy, and the laws of merging."""

import numpy as np
import pytest
import torch

from pixelpath.evaluation import statistics


def test_batches_give_the_mean_and_covariance_of_all_rows() -> None:
    rows = torch.randn(101, 7) @ torch.randn(7, 7) + torch.randn(7)
    found = statistics.gather(iter(rows.split([1, 40, 13, 47])))
    expected = rows.double().numpy()
    assert found.count == 101
    np.testing.assert_allclose(found.mean.numpy(), expected.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance.numpy(), np.cov(expected, rowvar=False), rtol=1e-11, atol=1e-12)


def test_merging_does_not_depend_on_the_order() -> None:
    first, second, third = (statistics.of(torch.randn(size, 4) + size) for size in (5, 1, 30))
    left, right = (first + second) + third, third + (second + first)
    torch.testing.assert_close(left.mean, right.mean)
    torch.testing.assert_close(left.scatter, right.scatter)


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    rows = torch.randn(200, 3, dtype=torch.float64)
    near, far = (statistics.gather((rows + shift).split(17)).covariance for shift in (0.0, 1e6))
    torch.testing.assert_close(near, far, rtol=1e-7, atol=1e-9)


def test_mistakes_are_said() -> None:
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        _ = statistics.of(torch.randn(1, 3)).covariance
    with pytest.raises(ValueError, match="at least one batch"):
        statistics.gather([])
    with pytest.raises(ValueError, match="at least one image"):
        statistics.of(torch.empty(0, 3))
    with pytest.raises(ValueError, match="not finite"):
        statistics.of(torch.tensor([[1.0, float("nan")]]))
