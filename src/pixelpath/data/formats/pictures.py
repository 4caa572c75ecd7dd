"""Picture files through Pillow, one by one, and checking that they agree.

A *mode* is Pillow's word for channels and depth: L, RGB, RGBA (8 bits), I;16 (16-bit grey), F (32-bit float grey); RGB;16 and
RGBA;16 are our own, for colour PNG files of 16 bits, which Pillow would cut to 8.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Shaped
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from pixelpath.data.formats.reading import BrokenFileError, needs, reason
from pixelpath.errors import UserError

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
BYTES = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP = ("RGB;16", "RGBA;16")
GDAL_NODATA = 42113  # the TIFF tag of GDAL that holds, as text, the value that means "not measured"
GEOGRAPHIC = (34735, GDAL_NODATA)  # the first is GeoKeyDirectory
DEPTHS = {"I;16": np.dtype("uint16"), "F": np.dtype("float32"), "RGB;16": np.dtype("uint16"), "RGBA;16": np.dtype("uint16")}

Size = tuple[int, int]


class Packed(NamedTuple):
    """A picture within another file: its bytes as an open file, which whoever opened it closes, and what it is called."""

    file: BinaryIO
    where: str


class Header(NamedTuple):
    """What a file says of itself: the mode it will be read in, its rows and columns when upright."""

    mode: str
    size: Size


class BrokenImageError(BrokenFileError):
    """A file that cannot be decoded."""


def is_plain_tiff(path: Path) -> bool:
    """Whether a TIFF file is one picture that Pillow reads whole: one page of a mode known here, nowhere on the earth."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=("TIFF",)) as image:
            warnings.simplefilter("ignore")
            known = _mode(image, None) in ("L", "RGB", "RGBA", "I;16", "F")
            pages = image.n_frames if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
            return known and pages == 1 and not any(tag in image.getexif() for tag in GEOGRAPHIC)
    except Exception:  # as in naming: what cannot be read is for the other reader to explain
        return False


def headers(
    folder: Path, names: Sequence[str], skip_broken: bool, channels: int | None, pool: Executor | None
) -> tuple[list[Header | None], list[str]]:
    """Every file's header, without decoding it, and the names of the broken files, whose header is None.

    With `skip_broken` every file is decoded too, so that none fails later; else an unreadable header raises BrokenImageError.
    """

    def look(name: str) -> Header | None:
        try:
            found = header(folder / name, channels)
            if skip_broken and found.mode in (*BYTES.values(), *DEPTHS):
                pixels(folder / name, found.mode)
        except BrokenImageError:
            if not skip_broken:
                raise
            return None
        return found

    # a header takes less time than handing it to a thread; decoding takes more
    found = list(pool.map(look, names) if skip_broken and pool is not None else map(look, names))
    return found, [name for name, seen in zip(names, found, strict=True) if seen is None]


def header(picture: Path | Packed, channels: int | None = None) -> Header:
    """The mode and upright size of an image file; BrokenImageError if it has none."""
    with _opened(picture) as image:
        return _header(image, channels)


def agree(folder: Path, names: Sequence[str], found: Sequence[Header], channels: int | None, resize: Size | None) -> Header:
    """The one mode and size of all files, the size after `resize`; UserError naming the odd file if they differ."""
    modes, sizes = Counter(head.mode for head in found), Counter(head.size for head in found)
    mode, size = modes.most_common(1)[0][0], sizes.most_common(1)[0][0]
    for name, head in zip(names, found, strict=True):
        check_mode(folder / name, head.mode, channels)
        if head.mode != mode:
            other = folder / names[next(index for index, head in enumerate(found) if head.mode == mode)]
            raise unlike(folder / name, head, other, Header(mode, size))
        if head.size != size and resize is None:
            other = folder / names[next(index for index, head in enumerate(found) if head.size == size)]
            raise unlike(folder / name, head, other, Header(mode, size))
    return Header(mode, resize or size)


def check_mode(where: Path | str, mode: str, channels: int | None, setting: str | None = None) -> None:
    """UserError naming an image whose mode is not supported, or is not converted to so many channels."""
    if mode not in (*BYTES.values(), *DEPTHS):
        remedy = "convert it to 8 bits per channel, 16-bit grey or an array of a float dtype (.npy)"
        raise UserError(f"{where} stores pixels of mode {mode}, which is not supported: {remedy}.", setting)
    if mode in DEPTHS and channels not in (None, channels_of(mode)):
        raise UserError(
            f"{where} is {_spoken(mode)}, which is not converted: leave out `data.channels` {channels}.", "data.channels"
        )


def unlike(where: Path | str, found: Header, other: Path | str, common: Header) -> UserError:
    """The sentence on two images of unequal mode, or else of unequal size."""
    if found.mode != common.mode:
        remedy = "convert all to one kind, for instance with `data.channels` 3"
        return UserError(f"{where} is {_spoken(found.mode)} but {other} is {_spoken(common.mode)}: {remedy}.", "data.channels")
    rows, columns = common.size
    return UserError(
        f"{where} is {found.size[0]}x{found.size[1]} pixels (rows x columns) but {other} is {rows}x{columns}: "
        f"bring all to one size with `data.resize` {rows} {columns}.",
        "data.resize",
    )


def decode(path: Path, mode: str, shape: tuple[int, int, int], resize: Size | None) -> Shaped[np.ndarray, "channel row column"]:
    """The native pixels of an image file, resized if asked; BrokenImageError if they are not of `shape`."""
    image = pixels(path, mode, resize)
    if image.shape != shape:
        raise BrokenImageError(
            f"{path} has shape {image.shape} but was {shape} when first opened: leave the data unchanged during a run."
        )
    return image


