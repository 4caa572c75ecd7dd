"""Resizing that leaves out what was not measured, against the weights of the resize itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tests.data.formats.packing import npy, png, shard

from pixelpath.data.formats.resampling import resampled
from pixelpath.data.formats.resizing import resized
from pixelpath.data.memory import from_arrays
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings

RANDOM = np.random.default_rng(0)
SHAPE, SIZE = (11, 9), (4, 5)


def weights() -> np.ndarray:
    """[new pixel, old pixel]: what a resize makes of an image that is 1 at one pixel."""
    ones = np.eye(SHAPE[0] * SHAPE[1], dtype=np.float32).reshape(-1, *SHAPE)
    return resized(ones, SIZE).reshape(len(ones), -1).T.astype(np.float64)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "int32", "float64"])
@pytest.mark.parametrize("nodata", [math.nan, -7.0, 0.0])
def test_every_value_is_the_weighted_mean_of_what_was_measured(dtype: str, nodata: float) -> None:
    if np.dtype(dtype).kind != "f" and not nodata >= 0:
        nodata = 0.0
    values = RANDOM.integers(1, 200, (3, *SHAPE)).astype(dtype)
    missing = RANDOM.random((3, *SHAPE)) < 0.4
    missing[0, 2:9, 3:8] = True
    found = resampled(np.where(missing, nodata, values).astype(dtype), SIZE, nodata)
    w = weights()
    share: np.ndarray = (~missing).reshape(3, -1) @ w.T
    mean = (values * ~missing).reshape(3, -1).astype(np.float64) @ w.T / np.maximum(share, 0.1)
    seen = (share >= 0.4999).reshape(3, *SIZE)
    assert 0.1 < seen.mean() < 0.9
    expected = (np.rint(mean) if np.dtype(dtype).kind in "iu" else mean).reshape(3, *SIZE)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found[seen], expected[seen], rtol=1e-5)
    assert (np.isnan(found[~seen]) if math.isnan(nodata) else found[~seen] == nodata).all()


def test_without_missing_values_it_is_the_plain_resize() -> None:
    values = RANDOM.normal(size=(2, *SHAPE)).astype(np.float32)
    for nodata in (None, math.nan, -7.0):
        np.testing.assert_array_equal(resampled(values, SIZE, nodata), resized(values, SIZE))


def test_one_value_stays_that_value_beside_any_padding(tmp_path: Path) -> None:
    image = np.full((4, 20, 20), 1000, np.int16)
    image[:, :, :9] = -2000  # as a scanner pads; each new pixel has two or five old ones on a side
    np.save(tmp_path / "a.npy", image)
    source = open_source(tmp_path / "a.npy", resize=(10, 10))
    assert -500 in source[0]  # not said to be no value, it mixes
    source = open_split(DataSettings(tmp_path / "a.npy", resize=(10, 10), nodata=-2000))[0]
    assert set(np.unique(source[0]).tolist()) == {-2000, 1000}
    assert source.metadata.nodata == -2000


def test_all_kinds_of_files_are_resampled_alike(tmp_path: Path) -> None:
    values = RANDOM.integers(1, 200, (1, 12, 12)).astype(np.uint8)
    values[:, :, :5] = 0
    expected = resampled(values, (6, 6), 0)
    assert 0 in expected
    assert not np.array_equal(expected, resized(values, (6, 6)))
    shard(tmp_path / "arrays.tar", [("a.npy", npy(values))])
    shard(tmp_path / "pictures.tar", [("a.png", png(values))])
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "a.png").write_bytes(png(values))
    (tmp_path / "volumes").mkdir()
    np.save(tmp_path / "volumes" / "a.npy", values)
    for name in ("arrays.tar", "pictures.tar", "a.npy", "a.png", "volumes"):
        settings = DataSettings(tmp_path / name, resize=(6, 6), nodata=0, held_out_share=0.0)
        np.testing.assert_array_equal(open_split(settings)[0][0], expected, name)
    from PIL import Image

    settings = DataSettings(resize=(6, 6), nodata=0, held_out_share=0.0)
    np.testing.assert_array_equal(from_arrays([Image.fromarray(values[0])], settings=settings)[0][0], expected)
