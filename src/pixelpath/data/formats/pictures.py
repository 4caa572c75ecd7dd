"""Picture files, one by one, and checking that they agree: TIFF through `tiff`, all others through Pillow.

A *mode* is Pillow's word for channels and depth: L, RGB, RGBA (8 bits), RGBa (the same, premultiplied), I;16 (16-bit grey), F
(32-bit float grey). RGB;16 and RGBA;16 are our own, and so is CHANNELSxDTYPE (7xint16) for what has no such name.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from PIL import ExifTags, Image, ImageFile

from pixelpath.data.formats.appearance import BYTES, Planes, converted, planes_in, turned, turned_size
from pixelpath.data.formats.reading import BrokenFileError, Packed, reason
from pixelpath.data.formats.recent import DECODED
from pixelpath.data.formats.resizing import Size, resized_by
from pixelpath.data.formats.stacks import EVERYTHING
from pixelpath.data.formats.tiff import MAGIC, TiffStack, is_map, open_tiff
from pixelpath.data.metadata import Metadata
from pixelpath.data.settings import fitting, typical
from pixelpath.errors import UserError
from pixelpath.log import followed

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREAD = (".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpx", ".psd", ".tga", ".exr", ".dng", ".cr2", ".nef", ".arw")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
DEEP = {("L", "uint16"): "I;16", ("L", "float32"): "F", **{(each, "uint16"): f"{each};16" for each in ("RGB", "RGBA", "RGBa")}}
DEPTHS = {mode: np.dtype(dtype) for (_, dtype), mode in DEEP.items()}
PHOTOGRAPHS = (*BYTES.values(), "RGBa")
STEPS = {"L;2": 85, "L;4": 17}  # raw modes of PNG that Pillow widens to 8 bits, though not the transparent value; the factor

ALWAYS = 2**28  # pixels, which every WebP file may have
MOST_PACKED = 10_000  # pixels of a byte: deflate packs 1032 bytes into one, of 8 pixels each

_LIMIT = threading.Lock()


class Header(NamedTuple):
    """What a file says of itself: the mode it will be read in, its rows and columns when upright."""

    mode: str
    size: Size


@dataclass(frozen=True, eq=False)
class PictureStack:
    """One picture file, decoded whole; the last ones stay decoded, for a picture has many windows."""

    path: Path
    mode: str
    size: Size
    metadata: Metadata = field(default_factory=Metadata)
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, channels_of(self.mode), *self.size

    @property
    def dtype(self) -> np.dtype:
        return dtype_of(self.mode)

    def name(self, index: int) -> str:
        return self.path.name

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        with naming(self.path):
            status = self.path.stat()
        key = self.path, self.mode, status.st_mtime_ns, status.st_size
        whole = DECODED.get(key, lambda: decode(self.path, self.mode, self.shape[1:], None))
        return np.array(whole[:, rows, columns], order="C")


def headers(
    folder: Path, names: Sequence[str], skip_broken: bool, channels: int | None, pool: Executor | None
) -> tuple[list[Header | None], list[str]]:
    """Every file's header, without decoding it, and the names of the broken files, whose header is None.

    With `skip_broken` every file is decoded too, so that none fails later; else an unreadable header raises BrokenFileError.
    """

    def look(name: str) -> Header | None:
        try:
            found = header(folder / name, channels)
            if skip_broken and _is_supported(found.mode):
                pixels(folder / name, found.mode)
        except BrokenFileError:
            if not skip_broken:
                raise
            return None
        return found

    # a header takes less time than handing it to a thread; decoding takes more
    looked = pool.map(look, names) if skip_broken and pool is not None else map(look, names)
    found = list(followed(looked, "opening files", len(names)))
    return found, [name for name, seen in zip(names, found, strict=True) if seen is None]


def header(picture: Path | Packed, channels: int | None = None) -> Header:
    """The mode and upright size of an image file; BrokenFileError if it has none."""
    with _opened(picture) as opened:
        return _header(opened, channels)


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
            raise unlike(folder / name, head, other, Header(mode, size), typical(sizes))
    return Header(mode, resize or size)


def check_mode(where: Path | str, mode: str, channels: int | None, setting: str | None = None) -> None:
    """UserError naming an image whose mode is not supported, or is not converted to so many channels."""
    if not _is_supported(mode):
        remedy = "convert it to 8 bits per channel, 16-bit grey or an array of a float dtype (.npy)"
        raise UserError(f"{where} stores pixels of mode {mode}, which is not supported: {remedy}.", setting)
    if mode not in BYTES.values() and channels not in (None, channels_of(mode)):
        raise UserError(
            f"{where} is {_spoken(mode)}, which is not converted: leave out `data.channels` {channels}.", "data.channels"
        )


def unlike(where: Path | str, found: Header, other: Path | str, common: Header, near: Size | None = None) -> UserError:
    """The sentence on two images of unequal mode, or else of unequal size, with a size `near` those of all."""
    if found.mode != common.mode:
        bytes_alone = found.mode in BYTES.values() and common.mode in BYTES.values()
        remedy = "convert all to one kind" + (", for instance with `data.channels` 3" if bytes_alone else " of values")
        words = f"{where} is {_spoken(found.mode)} but {other} is {_spoken(common.mode)}"
        return UserError(f"{words}: {remedy}.", "data.channels" if bytes_alone else None)
    rows, columns = common.size
    return UserError(
        f"{where} is {found.size[0]}x{found.size[1]} pixels (rows x columns) but {other} is {rows}x{columns}: "
        "bring all to one size with `data.resize` {} {}.".format(*fitting(*(near or common.size))),
        "data.resize",
    )


def decode(path: Path, mode: str, shape: tuple[int, int, int], resize: Size | None) -> Shaped[np.ndarray, "channel row column"]:
    """The native pixels of an image file, resized if asked; BrokenFileError if they are not of `shape`."""
    image = pixels(path, mode, resize)
    if image.shape != shape:
        raise BrokenFileError(
            f"{path} has shape {image.shape} but was {shape} when first opened: leave the data unchanged during a run."
        )
    return image


def pixels(picture: Path | Packed, mode: str, resize: Size | None = None) -> Planes:
    """The native pixels of an image file, turned upright; BrokenFileError naming the file if it cannot be decoded."""
    with _opened(picture) as opened:
        if isinstance(opened, TiffStack):
            upright = converted(opened.read(0), channels_of(mode) if mode in BYTES.values() else None)
        else:
            stored = _sixteen(picture, opened) if mode.endswith(";16") else _native(opened, mode)
            upright = turned(stored, _orientation(opened))
        return resized_by(mode, upright, resize)


def read(
    picture: Path | Packed, channels: int | None = None, resize: Size | None = None
) -> tuple[Header, Shaped[np.ndarray, "channel row column"]]:
    """`header` and `pixels` of a picture; a mode that is not supported is for the caller to refuse."""
    found = header(picture, channels)
    return found, pixels(picture, found.mode, resize)


@contextmanager
def naming(where: Path | str) -> Iterator[None]:
    """Whatever a decoder raises as a BrokenFileError of one sentence that names the file, or the sample packed into one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        setting = "data.skip_broken" if isinstance(where, Path) else None
        alone = "replace or delete it, or leave such files out with `data.skip_broken`"
        remedy = alone if isinstance(where, Path) else "replace the sample or leave it out"
        raise BrokenFileError(f"{where} cannot be decoded as an image ({reason(error, where)}): {remedy}.", setting) from error


