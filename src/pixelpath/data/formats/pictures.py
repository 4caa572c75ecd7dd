"""Picture files through Pillow, one by one and below folders, and checking that they agree.

A *mode* is Pillow's word for channels and depth: L, RGB, RGBA (8 bits), I;16 (16-bit grey), F (32-bit float grey); RGB;16 and
RGBA;16 are our own, for colour PNG files of 16 bits, which Pillow would cut to 8.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from PIL import ExifTags, Image, ImageFile, ImageOps, TiffImagePlugin

from pixelpath.data.formats.arrays import ARRAYS
from pixelpath.data.formats.reading import reason

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
BYTES = {1: "L", 3: "RGB", 4: "RGBA"}
DEEP = ("RGB;16", "RGBA;16")
STORES = (".zarr",)  # folders that are one file to the user
GEOGRAPHIC = (34735, 42113)  # TIFF tags: GeoKeyDirectory and GDAL's nodata
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


class BrokenImageError(ValueError):
    """A file that cannot be decoded."""


@contextmanager
def decoders(workers: int | None) -> Iterator[Executor | None]:
    """So many decoding threads (None: one per core, 0: no pool) until the block ends; what is still queued then is dropped."""
    count = (os.cpu_count() or 1) if workers is None else workers
    pool = ThreadPoolExecutor(count, "decode") if count else None
    try:
        yield pool
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def part(folder: Path, names: Sequence[str]) -> Path | None:
    """The first subfolder, or .npy/.npz file, of `folder` that has one of these names."""
    candidates = (folder / (name + suffix) for name in names for suffix in ("", *ARRAYS))
    return next((path for path in candidates if path.is_dir() or (path.suffix in ARRAYS and path.is_file())), None)


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder in the order of their names, without hidden ones and what archivers leave behind."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith((".", "__"))), key=lambda entry: entry.name)
    except OSError as error:
        raise ValueError(f"{folder} cannot be listed ({error.strerror}): make it readable, or leave it out.") from error


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file, or a link that leads nowhere, which is told when it is read; not a pipe or a device."""
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def scan(
    folder: Path, expected: tuple[str, ...] | None, suffixes: tuple[str, ...] = IMAGES
) -> tuple[list[str], Int[np.ndarray, "count"], tuple[str, ...]]:
    """Every file below `folder` with one of the `suffixes` (path relative to it), its label, and the classes: the subfolders.

    Files of other kinds are passed over. With `expected` classes the labels are numbered by them.
    Raises ValueError for a folder without images, a class without images, images beside class folders, and an unexpected class.
    """
    entries = visible(folder)
    here = [entry.name for entry in entries if _has(entry.name, suffixes) and (is_file(entry) or _is_store(entry))]
    kinds_below = [entry for entry in entries if _is_folder(entry) and entry.name not in here]
    for entry in kinds_below:
        if entry.is_symlink() and folder.resolve().is_relative_to(Path(entry.path).resolve()):
            raise ValueError(f"The class folder {entry.path} is a link that leads back to {folder} or above it: delete it.")
    below = {entry.name: list(walk(folder, suffixes, entry.name)) for entry in kinds_below}
    if here and any(below.values()):
        first = next(name for name, files in below.items() if files)
        raise ValueError(
            f"{folder} holds images beside the class folder {first}: move {here[0]} and its like into class folders."
        )
    if not here and not any(below.values()):
        raise ValueError(f"{folder} holds no images ({', '.join(suffixes)}): give a folder that does.")
    if here:
        return here, _numbers([""] * len(here), (), expected, folder), expected or ()
    empty = next((name for name, files in below.items() if not files), None)
    if empty is not None:
        raise ValueError(f"The class folder {folder / empty} holds no images: fill it or delete it.")
    names = [file for files in below.values() for file in files]
    kinds = [kind for kind, files in below.items() for _ in files]
    found = tuple(below) if len(below) > 1 else ()
    return names, _numbers(kinds, found, expected, folder), found if expected is None else expected


