"""Large sets of small images packed into few files: parquet files, data sets saved by Hugging Face datasets, tar shards.

A *sample* is one image with its label, if it has one. An image is *encoded* (the bytes of a PNG, JPEG, ... file) or an array.
A *shard* is one of the files of a set; a *row group* the part of a parquet file that is read at once.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from PIL import Image, ImageOps

from pixelpath.data import files
from pixelpath.data.arrays import DTYPES
from pixelpath.data.facts import Facts
from pixelpath.data.files import BrokenImageError
from pixelpath.data.stacks import EVERYTHING, Stack, needs

IMAGE_COLUMNS = ("image", "img", "images")
LABEL_COLUMNS = ("label", "labels", "class")
KEPT = 4  # row groups in memory, of all shards of a set together
LONGEST = 2**20  # bytes of a .cls or .json member
PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}

File = Any
"""An open binary file, of Python's or of Arrow's."""

Cell = File | np.ndarray
"""An image as it is stored: a file of an encoded picture, or an array."""

Known = list[int] | list[str] | None
"""The labels of one shard: numbers, names or none."""


class Look(NamedTuple):
    """What all samples of a set share: the mode of pictures ("" for arrays), shape and dtype."""

    mode: str
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one shard, decoded when asked for; made by the openers below."""

    path: Path
    shape: tuple[int, int, int, int]
    facts: Facts
    labels: Int[np.ndarray, "count"] | None
    classes: tuple[str, ...] | None
    keys: tuple[str, ...]
    """The names of the samples; empty if they have only numbers."""
    look: Look
    model: str
    """The sample that all others must look like."""
    channels: int | None
    fetch: Callable[[int], Cell]
    whole: bool = False

    @property
    def dtype(self) -> np.dtype:
        return self.look.dtype

    def name(self, index: int) -> str:
        return self.keys[index] if self.keys else f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        where = f"{self.path}::{self.name(index)}"
        with _naming(where):
            cell = self.fetch(index)
        look, image = _decoded(cell, self.channels, where) if not isinstance(cell, np.ndarray) else _planes(cell, where)
        _check_alike(where, look, self.model, self.look, self.channels)
        return np.array(image[:, rows, columns], dtype=self.dtype, order="C")


class _Shard(NamedTuple):
    path: Path
    rows: int
    keys: tuple[str, ...]
    labels: Known
    names: tuple[str, ...] | None
    """The names of the classes, where labels are numbers."""
    fetch: Callable[[int], Cell]
    examined: Iterable[int]
    """The samples whose look is checked at opening, the first among them."""


def open_parquet(paths: Sequence[Path], *, channels: int | None = None) -> list[Stack]:
    """Parquet files as a stack each: the column of images, and the column of labels if there is one.

    Images are encoded, binary or struct{bytes, path} as Hugging Face writes them, or nested lists of numbers [H,W], [C,H,W] or
    [H,W,C]; if several columns qualify, the one called image, img or images. The column label, labels or class holds integers
    (with names from the metadata of Hugging Face) or strings, whose classes are their sorted values over all files. A row is
    fetched with its row group, of which the last 4 are kept. The first row group of every file is examined at opening, the
    others when read. `channels` converts encoded 8-bit pictures. Raises ValueError naming the file or sample.
    """
    groups = _Groups(KEPT)
    return _stacks([_parquet_shard(path, groups) for path in paths], channels)


def open_saved_dataset(folder: Path, *, channels: int | None = None) -> list[Stack]:
    """The Arrow files of a folder written by `datasets.save_to_disk`, mapped from the disk, a stack each.

    Columns, `channels` and errors as in `open_parquet`; every sample is examined at opening, pictures by their headers.
    """
    state, info = _json(folder / "state.json"), _json(folder / "dataset_info.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ValueError(f"{folder} holds a selection of rows by an index: call flatten_indices() before save_to_disk.")
    files_of = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files_of or () if isinstance(files_of, list)]
    if not names:
        raise ValueError(f"{folder / 'state.json'} names no Arrow files: save the data set again with save_to_disk.")
    return _stacks([_arrow_shard(_inside(folder, name), info) for name in names], channels)


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """The folder of every split of a DatasetDict written by `datasets.save_to_disk`; None for any other folder."""
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        return None
    names = _json(listing).get("splits")
    if not isinstance(names, list) or not names:
        raise ValueError(f"{listing} names no splits: save the data set again with save_to_disk.")
    splits = {name: _inside(folder, name) for name in names}
    missing = next((path for path in splits.values() if not path.is_dir()), None)
    if missing is not None:
        raise ValueError(f"{missing} is missing though {listing} names it: copy the whole data set.")
    return splits


