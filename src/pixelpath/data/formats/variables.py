"""Variables of HDF5 files through h5py, of NetCDF and Zarr through xarray, and of Zarr without what xarray needs through zarr.

A *variable* (elsewhere data set, array) is one named array of a store; a *dimension* is a named axis of it; a *coordinate* is a
variable that says where the places along a dimension are.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pixelpath.data.addresses import Address
from pixelpath.data.formats import hdf5
from pixelpath.data.formats.reading import BrokenFileError, check_regular, check_room, needs, reading
from pixelpath.data.metadata import Described, Format
from pixelpath.errors import UserError

HDF5 = (".h5", ".hdf5")
NETCDF = (".nc", ".nc4", ".cdf")
ZARR = (".zarr", ".zarr.zip")
MISSING = ("_FillValue", "missing_value", "nodata")

# the HDF5 library is not safe under threads; h5py's own lock does not cover closing a file that another thread reads
_hdf5 = threading.Lock()


class Variable(NamedTuple):
    """What a store says of one of its variables without reading it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dimensions: tuple[str, ...]
    """The names of its axes, "" where an axis has none."""
    units: str = ""
    missing: Any = None
    """What the file says means "not measured", whatever its type; None if it says nothing."""
    coordinate: bool = False
    elsewhere: str = ""
    """Where outside the file its values are, which is not read; "" if they are within."""
    described: Described = Described()


@dataclass(frozen=True, eq=False)
class XarrayStore:
    """A NetCDF file, or a Zarr group with named dimensions, through xarray.

    Values are decoded as xarray decodes them: scale * stored + offset, and NaN for _FillValue and missing_value, so that packed
    integers become floats. Without such attributes they stay as stored. Zarr of version 2 has only fill_value for both, what is
    missing and what was never written: a fill_value of 0, which is written unasked, means missing in packed arrays alone.
    """

    dataset: Any
    format: Format
    lock: AbstractContextManager[Any]

    def variables(self) -> dict[str, Variable]:
        bounds = {str(each.attrs.get("bounds")) for each in self.dataset.variables.values()}
        coordinates = {str(name) for name in self.dataset.coords} | bounds
        found = {}
        for name, each in self.dataset.variables.items():
            decoded = any(key in each.encoding for key in ("_FillValue", "missing_value", "scale_factor", "add_offset"))
            missing = float("nan") if decoded and each.dtype.kind == "f" else None
            units, dimensions = text_of(each.attrs.get("units", "")), tuple(map(str, each.dims))
            known = units, missing, str(name) in coordinates, "", _described(each.attrs)
            found[str(name)] = Variable(str(name), each.shape, each.dtype, dimensions, *known)
        return found

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        with self.lock:
            return self.dataset.variables[name][key].values

    def times(self, name: str) -> np.ndarray | None:
        if " since " not in str(self.dataset.variables[name].attrs.get("units", "")):
            return None
        xarray = needs("xarray", "arrays", Path(name))
        try:
            with self.lock:
                values = xarray.decode_cf(self.dataset[[name]])[name].values
        except Exception:  # calendars that numpy has no dates for: such images are numbered
            return None
        return values if values.dtype.kind == "M" else None


@dataclass(frozen=True, eq=False)
class Hdf5Store:
    """An HDF5 file through h5py, opened anew for every window, so that thousands of files need no thousands of handles.

    Links within the file are followed where they are `wanted` by name; what leads to another file is refused, never opened.
    """

    path: Path
    wanted: tuple[str, ...] = ()
    format: Format = "hdf5"

    def variables(self) -> dict[str, Variable]:
        h5py = needs("h5py", "arrays", self.path)
        found: dict[str, Variable] = {}

        def look(name: str, each: Any) -> None:
            if isinstance(each, h5py.Dataset) and each.shape is not None:
                dimensions = tuple(_hdf5_dimension(axis) for axis in each.dims) if each.shape else ()
                scale, away = bool(h5py.h5ds.is_scale(each.id)), hdf5.elsewhere(file, each)
                known = *_attributes(each.attrs), scale, away, _described(each.attrs)
                found[name] = Variable(name, each.shape, each.dtype, dimensions, *known)

        with _hdf5, h5py.File(self.path, "r") as file:
            file.visititems(look)
            for name in self.wanted or (() if found else hdf5.external_links(file)):
                look(name, hdf5.reached(file, name))
        return found

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        h5py = needs("h5py", "arrays", self.path)
        with _hdf5, h5py.File(self.path, "r") as file:
            found = hdf5.reached(file, name)
            if found is None:
                raise KeyError(f"{name} is no longer there")
            if away := hdf5.elsewhere(file, found):
                raise UserError(f"{self.path}::{name} {away}, which is not read: copy its values into the file.")
            return np.asarray(found[key])

    def times(self, name: str) -> np.ndarray | None:
        return None