def channels_of(mode: str) -> int:
    """How many channels images of a mode have."""
    if "x" in mode:
        return int(mode.split("x")[0])
    return len(mode.split(";")[0]) if mode.startswith("RGB") else 1


def dtype_of(mode: str) -> np.dtype:
    """The native dtype of images of a mode."""
    return np.dtype(mode.split("x")[1]) if "x" in mode else DEPTHS.get(mode, np.dtype("uint8"))


def alpha_of(mode: str) -> Literal["", "straight", "premultiplied"]:
    """Whether the fourth channel of a mode is alpha, and whether colours are multiplied by it."""
    return "straight" if mode.startswith("RGBA") else "premultiplied" if mode.startswith("RGBa") else ""


def planes_of(
    image: Image.Image, where: str, channels: int | None, resize: Size | None
) -> Shaped[np.ndarray, "channel row column"]:
    """The native pixels of a picture in memory, by the rules for files; UserError for a mode that is not supported."""
    mode = _mode(image, channels)
    check_mode(where, mode, channels, "images")
    if mode.startswith("RGB") and mode in DEPTHS:
        raise UserError(
            f"{where} has 16 bits per colour, which Pillow cuts to 8: give an array, or open the folder by its path.", "images"
        )
    return resized_by(mode, turned(_native(image.copy(), mode), _orientation(image)), resize)


def _header(opened: ImageFile.ImageFile | TiffStack, channels: int | None) -> Header:
    if isinstance(opened, ImageFile.ImageFile):
        mode, (columns, rows) = _mode(opened, channels), opened.size
        return Header(mode, turned_size((rows, columns), _orientation(opened)))
    count, bands, rows, columns = opened.shape
    if count > 1:
        raise ValueError(f"it has {count} pages, which are read where all files are TIFF")
    if isinstance(opened.source, Path) and is_map(opened.source):
        raise ValueError("it is a map (GeoTIFF), which is read where all files are TIFF")
    if opened.dtype == np.uint8 and opened.letters:
        as_asked = None if opened.letters not in BYTES.values() else channels
        return Header(opened.letters if as_asked is None else BYTES[as_asked], (rows, columns))
    return Header(DEEP.get((opened.letters, opened.dtype.name), f"{bands}x{opened.dtype}"), (rows, columns))


def _native(image: Image.Image, mode: str) -> Planes:
    """The stored pixels of a picture of up to 8 bits, or one channel of more, in a mode."""
    if mode in DEPTHS:
        return planes_in(image).astype(DEPTHS[mode])
    key, step = image.info.get("transparency"), STEPS.get(_raw(image), 1)
    if mode == "RGBA" and image.format == "PNG" and image.mode in ("1", "L", "RGB") and key is not None:
        return _keyed(planes_in(image if image.mode == "RGB" else image.convert("L")), np.atleast_1d(key) * step)
    return planes_in(image if image.mode == mode else image.convert(mode))