def pixels(path: Path, mode: str, resize: Size | None = None) -> Shaped[np.ndarray, "channel row column"]:
    """The native pixels of an image file, turned upright; BrokenImageError naming the file if it cannot be decoded."""
    if mode in DEEP:
        return _deep(path, resize)
    with _opened(path) as image:
        return _pixels(image, mode, resize)


def read(
    picture: Path | Packed, channels: int | None = None, resize: Size | None = None
) -> tuple[Header, Shaped[np.ndarray, "channel row column"]]:
    """`header` and `pixels` of a picture by opening it once; a mode that is not supported is for the caller to refuse."""
    with _opened(picture) as image:
        found = _header(image, channels)
        if found.mode not in DEEP:
            return found, _pixels(image, found.mode, resize)
    return found, _deep(picture, resize)


@contextmanager
def naming(where: Path | str) -> Iterator[None]:
    """Whatever a decoder raises as a BrokenImageError of one sentence that names the file, or the sample packed into one."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        setting = "data.skip_broken" if isinstance(where, Path) else None
        alone = "replace or delete it, or leave such files out with `data.skip_broken`"
        remedy = alone if isinstance(where, Path) else "replace the sample or leave it out"
        raise BrokenImageError(f"{where} cannot be decoded as an image ({reason(error, where)}): {remedy}.", setting) from error


def channels_of(mode: str) -> int:
    """How many channels images of a mode have."""
    return len(mode.split(";")[0]) if mode.startswith("RGB") else 1


def dtype_of(mode: str) -> np.dtype:
    """The native dtype of images of a mode."""
    return DEPTHS.get(mode, np.dtype("uint8"))


def planes_of(
    image: Image.Image, where: str, channels: int | None, resize: Size | None
) -> Shaped[np.ndarray, "channel row column"]:
    """The native pixels of a picture in memory, by the rules for files; UserError for a mode that is not supported."""
    mode = _mode(image, channels)
    check_mode(where, mode, channels, "images")
    if mode in DEEP:
        raise UserError(
            f"{where} has 16 bits per colour, which Pillow cuts to 8: give an array, or open the folder by its path.", "images"
        )
    return _pixels(image.copy(), mode, resize)


def resized(image: Shaped[np.ndarray, "channel row column"], size: Size) -> Shaped[np.ndarray, "channel rows columns"]:
    """An array resized by its shorter side (antialiased, bilinear: no new extremes) and cropped at the centre, computed in
    float32; integers rounded.
    """
    rows, columns = image.shape[1:]
    if (rows, columns) == tuple(size):
        return image
    box = _centre((columns, rows), size)
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)) for plane in image]
    array = np.stack([np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)) for plane in planes])
    return (np.rint(array) if image.dtype.kind in "iu" else array).astype(image.dtype)


def _header(image: ImageFile.ImageFile, channels: int | None) -> Header:
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.n_frames > 1:
        raise ValueError(f"it has {image.n_frames} pages, which are read where all files are TIFF")
    columns, rows = image.size
    turned = _has_exif(image) and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return Header(_mode(image, channels), (columns, rows) if turned else (rows, columns))


def _pixels(image: Image.Image, mode: str, resize: Size | None) -> Shaped[np.ndarray, "channel row column"]:
    if _has_exif(image):
        ImageOps.exif_transpose(image, in_place=True)
    if mode in DEPTHS:
        deep = np.asarray(image).astype(DEPTHS[mode])[None]
        return resized(deep, resize) if resize else deep
    native = image if image.mode == mode else image.convert(mode)
    if resize and native.size != (resize[1], resize[0]):
        native = native.resize((resize[1], resize[0]), Image.Resampling.BICUBIC, _centre(native.size, resize))
    array = np.asarray(native)
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if array.ndim == 3 else np.array(array)[None]


def _mode(image: Image.Image, channels: int | None) -> str:
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("F", "I"):
        return image.mode
    if isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile[3]) for tile in image.tile):
        return f"{image.mode};16"
    if channels is not None:
        return BYTES[channels]
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


def _has_exif(image: Image.Image) -> bool:
    return "exif" in image.info or image.format == "TIFF"


def _spoken(mode: str) -> str:
    words = {"L": "grey", "RGBA": "RGBA (with transparency)", "I;16": "16-bit grey", "F": "32-bit float grey"}
    return words.get(mode, f"16-bit {mode.split(';')[0]}" if mode in DEEP else mode)


def _centre(size: Size, resize: Size) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of an image (columns, rows) with the sides' ratio of `resize` (rows,
    columns).
    """
    columns, rows = size
    scale = min(rows / resize[0], columns / resize[1])
    high, wide = resize[0] * scale, resize[1] * scale
    left, top = (columns - wide) / 2, (rows - high) / 2
    return left, top, min(left + wide, columns), min(top + high, rows)


def _deep(picture: Path | Packed, resize: Size | None) -> Shaped[np.ndarray, "channel row column"]:
    codecs = needs("imagecodecs", "arrays", _where(picture))
    with naming(_where(picture)):
        if isinstance(picture, Packed):
            picture.file.seek(0)
        array = codecs.png_decode(picture.file.read() if isinstance(picture, Packed) else picture.read_bytes())
        deep = np.ascontiguousarray(array.transpose(2, 0, 1))
    return resized(deep, resize) if resize else deep


@contextmanager
def _opened(picture: Path | Packed) -> Iterator[ImageFile.ImageFile]:
    """A picture whose header is read."""
    source = picture.file if isinstance(picture, Packed) else picture
    with naming(_where(picture)), Image.open(source, formats=FORMATS) as image:
        yield image


def _where(picture: Path | Packed) -> Path | str:
    return picture.where if isinstance(picture, Packed) else picture