def open_tar_shards(paths: Sequence[Path], *, channels: int | None = None) -> list[Stack]:
    """Uncompressed tar shards as webdataset writes them, a stack each; nothing is unpacked to the disk.

    Members whose names agree up to the first dot of the file name are one sample: an image (.png, .jpg, .webp, .bmp, .gif, .tif
    or an array .npy: [H,W], [C,H,W] or [H,W,C]) and a label, which is an integer in .cls, or "label" in .json (integer or
    string); other members, hidden ones and samples without image and .cls are passed over. Headers are read at opening, pixels
    when asked for, of arrays only a window. `channels` converts 8-bit pictures. Raises ValueError naming shard and member: a
    link, a device, a path that leads out of the shard, two images in one sample, unequal samples, an unfinished shard.
    """
    return _stacks([_tar_shard(path) for path in paths], channels)


def _stacks(shards: Sequence[_Shard], channels: int | None) -> list[Stack]:
    """Shards whose samples look alike, as stacks with labels numbered over all of them."""
    if not shards:
        raise ValueError("No shards given: name at least one file.")
    labels, classes = _numbered(shards)
    model, common = "", Look("", (), np.dtype("uint8"))
    for shard in shards:
        for index in shard.examined:
            where = f"{shard.path}::{shard.keys[index] if shard.keys else f'{index:08d}'}"
            with _naming(where):
                cell = shard.fetch(index)
            look = _planes(cell, where)[0] if isinstance(cell, np.ndarray) else _header(cell, channels, where)
            if not model:
                model, common = where, look
            _check_alike(where, look, model, common, channels)
    photographs = common.mode in files.BYTES.values()
    kind = "npy" if not common.mode else "tiff" if common.mode == "F" else "png"
    facts = Facts(kind, photographs=photographs, alpha="straight" if common.mode == "RGBA" else "")
    planes, rows, columns = common.shape
    return [
        Samples(
            path=shard.path,
            shape=(shard.rows, planes, rows, columns),
            facts=facts,
            labels=numbers,
            classes=classes,
            keys=shard.keys,
            look=common,
            model=model,
            channels=channels,
            fetch=shard.fetch,
        )
        for shard, numbers in zip(shards, labels, strict=True)
    ]


