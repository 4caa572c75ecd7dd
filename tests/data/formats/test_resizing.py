"""Resizing of arrays of every dtype: in closed form, against Pillow's filter, at the ends of a dtype's range."""

import math
from pathlib import Path

import numpy as np
import pytest

from pixelpath.data import dtypes
from pixelpath.data.formats.resizing import centre, resized
from pixelpath.data.opening import open_split
from pixelpath.data.settings import DataSettings

RANDOM = np.random.default_rng(0)
SHIFT = 2**30  # beyond what float32 tells apart by 1
SHAPES = [((11, 9), (4, 5)), ((7, 13), (7, 3)), ((64, 64), (10, 6)), ((5, 6), (8, 9)), ((9, 9), (9, 9)), ((40, 3), (5, 5))]


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint32", "float32", "float64"])
def test_halves_are_means_by_weights_of_one_to_three(dtype: str) -> None:
    """Half as many pixels: weights 1, 3, 3, 1 over 8, and 3, 3, 1 over 7 at an end, as a triangle two new pixels wide gives."""
    shift = SHIFT if dtype in dtypes.BEYOND_FLOAT32 else 0
    row = np.array([8, 16, 56, 120, 64, 0, 24, 800]) + shift
    image = np.repeat(row[None, None], 8, 1).astype(dtype)
    found = resized(image, (4, 4))
    exact = [
        (3 * 8 + 3 * 16 + 56) / 7,
        (16 + 3 * 56 + 3 * 120 + 64) / 8,
        (120 + 3 * 64 + 3 * 0 + 24) / 8,
        (0 + 3 * 24 + 3 * 800) / 7,
    ]
    assert found.dtype == np.dtype(dtype)
    expected = np.rint(exact) if image.dtype.kind in "iu" else np.array(exact)
    for new in found[0].astype(np.float64) - shift:
        np.testing.assert_allclose(new, expected, rtol=0, atol=0 if image.dtype.kind in "iu" else 3e-5)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_wide_dtypes_have_the_filter_of_the_others(shape: tuple[int, int], size: tuple[int, int]) -> None:
    values = RANDOM.normal(size=(2, *shape))
    box = (0.4, 0.3, shape[1] - 0.9, shape[0] - 0.2)
    for part in (None, box):
        np.testing.assert_allclose(resized(values, size, part), resized(values.astype(np.float32), size, part), atol=2e-6)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_integers_are_rounded_once(shape: tuple[int, int], size: tuple[int, int]) -> None:
    """As the exact resize of what float64 holds, rounded; near each other, numbers beyond float32 stay apart."""
    offsets = RANDOM.integers(-1000, 1000, (1, *shape))
    exact = resized(offsets.astype(np.float64), size)
    found = resized((offsets + SHIFT).astype(np.int32), size).astype(np.int64) - SHIFT
    assert np.abs(found - exact).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("dtype", dtypes.NAMES)
@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_a_constant_stays_that_constant(dtype: str, shape: tuple[int, int], size: tuple[int, int]) -> None:
    ends = dtypes.limits(dtype) or (-1234.0, 1234.0)
    for value in (*ends, 17):
        image = np.full((2, *shape), value, dtype)
        found = resized(image, size)
        assert found.shape == (2, *size)
        if image.dtype.kind in "iu":
            assert (found == image[0, 0, 0]).all()
        np.testing.assert_allclose(found.astype(np.float64), value, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "uint32", "float64"])
def test_values_stay_between_the_lowest_and_the_highest(dtype: str) -> None:
    lowest, highest = dtypes.limits(dtype) or (-1e300, 1e300)
    image = np.where(RANDOM.random((1, 50, 60)) < 0.5, lowest, highest).astype(dtype)
    found = resized(image, (7, 9))
    assert found.min() > lowest
    assert found.max() < highest
    assert abs(float(found.astype(np.float64).mean() / highest) - float(lowest / highest + 1) / 2) < 0.2


def test_the_mean_of_a_slope_is_that_at_its_middle() -> None:
    slope = np.arange(100, dtype=np.int32) * 1000 + SHIFT
    found = resized(np.repeat(slope[None, None], 100, 1), (10, 10))[0].astype(np.int64)
    np.testing.assert_array_equal(found[:, 1:-1] - SHIFT, np.repeat([1000 * np.arange(14.5, 94, 10)], 10, 0))


def test_a_nan_spreads_no_further_than_its_weights() -> None:
    image = np.zeros((1, 12, 12))
    image[0, 6, 6] = math.nan
    narrow = resized(image.astype(np.float32), (5, 5))
    np.testing.assert_array_equal(np.isnan(resized(image, (5, 5))), np.isnan(narrow))


def test_what_is_longer_is_cropped_at_the_centre() -> None:
    assert centre((20, 30), (8, 8)) == (0, 5, 20, 25)
    image = RANDOM.normal(size=(1, 30, 20))
    np.testing.assert_array_equal(resized(image, (4, 4)), resized(image, (4, 4), (0, 5, 20, 25)))


@pytest.mark.parametrize("side", [304, 64, 40])
def test_the_centre_lies_within_images_of_every_size(side: int) -> None:
    """Rounded, half of what is left over can be a little less than nothing: pictures of 431 columns could not be read."""
    for columns in range(1, 700):
        for size in ((columns, 600), (600, columns)):
            left, top, right, bottom = centre(size, (side, side))
            assert left >= 0
            assert top >= 0
            assert right <= size[0]
            assert bottom <= size[1]
            assert right - left == pytest.approx(min(size))
            assert bottom - top == pytest.approx(min(size))


def test_a_file_of_wide_integers_is_resized(tmp_path: Path) -> None:
    images = SHIFT + RANDOM.integers(0, 9, (3, 8, 8)).astype(np.int32)
    np.save(tmp_path / "a.npy", images)
    source = open_split(DataSettings(tmp_path / "a.npy", resize=(4, 4), held_out_share=0.0))[0]
    assert (source.dtype, source.shape) == (np.dtype("int32"), (1, 4, 4))
    np.testing.assert_array_equal(source[1], resized(images[1][None], (4, 4)))
    assert len(np.unique(source[1])) > 2
