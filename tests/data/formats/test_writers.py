"""Samples read again by the libraries that others read them with: every value, dtype, name and unit, and nothing half written."""

from __future__ import annotations

import inspect
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.refusal import refused

from pixelpath.atomic import whole, whole_path
from pixelpath.data.alpha import premultiply
from pixelpath.data.formats import writers
from pixelpath.data.formats.stores import open_store
from pixelpath.data.formats.writers import nodata_in, write_samples, written_as
from pixelpath.data.metadata import Axis, Described, Format, Metadata, SampleFormat

ROWS, COLUMNS = 5, 3
DTYPES = ("uint8", "int16", "uint16", "int32", "float16", "float32", "float64")
AXES = (Axis("lat", (60.0, 61.0, 62.5, 63.0, 64.0), "degrees_north"), Axis("lon", (20.0, 21.0, 22.0), "degrees_east"))


def require(kind: SampleFormat) -> None:
    """Skip the test unless the packages of the format are installed."""
    for package in writers.PACKAGES.get(kind, ()):
        pytest.importorskip(package)


def drawn(dtype: str, channels: int, count: int = 2) -> np.ndarray:
    """Samples that use all bits of their dtype; floats without NaN."""
    shape, kind = (count, channels, ROWS, COLUMNS), np.dtype(dtype)
    generator = np.random.default_rng(channels)
    if kind.kind == "f":
        return generator.normal(size=shape).astype(kind) * kind.type(100)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, shape, kind, endpoint=True)


def read_tiff(path: Path, channels: int) -> np.ndarray:
    tifffile = pytest.importorskip("tifffile")
    with tifffile.TiffFile(path) as file:
        (page,) = file.pages
        values = page.asarray()
        axes = page.axes
    assert axes == {1: "YX", 2: "YXS", 3: "YXS", 4: "YXS"}.get(channels, "SYX")
    return values[None] if axes == "YX" else values if axes == "SYX" else values.transpose(2, 0, 1)


def open_raster(path: Path) -> Any:
    rasterio = pytest.importorskip("rasterio")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path)


def read_again(kind: SampleFormat, paths: list[Path], channels: int) -> np.ndarray:
    if kind in ("tiff", "geotiff"):
        return np.stack([read_tiff(path, channels) if kind == "tiff" else open_raster(path).read() for path in paths])
    if kind == "nifti":
        nibabel = pytest.importorskip("nibabel")
        return np.stack([np.asanyarray(nibabel.load(path).dataobj).transpose(2, 0, 1) for path in paths], axis=1)
    (path,) = paths
    if kind == "npy":
        return np.load(path)
    if kind == "hdf5":
        with pytest.importorskip("h5py").File(path) as store:
            return store["rain"][:]
    if kind == "zarr":
        return pytest.importorskip("zarr").open_group(path, mode="r")["rain"][:]
    with pytest.importorskip("xarray").open_dataset(path, engine="h5netcdf", mask_and_scale=False) as store:
        return store["rain"].values


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("kind", ["npy", "tiff", "geotiff", "netcdf", "hdf5", "zarr", "nifti"])
def test_every_value_comes_back(tmp_path: Path, kind: SampleFormat, channels: int) -> None:
    """Bit for bit in the same dtype; only float16 becomes float32 where a format has none."""
    require(kind)
    for dtype in DTYPES:
        images = drawn(dtype, channels)
        metadata = Metadata(kind, variable="rain", units="µm", nodata=7.0)
        stored = read_again(kind, write_samples(tmp_path / dtype, images, metadata, 12), channels)
        widened = dtype == "float16" and kind in ("geotiff", "netcdf", "nifti")
        expected = images.astype(np.float32) if widened else images
        assert stored.dtype == expected.dtype
        assert np.array_equal(stored, expected)


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint8", 4), ("uint16", 1)])
def test_pictures_come_back(tmp_path: Path, dtype: str, channels: int) -> None:
    images = drawn(dtype, channels, 3)
    paths = write_samples(tmp_path / "new", images, Metadata("png"), 40)
    assert [path.name for path in paths] == ["000040.png", "000041.png", "000042.png"]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            stored = np.asarray(picture)
        assert stored.dtype == images.dtype
        assert np.array_equal(stored if channels > 1 else stored[..., None], image.transpose(1, 2, 0))


def test_other_byte_orders_and_nan_come_back(tmp_path: Path) -> None:
    images = drawn("float32", 1).astype(">f4")
    images[0, 0, 0, 0] = np.nan
    (path,) = write_samples(tmp_path, images, Metadata("npy"), 0)
    stored = np.load(path)
    assert stored.dtype == np.dtype("float32")
    assert np.array_equal(stored, images, equal_nan=True)


