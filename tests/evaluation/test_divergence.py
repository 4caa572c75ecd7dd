"""Alarms of divergence: silent for the data's own kind, and one sentence for each moment that leaves its band."""

import math

import pytest
import torch
from torch import Tensor

from pixelpath.evaluation.divergence import Band, Moments, moments, outside, spiked


def kind(count: int = 200, mean: float = 0.1, spread: float = 0.4, structure: float = 0.3) -> Tensor:
    """Two channels: a fixed pattern of +-structure, and independent noise of deviation `spread`; the second twice the first."""
    pattern = torch.tensor([1.0, -1.0]).repeat(32).reshape(8, 8) * structure
    images = mean + pattern + spread * torch.randn(count, 1, 8, 8)
    return torch.cat([images, 2 * images], dim=1)


def test_moments_in_closed_form() -> None:
    images = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])
    found = moments(images)
    assert found.mean == pytest.approx((3.0,))
    assert found.std == pytest.approx((math.sqrt(3.5),))
    assert found.spread == pytest.approx((math.sqrt((2 + 8) / 2),))
    wide = moments(kind(4000))
    assert wide.std == pytest.approx((0.5, 1.0), rel=0.01)
    assert wide.spread == pytest.approx((0.4, 0.8), rel=0.01)
    with pytest.raises(ValueError, match="at least 2 images"):
        moments(images[:1])


def test_samples_of_the_same_kind_raise_no_alarm() -> None:
    data = moments(kind(2000))
    assert outside(kind(64), data) == []
    assert outside(kind(64, mean=0.3, spread=0.55), data) == []


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (kind(64, mean=0.45), ["mean of channel 0"]),
        (kind(64, spread=0.1, structure=0.3), ["spread of channel 0"]),
        (kind(64, spread=1.3), ["std of channel 0", "spread of channel 0"]),
        (torch.full((8, 2, 8, 8), 0.1), ["std of channel 0", "spread of channel 0"]),
        (kind(1).expand(9, 2, 8, 8), ["spread of channel 0"]),
        (torch.full((8, 2, 8, 8), math.nan), ["not finite"]),
    ],
)
def test_each_moment_that_leaves_its_band_is_named(samples: Tensor, words: list[str]) -> None:
    alarms = " ".join(outside(samples, moments(kind(2000))))
    for word in words:
        assert word in alarms


def test_borders_of_the_band() -> None:
    """Two images +-a at one pixel: mean 0, deviation a, spread a sqrt(2)."""

    def pair(size: float, mean: float = 0.0) -> Tensor:
        return torch.tensor([mean - size, mean + size]).reshape(2, 1, 1, 1)

    data, band = Moments((0.0,), (1.0,), (math.sqrt(2),)), Band()
    for size, mean, count in (
        (0.501, 0, 0),
        (1.998, 0, 0),
        (0.498, 0, 2),
        (2.002, 0, 2),
        (1, 0.499, 0),
        (1, -0.501, 1),
        (1, 0.501, 1),
    ):
        assert len(outside(pair(size, mean), data, band)) == count, (size, mean)
    assert outside(pair(3.0), data) == [
        "the std of samples is 3.00 times the data's",
        "the spread of samples is 3.00 times the data's",
    ]
    assert outside(pair(1.0, 0.75), data) == ["the mean of samples is 0.75 stds from the data's"]
    with pytest.raises(ValueError, match="1 channels and the data 2"):
        outside(pair(1.0), Moments((0.0,) * 2, (1.0,) * 2, (1.0,) * 2))


def test_a_spike_is_far_above_the_median_before() -> None:
    steady = [1.0, 1.2, 0.8, 1.1, 0.9] * 20
    assert not spiked(steady)
    assert not spiked([*steady, 4.95])
    assert spiked([*steady, 5.05])
    assert spiked([*steady, math.nan])
    assert spiked([*steady, math.inf])
    assert spiked([math.nan])
    assert not spiked([1.0] * 9 + [100.0])
    assert spiked([1.0] * 10 + [100.0])
    assert spiked([1.0] * 10 + [3.1], factor=3.0)


def test_a_slow_change_is_no_spike() -> None:
    grown = [1.02**step for step in range(400)]
    assert not any(spiked(grown[: step + 1]) for step in range(400))
    assert not spiked([100.0] * 200 + [1.0] * 60 + [4.0])
    assert spiked([100.0] * 200 + [1.0] * 60 + [6.0])


def test_a_channel_that_hardly_varies_is_no_measure_of_itself() -> None:
    """As an alpha that is 1 everywhere: samples a hundredth away are well, samples that vary there as others do are not."""
    images = torch.randn(300, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.5, 0.0])[:, None, None] + 1
    noise = torch.randn(300, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    assert outside(images + 0.01 * noise, moments(images)) == []
    far = outside(images + 0.5 * noise * torch.tensor([0.0, 1.0])[:, None, None], moments(images))
    assert [sentence.split(" of samples")[0] for sentence in far] == ["the std of channel 1", "the spread of channel 1"]
    assert len(outside(images + torch.tensor([0.0, 0.04])[:, None, None], moments(images))) == 1
