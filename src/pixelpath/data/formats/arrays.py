"""Arrays on a disk, through numpy and never as Python objects: .npy and .npz files, their images, labels and class names."""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.atomic import whole
from pixelpath.data import dtypes
from pixelpath.data.formats.reading import check_regular, check_room, leads_out, reading
from pixelpath.errors import UserError

ARRAYS = (".npy", ".npz")
CHANNELS_FIRST, CHANNELS_LAST = "channels_first", "channels_last"


def array_parts(path: Path) -> set[str]:
    """The words of the keys of a .npz file that name images, in small letters: "train" for train, train_images or X_train."""
    return {key.lower().removesuffix("_images").removeprefix("x_") for key in keys_of(path)}


class ClassLabels(NamedTuple):
    """The class of every image, and the names of the classes; zeros and no names if there are fewer than two classes."""

    numbers: Int[np.ndarray, "count"]
    classes: tuple[str, ...] = ()


class ArrayFile(NamedTuple):
    """The arrays of a file as they are stored; `channels_last` is None where the file does not say where the channels are."""

    images: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    channels_last: bool | None = None


def read_arrays(path: Path, part: str | None) -> ArrayFile:
    """The arrays of a .npy file and its sibling NAME_labels.npy, or of (one part of) a .npz file.

    Keys of a .npz: images (or x, data, arr_0, or the only array), labels (or y), class_names, layout; of a part: PART_images,
    PART or x_PART, and PART_labels or y_PART. Capitals do not count.
    """
    if path.suffix.lower() == ".npy":
        sibling = path.with_name(path.stem + "_labels.npy")
        return ArrayFile(mapped(path), mapped(sibling) if sibling.exists() else None)
    keys = {key.lower(): key for key in keys_of(path)}
    wanted = ("images", "x", "data", "arr_0") if part is None else (f"{part}_images", part, f"x_{part}")
    images = next((keys[key] for key in wanted if key in keys), next(iter(keys.values())) if len(keys) == 1 else None)
    if images is None:
        held = ", ".join(keys.values())
        raise UserError(f"{path} holds {held} but no images: name the array images, or train_images and test_images.")
    wanted = ("labels", "y") if part is None else (f"{part}_labels", f"y_{part}")
    labels = next((keys[key] for key in wanted if key in keys), None)
    names = tuple(str(name) for name in mapped(path, keys["class_names"])) if "class_names" in keys else None
    layout = str(mapped(path, keys["layout"]).ravel()[0]) if "layout" in keys else ""
    last = layout == CHANNELS_LAST if layout in (CHANNELS_FIRST, CHANNELS_LAST) else None
    return ArrayFile(mapped(path, images), None if labels is None else mapped(path, labels), names, last)


def write_arrays(path: Path, images: Shaped[np.ndarray, "count channel row column"], labels: ClassLabels) -> None:
    """Write images, and labels if there are classes, as a .npz file that `read_arrays` reads."""
    named: dict[str, Any] = {"labels": labels.numbers, "class_names": np.array(labels.classes)} if labels.classes else {}
    with whole(path) as file:
        np.savez(file, images=images, layout=np.array([CHANNELS_FIRST]), **named)


def check_array(
    images: np.ndarray, what: str, channels_last: bool | None = None, setting: str | None = None
) -> Shaped[np.ndarray, "count channel row column"]:
    """[N,H,W], [N,C,H,W] or [N,H,W,C] as a view [N,C,H,W]; UserError for other shapes, and for dtypes that are not supported.

    Where `channels_last` does not say it, the channel axis is the shorter of the two that it may be, at a tie the first.
    """
    dtypes.checked(images.dtype, what, setting)
    if images.ndim == 2:
        remedy = "give several as [N,H,W], [N,C,H,W] or [N,H,W,C], or cut this one into tiles with `data.tile`"
        raise UserError(f"{what} has shape {images.shape}, which is one image: {remedy}.", setting)
    if images.ndim not in (3, 4):
        raise UserError(f"{what} has shape {images.shape}: give images as [N,H,W], [N,C,H,W] or [N,H,W,C].", setting)
    if 0 in images.shape:
        raise UserError(f"{what} has shape {images.shape}, so it holds no images: give at least one.", setting)
    if images.ndim == 3:
        return images[:, None]
    last = images.shape[-1] < images.shape[1] if channels_last is None else channels_last
    return np.moveaxis(images, -1, 1) if last else images