def _sixteen(picture: Path | Packed, image: ImageFile.ImageFile) -> Planes:
    """A PNG of 16 bits, of which Pillow keeps the upper 8 of colours: decoded twice, once as if the lower ones were the upper."""
    raw, key, (tile,) = _raw(image), image.info.get("transparency"), image.tile
    if raw == "I;16B":
        planes = planes_in(image).astype(np.uint16)
    elif raw == "LA;16B":  # as many bytes a pixel as RGBA of 8 bits
        image.tile = [tile._replace(args="RGBA")]
        halves = planes_in(image).astype(np.uint16)
        planes = (halves[::2] << 8 | halves[1::2])[[0, 0, 0, 1]]
    else:
        upper = planes_in(image).astype(np.uint16)
        with _stream(picture) as file, _image(file, trusted=isinstance(picture, Path)) as again:
            again.tile = [tile._replace(args=raw.replace("16B", "16L"))]
            planes = upper << 8 | planes_in(again)
    return planes if key is None else _keyed(planes, np.atleast_1d(key))


def _keyed(planes: Planes, key: np.ndarray) -> Planes:
    """Grey or RGB of which one colour is transparent, as RGBA."""
    white = np.iinfo(planes.dtype).max
    alike = (planes == (key.reshape(-1, 1, 1) & white)).all(0)
    colours = np.broadcast_to(planes, (3, *planes.shape[1:]))
    return np.concatenate([colours, np.where(alike, 0, white).astype(planes.dtype)[None]])


def _mode(image: Image.Image, channels: int | None) -> str:
    raw, keyed = _raw(image), "transparency" in image.info
    if image.format == "PNG" and raw.endswith(";16B"):
        return "RGBA;16" if keyed else {"I;16B": "I;16", "RGB;16B": "RGB;16"}.get(raw, "RGBA;16")
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("F", "I"):
        return image.mode
    if channels is not None:
        return BYTES[channels]
    if image.has_transparency_data:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


def _raw(image: Image.Image) -> str:
    """How the file stores pixels, in Pillow's words; "" once they are decoded."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return str(tiles[0].args) if tiles else ""


def _orientation(image: Image.Image) -> int:
    """The orientation that EXIF or XMP tell; a PNG may tell it after its pixels, which are then decoded."""
    if isinstance(image, ImageFile.ImageFile) and image.format == "PNG" and image.tile and _tells_late(image.fp):
        image.load()
    try:
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that is damaged tells nothing
        return 1


def _tells_late(file: Any) -> bool:
    """Whether a PNG file has EXIF or texts after its pixels."""
    place, pixels, late = file.tell(), False, False
    file.seek(len(b"\x89PNG\r\n\x1a\n"))
    while not late and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        pixels |= kind == b"IDAT"
        late = pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(place)
    return late


def _is_supported(mode: str) -> bool:
    return mode in PHOTOGRAPHS or mode in DEPTHS or "x" in mode


def _spoken(mode: str) -> str:
    words = {"L": "grey", "RGBA": "RGBA (with transparency)", "RGBa": "RGBA (premultiplied)", "F": "32-bit float grey"}
    if "x" in mode:
        return f"{dtype_of(mode)} of {channels_of(mode)} channels" if channels_of(mode) > 1 else f"{dtype_of(mode)} grey"
    return words.get(mode, f"16-bit {mode.split(';')[0].replace('I', 'grey')}" if mode in DEPTHS else mode)


@contextmanager
def _opened(picture: Path | Packed) -> Iterator[ImageFile.ImageFile | TiffStack]:
    """A picture whose header is read, by what its first bytes say it is."""
    with naming(picture if isinstance(picture, Path) else picture.where), _stream(picture) as file:
        begin = file.read(len(MAGIC[0]))
        file.seek(0)
        if begin in MAGIC:
            yield open_tiff(picture)
        else:
            with _image(file, trusted=isinstance(picture, Path)) as image:
                _check_plausible(image, file.seek(0, os.SEEK_END))
                yield image


def _check_plausible(image: ImageFile.ImageFile, size: int) -> None:
    """ValueError for a header that claims what would fill the memory and cannot be in a file of so many bytes."""
    columns, rows = image.size
    if rows * columns > max(ALWAYS, MOST_PACKED * size):
        raise ValueError(f"its header claims {rows}x{columns} pixels, which {size} bytes cannot hold")


def _stream(picture: Path | Packed) -> AbstractContextManager[Any]:
    return picture.open("rb") if isinstance(picture, Path) else picture.begun()


def _image(file: Any, *, trusted: bool) -> ImageFile.ImageFile:
    """A file's header; Pillow's limit of pixels is for other people's files, not for those that the user lays in a folder."""
    if not trusted:
        return Image.open(file, formats=FORMATS)
    with _LIMIT:
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = most