def _numbered(shards: Sequence[_Shard]) -> tuple[list[Int[np.ndarray, "count"] | None], tuple[str, ...] | None]:
    """Labels as int64, shard by shard, and the names of the classes; ValueError naming two shards labelled differently."""
    first, said = shards[0], {"NoneType": "no labels", "int": "numbers as labels", "str": "names as labels"}
    kinds = [type(shard.labels[0] if shard.labels else None).__name__ for shard in shards]
    for shard, kind in zip(shards, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(f"{shard.path} has {said[kind]} but {first.path} {said[kinds[0]]}: label all shards alike.")
        if shard.names != first.names:
            raise ValueError(f"{shard.path} and {first.path} name their classes differently: write both with the same classes.")
    if kinds[0] == "NoneType":
        return [None] * len(shards), None
    names = tuple(sorted({name for shard in shards for name in shard.labels or () if isinstance(name, str)}))
    order: dict[int | str, int] = {name: number for number, name in enumerate(names)}
    numbers = []
    for shard in shards:
        found = [order.get(label, label) for label in shard.labels or ()]
        if not all(isinstance(number, int) and abs(number) < 2**63 for number in found):
            raise ValueError(f"{shard.path} has labels of more than 64 bits: number the classes from 0.")
        numbers.append(np.array(found, np.int64))
    return numbers, names or first.names


def _check_alike(where: str, look: Look, model: str, common: Look, channels: int | None) -> None:
    """ValueError for a mode that is not supported or with `channels` that it cannot have, and naming two samples that differ."""
    supported = (*files.BYTES.values(), *files.DEPTHS, "")
    if look.mode not in supported:
        remedy = "convert it to 8 bits per channel, 16-bit grey or an array of a float dtype"
        raise ValueError(f"{where} stores pixels of mode {look.mode}, which is not supported: {remedy}.")
    if look.mode in files.DEPTHS and channels not in (None, 1):
        raise ValueError(f"{where} is {files._spoken(look.mode)}, which has one channel: leave out --data.channels {channels}.")
    if look == common:
        return
    if look.mode and common.mode and look.mode != common.mode:
        words, remedy = [files._spoken(look.mode), files._spoken(common.mode)], "with --data.channels 3"
        raise ValueError(f"{where} is {words[0]} but {model} is {words[1]}: convert all to one kind, for instance {remedy}.")
    if look.mode and common.mode:
        words = ["{1}x{2}".format(*each.shape) for each in (look, common)]
        remedy = "bring all to one size before packing them, or unpack them to a folder and use --data.resize"
        raise ValueError(f"{where} is {words[0]} pixels (rows x columns) but {model} is {words[1]}: {remedy}.")
    words = [f"{'x'.join(map(str, each.shape))} {each.dtype}{'' if each.mode else ' (an array)'}" for each in (look, common)]
    raise ValueError(f"{where} is {words[0]} but {model} is {words[1]}: pack images of one shape and dtype.")


# Encoded pictures and arrays


def _header(file: File, channels: int | None, where: str) -> Look:
    """As `files.header`, of an open file."""
    with _naming(where), file, Image.open(file, formats=files.FORMATS) as image:
        (columns, rows), mode = image.size, files._mode(image, channels)
        turned = files._has_exif(image) and image.getexif().get(files.ExifTags.Base.Orientation, 1) >= 5
    planes = len(mode) if mode in ("RGB", "RGBA") else 1
    return Look(mode, (planes, columns, rows) if turned else (planes, rows, columns), files.DEPTHS.get(mode, np.dtype("uint8")))


def _decoded(file: File, channels: int | None, where: str) -> tuple[Look, Shaped[np.ndarray, "channel row column"]]:
    """As `files.pixels`, of an open file, in its own mode."""
    with _naming(where), file, Image.open(file, formats=files.FORMATS) as image:
        mode = files._mode(image, channels)
        dtype = files.DEPTHS.get(mode, np.dtype("uint8"))
        if files._has_exif(image):
            ImageOps.exif_transpose(image, in_place=True)
        picture = image if mode not in files.BYTES.values() or image.mode == mode else image.convert(mode)
        array = np.asarray(picture).astype(dtype, copy=False)
    planes = array.transpose(2, 0, 1) if array.ndim == 3 else array[None]
    return Look(mode, planes.shape, dtype), planes


def _planes(array: np.ndarray, where: str) -> tuple[Look, Shaped[np.ndarray, "channel row column"]]:
    """[H,W], [C,H,W] or [H,W,C] as a view [C,H,W]; the channel axis is the shorter of the two, at a tie the first."""
    dtype = array.dtype.newbyteorder("=")
    if dtype.name not in DTYPES:
        raise ValueError(f"{where} has dtype {array.dtype}: convert it to one of {', '.join(DTYPES)}.")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"{where} has shape {array.shape}: give images as [H,W], [C,H,W] or [H,W,C].")
    if array.ndim == 2:
        planes = array[None]
    else:
        planes = np.moveaxis(array, -1, 0) if array.shape[-1] < array.shape[0] else array
    return Look("", planes.shape, dtype), planes


# Parquet and Arrow