@pytest.mark.parametrize(
    ("format", "dtype", "channels", "expected"),
    [
        ("png", "uint8", 3, "png"),
        ("png", "uint16", 1, "png"),
        ("png", "uint16", 3, "tiff"),
        ("png", "uint8", 7, "tiff"),
        ("png", "float32", 1, "tiff"),
        ("dicom", "int16", 1, "tiff"),
        ("dicom", "float32", 1, "tiff"),
        ("npy", "uint8", 3, "npy"),
        ("netcdf", "float16", 1, "netcdf"),
    ],
)
def test_format_is_the_datas_or_tiff(format: Format, dtype: str, channels: int, expected: str) -> None:
    for module in ("tifffile", "h5netcdf", "xarray"):
        pytest.importorskip(module)
    assert written_as(Metadata(format), np.dtype(dtype), channels) == expected


def test_what_does_not_fit_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    floats = drawn("float32", 3)
    with refused("format", "PNG", "float32 of 3"):
        write_samples(tmp_path, floats, Metadata(), 0, "png")
    with refused("format", "dicom", "tiff", "nifti"):
        inspect.unwrap(written_as)(Metadata("dicom"), np.dtype("float32"), 3, "dicom")  # past the check of types
    with refused(None, "int64", "float32"):
        write_samples(tmp_path, floats.astype(np.int64), Metadata(), 0)
    with refused("count", "no images"):
        write_samples(tmp_path, floats[:0], Metadata(), 0)
    with refused("data.alpha", "float32"):
        write_samples(tmp_path, drawn("float32", 4), Metadata(alpha="premultiplied"), 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "module", "extra"), [("hdf5", "h5py", "arrays"), ("geotiff", "rasterio", "geo"), ("nifti", "nibabel", "medical")]
)
def test_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: SampleFormat, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=rf"{module}.*pixelpath\[{extra}\]"):
        write_samples(tmp_path, drawn("float32", 1), Metadata(kind), 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("dtype", "channels"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("float32", 1)])
def test_plain_tiff_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, channels: int) -> None:
    """What Pillow reads it also writes, tags and all."""
    monkeypatch.setitem(sys.modules, "tifffile", None)
    images = drawn(dtype, channels)
    paths = write_samples(tmp_path, images, Metadata("tiff", units="µm", nodata=7.0), 3)
    for path, image in zip(paths, images, strict=True):
        with Image.open(path) as picture:
            stored = np.asarray(picture)
            tags = {tag: picture.getexif()[tag] for tag in (270, 42113)}
        assert np.array_equal(stored if channels > 1 else stored[..., None], image.transpose(1, 2, 0))
        assert tags[42113].startswith("7")
        assert "units:" in tags[270]


