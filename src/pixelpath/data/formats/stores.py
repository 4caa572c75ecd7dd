"""Arrays in HDF5, NetCDF and Zarr stores as images.

A *variable* is one named array of a store (see `variables`); a *layout* says which of its axes number the images, the channels,
the rows and the columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.formats.variables import Store, Variable, ZarrStore, check_kind, opened, reading_store, text_of
from pixelpath.data.metadata import Axis, Metadata
from pixelpath.errors import MissingError, UserError

ROWS = ("y", "lat", "latitude", "row", "rows", "north", "northing", "height", "h", "south_north", "nlat", "rlat")
COLUMNS = (
    *("x", "lon", "longitude", "column", "columns", "col", "cols", "east", "easting"),
    *("width", "w", "west_east", "nlon", "rlon"),
)
CHANNELS = (
    *("band", "bands", "channel", "channels", "c", "wavelength", "wavelengths", "component", "components", "feature", "features"),
    *("level", "levels", "lev", "plev", "pressure_level", "isobaricinhpa", "variable", "member"),
)
IMAGES = ("time", "t", "valid_time", "date", "sample", "samples", "n", "batch", "image", "images", "ensemble", "number", "index")
LABELS = ("labels", "label")
NORTHWARD = ("latitude", "grid_latitude", "projection_y_coordinate")  # standard names of what rises to the north
NORTH_UNITS = ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen")
LATITUDES = ("lat", "latitude", "nlat", "rlat", "north", "northing")
SHOWN = 10


class Layout(NamedTuple):
    """Which axes of a variable number the images, the channels (None: there is one), the rows and the columns."""

    images: tuple[int, ...]
    channels: int | None
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class StoreStack:
    """The images of one variable, or of several variables of one shape whose channels follow each other; made by `open_store`."""

    path: Path
    store: Store
    variables: tuple[str, ...]
    layout: Layout
    lengths: tuple[int, ...]
    """How many places there are along each axis that numbers the images."""
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    metadata: Metadata
    labels: Int[np.ndarray, "count"] | None = None
    times: np.ndarray | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    def name(self, index: int) -> str:
        return f"{index:08d}" if self.times is None else str(self.times[index])

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        key = dict(zip(self.layout.images, map(int, np.unravel_index(index, self.lengths)), strict=True)) if self.lengths else {}
        chosen: dict[int, int | slice] = {**key, self.layout.rows: rows, self.layout.columns: columns}
        axes = len(self.lengths) + 2 + (self.layout.channels is not None)
        window = tuple(chosen.get(axis, EVERYTHING) for axis in range(axes))
        with reading_store(self.path, f"at image {index}"):
            pieces = [self._ordered(self.store.read(name, window)) for name in self.variables]
        return np.ascontiguousarray(np.concatenate(pieces), dtype=self.dtype)

    def _ordered(self, values: np.ndarray) -> Shaped[np.ndarray, "channel row column"]:
        """What was read, as [channel, row, column]: the axes left keep their order in the store."""
        wanted = [axis for axis in (self.layout.channels, self.layout.rows, self.layout.columns) if axis is not None]
        ranks = [sorted(wanted).index(axis) for axis in wanted]
        ordered = values.transpose(ranks)
        return ordered if self.layout.channels is not None else ordered[None]


def open_store(path: Path, variable: str | None) -> Stack:
    """The images of a `variable` of an HDF5, NetCDF or Zarr store; several names with commas between them become the channels.

    Axes called like y and x, latitude and longitude, row and column are rows and columns, else the last two that are left; an
    axis called like band, channel, level or member has the channels; all others number the images. Of four axes without names
    the channels are the shorter of the second and the last. NetCDF, and Zarr with named dimensions, is decoded as xarray does
    (see `XarrayStore`); HDF5 and other Zarr is native. Labels are a variable labels or label beside, one integer per image.
    Raises UserError: nothing there, unreadable, no or several variables to choose from,
    other numbers of axes than two to four, other dtypes, empty, variables that differ.
    """
    if not path.exists():
        raise MissingError(f"{path} does not exist: give an HDF5, NetCDF or Zarr store.")
    check_kind(path)
    with reading_store(path):
        store, group, variable = opened(path, variable.strip("/") if variable else None)
        variables = store.variables()
    chosen = _chosen(path, variables, variable)
    first = chosen[0]
    if variable is None and isinstance(store, ZarrStore) and "/" in first.name:
        return open_store(path, first.name)  # its group may have what xarray needs, though the root has not
    layout = _layout(first.dimensions, first.shape)
    _agree(path, chosen, layout)
    lengths = tuple(first.shape[axis] for axis in layout.images)
    channels = len(chosen) * (1 if layout.channels is None else first.shape[layout.channels])
    shape = (int(np.prod(lengths, dtype=np.int64)), channels, first.shape[layout.rows], first.shape[layout.columns])
    nodata = _nodata(path, chosen)
    with reading_store(path):
        metadata = replace(_metadata(store, variables, chosen, layout, group), nodata=nodata)
        labels = _labels(store, variables, first.name, shape[0])
        times = _times(store, variables, first, layout)
    names = tuple(each.name for each in chosen)
    return StoreStack(path, store, names, layout, lengths, shape, first.dtype.newbyteorder("="), metadata, labels, times)


def _chosen(path: Path, variables: Mapping[str, Variable], wanted: str | None) -> tuple[Variable, ...]:
    """The variables that are named, or the only one that can be images."""
    if wanted is not None and wanted not in variables:
        names = [name.strip().strip("/") for name in wanted.split(",")]
        unknown = next((name for name in names if name not in variables), None)
        if unknown is not None:
            held = ", ".join([name for name in variables if name][:SHOWN]) or "no named variable"
            raise UserError(
                f"{path} holds no variable {unknown}: use `data.path` FILE::NAME with one that is there ({held}).", "data.path"
            )
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path}::{wanted} names {twice} twice: name every variable once.")
        chosen = tuple(variables[name] for name in names)
    elif wanted is not None:
        chosen = (variables[wanted],)
    else:
        chosen = (_only(path, variables),)
    for each in chosen:
        reason = _unfit(each)
        if reason:
            raise UserError(f"{_called(path, each.name)} {reason}.")
    return chosen


def _only(path: Path, variables: Mapping[str, Variable]) -> Variable:
    others = [each for each in variables.values() if not each.coordinate and each.name.rpartition("/")[2] not in LABELS]
    candidates = [each for each in others if not _unfit(each)]
    if len(candidates) > 1:
        held = ", ".join(map(_look, candidates[:SHOWN])) + (", ..." if len(candidates) > SHOWN else "")
        raise UserError(
            f"{path} holds {len(candidates)} variables that could be images ({held}): use `data.path` FILE::NAME.", "data.path"
        )
    if not candidates and not others:
        remedy = "give a store that does, or name a variable in a group of it with `data.path` FILE::GROUP/NAME"
        raise UserError(f"{path} holds no variable that could be images: {remedy}.", "data.path")
    return candidates[0] if candidates else max(others, key=lambda each: (each.shape != (), len(each.shape)))


def _unfit(variable: Variable) -> str:
    """Why a variable cannot be images, with the remedy; "" if it can."""
    if variable.elsewhere:
        return f"{variable.elsewhere}, which is not read: copy its values into the file"
    shape = "x".join(map(str, variable.shape)) or "()"
    if not 2 <= len(variable.shape) <= 4:
        remedy = "store [row, column], [image, row, column] or [image, channel, row, column]"
        return f"has {len(variable.shape)} dimensions ({shape}), where images have two to four: {remedy}"
    if variable.dtype.newbyteorder("=").name not in dtypes.NAMES:
        return f"has dtype {variable.dtype}: convert it to one of {', '.join(dtypes.NAMES)}"
    return f"is empty ({shape}): name a variable that holds values" if 0 in variable.shape else ""


def _agree(path: Path, chosen: Sequence[Variable], layout: Layout) -> None:
    """UserError unless all variables can be channels of the same images."""
    for each in chosen[1:]:
        if (each.shape, each.dtype) != (chosen[0].shape, chosen[0].dtype) or _layout(each.dimensions, each.shape) != layout:
            raise UserError(
                f"{path} holds {_look(each)} but {_look(chosen[0])}: "
                "name only variables of one shape, order of dimensions and dtype as channels."
            )


def _look(variable: Variable) -> str:
    return f"{variable.name} {'x'.join(map(str, variable.shape))} {variable.dtype}"


def _called(path: Path, name: str) -> str:
    return f"{path}::{name}" if name else str(path)


def _layout(dimensions: Sequence[str], shape: tuple[int, ...]) -> Layout:
    """Which axis is what, by the names of the dimensions, and by their places where these say nothing."""
    names = [name.lower() for name in dimensions]
    axes = list(range(len(shape)))
    row, column = (next((axis for axis in axes if names[axis] in known), None) for known in (ROWS, COLUMNS))
    channel = next((axis for axis in reversed(axes) if names[axis] in CHANNELS), None) if len(axes) > 2 else None
    if row is None or column is None:
        numbering = [axis for axis in axes if names[axis] in IMAGES]
        free = [axis for axis in axes if axis != channel and axis not in numbering]
        if len(free) < 2 or len(axes) == 2:  # names that cannot be right
            channel, numbering, free = None, [], axes
        if len(free) == 4 or (len(free) == 3 and numbering == [0] and channel is None and len(axes) == 4):
            channel = axes[-1] if shape[-1] < shape[1] else 1
            free = [axis for axis in axes[1:] if axis != channel]
        row, column = free[-2:]
    rest = [axis for axis in axes if axis not in (row, column, channel)]
    if channel is None and len(rest) == 2 and sum(names[axis] in IMAGES for axis in rest) < 2:
        channel = next((axis for axis in rest if names[axis] not in IMAGES and axis != rest[0]), rest[0])
        rest.remove(channel)
    return Layout(tuple(rest), channel, row, column)


def _neighbour(name: str, other: str) -> str:
    """The name of a variable in the same group."""
    return f"{name.rpartition('/')[0]}/{other}".lstrip("/")


def _coordinate(store: Store, variables: Mapping[str, Variable], of: Variable, axis: int) -> np.ndarray | None:
    """The values along an axis, if the store has them."""
    found = variables.get(_neighbour(of.name, of.dimensions[axis])) if of.dimensions[axis] else None
    if found is None or found.shape != (of.shape[axis],):
        return None
    return store.read(found.name, (EVERYTHING,))


def _metadata(
    store: Store, variables: Mapping[str, Variable], chosen: Sequence[Variable], layout: Layout, group: str
) -> Metadata:
    first = chosen[0]
    labels: list[str] = []
    if layout.channels is not None:
        values = _coordinate(store, variables, first, layout.channels)
        labels = (
            [] if values is None else [f"{value:g}" if isinstance(value, float) else text_of(value) for value in values.tolist()]
        )
    names = [each.name.rpartition("/")[2] for each in chosen]
    if len(chosen) > 1:
        several = [f"{name} {number}" for name in names for number in labels or range(first.shape[layout.channels or 0])]
        labels = names if layout.channels is None else several
    axes = [_axis(store, variables, first, axis) for axis in (layout.rows, layout.columns)]
    units = [each.units for each in chosen]
    repeats = 1 if layout.channels is None else first.shape[layout.channels]
    title = ",".join(f"{group}/{each.name}".lstrip("/") for each in chosen)
    return Metadata(
        format=store.format,
        variable=title,
        channels=tuple(labels),
        units=first.units if len(set(units)) == 1 else "",
        channel_units=tuple(np.repeat(units, repeats).tolist()) if len(set(units)) > 1 else (),
        axes=tuple(axis for axis in axes if axis is not None) if None not in axes else (),
        south_up=_south_up(store, variables, first, layout),
        described=tuple(each.described for each in chosen) if any(each.described.attributes for each in chosen) else (),
    )


def _south_up(store: Store, variables: Mapping[str, Variable], of: Variable, layout: Layout) -> bool:
    """Whether rows go to the north, by the coordinate of the rows, else by a latitude of every pixel."""
    rows = _coordinate(store, variables, of, layout.rows)
    if rows is not None and _is_northward(variables[_neighbour(of.name, of.dimensions[layout.rows])]):
        return _rises(rows[:, None])
    both = of.dimensions[layout.rows], of.dimensions[layout.columns]
    beside = of.name.rpartition("/")[0]
    grids = [each for each in variables.values() if each.dimensions == both and each.name.rpartition("/")[0] == beside]
    found = next((each for each in grids if all(both) and each.name != of.name and _is_northward(each)), None)
    return found is not None and _rises(store.read(found.name, (EVERYTHING,) * 2))


def _is_northward(variable: Variable) -> bool:
    """Whether a coordinate says of itself that it rises to the north."""
    named = variable.name.rpartition("/")[2].lower() in LATITUDES
    return named or variable.described.standard_name in NORTHWARD or variable.units.lower() in NORTH_UNITS


def _rises(values: Shaped[np.ndarray, "row column"]) -> bool:
    """Whether values grow from the first row to the last, in the columns where both are numbers."""
    if values.dtype.kind not in "iuf" or len(values) < 2:
        return False
    apart = values[-1].astype(float) - values[0].astype(float)
    return bool(apart[np.isfinite(apart)].sum() > 0)


def _nodata(path: Path, chosen: Sequence[Variable]) -> float | None:
    """The value that means "not measured" in all variables; where some mark it by NaN, the others need no mark."""
    values = [_missing(path, each) for each in chosen]
    if len({str(value) for value in values} - {"None"}) == 1 and any(value is not None and np.isnan(value) for value in values):
        return float("nan")
    if len(set(values)) > 1:
        told = ", ".join(f"{each.name} by {value}" for each, value in zip(chosen, values, strict=True))
        raise UserError(f"The variables of {path} mark missing values differently ({told}): bring them to one value.")
    return values[0]


def _missing(path: Path, variable: Variable) -> float | None:
    """A variable's value for "not measured" as its dtype has it; UserError if its dtype cannot have it."""
    if variable.missing is None:
        return None
    try:
        value = float(np.asarray(variable.missing).reshape(-1)[0])
        held = float(variable.dtype.type(value if variable.dtype.kind == "f" else int(value)))
    except (ValueError, IndexError, OverflowError, TypeError):
        value, held = 0.0, 1.0
    if variable.dtype.kind != "f" and held != value:
        what, dtype = f"{_called(path, variable.name)} marks missing values by {variable.missing}", variable.dtype
        raise UserError(f"{what}, which {dtype} does not hold: correct or delete that attribute.")
    return held


