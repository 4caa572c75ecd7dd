"""TIFF files: scans and microscopy through tifffile, maps through rasterio.

A *page* is one picture within a file, a *series* the pages that form one array; a *segment* is a strip or tile of a page, packed
on its own. A *map* (GeoTIFF) knows its place on the earth, or has GDAL's value for "not measured".
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.pictures import GDAL_NODATA, GEOGRAPHIC
from pixelpath.data.formats.reading import needs, reading
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError

REMEDY = "replace or delete it"
CHANNELS = "CS"
ALPHAS = {1: "premultiplied", 2: "straight"}  # values of the tag ExtraSamples
JPEGS = (6, 7, 34892, 33007)  # compressions whose segments share tables
STRANGE = {0: "white as zero", 3: "colours as a palette", 8: "L*a*b* colours"}  # photometric interpretations


class Pages(NamedTuple):
    """The pages of a file and how they make up its images; no handle stays open."""

    pages: tuple[Any, ...]
    """In the order of the file's series, and within a series of its outer axes."""
    series: tuple[int, ...]
    """The lengths of the axes of one series, pages first."""
    axes: str
    """What these axes are, one letter each."""
    repeats: int
    """How many such series there are."""
    offset: int | None
    """Where in the file the values of all images begin, if they follow each other unpacked."""
    stored: np.dtype
    """The dtype in the file's byte order."""

    @property
    def dtype(self) -> np.dtype:
        return self.stored.newbyteorder("=")


@dataclass(frozen=True, eq=False)
class TiffStack:
    """The images of a TIFF file; made by `open_tiff`."""

    path: Path
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    metadata: Metadata
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None

    @property
    def whole(self) -> bool:
        return self.shape[0] > 1

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        with reading(self.path, f"at image {index}", REMEDY):
            found = _pages(self.path)
            values = _mapped(self.path, found, index, rows, columns) if found.offset is not None else None
            values = _unpacked(self.path, found, index, rows, columns) if values is None else values
            return np.ascontiguousarray(values, dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class MapStack:
    """The one image of a GeoTIFF file, opened anew for every window; made by `open_geotiff`."""

    path: Path
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    metadata: Metadata
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        rasterio = _rasterio(self.path)
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[2]), columns.indices(self.shape[3])
        with reading(self.path, f"at image {index}", REMEDY), rasterio.open(self.path, driver="GTiff") as file:
            return file.read(window=rasterio.windows.Window(left, top, right - left, bottom - top))


def is_geotiff(path: Path) -> bool:
    """Whether a TIFF file says where on the earth it lies, or has GDAL's nodata; False for what is no TIFF file."""
    return any(tag in _first_tags(path) for tag in GEOGRAPHIC)


def open_tiff(path: Path) -> Stack:
    """The images of a TIFF file: every page, every time, depth and place is an image; bands, samples and channels are channels.

    Values are 8, 16 and 32-bit integers and floats, as stored. Unpacked files are mapped, of packed ones only the strips or tiles
    under a window are read. The pages of one file belong together. Smaller copies of a page (pyramids) are passed over. Raises
    UserError: damaged, no pages, pages of several shapes, other dtypes, palettes, unknown compression.
    """
    needs("tifffile", "arrays", path)
    with reading(path, "", REMEDY):
        found = _pages(path)
    _check_pages(path, found)
    lengths = dict(zip(range(len(found.axes)), found.series, strict=True))
    channels = math.prod(length for axis, length in lengths.items() if found.axes[axis] in CHANNELS)
    rows, columns = found.series[found.axes.index("Y")], found.series[found.axes.index("X")]
    count = found.repeats * math.prod(found.series) // (channels * rows * columns)
    page = found.pages[0].keyframe
    coloured = found.dtype == np.uint8 and page.photometric in (1, 2, 6)
    extra = tuple(page.extrasamples)
    alpha = ALPHAS.get(int(extra[0]), "") if len(extra) == 1 and channels == 4 and page.photometric == 2 else ""
    photographs = coloured and (channels in (1, 3) or alpha != "")
    metadata = Metadata("tiff", photographs=bool(photographs), alpha=alpha)  # pyright: ignore[reportArgumentType]
    return TiffStack(path, (count, channels, rows, columns), found.dtype, metadata)