@pytest.mark.parametrize("kind", ["png", "npy", "netcdf", "zarr"])
def test_nothing_is_overwritten(tmp_path: Path, kind: SampleFormat) -> None:
    require(kind)
    images = drawn("uint8", 1)
    write_samples(tmp_path, images, Metadata(kind), 5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with refused("out", "exists already"):
        write_samples(tmp_path, images + np.uint8(1), Metadata(kind), 4 if kind == "png" else 5)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_files_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(file: Any, values: np.ndarray) -> None:
        file.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(writers.np, "save", fails)
    with pytest.raises(OSError, match="disk is full"):
        write_samples(tmp_path, drawn("float32", 1), Metadata(), 0)
    assert not list(tmp_path.iterdir())


def test_folders_are_whole_or_absent(tmp_path: Path) -> None:
    def half() -> None:
        with whole_path(tmp_path / "store") as unfinished:
            (unfinished / "below").mkdir(parents=True)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        half()
    assert not list(tmp_path.iterdir())
    with whole(tmp_path / "a") as file:
        file.write(b"all")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_bytes() == b"all"


def test_tiff_says_what_is_known(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    metadata = Metadata("tiff", units="µm", nodata=-9999.0, channels=tuple("abcdefg"))
    (path,) = write_samples(tmp_path, drawn("int16", 7, 1), metadata, 31)
    with tifffile.TiffFile(path) as file:
        page = file.pages[0]
        assert page.description == "sample of seed 31; units: µm; channels: a, b, c, d, e, f, g"
        assert page.nodata == -9999
        assert page.tags[42113].value == "-9999"
        assert page.photometric.name == "MINISBLACK"
    (path,) = write_samples(tmp_path, drawn("uint16", 4, 1), Metadata("tiff", alpha="straight"), 32)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric.name == "RGB"
        assert [kind.name for kind in file.pages[0].extrasamples] == ["UNASSALPHA"]
    (path,) = write_samples(tmp_path, drawn("uint16", 4, 1), Metadata("tiff"), 33)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric.name == "MINISBLACK"


def test_geotiff_has_bands_and_nodata_but_no_place(tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    metadata = Metadata("geotiff", units="K", nodata=-9999.0, channels=("red", "near infrared"))
    with open_raster(write_samples(tmp_path, drawn("float16", 2, 1), metadata, 0)[0]) as raster:
        assert raster.descriptions == ("red", "near infrared")
        assert raster.units == ("K", "K")
        assert raster.nodata == -10000  # what a float16 pixel holds for it
        assert raster.crs is None
        assert raster.tags()["widened_from"] == "float16"
    assert [path.name for path in tmp_path.iterdir()] == ["000000.tif"]


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_stores_have_names_units_and_coordinates(tmp_path: Path, kind: SampleFormat) -> None:
    require(kind)
    xarray = pytest.importorskip("xarray")
    engine = "zarr" if kind == "zarr" else "h5netcdf"
    latitude = replace(AXES[0], described=Described("latitude of cells", "latitude"))
    words = (Described("rain rate", "rainfall_rate"),)
    metadata = Metadata(kind, "rain", ("low", "high"), "mm/h", -9999.0, axes=(latitude, AXES[1]), south_up=True, described=words)
    (path,) = write_samples(tmp_path / "with", drawn("float32", 2, 3), metadata, 8)
    assert path.name == ("000008-000010.zarr" if kind == "zarr" else "000008-000010.nc")
    with xarray.open_dataset(path, engine=engine, mask_and_scale=False) as store:
        assert store["rain"].dims == ("sample", "channel", "lat", "lon")
        assert store["rain"].attrs["units"] == "mm/h"
        assert list(store["rain"].attrs["channels"]) == ["low", "high"]
        assert store["rain"].attrs["_FillValue"] == -9999
        assert store["sample"].values.tolist() == [8, 9, 10]
        assert store["lat"].values.tolist() == list(AXES[0].values)
        assert store["lon"].attrs == {"units": "degrees_east"}
        assert store["lat"].attrs == {"units": "degrees_north", "long_name": "latitude of cells", "standard_name": "latitude"}
        assert store["rain"].attrs["long_name"] == "rain rate"
        assert store["rain"].attrs["standard_name"] == "rainfall_rate"
        assert np.array_equal(store["rain"].values, drawn("float32", 2, 3))  # in the order of the data, whatever pictures show
        assert kind == "zarr" or store["channel"].values.tolist() == ["low", "high"]
    other = drawn("float32", 2, 3)[:, :, 1:]  # of another size
    (path,) = write_samples(tmp_path / "without", other, metadata, 8)
    with xarray.open_dataset(path, engine=engine) as store:
        assert store["rain"].dims == ("sample", "channel", "lat", "lon")
        assert not {"lat", "lon"} & set(store.coords)


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_several_variables_stay_several(tmp_path: Path, kind: SampleFormat) -> None:
    require(kind)
    xarray = pytest.importorskip("xarray")
    images = drawn("float16", 2)
    metadata = Metadata(kind, "wind/u, wind/v", ("wind/u", "wind/v"))
    (path,) = write_samples(tmp_path, images, metadata, 0)
    with xarray.open_dataset(path, group="wind", engine="zarr" if kind == "zarr" else "h5netcdf") as store:
        assert np.array_equal(store["u"].values, images[:, 0])
        assert np.array_equal(store["v"].values, images[:, 1])
        assert store["v"].dims == ("sample", "row", "column")
        assert store["v"].attrs.get("widened_from") == (None if kind == "zarr" else "float16")


def test_a_variable_may_be_named_like_an_axis(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("h5netcdf")
    (path,) = write_samples(tmp_path, drawn("float32", 1), Metadata("netcdf", "sample"), 4)
    with xarray.open_dataset(path, engine="h5netcdf") as store:
        assert store["sample"].dims == ("sample_", "channel", "row", "column")
        assert store["sample_"].values.tolist() == [4, 5]


def test_coordinates_must_be_those_of_the_samples(tmp_path: Path) -> None:
    for module in ("xarray", "h5netcdf", "tifffile"):
        pytest.importorskip(module)
    with refused("coordinates", "5x3", "3x5"):
        write_samples(tmp_path, drawn("float32", 1).swapaxes(2, 3), Metadata("netcdf", axes=AXES), 0, coordinates=True)
    with refused("coordinates", "tiff"):
        write_samples(tmp_path, drawn("float32", 1), Metadata("tiff", axes=AXES), 0, coordinates=True)
    assert not list(tmp_path.iterdir())


def test_hdf5_says_what_is_known(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    metadata = Metadata("hdf5", "radar/rain", ("low",), "mm/h", float("nan"))
    (path,) = write_samples(tmp_path, drawn("float16", 1), metadata, 20)
    with h5py.File(path) as store:
        assert store["radar/rain"].dtype == np.float16
        assert store["radar/rain"].attrs["units"] == "mm/h"
        assert np.isnan(store["radar/rain"].attrs["nodata"])
        assert store["seeds"][:].tolist() == [20, 21]


def test_nifti_is_a_volume_per_channel_about_nowhere(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    images = drawn("int16", 2, 3)
    paths = write_samples(tmp_path, images, Metadata("nifti", units="HU"), 0)
    assert [path.name for path in paths] == ["000000-000002-channel-0.nii.gz", "000000-000002-channel-1.nii.gz"]
    volume = nibabel.load(paths[1])
    assert volume.shape == (ROWS, COLUMNS, 3)
    assert np.asanyarray(volume.dataobj)[4, 1, 2] == images[2, 1, 4, 1]
    assert np.array_equal(volume.affine, np.eye(4))
    assert b"HU" in volume.header["descrip"].tobytes()


def test_premultiplied_colours_are_written_straight(tmp_path: Path) -> None:
    straight = drawn("uint8", 4, 1)
    straight[:, 3] = np.where(straight[:, 3] > 128, 255, 0)
    straight[:, :3] *= straight[:, 3:] > 0
    (path,) = write_samples(tmp_path, premultiply(straight), Metadata("png", alpha="premultiplied"), 0)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture), straight[0].transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("dtype", "nodata", "expected"),
    [
        ("uint8", 255.0, 255),
        ("uint8", -9999.0, None),
        ("int16", 0.5, None),
        ("int16", float("nan"), None),
        ("float16", -9999.0, -10000.0),
        ("float16", 1e6, None),
        ("float64", 0.1, 0.1),
        ("float32", None, None),
    ],
)
def test_nodata_is_what_a_pixel_can_hold(dtype: str, nodata: float | None, expected: float | None) -> None:
    assert nodata_in(Metadata(nodata=nodata), np.dtype(dtype)) == expected


@pytest.mark.parametrize("kind", ["netcdf", "zarr", "hdf5"])
def test_every_variable_has_its_own_units(tmp_path: Path, kind: SampleFormat) -> None:
    """Written as they were, read again as they were."""
    pytest.importorskip("h5netcdf")
    xarray, units = pytest.importorskip("xarray"), ("K", "hPa", "")
    values = np.zeros((3, 8, 8), np.float32)
    data = xarray.Dataset({name: (("t", "y", "x"), values, {"units": each}) for name, each in zip("abc", units, strict=True)})
    data.to_netcdf(tmp_path / "data.nc", engine="h5netcdf")
    metadata = open_store(tmp_path / "data.nc", "a,b,c").metadata
    assert (metadata.units, metadata.channel_units) == ("", units)
    assert Metadata.from_json(json.loads(json.dumps(metadata.to_json()))).channel_units == units
    (path,) = write_samples(tmp_path / "out", np.ones((2, 3, 8, 8), np.float32), metadata, 0, kind)
    again = open_store(path, "a,b,c").metadata
    assert (again.channel_units, again.channels) == (units, ("a", "b", "c"))


@pytest.mark.parametrize("kind", ["netcdf", "hdf5", "zarr"])
def test_variables_with_levels_come_back_with_their_units_and_what_was_asked(tmp_path: Path, kind: SampleFormat) -> None:
    """Two variables of two levels each; a number, a word and a class of every sample."""
    require(kind)
    images = drawn("float32", 4, 3)
    names = ("u 850", "u 500", "t 850", "t 500")
    metadata = Metadata(kind, "winds/u,winds/t", names, nodata=float("nan"), channel_units=("m/s", "m/s", "K", "K"))
    asked = {"class": ["cat", "dög", "cat"], "rain/day": [0.5, 1.25, -3.0]}
    (path,) = write_samples(tmp_path, images, metadata, 7, kind, conditions=asked)
    stack = open_store(path, "winds/u,winds/t")
    np.testing.assert_array_equal(np.stack([stack.read(index) for index in range(3)]), images)
    assert stack.metadata.channel_units == metadata.channel_units
    if kind == "hdf5":
        with pytest.importorskip("h5py").File(path) as store:
            assert store["class"].asstr()[:].tolist() == asked["class"]
            assert (store["rain_day"][:].tolist(), store["seeds"][:].tolist()) == (asked["rain/day"], [7, 8, 9])
            assert store["winds/t"].attrs["channels"].tolist() == ["850", "500"]
        return
    engine = {"netcdf": "h5netcdf", "zarr": "zarr"}[kind]
    options = {"consolidated": False} if kind == "zarr" else {}
    with pytest.importorskip("xarray").open_dataset(path, group="winds", engine=engine, **options) as store:
        assert store["rain_day"].values.tolist() == asked["rain/day"]
        assert store["sample"].values.tolist() == [7, 8, 9]
        words = store["t"].attrs["class"] if kind == "zarr" else store["class"].values.tolist()
        assert list(words) == asked["class"]
        assert list(store["t"].attrs["channels"]) == ["850", "500"]
        assert kind == "zarr" or stack.metadata.channels == names