class _Groups:
    """The row groups read last, for all threads; one is read at a time, so that no two threads hold the same one twice."""

    def __init__(self, most: int) -> None:
        self._most, self._kept, self._lock = most, OrderedDict[tuple[Path, int], Any](), threading.Lock()

    def get(self, path: Path, group: int, read: Callable[[], Any]) -> Any:
        with self._lock:
            if (path, group) not in self._kept:
                while len(self._kept) >= self._most:
                    self._kept.popitem(last=False)
                self._kept[path, group] = read()
            self._kept.move_to_end((path, group))
            return self._kept[path, group]


def _parquet_shard(path: Path, groups: _Groups) -> _Shard:
    parquet = needs("pyarrow.parquet", "hf", path)
    with _reading(path, "a parquet file"), parquet.ParquetFile(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
        ends = np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
    image, label = _columns(path, schema, metadata.num_rows)

    def read(group: int) -> Any:
        with parquet.ParquetFile(path, metadata=metadata) as file:
            return file.read_row_group(group, columns=[image]).column(image)

    def fetch(index: int) -> Cell:
        group = int(np.searchsorted(ends, index, side="right"))
        first = int(ends[group - 1]) if group else 0
        return _cell(path, groups.get(path, group, lambda: read(group))[index - first])

    labels: Known = None
    if label is not None:
        with _reading(path, "a parquet file"), parquet.ParquetFile(path, metadata=metadata) as file:
            column = file.read(columns=[label]).column(label)
        labels = _label_values(path, label, column)
    names = _class_names(path, _features(schema), label, labels)
    examined = range(next(int(end) for end in ends if end))
    return _Shard(path, metadata.num_rows, (), labels, names, fetch, examined)


def _arrow_shard(path: Path, info: Mapping[str, Any]) -> _Shard:
    pyarrow, ipc = needs("pyarrow", "hf", path), needs("pyarrow.ipc", "hf", path)
    with _reading(path, "an Arrow stream"):
        table = ipc.open_stream(pyarrow.memory_map(str(path), "r")).read_all()
    image, label = _columns(path, table.schema, table.num_rows)
    with _reading(path, "an Arrow stream"):
        column, marks = table.column(image), None if label is None else table.column(label)
    labels = None if label is None else _label_values(path, label, marks)
    names = _class_names(path, _features(table.schema) or info.get("features") or {}, label, labels)
    return _Shard(path, table.num_rows, (), labels, names, lambda index: _cell(path, column[index]), range(table.num_rows))


def _columns(path: Path, schema: Any, count: int) -> tuple[str, str | None]:
    """The names of the column of images, and of that of labels or None; ValueError if there are no rows or no such column."""
    if count == 0:
        raise ValueError(f"{path} holds no rows: leave it out.")
    found = [field.name for field in schema if _holds_images(path, field.type)]
    named = next((name for name in IMAGE_COLUMNS if name in found), found[0] if len(found) == 1 else None)
    if named is None:
        what = "several columns of images" if found else "no column of images"
        raise ValueError(f"{path} holds {what} ({', '.join(found or schema.names)}): call the one to train on image.")
    return named, next((name for name in LABEL_COLUMNS if name in schema.names and name != named), None)


def _holds_images(path: Path, kind: Any) -> bool:
    """Whether a column of this type can hold encoded pictures, or arrays as lists in lists."""
    pyarrow = needs("pyarrow", "hf", path)
    types = pyarrow.types
    if isinstance(kind, pyarrow.BaseExtensionType):
        kind = kind.storage_type
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(path, field.type) for field in kind)
    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if depth == 0:
        return types.is_binary(kind) or types.is_large_binary(kind)
    return depth in (2, 3) and (types.is_integer(kind) or types.is_floating(kind))


def _cell(path: Path, value: Any) -> Cell:
    """The image in one cell of a table, without a copy of the bytes; what is wrong with it as a plain error, for `_naming`."""
    pyarrow = needs("pyarrow", "hf", path)
    if isinstance(value, pyarrow.ExtensionScalar):
        value = value.value
    if isinstance(value, pyarrow.StructScalar) and value.is_valid:
        known = value.as_py().get("path") if not value["bytes"].is_valid else None
        value = value["bytes"]
        if known:
            raise ValueError(f"only its path {known} is stored, not the picture")
    if not value.is_valid:
        raise ValueError("it is empty")
    return _nested(pyarrow, value) if isinstance(value, pyarrow.ListScalar) else pyarrow.BufferReader(value.as_buffer())