def _axis(store: Store, variables: Mapping[str, Variable], of: Variable, axis: int) -> Axis | None:
    values = _coordinate(store, variables, of, axis)
    if values is None or values.dtype.kind not in "iuf":
        return None
    name = of.dimensions[axis]
    found = variables[_neighbour(of.name, name)]
    return Axis(name, tuple(values.astype(float).tolist()), found.units, found.described)


def _labels(store: Store, variables: Mapping[str, Variable], name: str, count: int) -> Int[np.ndarray, "count"] | None:
    """The integers of a variable labels or label in the same group, if there is one per image."""
    for other in LABELS:
        found = variables.get(_neighbour(name, other))
        if found and found.name != name and found.dtype.kind in "iu" and int(np.prod(found.shape, dtype=np.int64)) == count:
            return store.read(found.name, (EVERYTHING,) * len(found.shape)).astype(np.int64).reshape(count)
    return None


def _times(store: Store, variables: Mapping[str, Variable], of: Variable, layout: Layout) -> np.ndarray | None:
    """When the images were taken, to the second; None unless that tells them apart."""
    if len(layout.images) != 1:
        return None
    name = of.dimensions[layout.images[0]]
    found = variables.get(name)
    if found is None or found.shape != (of.shape[layout.images[0]],):
        return None
    times = store.times(name)
    if times is None or np.isnat(times).any():
        return None
    seconds = times.astype("datetime64[s]")
    return seconds if len(np.unique(seconds)) == len(seconds) else None