def walk(root: Path, suffixes: tuple[str, ...], below: str = "") -> Iterator[str]:
    """Every visible file below a folder with one of the suffixes, as its path from `root`, in order; a store is one file.

    Links to files are followed, links to folders are not.
    """
    entries, base = visible(root / below), Path(below)
    found = [entry.name for entry in entries if _has(entry.name, suffixes) and (is_file(entry) or _is_store(entry))]
    yield from ((base / name).as_posix() for name in found)
    for entry in entries:
        if _is_folder(entry) and not entry.is_symlink() and not _is_store(entry):
            yield from walk(root, suffixes, (base / entry.name).as_posix())


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

    With `skip_broken` every file is decoded too, so that none fails later; else the first unreadable header raises ValueError.
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
    """The one mode and size of all files, the size after `resize`; ValueError naming the odd file if they differ."""
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


def check_mode(where: Path | str, mode: str, channels: int | None) -> None:
    """ValueError naming an image whose mode is not supported, or is not converted to so many channels."""
    if mode not in (*BYTES.values(), *DEPTHS):
        remedy = "convert it to 8 bits per channel, 16-bit grey or an array of a float dtype (.npy)"
        raise ValueError(f"{where} stores pixels of mode {mode}, which is not supported: {remedy}.")
    if mode in DEPTHS and channels not in (None, channels_of(mode)):
        raise ValueError(f"{where} is {_spoken(mode)}, which is not converted: leave out --data.channels {channels}.")


def unlike(where: Path | str, found: Header, other: Path | str, common: Header) -> ValueError:
    """The sentence on two images of unequal mode, or else of unequal size."""
    if found.mode != common.mode:
        remedy = "convert all to one kind, for instance with --data.channels 3"
        return ValueError(f"{where} is {_spoken(found.mode)} but {other} is {_spoken(common.mode)}: {remedy}.")
    rows, columns = common.size
    return ValueError(
        f"{where} is {found.size[0]}x{found.size[1]} pixels (rows x columns) but {other} is {rows}x{columns}: "
        f"bring all to one size with --data.resize {rows} {columns}."
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
        alone = "replace or delete it, or leave such files out with --data.skip-broken"
        remedy = alone if isinstance(where, Path) else "replace the sample or leave it out"
        raise BrokenImageError(f"{where} cannot be decoded as an image ({reason(error, where)}): {remedy}.") from error


def channels_of(mode: str) -> int:
    """How many channels images of a mode have."""
    return len(mode.split(";")[0]) if mode.startswith("RGB") else 1


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


def _numbers(
    kinds: list[str], found: tuple[str, ...], expected: tuple[str, ...] | None, folder: Path
) -> Int[np.ndarray, "count"]:
    classes = found if expected is None else expected
    if not classes:
        return np.zeros(len(kinds), np.int64)
    strange = next((kind for kind in kinds if kind not in classes), None)
    if strange is not None:
        what = f"the class {strange}" if strange else "images without a class"
        raise ValueError(
            f"{folder} holds {what}, unlike the training images: sort it into the classes {', '.join(classes[:10])}."
        )
    order = {name: number for number, name in enumerate(classes)}
    return np.array([order[kind] for kind in kinds], np.int64)


def _has(name: str, suffixes: tuple[str, ...]) -> bool:
    return name.lower().endswith(suffixes) and not name.startswith(".")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; no for a link to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_store(entry: os.DirEntry[str]) -> bool:
    return _has(entry.name, STORES) and _is_folder(entry)


def _header(image: ImageFile.ImageFile, channels: int | None) -> Header:
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.n_frames > 1:
        raise ValueError(f"it has {image.n_frames} pages, which are read where all files are TIFF")
    columns, rows = image.size
    turned = _has_exif(image) and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return Header(_mode(image, channels), (columns, rows) if turned else (rows, columns))


def _pixels(image: ImageFile.ImageFile, mode: str, resize: Size | None) -> Shaped[np.ndarray, "channel row column"]:
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


def _mode(image: ImageFile.ImageFile, channels: int | None) -> str:
    if image.mode.startswith("I;16"):
        return "I;16"
    if image.mode in ("F", "I"):
        return image.mode
    if any(";16" in str(tile[3]) for tile in image.tile):
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
    from pixelpath.data.formats.stacks import needs

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