def open_geotiff(path: Path) -> Stack:
    """The one image of a GeoTIFF file: bands are channels, and nodata is the file's. Values are as stored, scales not applied.

    Masks beside or within the file are not looked at, and an alpha band is a channel like others. Raises UserError:
    damaged, several images, other dtypes, nodata that differs between bands or that the dtype does not hold.
    """
    rasterio = _rasterio(path)
    written = _written_nodata(path)
    with reading(path, "", REMEDY), rasterio.open(path, driver="GTiff") as file:
        kinds, nodata, several = file.dtypes, file.nodatavals, len(file.subdatasets)
        names, units = file.descriptions, file.units
        shape = (1, file.count, file.height, file.width)
        palette = any(colour == rasterio.enums.ColorInterp.palette for colour in file.colorinterp)
    if several > 1:
        raise UserError(f"{path} holds {several} images in one map file: write each to a file of its own.")
    if palette:
        raise UserError(f"{path} stores colours as a palette, whose numbers are no brightness: convert it to RGB or grey.")
    if len(set(kinds)) > 1:
        raise UserError(f"{path} has dtype {' and '.join(sorted(set(kinds)))}: bring all bands to one.")
    dtype = dtypes.checked(np.dtype(kinds[0]), path)
    if len({str(value) for value in nodata}) > 1:
        raise UserError(f"{path} has another nodata value per band ({', '.join(map(str, nodata))}): bring all bands to one.")
    unit = (units[0] or "") if len(set(units)) == 1 else ""
    # rasterio leaves out integers beyond the dtype, and makes floats beyond it infinite
    value = _fitting(path, dtype, written if nodata[0] is None or math.isinf(nodata[0]) else nodata[0])
    channels = tuple(name or "" for name in names) if all(names) else ()
    return MapStack(path, shape, dtype, Metadata("geotiff", channels=channels, units=unit, nodata=value))


def _rasterio(path: Path) -> ModuleType:
    rasterio = needs("rasterio", "geo", path)
    needs("rasterio.windows", "geo", path)
    # what is read here needs no place on the earth
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)
    return rasterio


def _fitting(path: Path, dtype: np.dtype, value: float | None) -> float | None:
    """Nodata as the dtype has it; UserError if it cannot be among the values."""
    if value is None or (dtype.kind == "f" and not math.isfinite(value)):
        return value
    held = dtypes.held(value, dtype)
    if held is None:
        raise UserError(f"{path} has the nodata value {value:g}, which {dtype} does not hold: write it with one that fits.")
    return held


def _first_tags(path: Path) -> dict[int, tuple[int, int]]:
    """The tags of the first page: type and number of values for each; empty for what is no TIFF file.

    TIFF 6.0, section 2, and BigTIFF: the header says the byte order and where the first page's list of tags is.
    """
    try:
        with path.open("rb") as file:
            return {tag: (kind, count) for tag, kind, count, _ in _entries(file)}
    except (OSError, struct.error):
        return {}