def _nested(pyarrow: ModuleType, value: Any) -> np.ndarray:
    """Lists in lists of numbers as an array."""
    inner = value.values
    shape = [len(inner)]
    while isinstance(inner, pyarrow.ListArray | pyarrow.LargeListArray | pyarrow.FixedSizeListArray):
        fixed = isinstance(inner, pyarrow.FixedSizeListArray)
        lengths = {inner.type.list_size} if fixed else set(inner.value_lengths().to_pylist())
        if len(lengths) != 1 or inner.null_count:
            raise ValueError("its rows are empty or of unequal lengths")
        shape.append(lengths.pop())
        inner = inner.flatten()
    if inner.null_count:
        raise ValueError("some of its values are empty")
    return inner.to_numpy(zero_copy_only=False).reshape(shape)


def _label_values(path: Path, name: str, column: Any) -> list[int] | list[str]:
    pyarrow = needs("pyarrow", "hf", path)
    types = pyarrow.types
    if column.null_count:
        raise ValueError(f"{path} has {column.null_count} rows without a {name}: label all or none.")
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise ValueError(f"{path} has {kind} in the column {name}: store whole numbers or names there, or call it otherwise.")
    return column.to_pylist()


def _features(schema: Any) -> Mapping[str, Any]:
    """What Hugging Face says of the columns, or nothing."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def _class_names(path: Path, features: Any, label: str | None, labels: Known) -> tuple[str, ...] | None:
    """The names of the numbers in the column of labels, if Hugging Face gives any."""
    numbered = bool(labels) and isinstance(labels[0], int)
    feature = features.get(label) if numbered and isinstance(features, Mapping) else None
    names = feature.get("names") if isinstance(feature, Mapping) else None
    if not names:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} has class names that are not a list of names: write it again.")
    return tuple(names)


# Tar shards


class _Section(io.RawIOBase):
    """Some bytes of a file, as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._place = path.open("rb", buffering=0), offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._place))
        self._file.seek(self._offset + self._place)
        count = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        self._place += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Parts(NamedTuple):
    """The members of one sample: by their ending, offset and size."""

    images: list[tuple[str, int, int]]
    labels: dict[str, tuple[int, int]]


def _tar_shard(path: Path) -> _Shard:
    samples = {key: parts for key, parts in _indexed(path).items() if parts.images or "cls" in parts.labels}
    if not samples:
        raise ValueError(f"{path} holds no images ({', '.join(files.IMAGES)}, .npy): leave it out.")
    for key, parts in samples.items():
        if len(parts.images) != 1:
            what = f"{len(parts.images)} images" if parts.images else "a label but no image"
            raise ValueError(f"{path}::{key} has {what}: pack one image and at most one label by sample.")
    members = [parts.images[0] for parts in samples.values()]

    def fetch(index: int) -> Cell:
        ending, offset, size = members[index]
        return _mapped(path, offset, size) if ending == "npy" else io.BufferedReader(_Section(path, offset, size))

    labels = [_tar_label(path, key, parts) for key, parts in samples.items()]
    keys = tuple(samples)
    kinds = {type(label): key for label, key in zip(reversed(labels), reversed(keys), strict=True)}
    if len(kinds) > 1:
        one, other = sorted(kinds.values())[:2]
        raise ValueError(f"{path} labels {one} and {other} differently (number, name or none): label all samples alike.")
    known: Any = None if labels[0] is None else labels
    return _Shard(path, len(keys), keys, known, None, fetch, range(len(keys)))


