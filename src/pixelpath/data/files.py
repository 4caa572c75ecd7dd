"""Reading what lies on a disk: image files through Pillow, arrays through numpy (never Python objects), and checking that they
agree.

A *mode* is Pillow's word for channels and depth: L, RGB, RGBA (8 bits), I;16 (16-bit grey), F (32-bit float grey).
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from PIL import ExifTags, Image, ImageFile, ImageOps

IMAGES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
ARRAYS = (".npy", ".npz")
BYTES = {1: "L", 3: "RGB", 4: "RGBA"}
DEPTHS = {"I;16": np.dtype("uint16"), "F": np.dtype("float32")}
DTYPES = ("uint8", "int8", "uint16", "int16", "float16", "float32", "float64")

Size = tuple[int, int]


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
    with os.scandir(folder) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith((".", "__"))), key=lambda entry: entry.name)


def scan(folder: Path, expected: tuple[str, ...] | None) -> tuple[list[str], Int[np.ndarray, "count"], tuple[str, ...]]:
    """Every image file below `folder` (path relative to it), its label, and the classes: the names of the subfolders.

    Files of other kinds are passed over. With `expected` classes the labels are numbered by them.
    Raises ValueError for a folder without images, a class without images, images beside class folders, and an unexpected class.
    """
    entries = visible(folder)
    here = [entry.name for entry in entries if _is_image(entry.name) and entry.is_file()]
    below = {entry.name: list(_walk(folder, entry.name)) for entry in entries if entry.is_dir()}
    if here and any(below.values()):
        first = next(name for name, files in below.items() if files)
        raise ValueError(
            f"{folder} holds images beside the class folder {first}: move {here[0]} and its like into class folders."
        )
    if not here and not any(below.values()):
        raise ValueError(f"{folder} holds no images ({', '.join(IMAGES)}): give a folder that does.")
    if here:
        return here, _numbers([""] * len(here), (), expected, folder), expected or ()
    empty = next((name for name, files in below.items() if not files), None)
    if empty is not None:
        raise ValueError(f"The class folder {folder / empty} holds no images: fill it or delete it.")
    names = [file for files in below.values() for file in files]
    kinds = [kind for kind, files in below.items() for _ in files]
    found = tuple(below) if len(below) > 1 else ()
    return names, _numbers(kinds, found, expected, folder), found if expected is None else expected


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


def header(path: Path, channels: int | None = None) -> Header:
    """The mode and upright size of an image file; BrokenImageError if it has none."""
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        columns, rows = image.size
        turned = _has_exif(image) and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return Header(_mode(image, channels), (columns, rows) if turned else (rows, columns))


def agree(folder: Path, names: Sequence[str], found: Sequence[Header], channels: int | None, resize: Size | None) -> Header:
    """The one mode and size of all files, the size after `resize`; ValueError naming the odd file if they differ."""
    modes, sizes = Counter(head.mode for head in found), Counter(head.size for head in found)
    mode, size = modes.most_common(1)[0][0], sizes.most_common(1)[0][0]
    for name, head in zip(names, found, strict=True):
        if head.mode not in (*BYTES.values(), *DEPTHS):
            remedy = "convert it to 8 bits per channel, 16-bit grey or an array of a float dtype (.npy)"
            raise ValueError(f"{folder / name} stores pixels of mode {head.mode}, which is not supported: {remedy}.")
        if head.mode in DEPTHS and channels not in (None, 1):
            raise ValueError(
                f"{folder / name} is {_spoken(head.mode)}, which has one channel: leave out --data.channels {channels}."
            )
        if head.mode != mode:
            other = folder / names[next(index for index, head in enumerate(found) if head.mode == mode)]
            remedy = "convert all to one kind, for instance with --data.channels 3"
            raise ValueError(f"{folder / name} is {_spoken(head.mode)} but {other} is {_spoken(mode)}: {remedy}.")
        if head.size != size and resize is None:
            other = folder / names[next(index for index, head in enumerate(found) if head.size == size)]
            (rows, columns), (most_rows, most_columns) = head.size, size
            raise ValueError(
                f"{folder / name} is {rows}x{columns} pixels (rows x columns) but {other} is {most_rows}x{most_columns}: "
                f"bring all to one size with --data.resize {most_rows} {most_columns}."
            )
    return Header(mode, resize or size)


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
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        if _has_exif(image):
            ImageOps.exif_transpose(image, in_place=True)
        if mode in DEPTHS:
            deep = np.asarray(image).astype(DEPTHS[mode])[None]
            return resized(deep, resize) if resize else deep
        picture = image if image.mode == mode else image.convert(mode)
        if resize and picture.size != (resize[1], resize[0]):
            picture = picture.resize((resize[1], resize[0]), Image.Resampling.BICUBIC, _centre(picture.size, resize))
        array = np.asarray(picture)
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if array.ndim == 3 else np.array(array)[None]


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


def array_parts(path: Path) -> set[str]:
    """The first words of the keys of a .npz file that name images: "train" for train, train_images or x_train."""
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        keys = archive.files
    return {key.removesuffix("_images").removeprefix("x_") for key in keys}


def read_arrays(path: Path, part: str | None) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None]:
    """(images, labels, class names) of a .npy file with its sibling NAME_labels.npy, or of (one part of) a .npz file.

    Keys of a .npz: images (or x, data, arr_0, or the only array), labels (or y), class_names; of a part: PART_images, PART or
    x_PART, and PART_labels or y_PART.
    """
    if path.suffix.lower() == ".npy":
        sibling = path.with_name(path.stem + "_labels.npy")
        return _mapped(path), _mapped(sibling) if sibling.exists() else None, None
    with _reading(path), np.load(path, allow_pickle=False) as archive:
        keys = archive.files
    wanted = ("images", "x", "data", "arr_0") if part is None else (f"{part}_images", part, f"x_{part}")
    images = next((key for key in wanted if key in keys), keys[0] if len(keys) == 1 else None)
    if images is None:
        raise ValueError(f"{path} holds {', '.join(keys)} but no images: name the array images, or train_images and test_images.")
    labels = next((key for key in (("labels", "y") if part is None else (f"{part}_labels", f"y_{part}")) if key in keys), None)
    names = tuple(str(name) for name in _mapped(path, "class_names")) if "class_names" in keys else None
    return _mapped(path, images), None if labels is None else _mapped(path, labels), names


def check_array(images: np.ndarray, where: str) -> Shaped[np.ndarray, "count channel row column"]:
    """[N,H,W], [N,C,H,W] or [N,H,W,C] as a view [N,C,H,W]; the channel axis is the shorter of the two, at a tie the first."""
    if images.dtype.hasobject or images.dtype.newbyteorder("=").name not in DTYPES:
        raise ValueError(f"{where} has dtype {images.dtype}: convert it to one of {', '.join(DTYPES)}.")
    if images.ndim not in (3, 4):
        raise ValueError(f"{where} has shape {images.shape}: give images as [N,H,W], [N,C,H,W] or [N,H,W,C].")
    if 0 in images.shape:
        raise ValueError(f"{where} has shape {images.shape}, so it holds no images: give at least one.")
    if images.ndim == 3:
        return images[:, None]
    return np.moveaxis(images, -1, 1) if images.shape[-1] < images.shape[1] else images


def check_labels(
    labels: np.ndarray | None, count: int, classes: tuple[str, ...] | None, where: str
) -> tuple[Int[np.ndarray, "count"], tuple[str, ...]]:
    """Labels as int64 [count] and the classes: those given, else the numbers up to the highest label; both void below two
    classes.

    Raises ValueError for labels that are missing though there are classes, not integers, not one per image, or out of range.
    """
    where = f"The labels of {where}"
    if classes is not None and len(classes) < 2:
        return np.zeros(count, np.int64), ()
    if labels is None:
        if classes:
            raise ValueError(f"{where} are missing though there are {len(classes)} classes: store them beside the images.")
        return np.zeros(count, np.int64), ()
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{where} have dtype {labels.dtype}: store integers from 0 up.")
    if labels.size != count or labels.shape[0] != count:
        raise ValueError(f"{where} have shape {labels.shape} for {count} images: store one integer per image.")
    numbers = labels.reshape(count).astype(np.int64)
    lowest, highest = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    if lowest < 0 or (classes is not None and highest >= len(classes)):
        limit = f"{len(classes) - 1}" if classes is not None else "the number of classes - 1"
        raise ValueError(f"{where} hold {lowest if lowest < 0 else highest}, outside 0 to {limit}: correct them.")
    if classes is None:
        seen = np.unique(numbers)
        if len(seen) <= highest:
            gap = int(np.flatnonzero(seen != np.arange(len(seen)))[0])
            raise ValueError(f"{where} go up to {highest} but none is {gap}: number the classes from 0 without gaps.")
        classes = tuple(map(str, range(highest + 1)))
    return (numbers, classes) if len(classes) > 1 else (np.zeros(count, np.int64), ())


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


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith(".")


def _walk(root: Path, below: str) -> Iterator[str]:
    for folder, inner, names in os.walk(root / below):
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")))
        base = Path(folder).relative_to(root)
        yield from ((base / name).as_posix() for name in sorted(names) if _is_image(name))


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
    return {"L": "grey", "RGBA": "RGBA (with transparency)", "I;16": "16-bit grey", "F": "32-bit float grey"}.get(mode, mode)


def _centre(size: Size, resize: Size) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of an image (columns, rows) with the sides' ratio of `resize` (rows,
    columns).
    """
    columns, rows = size
    scale = min(rows / resize[0], columns / resize[1])
    high, wide = resize[0] * scale, resize[1] * scale
    left, top = (columns - wide) / 2, (rows - high) / 2
    return left, top, min(left + wide, columns), min(top + high, rows)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        reason = str(error).replace(str(path), "the file").rstrip(".") or type(error).__name__
        remedy = "replace or delete it, or leave such files out with --data.skip-broken"
        raise BrokenImageError(f"{path} cannot be decoded as an image ({reason}): {remedy}.") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile) as error:
        reason = str(error).replace(str(path), "the file").split("\n")[0].rstrip(".")
        remedy = "write it with numpy.save or numpy.savez from plain numbers"
        raise ValueError(f"{path} cannot be read as arrays without Python objects ({reason}): {remedy}.") from error


def _mapped(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a .npy file, or of a key of a .npz file, mapped from the disk unless it is compressed."""
    with _reading(path):
        if key is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, by_column, dtype = read(stream)
                begin = stream.tell()
        if member.compress_type != zipfile.ZIP_STORED or dtype.hasobject or 0 in shape:
            with np.load(path, allow_pickle=False) as archive:
                return archive[key]
        with path.open("rb") as raw:
            raw.seek(member.header_offset + 26)  # the lengths of name and extra field, which precede the data, stand here
            name, extra = np.frombuffer(raw.read(4), "<u2").tolist()
        offset = member.header_offset + 30 + name + extra + begin
        return np.memmap(path, dtype, "r", offset, shape, "F" if by_column else "C")