def check_labels(
    labels: np.ndarray | None, count: int, classes: tuple[str, ...] | None, what: str, setting: str | None = None
) -> ClassLabels:
    """Labels as int64 [count], and the classes: those given, else the numbers up to the highest label.

    Raises UserError for labels that are missing though there are classes, not integers, not one per image, or out of range.
    """
    if classes is not None and len(classes) < 2:
        return ClassLabels(np.zeros(count, np.int64))
    if labels is None:
        if classes:
            raise UserError(f"{what} are missing though there are {len(classes)} classes: store them beside the images.", setting)
        return ClassLabels(np.zeros(count, np.int64))
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} have dtype {labels.dtype}: store integers from 0 up.", setting)
    if labels.size != count or labels.shape[:1] != (count,):
        raise UserError(f"{what} have shape {labels.shape} for {count} images: store one integer per image.", setting)
    numbers = labels.reshape(count).astype(np.int64)
    lowest, highest = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    if lowest < 0 or (classes is not None and highest >= len(classes)):
        limit = f"{len(classes) - 1}" if classes is not None else "the number of classes - 1"
        raise UserError(f"{what} hold {lowest if lowest < 0 else highest}, outside 0 to {limit}: correct them.", setting)
    if classes is None:
        present = np.unique(numbers)
        if len(present) <= highest:
            gap = int(np.flatnonzero(present != np.arange(len(present)))[0])
            raise UserError(f"{what} go up to {highest} but none is {gap}: number the classes from 0 without gaps.", setting)
        classes = tuple(map(str, range(highest + 1)))
    return ClassLabels(numbers, classes) if len(classes) > 1 else ClassLabels(np.zeros(count, np.int64))


def npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and dtype of a .npy file that is read up to its values."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _reading(path: Path) -> AbstractContextManager[None]:
    return reading(path, "as arrays without Python objects", "write it with numpy.save or numpy.savez from plain numbers")


def keys_of(path: Path) -> list[str]:
    """The names of the arrays of a .npz file; UserError if there are none, one is there twice, or one leads out of the file."""
    check_regular(path)
    with _reading(path), zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    for name, count in Counter(members).items():
        if leads_out(name):
            raise UserError(f"{path} has the member {name!r}, whose path leads out of it: write it again with numpy.savez.")
        if count > 1:
            raise UserError(f"{path} has the member {name!r} twice: write it again with numpy.savez.")
    keys = [name.removesuffix(".npy") for name in members if name.endswith(".npy")]
    if not keys:
        raise UserError(f"{path} holds no arrays: write it with numpy.savez from plain numbers.")
    return keys


def mapped(path: Path, key: str | None = None) -> np.ndarray:
    """The array of a .npy file, or of a key of a .npz file, mapped from the disk unless it is compressed."""
    check_regular(path)
    with _reading(path):
        if key is None:
            with path.open("rb") as raw:
                if raw.read(6) != np.lib.format.MAGIC_PREFIX:  # which numpy takes for pickled objects
                    raise ValueError("it is no .npy file, by its first bytes")
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{key}.npy")
            with archive.open(member) as stream:
                shape, by_column, dtype = npy_header(stream)
                begin = stream.tell()
        if not dtype.hasobject and math.prod(shape) * dtype.itemsize > member.file_size - begin:
            raise ValueError(f"{key} ends too early")
        if member.compress_type != zipfile.ZIP_STORED or dtype.hasobject or 0 in shape:
            check_room(path, member.file_size, f"the array {key}")
            with np.load(path, allow_pickle=False) as archive:
                return archive[key]
        with path.open("rb") as raw:
            raw.seek(member.header_offset + 26)  # the lengths of name and extra field, which precede the data, stand here
            name, extra = np.frombuffer(raw.read(4), "<u2").tolist()
        offset = member.header_offset + 30 + name + extra + begin
        return np.memmap(path, dtype, "r", offset, shape, "F" if by_column else "C")