@dataclass(frozen=True, eq=False)
class ZarrStore:
    """A Zarr array, or a group of arrays, whose dimensions have no names that xarray would need. Values stay as stored."""

    path: Path
    node: Any
    lock: AbstractContextManager[Any]
    format: Format = "zarr"

    def _arrays(self) -> dict[str, Any]:
        """The arrays by their names below the root; an array that is the root itself has the name ""."""
        return dict(_zarr_arrays(self.node, None)) if _is_group(self.node) else {"": self.node}

    def variables(self) -> dict[str, Variable]:
        found = {}
        for name, each in self._arrays().items():
            dimensions = _zarr_dimensions(each) or ("",) * each.ndim
            attributes, scale = each.attrs.asdict(), bool(name) and name in dimensions
            known = *_attributes(attributes), scale, "", _described(attributes)
            found[name] = Variable(name, each.shape, each.dtype, dimensions, *known)
        return found

    def read(self, name: str, key: tuple[int | slice, ...]) -> np.ndarray:
        with self.lock:
            return np.asarray((self.node[name] if name else self.node)[key])

    def times(self, name: str) -> np.ndarray | None:
        return None


Store = XarrayStore | Hdf5Store | ZarrStore
"""Variables by name, windows of them, and times; safe to be read by several threads at once."""


def check_kind(path: Path) -> None:
    """UserError unless the file can be of the kind that its ending says and the packages that read it are there."""
    name = path.name.lower()
    if not name.endswith((*HDF5, *NETCDF, *ZARR)):
        kinds = ", ".join((*HDF5, *NETCDF, *ZARR))
        raise UserError(f"{path} is no store that can be read: give a file or folder with one of the endings {kinds}.")
    modules = ("h5py",) if name.endswith(HDF5) else ("xarray", "zarr") if name.endswith(ZARR) else ("xarray",)
    if name.endswith(NETCDF):
        begin = _begin(path)
        if begin[:3] != b"CDF" and begin != b"\x89HDF":
            raise BrokenFileError(f"{path} is neither NetCDF 3 nor NetCDF 4, by its first bytes: write or copy the file again.")
        if begin == b"CDF\x05":
            raise UserError(
                f"{path} is NetCDF of 64-bit data (CDF-5), which is not read: rewrite it as NetCDF 4 with nccopy -k nc4 IN OUT."
            )
        modules = modules if begin[:3] == b"CDF" else ("xarray", "h5netcdf")
    for module in modules:
        needs(module, "arrays", path)


def _begin(path: Path) -> bytes:
    with reading_store(path), path.open("rb") as file:
        return file.read(4)


def opened(path: Path, variable: str | None) -> tuple[Store, str, str | None]:
    """The store, the group within which its variables are named ("" for the root), and the variable's name there."""
    if path.name.lower().endswith(HDF5):
        return Hdf5Store(path, tuple(name.strip().strip("/") for name in variable.split(",")) if variable else ()), "", variable
    if path.name.lower().endswith(ZARR):
        return _opened_zarr(path, variable)
    xarray, (group, name) = needs("xarray", "arrays", path), _split(variable)
    if _begin(path)[:3] == b"CDF":
        dataset = xarray.open_dataset(path, engine="scipy", cache=False, decode_times=False)
        return XarrayStore(dataset, "netcdf", threading.Lock()), "", variable
    with _hdf5, needs("h5py", "arrays", path).File(path, "r") as file:  # h5netcdf leaves behind what it cannot close
        hdf5.check_alone(file)
    options = {"engine": "h5netcdf", "phony_dims": "access", "cache": False, "decode_times": False}
    try:
        dataset = xarray.open_dataset(path, group=group or None, **options)
    except OSError:
        if not group:
            raise
        # without that group, the variable is looked for, and missed, among those of the root
        dataset, group, name = xarray.open_dataset(path, **options), "", variable
    return XarrayStore(dataset, "netcdf", threading.Lock()), group, name


