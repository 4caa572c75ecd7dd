"""TIFF files through tifffile: pictures, scans and microscopy.

A *page* is one picture within a file, a *series* the pages that form one array; a *segment* is a strip or tile of a page, packed
on its own. A *map* (GeoTIFF) knows its place on the earth, or says which of its pixels are not measured.
"""

from __future__ import annotations

import functools
import io
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats.appearance import BYTES, JPEGS, Colours, converted, stored_window, turned, turned_size
from pixelpath.data.formats.reading import Packed, needs, reading
from pixelpath.data.formats.stacks import EVERYTHING
from pixelpath.data.formats.tiff_segments import SEPARATE, segment_size, window
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
CHANNELS = "CS"
SMALLER, MASK = 1, 4  # bits of NewSubfileType
ORIENTATION, INK_SET, SUBSAMPLING = 274, 332, 530  # tags
CMYK_INKS = 1
GDAL_NODATA = 42113  # the tag of GDAL that holds, as text, the value that means "not measured"
GEOGRAPHIC = (34735, GDAL_NODATA)  # the first is GeoKeyDirectory


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
    colours: Colours
    orientation: int
    nodata: str
    """The value that means "not measured", as GDAL writes it."""
    map: bool

    @property
    def dtype(self) -> np.dtype:
        return self.stored.newbyteorder("=")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns as stored."""
        return self.series[self.axes.index("Y")], self.series[self.axes.index("X")]

    @property
    def planes(self) -> int:
        """How many planes besides the samples of a page make up one image."""
        return self._over(lambda axis: axis in CHANNELS and axis != "S")

    @property
    def images(self) -> int:
        return self.repeats * self._over(lambda axis: axis not in f"YX{CHANNELS}")

    def _over(self, chosen: Callable[[str], bool]) -> int:
        return math.prod(length for length, axis in zip(self.series, self.axes, strict=True) if chosen(axis))


@dataclass(frozen=True, eq=False)
class TiffStack:
    """The images of a TIFF file, upright; made by `open_tiff`."""

    source: Path | Packed
    shape: tuple[int, int, int, int]
    dtype: np.dtype
    letters: str
    """L, RGB, RGBA or RGBa (premultiplied); "" for bands."""
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None

    @property
    def path(self) -> Path:
        return self.source if isinstance(self.source, Path) else Path(self.source.where)

    @property
    def whole(self) -> bool:
        return self.shape[0] > 1

    @property
    def metadata(self) -> Metadata:
        alpha = {"RGBA": "straight", "RGBa": "premultiplied"}.get(self.letters, "")
        photographs = self.dtype == np.uint8 and self.letters != ""
        return Metadata("tiff", photographs=photographs, alpha=alpha)  # pyright: ignore[reportArgumentType]

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        with _reading(self.source, f"at image {index}"):
            found = _pages(self.source)
            wanted = range(self.shape[2])[rows], range(self.shape[3])[columns]
            window = stored_window(*wanted, found.size, found.orientation)
            read = _unpacked if found.offset is None else _mapped
            seen = np.concatenate([found.colours.shown(plane) for plane in read(self.source, found, index, *window)])
            upright = turned(seen, found.orientation)
            return np.array(converted(upright, len(self.letters) or None), dtype=self.dtype, order="C")


def is_tiff(path: Path) -> bool:
    """Whether a file is TIFF by its first bytes."""
    try:
        with path.open("rb") as file:
            return file.read(4) in MAGIC
    except OSError:
        return False


def open_tiff(source: Path | Packed, channels: int | None = None) -> TiffStack:
    """The images of a TIFF file: every page, every time, depth and place is an image; bands, samples and channels are channels.

    Values are integers of up to 32 bits and floats, as stored; 1, 2 and 4 bits become 8. White as zero, palettes and CMYK become
    grey and RGB, grey with alpha RGBA, and every image stands upright. `channels` converts 8-bit pictures. Unpacked files are
    mapped, of packed ones only the strips or tiles under a window are read. The pages of one file belong together. Smaller copies
    of a page are passed over. Raises UserError: damaged, no pages, pages of several shapes, other dtypes and colours, unknown
    compression.
    """
    with _reading(source, ""):
        found = _pages(source)
    _check_pages(source, found)
    (high, wide), letters = turned_size(found.size, found.orientation), found.colours.letters if found.planes == 1 else ""
    one = found.colours.shown(np.zeros((found.colours.samples, 1, 1), found.dtype))
    if channels is not None and one.dtype == np.uint8 and letters in BYTES.values():
        one, letters = converted(one, channels), BYTES[channels]
    return TiffStack(source, (found.images, found.planes * len(one), high, wide), one.dtype, letters)


def is_map(path: Path) -> bool:
    """Whether a TIFF file says where on the earth it lies, or which of its pixels are not measured."""
    with _reading(path, ""):
        return _pages(path).map or sidecar(path).exists()


def is_picture(path: Path) -> bool:
    """Whether a file is one image and no map; so is what cannot be read, which says so when it is."""
    try:
        return not is_tiff(path) or (not is_map(path) and _pages(path).images == 1)
    except UserError:
        return True


def written_nodata(path: Path) -> str:
    """The text of GDAL's tag, "" if there is none."""
    return _pages(path).nodata


