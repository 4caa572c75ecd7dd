"""What HDF5, NetCDF and Zarr stores become, how little of them is read, and the sentence that each mistake is answered with."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.refusal import refused

from pixelpath.data.formats import stores
from pixelpath.data.formats.stacks import Stack
from pixelpath.data.formats.stores import Layout, open_store
from pixelpath.data.metadata import Described, Metadata
from pixelpath.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore")  # writers warn of what is not yet in the Zarr standard
RANDOM = np.random.default_rng(0)
TIMES = np.array(["2020-01-01T00:00", "2020-01-01T06:30", "2020-03-02T12:00"], "datetime64[ns]")
KINDS = ("a.nc", "classic.nc", "a.zarr", "two.zarr", "a.zarr.zip")


def integers(*shape: int, dtype: str = "int16") -> np.ndarray:
    return RANDOM.integers(-100 if np.dtype(dtype).kind == "i" else 0, 100, shape, dtype)


def floats(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RANDOM.normal(size=shape).astype(dtype)


def dataset(variables: dict[str, tuple[Any, ...]], coordinates: dict[str, Any] | None = None) -> Any:
    return pytest.importorskip("xarray").Dataset(variables, coords=coordinates or {})


def save(data: Any, path: Path, **options: Any) -> Path:
    """A dataset in the kind of store that the name says: NetCDF 4 or 3, Zarr 3 or 2, a folder or an archive."""
    if path.suffix == ".nc" and path.stem == "classic":
        data.to_netcdf(path, engine="scipy", **options)
    elif path.suffix == ".nc":
        pytest.importorskip("h5netcdf")
        data.to_netcdf(path, engine="h5netcdf", **options)
    else:
        zarr = pytest.importorskip("zarr")
        version = 2 if path.stem == "two" else 3
        place = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else None
        data.to_zarr(place or path, zarr_format=version, consolidated=False, **options)
        if place:
            place.close()
    return path


def write_hdf5(path: Path, arrays: dict[str, np.ndarray], **attributes: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
            file[name].attrs.update(attributes)
    return path


def write_zarr(path: Path, arrays: dict[str, np.ndarray], version: int = 3) -> Path:
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    for name, array in arrays.items():
        group.create_array(name, data=array, chunks=(1, *array.shape[1:]))
    return path


def assert_holds(stack: Stack, images: np.ndarray) -> None:
    """A stack has the images [image, channel, row, column], whole and in windows."""
    assert stack.shape == images.shape
    assert stack.dtype == images.dtype.newbyteorder("=")
    assert stack.dtype.isnative
    for index in range(len(images)):
        np.testing.assert_array_equal(stack.read(index), images[index])
        window = stack.read(index, slice(1, 3), slice(2, None))
        np.testing.assert_array_equal(window, images[index, :, 1:3, 2:])
        assert window.dtype == stack.dtype
        assert window.flags.writeable


@pytest.mark.parametrize("kind", KINDS)
def test_a_variable_with_its_coordinates(tmp_path: Path, kind: str) -> None:
    rain, latitude = integers(3, 4, 5), np.array([50.0, 50.5, 51.0, 51.5])
    where = {"time": TIMES, "lat": ("lat", latitude, {"units": "degrees_north"}), "lon": np.arange(5.0)}
    data = dataset({"rain": (("time", "lat", "lon"), rain, {"units": "mm/h"}), "crs": ((), 0)}, where)
    data["labels"] = ("time", np.array([2, 0, 1]))
    stack = open_store(save(data, tmp_path / kind), None)
    assert_holds(stack, rain[:, None])
    metadata = stack.metadata
    assert (metadata.format, metadata.variable, metadata.units) == ("netcdf" if kind.endswith("nc") else "zarr", "rain", "mm/h")
    assert metadata.nodata is None
    assert [(axis.name, axis.values, axis.units) for axis in metadata.axes] == [
        ("lat", tuple(latitude), "degrees_north"),
        ("lon", (0.0, 1.0, 2.0, 3.0, 4.0), ""),
    ]
    assert [stack.name(index) for index in range(3)] == ["2020-01-01T00:00:00", "2020-01-01T06:30:00", "2020-03-02T12:00:00"]
    assert stack.labels is not None
    assert stack.labels.tolist() == [2, 0, 1]
    assert (stack.classes, stack.whole) == (None, False)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_go_north_are_known_by_the_coordinate_alone(tmp_path: Path, kind: str) -> None:
    north, images = np.array([50.0, 50.5, 51.0, 51.5]), floats(3, 4, 5)
    grid = np.repeat(north[:, None], 5, 1)
    metres = ("y", north, {"standard_name": "projection_y_coordinate", "units": "m"})
    for number, (rows, coords, up) in enumerate(
        [
            ("lat", {"lat": north}, True),
            ("lat", {"lat": north[::-1]}, False),
            ("y", {"y": ("y", north, {"units": "degrees_north"})}, True),
            ("y", {"y": metres}, True),
            ("y", {"y": north}, False),  # it may count rows from the top
            ("lat", {}, False),
            ("y", {"latitude": (("y", "x"), grid)}, True),
            ("y", {"latitude": (("y", "x"), grid[::-1])}, False),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        stack = open_store(save(dataset({"rain": (("n", rows, "x"), images)}, coords), tmp_path / str(number) / kind), "rain")
        assert stack.metadata.south_up is up, (rows, coords)
        assert_holds(stack, images[:, None])


@pytest.mark.parametrize("kind", KINDS)
def test_variables_and_coordinates_keep_their_words(tmp_path: Path, kind: str) -> None:
    where = {
        "lat": ("lat", np.arange(4.0), {"long_name": "latitude of cells", "standard_name": "latitude"}),
        "lon": np.arange(5.0),
    }
    dimensions = ("n", "lat", "lon")
    wind = {"u": (dimensions, floats(3, 4, 5), {"long_name": "eastward wind"}), "v": (dimensions, floats(3, 4, 5))}
    metadata = open_store(save(dataset(wind, where), tmp_path / kind), "u,v").metadata
    assert metadata.described == (Described("eastward wind"), Described())
    assert [axis.described for axis in metadata.axes] == [Described("latitude of cells", "latitude"), Described()]
    again = Metadata.from_json(json.loads(json.dumps(metadata.to_json())))
    assert (again.described, again.axes) == (metadata.described, metadata.axes)


def test_times_that_tell_no_images_apart_are_no_names(tmp_path: Path) -> None:
    times = np.array(["2020-01-01", "2020-01-01", "2020-01-02"], "datetime64[ns]")
    data = dataset({"rain": (("time", "y", "x"), integers(3, 4, 5))}, {"time": times})
    stack = open_store(save(data, tmp_path / "classic.nc"), None)
    assert [stack.name(index) for index in range(3)] == ["00000000", "00000001", "00000002"]
    assert stack.metadata.axes == ()


@pytest.mark.parametrize("kind", ["a.nc", "classic.nc", "a.zarr"])
def test_packed_integers_become_what_they_mean(tmp_path: Path, kind: str) -> None:
    meant = 1 + 0.25 * integers(2, 4, 5).astype(float)
    meant[1, 2, 3] = np.nan
    packing = {"dtype": "int16", "scale_factor": 0.25, "add_offset": 1.0, "_FillValue": -9999}
    data = dataset({"rain": (("time", "y", "x"), meant)})
    stack = open_store(save(data, tmp_path / kind, encoding={"rain": packing}), None)
    assert_holds(stack, meant[:, None])
    assert stack.metadata.nodata is not None
    assert math.isnan(stack.metadata.nodata)


def test_a_length_of_time_is_a_number(tmp_path: Path) -> None:
    data = dataset({"age": (("n", "y", "x"), floats(2, 4, 5), {"units": "days"})})
    stack = open_store(save(data, tmp_path / "classic.nc"), None)
    assert (stack.dtype, stack.metadata.units) == (np.float32, "days")


@pytest.mark.parametrize(
    ("dimensions", "order"),
    [
        (("time", "band", "y", "x"), (0, 1, 2, 3)),
        (("band", "time", "latitude", "longitude"), (1, 0, 2, 3)),
        (("x", "y", "level", "sample"), (3, 2, 1, 0)),
        (("lon", "image", "lat", "c"), (1, 3, 2, 0)),
        (("time", "any", "row", "column"), (0, 1, 2, 3)),
        (("any", "time", "row", "column"), (1, 0, 2, 3)),
        (("n", "p", "q", "channel"), (0, 3, 1, 2)),
    ],
)
def test_axes_are_found_by_name(tmp_path: Path, dimensions: tuple[str, ...], order: tuple[int, ...]) -> None:
    array = floats(2, 3, 4, 5)
    data = dataset({"a": (dimensions, array)})
    assert_holds(open_store(save(data, tmp_path / "classic.nc"), None), array.transpose(order))


@pytest.mark.parametrize(
    ("names", "shape", "layout"),
    [
        (("", ""), (4, 5), Layout((), None, 0, 1)),
        (("x", "y"), (4, 5), Layout((), None, 1, 0)),
        (("", "", ""), (3, 4, 5), Layout((0,), None, 1, 2)),
        (("band", "y", "x"), (3, 4, 5), Layout((), 0, 1, 2)),
        (("y", "x", "band"), (4, 5, 3), Layout((), 2, 0, 1)),
        (("a", "b", "wavelength"), (4, 5, 3), Layout((), 2, 0, 1)),
        (("a", "b", "time"), (4, 5, 3), Layout((2,), None, 0, 1)),
        (("", "", "", ""), (2, 3, 4, 5), Layout((0,), 1, 2, 3)),
        (("", "", "", ""), (2, 4, 5, 3), Layout((0,), 3, 1, 2)),
        (("", "", "", ""), (2, 3, 5, 3), Layout((0,), 1, 2, 3)),
        (("time", "", "", ""), (2, 4, 5, 3), Layout((0,), 3, 1, 2)),
        (("time", "number", "lat", "lon"), (2, 3, 4, 5), Layout((0, 1), None, 2, 3)),
        (("member", "level", "lat", "lon"), (2, 3, 4, 5), Layout((0,), 1, 2, 3)),
    ],
)
def test_the_layout_follows_names_then_places(names: tuple[str, ...], shape: tuple[int, ...], layout: Layout) -> None:
    assert stores._layout(names, shape) == layout


def test_ensembles_over_time_are_all_images(tmp_path: Path) -> None:
    array = floats(2, 3, 4, 5)
    data = dataset({"t": (("time", "number", "lat", "lon"), array)})
    assert_holds(open_store(save(data, tmp_path / "classic.nc"), None), array.reshape(6, 1, 4, 5))


def test_channels_are_called_by_their_coordinate(tmp_path: Path) -> None:
    array = floats(2, 3, 4, 5)
    data = dataset({"t": (("time", "level", "y", "x"), array)}, {"level": [1000.0, 850.0, 0.5]})
    assert open_store(save(data, tmp_path / "classic.nc"), None).metadata.channels == ("1000", "850", "0.5")
    words = dataset({"t": (("time", "band", "y", "x"), array)}, {"band": ["red", "green", "nir"]})
    assert open_store(save(words, tmp_path / "a.zarr"), None).metadata.channels == ("red", "green", "nir")


@pytest.mark.parametrize("kind", KINDS)
def test_several_variables_become_channels(tmp_path: Path, kind: str) -> None:
    u, v = floats(3, 4, 5), floats(3, 4, 5)
    wind = {name: (("time", "y", "x"), array, {"units": "m/s"}) for name, array in (("u", u), ("v", v))}
    stack = open_store(save(dataset(wind), tmp_path / kind), "v,u")
    assert_holds(stack, np.stack([v, u], 1))
    assert (stack.metadata.channels, stack.metadata.units, stack.metadata.variable) == (("v", "u"), "m/s", "v,u")


def test_variables_with_levels(tmp_path: Path) -> None:
    u, v = floats(3, 2, 4, 5), floats(3, 2, 4, 5)
    wind = dataset({name: (("time", "level", "y", "x"), array) for name, array in (("u", u), ("v", v))}, {"level": [850, 500]})
    stack = open_store(save(wind, tmp_path / "classic.nc"), "u,v")
    assert_holds(stack, np.concatenate([u, v], 1))
    assert stack.metadata.channels == ("u 850", "u 500", "v 850", "v 500")


def test_groups_of_netcdf_and_zarr(tmp_path: Path) -> None:
    array = integers(3, 4, 5)
    for kind in ("a.nc", "a.zarr"):
        path = save(dataset({"rain": (("time", "y", "x"), array)}), tmp_path / kind, group="radar/north")
        stack = open_store(path, "radar/north/rain")
        assert_holds(stack, array[:, None])
        assert stack.metadata.variable == "radar/north/rain"


@pytest.mark.parametrize("dtype", ["uint8", "int8", ">u2", "int16", "uint32", ">i4", "float16", "float32", ">f8"])
def test_hdf5_keeps_every_value(tmp_path: Path, dtype: str) -> None:
    array = (floats if np.dtype(dtype).kind == "f" else integers)(3, 2, 4, 5, dtype=dtype.strip(">")).astype(dtype)
    path = write_hdf5(tmp_path / "a.h5", {"scan/images": array}, units="counts")
    stack = open_store(path, None)
    assert_holds(stack, array)
    assert_holds(open_store(path, "/scan/images"), array)
    metadata = stack.metadata
    assert (metadata.format, metadata.variable, metadata.units, metadata.nodata) == ("hdf5", "scan/images", "counts", None)


def test_hdf5_says_what_is_missing_and_keeps_it(tmp_path: Path) -> None:
    array = integers(3, 4, 5)
    for key in ("_FillValue", "missing_value", "nodata"):
        stack = open_store(write_hdf5(tmp_path / "a.h5", {"a": array}, **{key: np.array([-99], np.int16)}), None)
        assert_holds(stack, array[:, None])
        assert stack.metadata.nodata == -99
    stack = open_store(write_hdf5(tmp_path / "a.hdf5", {"a": floats(3, 4, 5)}, _FillValue=np.nan), None)
    assert stack.metadata.nodata is not None
    assert math.isnan(stack.metadata.nodata)
    tenth = open_store(write_hdf5(tmp_path / "a.hdf5", {"a": floats(3, 4, 5)}, _FillValue=0.1), None)
    assert tenth.metadata.nodata == float(np.float32(0.1))


def test_hdf5_with_scales_and_labels(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    array = integers(4, 5, 3, 2)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g")
        for name, values in (("y", np.arange(4.0)), ("x", np.arange(5.0) / 2), ("band", np.array([4, 3, 2]))):
            group[name] = values
            group[name].make_scale(name)
        group["images"], group["label"] = array, np.array([[1], [0]], np.uint8)
        for axis, name in enumerate(("y", "x", "band")):
            group["images"].dims[axis].attach_scale(group[name])
    stack = open_store(tmp_path / "a.h5", None)
    assert_holds(stack, array.transpose(3, 2, 0, 1))
    assert stack.metadata.channels == ("4", "3", "2")
    assert [axis.values for axis in stack.metadata.axes] == [(0.0, 1.0, 2.0, 3.0), (0.0, 0.5, 1.0, 1.5, 2.0)]
    assert stack.labels is not None
    assert stack.labels.tolist() == [1, 0]


def test_a_picture_alone_is_one_image(tmp_path: Path) -> None:
    array = integers(4, 5)
    assert_holds(open_store(write_hdf5(tmp_path / "a.h5", {"a": array}), None), array[None, None])


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_without_names_of_dimensions(tmp_path: Path, version: int) -> None:
    zarr = pytest.importorskip("zarr")
    array = integers(3, 4, 5, 2)
    path = write_zarr(tmp_path / "a.zarr", {"g/images": array, "g/labels": np.array([1, 0, 1])}, version)
    stack = open_store(path, None)
    assert_holds(stack, array.transpose(0, 3, 1, 2))
    assert_holds(open_store(path, "g/images"), array.transpose(0, 3, 1, 2))
    assert stack.labels is not None
    assert stack.labels.tolist() == [1, 0, 1]
    alone = zarr.create_array(tmp_path / "alone.zarr", data=array[..., 0], zarr_format=version)
    alone.attrs.update({"units": "K", "_FillValue": -7})
    stack = open_store(tmp_path / "alone.zarr", None)
    assert_holds(stack, array[:, None, :, :, 0])
    assert (stack.metadata.units, stack.metadata.nodata, stack.metadata.variable) == ("K", -7, "")


def test_a_packed_variable_is_decoded_in_whatever_group_it_is(tmp_path: Path) -> None:
    meant = 0.25 * integers(2, 4, 5).astype(float)
    packing = {"dtype": "int16", "scale_factor": 0.25, "_FillValue": -9999}
    data = dataset({"rain": (("time", "y", "x"), meant)})
    path = save(data, tmp_path / "a.zarr", group="radar", encoding={"rain": packing})
    for variable in (None, "radar/rain"):
        stack = open_store(path, variable)
        assert_holds(stack, meant[:, None])
        assert stack.metadata.variable == "radar/rain"


def zarr_two(path: Path, array: np.ndarray, fill: Any, **attributes: Any) -> Path:
    zarr = pytest.importorskip("zarr")
    written = zarr.open_group(path, mode="w", zarr_format=2).create_array("a", data=array, fill_value=fill)
    written.attrs.update({"_ARRAY_DIMENSIONS": ["n", "y", "x"], **attributes})
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_the_zero_that_fills_zarr_two_unasked_is_a_value(tmp_path: Path, dtype: str) -> None:
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    stack = open_store(zarr_two(tmp_path / "a.zarr", array, 0), None)
    assert (stack.dtype, stack.metadata.nodata) == (np.dtype(dtype), None)
    assert_holds(stack, array[:, None])


@pytest.mark.parametrize(
    ("fill", "attributes"), [(7, {}), (0, {"_FillValue": 0}), (0, {"scale_factor": 0.5}), (0, {"add_offset": 3})]
)
def test_other_fill_values_of_zarr_two_are_missing_as_in_xarray(tmp_path: Path, fill: int, attributes: dict[str, Any]) -> None:
    xarray = pytest.importorskip("xarray")
    path = zarr_two(tmp_path / "a.zarr", np.arange(60, dtype=np.uint8).reshape(3, 4, 5), fill, **attributes)
    stack = open_store(path, None)
    assert_holds(stack, xarray.open_zarr(path, chunks=None, consolidated=False)["a"].values[:, None])
    assert np.isnan(stack.read(0)[0].ravel()[fill])


@pytest.mark.parametrize("where", ["filters", "compressor"])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_python_objects_are_never_read(tmp_path: Path, where: str, packed: bool) -> None:
    path, codec = zarr_two(tmp_path / "a.zarr", integers(3, 4, 5), 0), {"id": "pickle", "protocol": 5}
    said = json.loads((path / "a" / ".zarray").read_text())
    (path / "a" / ".zarray").write_text(json.dumps({**said, where: [codec] if where == "filters" else codec}))
    if packed:
        with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w") as archive:
            for file in filter(Path.is_file, path.rglob("*")):
                archive.write(file, file.relative_to(path))
        path = tmp_path / "a.zarr.zip"
    with refused(None, path, "a/.zarray", "Python objects"):
        open_store(path, None)


def test_a_pipe_within_a_store_is_named(tmp_path: Path) -> None:
    path = zarr_two(tmp_path / "a.zarr", integers(3, 4, 5), 0)
    os.mkfifo(path / "a" / "0.0.1")
    with refused(None, path / "a" / "0.0.1"):
        open_store(path, None)


def linked(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"] = integers(6, 8, 8)
    with h5py.File(folder / "a.h5", "w") as file:
        file["data/real"] = integers(6, 8, 8)
        file["hard"], file["data/loop"] = file["data/real"], file["data"]
        file["soft"], file["twice"], file["way"] = (h5py.SoftLink(to) for to in ("/data/real", "soft", "/data"))
        file["far"], file["farther"] = h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/far")
        file["round"], file["nowhere"] = h5py.SoftLink("/round"), h5py.SoftLink("/data/unreal")
        sources = {"mosaic": h5py.VirtualSource(file["data/real"]), "foreign": h5py.VirtualSource("other.h5", "x", (6, 8, 8))}
        for name, source in sources.items():
            layout = h5py.VirtualLayout((6, 8, 8), integers(1).dtype)
            layout[...] = source
            file.create_virtual_dataset(f"virtual/{name}", layout)
        file.create_dataset("virtual/raw", (6, 8, 8), "u1", external=[("values.bin", 0, 6 * 64)])
    (folder / "values.bin").write_bytes(bytes(6 * 64))
    return folder / "a.h5"


@pytest.mark.parametrize(
    "name", ["data/real", "hard", "soft", "twice", "way/real", "data/loop/loop/real", "/hard/", "virtual/mosaic"]
)
def test_links_within_an_hdf5_file_are_followed(tmp_path: Path, name: str) -> None:
    path = linked(tmp_path)
    stack, plain = open_store(path, name), open_store(path, "data/real")
    assert stack.metadata.variable == name.strip("/")
    assert_holds(stack, np.stack([plain.read(index) for index in range(6)]))


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        *(("far", "other.h5"), ("farther", "other.h5"), ("virtual/foreign", "other.h5"), ("virtual/raw", "values.bin")),
        *(("round", "holds no variable round"), ("nowhere", "holds no variable nowhere")),
    ],
)
def test_what_leads_out_of_an_hdf5_file_is_refused(tmp_path: Path, name: str, fact: str) -> None:
    path = linked(tmp_path)
    os.remove(tmp_path / "other.h5")
    os.mkfifo(tmp_path / "other.h5")  # opened, it would never end
    with pytest.raises(UserError) as caught:
        open_store(path, name)
    assert fact in str(caught.value)
    assert str(path) in str(caught.value)


def test_links_alone_are_named_and_netcdf_files_stand_alone(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name in ("a.h5", "a.nc"):
        with h5py.File(tmp_path / name, "w") as file:
            file["far"] = h5py.ExternalLink("other.h5", "/x")
        with refused(None, tmp_path / name, "other.h5"):
            open_store(tmp_path / name, None)


def huge(path: Path) -> Path:
    """10^11 bytes, of which the disk holds none."""
    shape, chunks = (100_000, 1000, 1000), (1, 250, 250)
    if path.suffix == ".zarr":
        zarr = pytest.importorskip("zarr")
        names = ("time", "y", "x") if path.stem == "named" else None
        zarr.open_group(path, mode="w").create_array("a", shape=shape, dtype="u1", chunks=chunks, dimension_names=names)
        return path
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("a", shape, "u1", chunks=chunks, fillvalue=3)
    return path


@pytest.mark.parametrize("name", ["a.h5", "a.nc", "named.zarr", "plain.zarr"])
def test_a_store_much_larger_than_the_memory(tmp_path: Path, name: str) -> None:
    stack = open_store(huge(tmp_path / name), None)
    assert stack.shape == (100_000, 1, 1000, 1000)
    window = stack.read(99_999, slice(500, 508), slice(300, 316))
    np.testing.assert_array_equal(window, np.full((1, 8, 16), 0 if name.endswith("zarr") else 3))


def test_a_classic_file_much_larger_than_the_memory(tmp_path: Path) -> None:
    path = save(dataset({"a": (("time", "y", "x"), np.zeros((1, 1000, 1000), np.int8))}), tmp_path / "classic.nc")
    content = path.read_bytes()
    begin = len(content) - 10**6
    # let the one time in the header be 2000 (a variable may have 2^31 bytes), of which the disk never holds the most
    with path.open("wb") as file:
        file.write(content[:begin].replace(b"time\0\0\0\1", b"time" + (2000).to_bytes(4, "big"), 1))
        file.truncate(begin + 2000 * 10**6)
    stack = open_store(path, None)
    assert stack.shape == (2000, 1, 1000, 1000)
    assert stack.read(1999, slice(500, 508), slice(300, 316)).shape == (1, 8, 16)


def test_only_the_window_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    stack = open_store(write_hdf5(tmp_path / "a.h5", {"a": integers(3, 40, 50, 2)}), None)
    keys: list[Any] = []
    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda self, key, **more: keys.append(key) or original(self, key, **more))
    assert stack.read(2, slice(3, 5), slice(7, 9)).shape == (2, 2, 2)
    assert keys == [(2, slice(3, 5), slice(7, 9), slice(None))]


@pytest.mark.parametrize("name", ["a.h5", *KINDS])
def test_threads_read_what_one_reads(tmp_path: Path, name: str) -> None:
    array = integers(8, 12, 16)
    plain = name == "a.h5"
    path = write_hdf5(tmp_path / name, {"a": array}) if plain else save(dataset({"a": (("n", "y", "x"), array)}), tmp_path / name)
    stack = open_store(path, None)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda index: stack.read(index % 8, slice(index % 5, 9)), range(80)))
    for index, image in enumerate(read):
        np.testing.assert_array_equal(image[0], array[index % 8, index % 5 : 9])


def assert_sentence(error: BaseException, words: list[str]) -> None:
    text = str(error)
    assert text.endswith(".")
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


def many(path: Path) -> None:
    write_hdf5(path, {f"v{number:02d}": integers(3, 4, number + 1) for number in range(12)})


def cut(path: Path) -> None:
    content = write_hdf5(path, {"a": integers(30, 40, 50)}).read_bytes()
    path.write_bytes(content[: len(content) // 2])


def single(array: np.ndarray, **attributes: Any) -> Callable[[Path], object]:
    return lambda path: write_hdf5(path, {"a": array}, **attributes)


def pair(first: np.ndarray, second: np.ndarray) -> Callable[[Path], object]:
    return lambda path: write_hdf5(path, {"u": first, "v": second})


MISTAKES: list[tuple[str, str | None, Callable[[Path], object], list[str]]] = [
    ("a.h5", None, many, ["12 variables", "v00 3x4x1 int16", "v09 3x4x10 int16, ...", "`data.path` FILE::NAME"]),
    ("a.h5", "b", single(integers(3, 4, 5)), ["no variable b", "(a)", "`data.path` FILE::NAME"]),
    ("a.h5", None, single(np.zeros((3, 4, 5), np.int64)), ["a.h5::a", "dtype int64", "float32"]),
    ("a.h5", None, single(np.zeros((3, 4, 5), np.complex64)), ["dtype complex64", "convert"]),
    ("a.h5", None, single(np.zeros((3, 4, 5), bool)), ["dtype bool", "convert"]),
    ("a.h5", "a", single(np.zeros(3)), ["1 dimensions (3)", "[image, row, column]"]),
    ("a.h5", None, single(np.zeros((1, 2, 3, 4, 5))), ["5 dimensions (1x2x3x4x5)", "two to four"]),
    ("a.h5", None, single(np.zeros((0, 4, 5), np.uint8)), ["is empty (0x4x5)"]),
    ("a.h5", None, lambda path: write_hdf5(path, {}), ["holds no variable", "FILE::GROUP/NAME"]),
    ("a.h5", None, lambda path: write_hdf5(path, {"labels": np.arange(3)}), ["holds no variable"]),
    ("a.h5", None, single(np.zeros((3, 4, 5), np.uint8), _FillValue=-1), ["missing values by -1", "uint8", "correct"]),
    ("a.h5", None, single(np.zeros((3, 4, 5), np.uint8), nodata="none"), ["missing values by none", "correct"]),
    ("a.h5", "u,v", pair(integers(3, 4, 5), integers(3, 4, 6)), ["v 3x4x6 int16", "u 3x4x5 int16", "one shape"]),
    ("a.h5", "u,v", pair(integers(3, 4, 5), floats(3, 4, 5)), ["v 3x4x5 float32", "dtype"]),
    ("a.h5", None, cut, ["cannot be read", "again"]),
    ("a.h5", None, lambda path: path.write_bytes(b""), ["cannot be read", "again"]),
    ("a.nc", None, lambda path: path.write_bytes(b"no store at all"), ["neither NetCDF 3 nor NetCDF 4"]),
    ("a.nc", None, lambda path: path.write_bytes(b"CDF\5" + bytes(28)), ["64-bit data (CDF-5)", "nccopy -k nc4"]),
    ("a.nc", "no/group", single(integers(3, 4, 5)), ["no variable no/group", "(a)"]),
    ("a.nc", None, cut, ["cannot be read", "again"]),
    ("a.nc", None, lambda path: path.write_bytes(b"CDF\1\0\0\0\0\0\0"), ["cannot be read", "again"]),
    ("a.zarr", None, lambda path: path.mkdir(), ["cannot be read", "again"]),
    ("a.zarr.zip", None, lambda path: path.write_bytes(b"PK no archive"), ["cannot be read", "again"]),
    ("a.txt", None, lambda path: path.write_text("1"), ["no store", ".zarr"]),
]


@pytest.mark.parametrize(("name", "variable", "make", "words"), MISTAKES)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path, name: str, variable: str | None, make: Callable[[Path], object], words: list[str]
) -> None:
    for module in ("h5py", "h5netcdf", "xarray", "zarr"):
        pytest.importorskip(module)
    make(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(name)) as caught:
        open_store(tmp_path / name, variable)
    assert_sentence(caught.value, words)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.h5 does not exist: give an HDF5, NetCDF or Zarr store\."):
        open_store(tmp_path / "a.h5", None)


def test_variables_that_mark_missing_values_differently(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write_hdf5(tmp_path / "a.h5", {"u": integers(3, 4, 5), "v": integers(3, 4, 5)}, _FillValue=-1)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["v"].attrs["_FillValue"] = -2
    with pytest.raises(ValueError, match=r"a\.h5 mark missing values differently \(u by -1.0, v by -2.0\): bring them"):
        open_store(tmp_path / "a.h5", "u,v")


@pytest.mark.parametrize("version", [2, 3])
def test_damage_that_shows_when_pixels_are_read(tmp_path: Path, version: int) -> None:
    path = write_zarr(tmp_path / "a.zarr", {"a": floats(3, 4, 5)}, version)
    chunk = path / "a" / ("1.0.0" if version == 2 else "c/1/0/0")
    chunk.write_bytes(b"abc")
    stack = open_store(path, None)
    stack.read(0)
    with pytest.raises(ValueError, match="at image 1") as caught:
        stack.read(1)
    assert_sentence(caught.value, ["a.zarr", "image 1", "again"])


@pytest.mark.parametrize("name", ["a.h5", "a.nc"])
def test_a_filter_that_is_not_there_is_no_damage(tmp_path: Path, name: str) -> None:
    """32015 is Zstandard, which HDF5 has as a plugin."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / name, "w") as file:
        how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        how.set_chunk((3, 4, 5))
        how.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        data = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_INT16, h5py.h5s.create_simple((3, 4, 5)), how)
        data.write_direct_chunk((0, 0, 0), bytes(120), 0)
    stack = open_store(tmp_path / name, None)
    with refused(None, name, "filter", "gzip"):
        stack.read(0)


def test_a_store_that_goes_away(tmp_path: Path) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"a": integers(3, 4, 5)})
    stack = open_store(path, None)
    shutil.move(path, tmp_path / "b.h5")
    with pytest.raises(ValueError, match="at image 2") as caught:
        stack.read(2)
    assert_sentence(caught.value, ["a.h5"])


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "a.h5", {"a": integers(3, 4, 5)})
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"needs the package h5py .*pixelpath\[arrays\]") as caught:
        open_store(path, None)
    assert_sentence(caught.value, ["a.h5"])