def _indexed(path: Path) -> dict[str, _Parts]:
    """Where the members of every sample begin, by one pass over the headers."""
    with _reading(path, "a tar shard"), path.open("rb") as file:
        start = file.read(2)
    if start in PACKED:
        raise ValueError(f"{path} is compressed by {PACKED[start]}, so nothing in it is found quickly: decompress it.")
    with _reading(path, "a tar shard"), path.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = list(iter(tar.next, None))
        last = members[-1] if members else None
        end = 0 if last is None else last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        file.seek(end)
        closed = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    if not closed:
        raise ValueError(f"{path} is damaged or unfinished after {end} bytes: copy or write it again.")
    samples: dict[str, _Parts] = {}
    for member in members:
        _check_member(path, member)
        if member.isreg():
            _add(path, samples, member)
    return samples


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    ways = PurePosixPath(member.name), PureWindowsPath(member.name)
    if any(way.is_absolute() or ".." in way.parts or way.drive for way in ways):
        raise ValueError(f"{path} has the member {member.name!r}, whose path leads out of the shard: pack it again without.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise ValueError(
            f"{path} has the member {member.name!r}, which is a link, a device or another special file: pack plain files alone."
        )


def _add(path: Path, samples: dict[str, _Parts], member: tarfile.TarInfo) -> None:
    place = PurePosixPath(member.name)
    stem, _, rest = place.name.partition(".")
    if not stem or not rest:
        return
    key, ending = (place.parent / stem).as_posix(), rest.rpartition(".")[2].lower()
    parts = samples.setdefault(key, _Parts([], {}))
    if f".{ending}" in files.IMAGES or ending == "npy":
        parts.images.append((ending, member.offset_data, member.size))
    elif ending in ("cls", "json"):
        if ending in parts.labels:
            raise ValueError(f"{path}::{key} has two labels ({ending}): pack one image and at most one label by sample.")
        parts.labels[ending] = (member.offset_data, member.size)


def _tar_label(path: Path, key: str, parts: _Parts) -> int | str | None:
    """The number in .cls, else what .json calls "label", else None."""
    if not parts.labels:
        return None
    ending = "cls" if "cls" in parts.labels else "json"
    offset, size = parts.labels[ending]
    with path.open("rb") as file:
        file.seek(offset)
        text = file.read(min(size, LONGEST))
    try:
        value = int(text) if ending == "cls" else json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(
            f"{path}::{key}.{ending} holds no {'integer' if ending == 'cls' else 'JSON'} but {text[:20]!r}: correct it."
        ) from None
    label = value.get("label") if isinstance(value, dict) else value if ending == "cls" else None
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise ValueError(f"{path}::{key}.json has the label {str(label)[:20]!r}: store an integer or a name.")
    return label


def _mapped(path: Path, offset: int, size: int) -> np.ndarray:
    """The array of a .npy file that lies within another, mapped."""
    with path.open("rb") as file:
        file.seek(offset)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        begin = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if begin - offset + int(np.prod(shape)) * dtype.itemsize > size:
        raise ValueError("it ends too early")
    return np.memmap(path, dtype, "r", begin, shape, "F" if by_column else "C") if 0 not in shape else np.empty(shape, dtype)


# What goes wrong


def _inside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or name in ("", ".", "..") or PureWindowsPath(name).name != name:
        raise ValueError(f"{folder} lists {name!r}, which is no file or folder in it: save the data set again.")
    return folder / name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing: give a folder written by save_to_disk, whole.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({str(error).splitlines()[0]}): save the data set again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object: save the data set again.")
    return found


def _reason(error: Exception) -> str:
    """What an exception says, on one line and without the representation of Python's objects."""
    return " ".join(re.sub(r" ?<[^>]*>", "", str(error)).split()).rstrip(".") or type(error).__name__


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Whatever a decoder raises as one sentence that names the sample."""
    try:
        yield
    except Exception as error:  # Pillow's decoders raise nearly every kind of exception on damaged files
        remedy = "replace the sample or leave it out"
        raise BrokenImageError(f"{where} cannot be decoded as an image ({_reason(error)}): {remedy}.") from error


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Whatever a reader raises as one sentence that names the shard."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist: give {kind}.") from None
    except Exception as error:  # as above, on damaged files
        reason = _reason(error).replace(str(path), "the file")
        raise ValueError(f"{path} cannot be read as {kind} ({reason}): copy it again, or leave it out.") from error
