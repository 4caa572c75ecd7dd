"""Pixels that no image has a value for: found, kept as text, and nodata again in samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tests.arrays import array_source

from pixelpath.data.metadata import Metadata
from pixelpath.data.unmeasured import left_out, mask_of, moved_along, unmeasured, with_mask

RANDOM = np.random.default_rng(0)
SHAPE = (2, 6, 5)


def holes(nodata: float, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Images with nodata here and there, and where all have it."""
    missing = RANDOM.random((300, *SHAPE)) < 0.3
    missing[:, 1, 2:, :2] = True
    images = RANDOM.integers(1, 100, missing.shape).astype(dtype)
    images[missing] = nodata
    return images, np.logical_and.reduce(missing)


@pytest.mark.parametrize(("nodata", "dtype"), [(np.nan, "float32"), (-9999.0, "int16"), (0.0, "uint8"), (-1.0, "float64")])
def test_what_no_image_has_is_nodata_in_samples(nodata: float, dtype: str) -> None:
    images, expected = holes(nodata, dtype)
    found = unmeasured(array_source(images), nodata)
    assert found is not None
    np.testing.assert_array_equal(found, expected)
    kept = with_mask(Metadata(nodata=nodata), found)
    again = Metadata.from_json(json.loads(json.dumps(kept.to_json())))
    np.testing.assert_array_equal(mask_of(again, SHAPE), expected)
    samples = torch.from_numpy(RANDOM.integers(1, 100, (3, *SHAPE)).astype(dtype))
    made = left_out(samples, again).numpy()
    np.testing.assert_array_equal(made, np.where(expected, np.array(nodata, dtype), samples.numpy()))


def test_nothing_is_left_out_where_some_image_has_a_value_or_nothing_means_nodata() -> None:
    images, expected = holes(0, "uint8")
    images[7][expected] = 3
    assert unmeasured(array_source(images), 0.0) is None
    assert unmeasured(array_source(images), None) is None
    assert "unmeasured" not in with_mask(Metadata(), None).to_json()
    samples = torch.ones((1, *SHAPE))
    assert left_out(samples, Metadata(nodata=0.0)) is samples


def test_of_images_that_move_what_no_view_has_stays() -> None:
    mask = np.zeros((1, 3, 3), bool)
    mask[0] = [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert moved_along(mask, flip=False, rot90=False) is mask
    assert moved_along(mask, flip=True, rot90=False)[0].astype(int).tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    mask[0] = [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert moved_along(mask, flip=False, rot90=True)[0].astype(int).tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
