"""Spectra against Parseval's identity, waves of known frequency, white noise and power laws."""

import math

import numpy as np
import pytest

from pixelpath.evaluation.spectrum import Spectrum, SpectrumSum, log_distance


def spectrum_of(images: np.ndarray, batch: int = 7) -> Spectrum:
    found = SpectrumSum(*images.shape[1:])
    for first in range(0, len(images), batch):
        found.add(images[first : first + batch])
    return found.spectrum()


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 6, 11), (4, 16, 8), (7, 5, 7), (13, 4, 24), (3, 1, 20)])
def test_power_adds_up_to_the_variance_within_images(shape: tuple[int, int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 60000, (9, *shape)).astype(np.uint16)
    found = spectrum_of(images)
    assert found.variance == pytest.approx(images.astype(float).var((2, 3)).mean(0), rel=1e-12)
    assert found.modes.sum() == shape[1] * shape[2] - 1
    assert (np.diff(found.frequency) > 0).all()
    assert found.frequency[-1] <= math.sqrt(0.5)


@pytest.mark.parametrize(("rows", "columns", "k", "l"), [(16, 16, 3, 0), (16, 48, 6, 2), (48, 16, 0, 9), (10, 12, 6, 5)])
def test_a_wave_has_its_power_at_its_frequency(rows: int, columns: int, k: int, l: int) -> None:  # noqa: E741
    place = 2 * np.pi * (l * np.arange(rows)[:, None] / rows + k * np.arange(columns) / columns)
    images = (5 + 3 * np.cos(place))[None, None]
    found = spectrum_of(images)
    at = int(found.power[0].argmax())
    width = 1 / max(min(rows, columns), 8)
    assert abs(found.frequency[at] - math.hypot(k / columns, l / rows)) <= width
    assert found.power[0, at] * found.modes[at] == pytest.approx(images.var(), rel=1e-9)


def test_white_noise_is_flat_and_a_scale_is_a_log_distance() -> None:
    images = np.random.default_rng(1).normal(0, 3, (400, 2, 12, 18)).astype(np.float32)
    found = spectrum_of(images)
    assert found.power == pytest.approx(np.full_like(found.power, 9 / (12 * 18)), rel=0.08)
    other = spectrum_of(images * np.array([1.0, 1.1], np.float32)[:, None, None])
    assert log_distance(other, found) == pytest.approx([0, 2 * math.log(1.1)], abs=1e-5)
    assert log_distance(found, other)[1] == pytest.approx(2 * math.log(1.1), rel=1e-4)


def test_the_log_distance_is_the_root_mean_square_over_bins() -> None:
    bins = np.ones(3)
    first, second = (Spectrum(np.array([power]), bins, bins) for power in ([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]))
    assert log_distance(first, second)[0] == pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(3) ** 2) / 3))


def test_a_constant_channel_has_no_log_distance_and_vanishing_power_a_finite_one() -> None:
    images = np.random.default_rng(2).normal(size=(3, 2, 8, 8))
    constant = images.copy()
    constant[:, 1] = 4
    assert log_distance(spectrum_of(images), spectrum_of(constant))[1] is None
    far = log_distance(spectrum_of(constant), spectrum_of(images))[1]
    assert far is not None
    assert 25 < far < 30  # ln 1e12 = 27.6


def test_pixels_that_are_not_valid_change_nothing_but_the_power_they_would_have() -> None:
    images = np.random.default_rng(3).normal(7, 2, (4, 2, 8, 8))
    valid = np.ones(images.shape, bool)
    valid[:, 0, :, 5:] = False
    valid[3, 1] = False
    spoiled = np.where(valid, images, -9999.0)
    spoiled[0, 0, 0, 6], spoiled[1, 0, 0, 6] = math.nan, math.inf
    total = SpectrumSum(2, 8, 8)
    total.add(spoiled, valid)
    found = total.spectrum()
    inside = images[:, 0, :, :5]
    assert found.variance[0] == pytest.approx((inside.var((1, 2)) * 5 / 8).mean(), rel=1e-12)
    assert found.variance[1] == pytest.approx(images[:3, 1].var((1, 2)).mean(), rel=1e-12)
    unmarked = SpectrumSum(2, 8, 8)
    unmarked.add(np.where(valid, images, math.nan))
    assert np.array_equal(unmarked.spectrum().power, found.power)
