"""GeoTIFF files through rasterio: maps, whose bands are channels.

A *mask* says which pixels are measured though no value of theirs does: a file NAME.msk beside the map, or a page within it.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.reading import needs, reading
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.formats.tiff import written_nodata
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError

REMEDY = "replace or delete it, or leave such files out with `data.skip_broken`"
ROWS = 512  # read at a time in search of a value that no pixel has


@dataclass(frozen=True, eq=False)
class MapStack:
    """The one image of a GeoTIFF file, opened anew for every window; made by `open_geotiff`."""

    path: Path
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    metadata: Metadata
    masked: bool = False
    """Whether a mask says which pixels are measured; the others read as the metadata's nodata."""
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        rasterio = _rasterio(self.path)
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[2]), columns.indices(self.shape[3])
        window = rasterio.windows.Window(left, top, right - left, bottom - top)
        setting = "data.skip_broken"
        with reading(self.path, f"at image {index}", REMEDY, setting), rasterio.open(self.path, driver="GTiff") as file:
            values = file.read(window=window)
            if self.masked and self.metadata.nodata is not None:
                values[file.read_masks(window=window) == 0] = self.metadata.nodata
            return values


def open_geotiff(path: Path, nodata: float | None = None) -> Stack:
    """The one image of a GeoTIFF file: bands are channels, and nodata is the file's. Values are as stored, scales not applied.

    Pixels that a mask leaves out become nodata: `nodata` if given, else the file's, NaN for floats, else a value that no pixel
    has. An alpha band is a channel like others. Raises UserError: damaged, several images, other dtypes, nodata that differs
    between bands or that the dtype does not hold, no value left for what a mask leaves out.
    """
    rasterio = _rasterio(path)
    with reading(path, "", REMEDY, "data.skip_broken"):
        written = _written_nodata(path)
        with rasterio.open(path, driver="GTiff") as file:
            kinds, stored, several = file.dtypes, file.nodatavals, len(file.subdatasets)
            names, units, flags = file.descriptions, file.units, file.mask_flag_enums
            shape = (1, file.count, file.height, file.width)
            palette = any(colour == rasterio.enums.ColorInterp.palette for colour in file.colorinterp)
    if several > 1:
        raise UserError(f"{path} holds {several} images in one map file: write each to a file of its own.")
    if palette:
        raise UserError(f"{path} stores colours as a palette, whose numbers are no brightness: convert it to RGB or grey.")
    if len(set(kinds)) > 1:
        raise UserError(f"{path} has dtype {' and '.join(sorted(set(kinds)))}: bring all bands to one.")
    dtype = dtypes.checked(np.dtype(kinds[0]), path)
    if len({str(value) for value in stored}) > 1:
        raise UserError(f"{path} has another nodata value per band ({', '.join(map(str, stored))}): bring all bands to one.")
    # rasterio leaves out integers beyond the dtype, and makes floats beyond it infinite
    value = _fitting(path, dtype, written if stored[0] is None or math.isinf(stored[0]) else stored[0])
    known = rasterio.enums.MaskFlags.all_valid, rasterio.enums.MaskFlags.nodata, rasterio.enums.MaskFlags.alpha
    masked = any(not set(known) & set(band) for band in flags)
    if masked:
        chosen = value if nodata is None else _fitting(path, dtype, nodata)
        value = _unused(path, dtype) if chosen is None else chosen
    unit = (units[0] or "") if len(set(units)) == 1 else ""
    channels = tuple(name or "" for name in names) if all(names) else ()
    return MapStack(path, shape, dtype, Metadata("geotiff", channels=channels, units=unit, nodata=value), masked)


def _rasterio(path: Path) -> ModuleType:
    rasterio = needs("rasterio", "geo", path)
    needs("rasterio.windows", "geo", path)
    # what is read here needs no place on the earth
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _unused(path: Path, dtype: np.dtype) -> float:
    """NaN for floats; of integers 0, the highest, the lowest or else the first that no measured pixel has. Reads every pixel."""
    ends = dtypes.limits(dtype)
    if ends is None:
        return math.nan
    every = np.arange(ends[0], ends[1] + 1) if dtype.itemsize <= 2 else np.array([], np.int64)
    choices = np.concatenate([np.array([0, ends[1], ends[0]]), every])
    free, rasterio = np.ones(len(choices), bool), _rasterio(path)
    with reading(path, "", REMEDY, "data.skip_broken"), rasterio.open(path, driver="GTiff") as file:
        for top in range(0, file.height, ROWS):
            window = rasterio.windows.Window(0, top, file.width, min(ROWS, file.height - top))
            free &= ~np.isin(choices, np.unique(file.read(window=window)[file.read_masks(window=window) > 0]))
    if not free.any():
        raise UserError(
            f"{path} has a mask, but its {dtype} values leave none to say 'not measured': convert it to a wider dtype, or set "
            "`data.nodata`.",
            "data.nodata",
        )
    return float(choices[free.argmax()])


def _fitting(path: Path, dtype: np.dtype, value: float | None) -> float | None:
    """Nodata as the dtype has it; UserError if it cannot be among the values."""
    if value is None or (dtype.kind == "f" and not math.isfinite(value)):
        return value
    held = dtypes.held(value, dtype)
    if held is None:
        raise UserError(f"{path} has the nodata value {value:g}, which {dtype} does not hold: write it with one that fits.")
    return held


def _written_nodata(path: Path) -> float | None:
    """GDAL's nodata as the file has it: rasterio leaves out what the dtype cannot hold."""
    text = written_nodata(path)
    if not text or "#" in text:  # as Windows writes NaN, which GDAL knows
        return None
    try:
        return float(text)
    except ValueError:  # which GDAL takes for 0
        raise UserError(
            f"{path} has the nodata value {text!r}, which is no number: correct it, for instance with gdal_edit -a_nodata."
        ) from None