def sidecar(path: Path) -> Path:
    """Where GDAL keeps the mask of a file beside it."""
    return path.with_name(f"{path.name}.msk")


@contextmanager
def _reading(source: Path | Packed, what: str) -> Iterator[None]:
    """`reading`, which names the extra if the file's compression needs it."""
    alone = isinstance(source, Path)
    remedy = (
        "replace or delete it, or leave such files out with `data.skip_broken`" if alone else "replace the sample or leave it out"
    )
    with reading(source, what, remedy, "data.skip_broken" if alone else None):
        try:
            yield
        except Exception as error:
            if "imagecodecs" in str(error) or isinstance(error, ImportError):
                needs("imagecodecs", "arrays", source)
            raise


def _pages(source: Path | Packed) -> Pages:
    if isinstance(source, Packed):
        with _stream(source) as file:
            return _parsed(file, source)
    return _known(source, *_version(source))


@contextmanager
def _stream(source: Path | Packed) -> Iterator[Any]:
    with source.open("rb") if isinstance(source, Path) else source.begun() as file:
        yield file if isinstance(source, Path) else io.BytesIO(file.read())


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=32)
def _known(path: Path, changed: int, size: int) -> Pages:
    """What tifffile finds in a file; kept for the last files, for a scan of a thousand pages takes long to look through."""
    with path.open("rb") as file:
        return _parsed(file, path)


def _parsed(handle: Any, source: Path | Packed) -> Pages:
    with _logged() as told, tifffile.TiffFile(handle, _multifile=False) as file:
        every = [each.levels[0] for each in file.series]
        large = [each for each in every if not each.keyframe.subfiletype & (SMALLER | MASK)] or every
        series = [each for each in large if len(each.keyframe.treeindex) == 1] or large  # before those below a page (SubIFD)
        if not series:
            raise ValueError("it has no pages")
        pages = tuple(page for each in series for page in each.pages if page is not None)
        first = series[0]
        offset = first.dataoffset if len(series) == 1 else None
        needed = sum(math.prod(n for n, axis in zip(each.shape, each.axes, strict=True) if axis not in "YXS") for each in series)
        damaged = any("invalid page offset" in line or "corrupted" in line for line in told)
        if damaged or (offset is None and len(pages) != needed):
            raise ValueError("pages are missing at its end or lie in other files")
        alike = {(each.shape, each.axes, str(each.dtype)) for each in series}
        looks = {id(page.keyframe): _look(page.keyframe) for page in pages}.values()
        colours, orientation = next(iter(looks))
        if len(alike) > 1 or any(other != orientation or not each.same(colours) for each, other in looks):
            shapes = dict.fromkeys("x".join(map(str, each.shape)) + f" {each.dtype}" for each in series)
            kinds = f"shapes ({', '.join(sorted(shapes))})" if len(shapes) > 1 else "colours or orientations"
            raise UserError(f"{source} holds pages of several {kinds}: keep one kind in a file.")
        masked = any(each.keyframe.subfiletype & MASK for each in every) and series != every
        on_earth = any(tag in first.keyframe.tags for tag in GEOGRAPHIC)
        stored = np.dtype(first.dtype or "V").newbyteorder("<" if file.byteorder == "<" else ">")
        found = tuple(first.shape), first.axes, len(series), offset, stored
        nodata = str(first.keyframe.tags.valueof(GDAL_NODATA, "")).split("\0")[0].strip()
        return Pages(pages, *found, colours, orientation, nodata, masked or on_earth)


