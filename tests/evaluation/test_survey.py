"""What a survey says of images is what numpy says of the whole array, however it is cut up; damage is found where it was done."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from tests.arrays import array_source

from pixelpath.data import passes
from pixelpath.data.sources import Source
from pixelpath.evaluation import survey as module
from pixelpath.evaluation.survey import blocks_of, survey

NUMBERS = np.random.default_rng(0)


def surveyed(images: np.ndarray, nodata: float | None = None) -> module.Survey:
    return survey(array_source(images), 0, nodata=nodata)


def test_numbers_of_a_channel_are_those_of_the_whole_array() -> None:
    images = NUMBERS.gamma(0.7, 20.0, (60, 2, 8, 12)).round().astype(np.uint8)
    with patch.object(passes, "CHUNK", 7 * 192):  # seven images at a time
        found = surveyed(images)
    for number, channel in enumerate(found.channels):
        values = images[:, number].astype(np.float64)
        assert (channel.lowest, channel.highest) == (values.min(), values.max())
        assert channel.mean == pytest.approx(values.mean(), rel=1e-12)
        assert channel.std == pytest.approx(values.std(), rel=1e-12)
        counts = np.bincount(images[:, number].ravel())
        assert channel.zeros == channel.at_lowest_limit == counts[0] / counts.sum()
        assert (channel.atom, channel.atom_share) == (counts.argmax(), counts.max() / counts.sum())
        assert channel.skewness == pytest.approx((((values - values.mean()) / values.std()) ** 3).mean(), rel=1e-9)
        assert channel.quantiles["0.99"] == np.quantile(values, 0.99)
        assert not channel.dead
    assert np.array_equal(found.highest, images.max((2, 3)))
    assert np.allclose(found.mean, images.mean((2, 3)), rtol=1e-12)


def test_the_tail_index_of_a_student_law_is_its_degrees_of_freedom() -> None:
    images = NUMBERS.standard_t(2.5, (40, 1, 64, 64)).astype(np.float32)
    assert surveyed(images).channels[0].tail_index == pytest.approx(2.5, rel=0.1)


def test_nan_nodata_and_infinity_are_told_apart() -> None:
    images = NUMBERS.normal(5, 2, (12, 1, 8, 8)).astype(np.float32)
    images[3, 0, 1, 1], images[4, 0, :2, 0] = np.nan, np.inf
    images[7] = -9999
    images[8, 0, 0, :4] = -9999
    found = surveyed(images, -9999)
    (channel,) = found.channels
    assert (channel.nan, channel.infinite) == (1, 2)
    assert channel.missing == pytest.approx((64 + 4) / images.size)
    assert channel.count == images.size - 64 - 4 - 3
    assert channel.lowest is not None
    assert channel.lowest > -100
    assert np.flatnonzero(found.damaged).tolist() == [3, 4]
    assert np.flatnonzero(found.missing == 1).tolist() == [7]
    as_nodata = surveyed(np.where(images == -9999, np.float32(np.nan), images), math.nan)
    assert as_nodata.channels[0].nan == 0
    assert as_nodata.channels[0].missing == pytest.approx((64 + 4 + 1) / images.size)


def test_dead_channels_and_copies_of_channels_are_found() -> None:
    images = NUMBERS.normal(100, 20, (20, 4, 8, 8)).astype(np.float32)
    images[:, 1] = 7
    images[:, 3] = 5 - 3 * images[:, 0]
    found = surveyed(images)
    assert [channel.dead for channel in found.channels] == [False, True, False, False]
    assert found.copies == ((0, 3),)
    images[:, 3] += NUMBERS.normal(0, 2, images[:, 3].shape)  # a correlation of 0.9994
    assert surveyed(images).copies == ()


def test_signatures_are_block_means_in_units_of_the_channel() -> None:
    images = NUMBERS.normal(3, 2, (10, 2, 16, 24)).astype(np.float64)
    found = surveyed(images)
    blocks = images.reshape(10, 2, 8, 2, 8, 3).mean((3, 5))
    scaled = blocks / images.std((0, 2, 3))[:, None, None]
    expected = scaled - scaled.mean((2, 3), keepdims=True)
    assert np.allclose(found.signatures, expected, atol=1e-5)
    assert blocks_of(np.ones((1, 1, 5, 11))).shape == (1, 1, 5, 8)
    some = survey(array_source(images), 0, np.array([2, 7]))
    assert np.allclose(some.signatures, expected[[2, 7]], atol=1e-5)


class Torn:
    """A source of which one image cannot be decoded."""

    def __init__(self, source: Source, torn: tuple[int, ...]) -> None:
        self.source, self.torn = source, torn
        self.classes, self.shape, self.dtype, self.metadata = source.classes, source.shape, source.dtype, source.metadata
        self.broken: list[str] = []

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        if index in self.torn:
            raise ValueError(f"image {index} is torn")
        return self.source[index]

    def label(self, index: int) -> int:
        return 0

    def name(self, index: int) -> str:
        return f"{index}.png"

    def groups(self, index: int) -> tuple[str, ...]:
        return (self.name(index),)


def test_an_image_that_cannot_be_decoded_is_noted_and_passed_over() -> None:
    images = NUMBERS.integers(50, 200, (9, 1, 8, 8)).astype(np.uint8)
    found = survey(Torn(array_source(images), (4,)))
    assert found.unreadable == {4: "image 4 is torn"}
    rest = np.delete(images, 4, axis=0)
    assert found.channels[0].mean == pytest.approx(rest.mean(), rel=1e-12)
    assert np.isnan(found.mean[4]).all()
    with pytest.raises(ValueError, match="No image can be decoded; the first error: image 0 is torn"):
        survey(Torn(array_source(images[:2]), (0, 1)))
