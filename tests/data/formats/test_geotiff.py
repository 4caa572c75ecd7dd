"""What maps (GeoTIFF) become, what in them is not measured, and the sentence that each mistake is answered with."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.data.formats.test_tiff import DTYPES, assert_holds, assert_sentence, values, write
from tests.refusal import refused

from pixelpath.data.formats.geotiff import open_geotiff
from pixelpath.data.formats.tiff import is_map
from pixelpath.data.opening import open_source, open_split
from pixelpath.data.settings import DataSettings


def write_map(path: Path, array: np.ndarray, names: tuple[str, ...] = (), units: tuple[str, ...] = (), **options: Any) -> Path:
    rasterio = pytest.importorskip("rasterio")
    bands, rows, columns = array.shape
    place = {"transform": rasterio.Affine(10, 0, 500000, 0, -10, 4000000), "crs": "EPSG:32633"}
    profile = {"driver": "GTiff", "count": bands, "height": rows, "width": columns, "dtype": array.dtype.name, **place, **options}
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)
        if names:
            file.descriptions = names
        if units:
            file.units = units
    return path


@pytest.mark.parametrize("dtype", DTYPES[:6] + DTYPES[7:])
@pytest.mark.parametrize("options", [{}, {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_maps(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    image = values(3, 24, 36, dtype=dtype)
    path = write_map(tmp_path / "a.tif", image, ("red", "green", "nir"), ("K", "K", "K"), nodata=7, **options)
    assert is_map(path)
    stack = open_geotiff(path)
    assert_holds(stack, image[None])
    metadata = stack.metadata
    assert (metadata.format, metadata.channels, metadata.units, metadata.nodata) == ("geotiff", ("red", "green", "nir"), "K", 7.0)
    assert not stack.whole


def test_nodata_is_as_the_dtype_has_it(tmp_path: Path) -> None:
    image = values(1, 8, 12, dtype="float32")
    assert open_geotiff(write_map(tmp_path / "none.tif", image)).metadata.nodata is None
    assert np.isnan(open_geotiff(write_map(tmp_path / "nan.tif", image, nodata=np.nan)).metadata.nodata or 0)
    image[0, 2, 3] = -9999.9
    stack = open_geotiff(write_map(tmp_path / "a.tif", image, nodata=-9999.9))
    assert (stack.read(0) == stack.metadata.nodata).sum() == 1


def test_threads_read_maps(tmp_path: Path) -> None:
    image = values(2, 24, 36)
    stack = open_geotiff(write_map(tmp_path / "a.tif", image, compress="deflate"))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda row: stack.read(0, slice(row, row + 4)), [*range(20), *range(20)]))
    for row, window in zip(itertools.chain(range(20), range(20)), read, strict=True):
        np.testing.assert_array_equal(window, image[:, row : row + 4])


def with_nodata(dtype: str, text: str) -> Callable[[Path], object]:
    tags = [(42113, "s", 0, text, True)]
    return lambda path: write(path, values(8, 12, dtype=dtype), extratags=tags, metadata=None)


def several_maps(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        for _ in range(2):
            file.write(values(8, 12), metadata=None, extratags=[(42113, "s", 0, "0", True)])


MAPS: list[tuple[Callable[[Path], object], list[str]]] = [
    (with_nodata("uint8", "-9999"), ["nodata value -9999", "uint8"]),
    (with_nodata("uint8", "3.5"), ["nodata value 3.5", "uint8"]),
    (with_nodata("float32", "1e300"), ["nodata value", "float32"]),
    (lambda path: write_map(path, values(1, 8, 12).astype(np.int64)), ["dtype int64", "convert"]),
    (lambda path: write_map(path, values(1, 8, 12).astype(np.complex64)), ["dtype complex64", "convert"]),
    (several_maps, ["2 images", "a file of its own"]),
    (lambda path: path.write_bytes(b"no map at all"), ["cannot be read", "replace"]),
]


@pytest.mark.parametrize(("make", "words"), MAPS)
def test_mistakes_in_maps_are_told_in_one_sentence(tmp_path: Path, make: Callable[[Path], object], words: list[str]) -> None:
    pytest.importorskip("rasterio")
    make(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif") as caught:
        open_geotiff(tmp_path / "a.tif")
    assert_sentence(caught.value, words)


def test_nodata_that_differs_between_bands(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.tif", values(2, 8, 12))
    bands = "".join(f'<PAMRasterBand band="{band}"><NoDataValue>{band}</NoDataValue></PAMRasterBand>' for band in (1, 2))
    (tmp_path / "a.tif.aux.xml").write_text(f"<PAMDataset>{bands}</PAMDataset>")
    with pytest.raises(ValueError, match=r"a.tif has another nodata value per band \(1.0, 2.0\): bring all bands to one."):
        open_geotiff(path)


def test_a_map_cut_off_says_so_when_read(tmp_path: Path) -> None:
    path = write_map(tmp_path / "a.tif", values(1, 64, 64, dtype="float64"))
    path.write_bytes(path.read_bytes()[:20000])
    stack = open_geotiff(path)
    with pytest.raises(ValueError, match="at image 0") as caught:
        stack.read(0)
    assert_sentence(caught.value, ["a.tif", "replace"])


def write_masked(path: Path, array: np.ndarray, mask: np.ndarray, *, inside: bool, **options: Any) -> Path:
    """A map with a mask [row, column], in a page of its own or in a file beside it."""
    rasterio = pytest.importorskip("rasterio")
    write_map(path, array, **options)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    assert path.with_name(path.name + ".msk").exists() != inside
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("inside", [True, False])
def test_what_a_mask_leaves_out_is_not_measured(tmp_path: Path, dtype: str, nodata: int | None, inside: bool) -> None:
    image, mask = values(2, 24, 36, dtype=dtype), np.random.default_rng(1).random((24, 36)) < 0.7
    image[image == 7] = 8
    path = write_masked(tmp_path / "a.tif", image, mask, inside=inside, nodata=nodata)
    assert is_map(path)
    stack = open_geotiff(path)
    found, missing = stack.read(0), stack.metadata.nodata
    assert missing is not None
    lost = np.isnan(found) if np.isnan(missing) else found == missing
    np.testing.assert_array_equal(lost, np.broadcast_to(~mask, image.shape))
    np.testing.assert_array_equal(found[~lost], image[~lost])
    assert missing == nodata if nodata else np.isnan(missing) == (dtype == "float32")
    np.testing.assert_array_equal(stack.read(0, slice(3, 9), slice(5, 30)), found[:, 3:9, 5:30])


def test_masks_of_values_that_are_all_in_use(tmp_path: Path) -> None:
    image, mask = np.arange(256, dtype=np.uint8).reshape(1, 16, 16), np.ones((16, 16), bool)
    mask[0, :3] = False
    path = write_masked(tmp_path / "a.tif", image, mask, inside=False)
    assert open_geotiff(path).metadata.nodata == 0  # which no measured pixel has
    every = np.concatenate([image, image[:, ::-1]])
    path = write_masked(tmp_path / "a.tif", every, mask, inside=False)
    with refused("data.nodata", "a.tif", "uint8"):
        open_source(path)
    source = open_split(DataSettings(path, nodata=9.0, held_out_share=0.0))[0]
    assert (source[0][:, ~mask] == 9).all()
    np.testing.assert_array_equal(source[0][:, mask], every[:, mask])


def test_maps_with_and_without_a_mask(tmp_path: Path) -> None:
    image, mask = values(1, 16, 16, dtype="int16"), np.arange(256).reshape(16, 16) > 9
    write_masked(tmp_path / "a.tif", image, mask, inside=True)
    write_map(tmp_path / "b.tif", image)
    with refused("data.nodata", "b.tif", "None"):
        open_source(tmp_path)
    source = open_split(DataSettings(tmp_path, nodata=-1.0, held_out_share=0.0))[0]
    assert (source[0] == -1).sum() >= 10
    np.testing.assert_array_equal(source[1], image)


def test_an_alpha_band_is_a_channel(tmp_path: Path) -> None:
    image = values(4, 16, 16, dtype="uint8")
    stack = open_geotiff(write_map(tmp_path / "a.tif", image, photometric="RGB", alpha="YES"))
    assert_holds(stack, image[None])
    assert stack.metadata.nodata is None


def test_broken_maps_can_be_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        path = write_map(tmp_path / f"{name}.tif", values(1, 64, 64, dtype="float64"))
    path.write_bytes(path.read_bytes()[:20000])
    with refused("data.skip_broken", "b.tif"):
        open_source(tmp_path)[1]
    assert open_source(tmp_path, skip_broken=True).broken == ["b.tif"]