def _opened_zarr(path: Path, variable: str | None) -> tuple[Store, str, str | None]:
    zarr, zipped = needs("zarr", "arrays", path), path.name.lower().endswith(".zip")
    _check_zarr(path, zipped)
    place = zarr.storage.ZipStore(path, mode="r") if zipped else str(path) if isinstance(path, Address) else path
    # a ZIP archive has one handle, whose place in the file the threads would move under each other
    lock: AbstractContextManager[Any] = threading.Lock() if zipped else contextlib.nullcontext()
    node = zarr.open(place, mode="r", use_consolidated=False)  # so that nothing is read that was not checked
    group, name = _split(variable)
    inside = node.get(group) if group and _is_group(node) else node
    direct = dict(_zarr_arrays(inside, 0)) if inside is not None and _is_group(inside) else {}
    if not direct or not all(_zarr_dimensions(each) or not each.ndim for each in direct.values()):
        return ZarrStore(path, node, lock), "", variable
    xarray = needs("xarray", "arrays", path)
    masked = {name: False for name, each in direct.items() if _unasked_fill(each)}
    options: dict[str, Any] = {"engine": "zarr", "consolidated": False, "group": group or None, "mask_and_scale": masked}
    dataset = xarray.open_dataset(place, cache=False, decode_times=False, **options)
    return XarrayStore(dataset, "zarr", lock), group, name


def _check_zarr(path: Path, zipped: bool) -> None:
    """UserError for arrays of Python objects, which only running a program could read, and for files that are none."""
    if zipped:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_room(path, member.file_size, member.filename)
            found = {name: archive.read(name) for name in archive.namelist() if name.endswith(".zarray")}
    elif isinstance(path, Address):
        found = {str(file): file.read_bytes() for file in path.below(".zarray")}
    else:
        found = {}
        for folder, _, names in os.walk(path):
            for file in (Path(folder) / name for name in names):
                check_regular(file)
                if file.name == ".zarray":
                    found[file.as_posix()] = file.read_bytes()
    for name, text in found.items():
        said = json.loads(text)
        codecs = [said.get("compressor"), *(said.get("filters") or ())] if isinstance(said, dict) else []
        if any(isinstance(codec, dict) and codec.get("id") == "pickle" for codec in codecs):
            raise UserError(f"{path} stores Python objects in {name}, which are never read: write the array as plain numbers.")


def _unasked_fill(array: Any) -> bool:
    """Whether a fill_value of Zarr version 2 is the 0 that every array gets, and nothing says that it means missing."""
    packing = ("scale_factor", "add_offset", "_Unsigned", "_FillValue", "missing_value")
    said = array.metadata.zarr_format == 2 and array.metadata.fill_value is not None and not array.metadata.fill_value
    return said and not any(key in array.attrs for key in packing)


def _is_group(node: Any) -> bool:
    import zarr

    return isinstance(node, zarr.Group)


def _zarr_arrays(group: Any, depth: int | None) -> Iterator[tuple[str, Any]]:
    return ((name, each) for name, each in group.members(max_depth=depth) if not _is_group(each))


def _zarr_dimensions(array: Any) -> tuple[str, ...]:
    """The names of an array's dimensions, none if any is missing."""
    if array.metadata.zarr_format == 3:
        names = array.metadata.dimension_names or ()
    else:
        names = array.attrs.get("_ARRAY_DIMENSIONS", ())
    return tuple(names) if len(names) == array.ndim and all(names) else ()


def _hdf5_dimension(axis: Any) -> str:
    """The name of a dimension: its label, or what the scale attached to it is called."""
    if axis.label or not len(axis):
        return str(axis.label)
    return str(axis[0].name).rsplit("/", 1)[-1]


def _split(variable: str | None) -> tuple[str, str | None]:
    """The group that all the named variables are in, and their names there."""
    names = [] if variable is None else variable.split(",")
    groups = {name.rpartition("/")[0] for name in names}
    if len(groups) != 1 or groups == {""}:
        return "", variable
    return groups.pop(), ",".join(name.rpartition("/")[2] for name in names)


def text_of(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _attributes(attributes: Mapping[str, Any]) -> tuple[str, Any]:
    """The units of a variable that is read as stored, and the value that means "not measured"."""
    return text_of(attributes.get("units", "")), next((attributes[key] for key in MISSING if key in attributes), None)


def _described(attributes: Mapping[str, Any]) -> Described:
    return Described(text_of(attributes.get("long_name", "")), text_of(attributes.get("standard_name", "")))


@contextlib.contextmanager
def reading_store(path: Path, what: str = "") -> Iterator[None]:
    """`reading` with the remedy for stores; UserError for HDF5 that needs a filter which is not there, though it is whole."""
    with reading(path, what, "write or copy the store again"):
        try:
            yield
        except OSError as error:
            if not any(word in str(error) for word in ("plugin", "not registered")):
                raise
            raise UserError(
                f"{path} is packed by a filter that HDF5 does not have here: write it again packed by gzip."
            ) from error