def _look(page: Any) -> tuple[Colours, int]:
    """What a page's samples stand for, and its orientation; while the file is open, it remembers what decoding will need."""
    if page.compression in JPEGS:
        _ = page.decode, page.jpegheader
    _ = page.nodata
    bits = page.bitspersample if isinstance(page.bitspersample, int) else 0
    colours = Colours(
        int(page.photometric),
        int(page.samplesperpixel),
        tuple(map(int, page.extrasamples)),
        np.dtype(page.dtype or "V"),
        bits,
        int(page.compression),
        inks=page.tags.valueof(INK_SET, CMYK_INKS) != CMYK_INKS,
        subsampled=page.tags.valueof(SUBSAMPLING, (2, 2)) != (1, 1),
        palette=page.colormap,
    )
    return colours, int(page.tags.valueof(ORIENTATION, 1))


def _check_pages(source: Path | Packed, found: Pages) -> None:
    page, colours = found.pages[0].keyframe, found.colours
    if colours.dtype != bool:
        dtypes.checked(found.dtype, source)
    bits, unsigned = colours.bits, found.dtype.kind in "ub"
    if bits not in (8, 16, 32, 64) and not (unsigned and (bits in (1, 2, 4) or bits > 8)) and not (bits == 24 and not unsigned):
        several = f"{bits} bits" if bits else "several bits"
        raise UserError(f"{source} has dtype {found.dtype} of {several}: convert it to 8, 16, 32 or 64 bits.")
    if found.axes.count("Y") != 1 or found.axes.count("X") != 1 or set(page.axes) - set("YXS"):
        raise UserError(f"{source} has the axes {found.axes}, of which pages are not rows and columns: write one page per image.")
    if colours.strange is not None:
        raise UserError(f"{source} stores {colours.strange}, which are not values as they are seen: convert it to RGB or grey.")
    if 0 in found.series:
        raise UserError(f"{source} is empty ({'x'.join(map(str, found.series))}): replace or delete it.")
    with _reading(source, ""):
        if found.offset is not None:
            needed = found.offset + math.prod(found.series) * found.dtype.itemsize
            size = source.stat().st_size if isinstance(source, Path) else needed
            if size < needed:
                raise ValueError(f"it ends before its last pixel, {size} of {needed} bytes")
            return
        tall, broad = segment_size(page)
        needed = math.ceil(page.imagelength / tall) * math.ceil(page.imagewidth / broad)
        needed *= page.samplesperpixel if page.planarconfig == SEPARATE else 1
        if len(page.dataoffsets) < needed:
            raise ValueError(f"it has {len(page.dataoffsets)} of {needed} strips or tiles")
        page.decode(None, 0)  # says at once if the compression is not known
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


def _mapped(source: Path | Packed, found: Pages, index: int, rows: slice, columns: slice) -> Iterator[np.ndarray]:
    """The planes of a window of an unpacked file, mapped for as long as it takes to copy them."""
    if isinstance(source, Packed):
        with _stream(source) as file:
            values = np.frombuffer(file.read(), found.stored, math.prod(found.series), found.offset or 0).reshape(found.series)
    else:
        values = np.memmap(source, found.stored, "r", found.offset or 0, found.series)
    names = [f"{letter}{axis}" if letter not in "YXS" else letter for axis, letter in enumerate(found.axes)]
    outer = [name for name in names if name not in ("Y", "X", "S")]
    order = [names.index(name) for name in (*outer, *(name for name in ("S", "Y", "X") if name in names))]
    ordered = values.transpose(order)
    for place in _places(found, index)[1]:
        plane = ordered[(*place, ..., rows, columns)].astype(found.dtype)
        yield plane if plane.ndim == 3 else plane[None]


def _unpacked(source: Path | Packed, found: Pages, index: int, rows: slice, columns: slice) -> Iterator[np.ndarray]:
    """The planes of a window of packed pages, of which only the segments under it are read."""
    series, places = _places(found, index)
    lengths = [length for letter, length in zip(found.axes, found.series, strict=True) if letter not in "YXS"]
    each = math.prod(lengths)
    key = source.where if isinstance(source, Packed) else (source, *_version(source))
    with _stream(source) as file:
        for place in places:
            number = series * each + (int(np.ravel_multi_index(place, lengths)) if place else 0)
            yield window(file, key, found.pages[number], found.dtype, rows, columns)


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