def _entries(file: Any) -> list[tuple[int, int, int, bytes]]:
    """(tag, type, count, the bytes that hold the value or say where it is) of the first page."""
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None:
        return []
    (magic,) = struct.unpack_from(f"{order}H", head, 2)
    if magic not in (42, 43):
        return []
    where, number, entry = (("I", "H", "HHI4s"), ("Q", "Q", "HHQ8s"))[magic - 42]
    (offset,) = struct.unpack_from(order + where, head, 4 if magic == 42 else 8)
    file.seek(offset)
    (length,) = struct.unpack(order + number, file.read(struct.calcsize(order + number)))
    size = struct.calcsize(order + entry)
    block = file.read(size * min(length, 65535))
    return list(struct.iter_unpack(order + entry, block[: len(block) // size * size]))


def _written_nodata(path: Path) -> float | None:
    """GDAL's nodata as the file has it: rasterio leaves out what the dtype cannot hold."""
    try:
        with path.open("rb") as file:
            found = next(((count, held) for tag, _, count, held in _entries(file) if tag == GDAL_NODATA), None)
            if found is None:
                return None
            count, held = found
            if count > len(held):
                file.seek(0)
                order = "<" if file.read(2) == b"II" else ">"
                file.seek(struct.unpack(order + ("I" if len(held) == 4 else "Q"), held)[0])
                held = file.read(min(count, 256))
    except (OSError, struct.error):
        return None
    text = held[:count].split(b"\0")[0].decode("ascii", "replace").strip()
    if not text or "#" in text:  # as Windows writes NaN, which GDAL knows
        return None
    try:
        return float(text)
    except ValueError:  # which GDAL takes for 0
        raise UserError(
            f"{path} has the nodata value {text!r}, which is no number: correct it, for instance with gdal_edit -a_nodata."
        ) from None


def _pages(path: Path) -> Pages:
    status = path.stat()
    return _parsed(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=32)
def _parsed(path: Path, changed: int, size: int) -> Pages:
    """What tifffile finds in a file; kept for the last files, for a scan of a thousand pages takes long to look through."""
    import tifffile

    with _logged() as told, tifffile.TiffFile(path, _multifile=False) as file:
        series = [each.levels[0] for each in file.series]
        if not series:
            raise ValueError("it has no pages")
        pages = tuple(page for each in series for page in each.pages if page is not None)
        kinds = {(each.shape, each.axes, str(each.dtype)) for each in series}
        if len(kinds) > 1:
            shapes = sorted("x".join(map(str, each.shape)) + f" {each.dtype}" for each in series)
            raise UserError(
                f"{path} holds pages of several shapes ({', '.join(dict.fromkeys(shapes))}): keep one shape in a file."
            )
        first = series[0]
        offset = first.dataoffset if len(series) == 1 else None
        needed = len(series) * math.prod(n for n, axis in zip(first.shape, first.axes, strict=True) if axis not in "YXS")
        damaged = any("invalid page offset" in line or "corrupted" in line for line in told)
        if damaged or (offset is None and len(pages) != needed):
            raise ValueError("pages are missing at its end or lie in other files")
        for page in pages:
            _prepare(page.keyframe)
        order: Literal["<", ">"] = "<" if file.byteorder == "<" else ">"
        stored = np.dtype(first.dtype or "V").newbyteorder(order)
        return Pages(pages, tuple(first.shape), first.axes, len(series), offset, stored)


def _prepare(page: Any) -> None:
    """Lets a page look at what it needs of the file to decode its segments, and remember it, while the file is open."""
    if page.compression in JPEGS:
        _ = page.decode, page.jpegheader
    _ = int(page.photometric), tuple(map(int, page.extrasamples))  # of a damaged file these may be anything


def _check_pages(path: Path, found: Pages) -> None:
    page = found.pages[0].keyframe
    dtypes.checked(found.dtype, path)
    if page.bitspersample not in (8, 16, 32, 64):
        raise UserError(f"{path} has dtype {found.dtype} of {page.bitspersample} bits: convert it to 8, 16, 32 or 64 bits.")
    if found.axes.count("Y") != 1 or found.axes.count("X") != 1 or set(page.axes) - set("YXS"):
        raise UserError(f"{path} has the axes {found.axes}, of which pages are not rows and columns: write one page per image.")
    strange = STRANGE.get(int(page.photometric))
    if page.photometric == 6 and page.compression not in JPEGS:
        strange = "YCbCr colours"
    if strange is not None:
        raise UserError(f"{path} stores {strange}, which are not values as they are seen: convert it to RGB or grey.")
    if 0 in found.series:
        raise UserError(f"{path} is empty ({'x'.join(map(str, found.series))}): replace or delete it.")
    if found.offset is not None:
        needed = found.offset + math.prod(found.series) * found.dtype.itemsize
        if path.stat().st_size < needed:
            raise UserError(f"{path} ends before its last pixel ({path.stat().st_size} of {needed} bytes): copy it again.")
        return
    with reading(path, "", REMEDY):  # says at once if the compression is not known
        page.decode(None, 0)
        _compressed(page)


def _compressed(page: Any) -> None:
    import tifffile

    if page.compression != 1:
        tifffile.TIFF.DECOMPRESSORS[page.compression]


def _places(found: Pages, index: int) -> tuple[int, list[tuple[int, ...]]]:
    """Which series an image is in, and the places of its channels along the series' axes but Y, X and S."""
    outer = [axis for axis, letter in enumerate(found.axes) if letter not in "YXS"]
    numbering = [axis for axis in outer if found.axes[axis] not in CHANNELS]
    lengths = [found.series[axis] for axis in numbering]
    series, within = divmod(index, math.prod(lengths))
    place = dict(zip(numbering, map(int, np.unravel_index(within, lengths)) if lengths else (), strict=True))
    choices = [[place[axis]] if axis in place else range(found.series[axis]) for axis in outer]
    return series, list(itertools.product(*choices))


def _mapped(path: Path, found: Pages, index: int, rows: slice, columns: slice) -> np.ndarray:
    """A window of an unpacked file, mapped for as long as it takes to copy it."""
    values = np.memmap(path, found.stored, "r", found.offset or 0, found.series)
    names = [f"{letter}{axis}" if letter not in "YXS" else letter for axis, letter in enumerate(found.axes)]
    outer = [name for name in names if name not in ("Y", "X", "S")]
    order = [names.index(name) for name in (*outer, *(name for name in ("S", "Y", "X") if name in names))]
    ordered = values.transpose(order)
    planes = [ordered[(*place, ..., rows, columns)] for place in _places(found, index)[1]]
    return np.concatenate([plane if plane.ndim == 3 else plane[None] for plane in planes])


def _unpacked(path: Path, found: Pages, index: int, rows: slice, columns: slice) -> np.ndarray:
    """A window of packed pages, of which only the segments under it are read."""
    series, places = _places(found, index)
    lengths = [length for letter, length in zip(found.axes, found.series, strict=True) if letter not in "YXS"]
    each = math.prod(lengths)
    numbers = [series * each + (int(np.ravel_multi_index(place, lengths)) if place else 0) for place in places]
    with path.open("rb") as file:
        return np.concatenate([_window(file, found.pages[number], found.dtype, rows, columns) for number in numbers])


def _window(file: Any, page: Any, dtype: np.dtype, rows: slice, columns: slice) -> np.ndarray:
    """[sample, row, column] of a page."""
    frame = page.keyframe
    samples, (high, wide) = frame.samplesperpixel, (frame.imagelength, frame.imagewidth)
    (top, bottom, _), (left, right, _) = rows.indices(high), columns.indices(wide)
    values = np.full((samples, bottom - top, right - left), frame.nodata, dtype)
    tall, broad = (frame.tilelength, frame.tilewidth) if frame.is_tiled else (frame.rowsperstrip, wide)
    down, across = math.ceil(high / tall), math.ceil(wide / broad)
    planes = len(page.dataoffsets) // (down * across)
    options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if frame.compression in JPEGS else {}
    grid = itertools.product(range(planes), range(top // tall, -(-bottom // tall)), range(left // broad, -(-right // broad)))
    for plane, row, column in grid:
        number = (plane * down + row) * across + column
        packed = _bytes(file, page.dataoffsets[number], page.databytecounts[number])
        if packed is None:
            continue  # a segment that was never written holds nodata
        piece, (sample, _, y, x, _), _ = frame.decode(packed, number, **options)
        piece = np.moveaxis(piece[0], -1, 0)
        y0, y1 = max(top, y), min(bottom, y + piece.shape[1])
        x0, x1 = max(left, x), min(right, x + piece.shape[2])
        target = values[sample : sample + len(piece), y0 - top : y1 - top, x0 - left : x1 - left]
        target[...] = piece[:, y0 - y : y1 - y, x0 - x : x1 - x]
    return values


def _bytes(file: Any, offset: int, count: int) -> bytes | None:
    if count == 0:
        return None
    file.seek(offset)
    packed = file.read(count)
    if len(packed) < count:
        raise ValueError(f"it ends at byte {offset + len(packed)} of {offset + count}")
    return packed


@contextmanager
def _logged() -> Iterator[list[str]]:
    """What tifffile tells its logger in this thread: of missing pages it says nothing else."""
    told: list[str] = []
    mine = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == mine:
                told.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield told
    finally:
        logger.removeHandler(listener)
