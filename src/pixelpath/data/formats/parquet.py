"""Tables of images: parquet files, and data sets saved by Hugging Face datasets.

A *row* is one sample; a *row group* the part of a parquet file that is read at once. A *feature* is what Hugging Face says of a
column in the metadata of a file.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

import numpy as np

from pixelpath.data.addresses import Address
from pixelpath.data.formats.reading import check_exists, check_regular, needs, reading
from pixelpath.data.formats.resizing import Size
from pixelpath.data.formats.shards import Cell, Shard, ShardLabels, as_stacks
from pixelpath.data.formats.stacks import Stack
from pixelpath.errors import MissingError, UserError

IMAGE_COLUMNS = ("image", "img", "images")
LABEL_COLUMNS = ("label", "labels", "class")
KEPT = 4  # row groups in memory, of all shards of a set together


def open_parquet(
    paths: Sequence[Path],
    *,
    channels: int | None = None,
    resize: Size | None = None,
    nodata: float | None = None,
    broken: list[str] | None = None,
) -> list[Stack]:
    """Parquet files as a stack each: the column of images, and the column of labels if there is one.

    Images are encoded, binary or struct{bytes, path} as Hugging Face writes them, or nested lists of numbers [H,W], [C,H,W] or
    [H,W,C]; if several columns qualify, the one called image, img or images. The column label, labels or class holds integers
    (with names from the metadata of Hugging Face) or strings, whose classes are their sorted values over all files. A row is
    fetched with its row group, of which the last 4 are kept. The first row group of every file is examined at opening, the
    others when read. The options as in `as_stacks`. Raises UserError naming the file or sample.
    """
    groups = _Groups(KEPT)
    return as_stacks(lambda path: _parquet_shard(path, groups), paths, channels, resize, nodata, broken)


def open_saved_dataset(
    folder: Path,
    *,
    channels: int | None = None,
    resize: Size | None = None,
    nodata: float | None = None,
    broken: list[str] | None = None,
) -> list[Stack]:
    """The Arrow files of a folder written by `datasets.save_to_disk`, mapped from the disk, a stack each.

    Columns, options and errors as in `open_parquet`; every sample is examined at opening, pictures by their headers.
    """
    state, info = _json(folder / "state.json"), _json(folder / "dataset_info.json")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise UserError(f"{folder} holds a selection of rows by an index: call flatten_indices() before save_to_disk.")
    files_of = state.get("_data_files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in files_of or () if isinstance(files_of, list)]
    if not names:
        raise UserError(f"{folder / 'state.json'} names no Arrow files: save the data set again with save_to_disk.")
    paths = [_inside(folder, name) for name in names]
    return as_stacks(lambda path: _arrow_shard(path, info), paths, channels, resize, nodata, broken)


def saved_splits(folder: Path) -> dict[str, Path] | None:
    """The folder of every split of a DatasetDict written by `datasets.save_to_disk`; None for any other folder."""
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        return None
    names = _json(listing).get("splits")
    if not isinstance(names, list) or not names:
        raise UserError(f"{listing} names no splits: save the data set again with save_to_disk.")
    splits = {name: _inside(folder, name) for name in names}
    missing = next((path for path in splits.values() if not path.is_dir()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing though {listing} names it: copy the whole data set.")
    return splits


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


def _parquet_shard(path: Path, groups: _Groups) -> Shard:
    parquet = needs("pyarrow.parquet", "hf", path)
    check_exists(path, "a parquet file")
    with reading(path, "as a parquet file"), parquet.ParquetFile(_file(path)) as file:
        metadata, schema = file.metadata, file.schema_arrow
        ends = np.cumsum([metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)])
    image, label = _columns(path, schema, metadata.num_rows)

    def read(group: int) -> Any:
        with parquet.ParquetFile(_file(path), metadata=metadata) as file:
            return file.read_row_group(group, columns=[image]).column(image)

    def fetch(index: int) -> Cell:
        group = int(np.searchsorted(ends, index, side="right"))
        first = int(ends[group - 1]) if group else 0
        return _cell(path, groups.get(path, group, lambda: read(group))[index - first])

    labels: ShardLabels = None
    if label is not None:
        with reading(path, "as a parquet file"), parquet.ParquetFile(_file(path), metadata=metadata) as file:
            column = file.read(columns=[label]).column(label)
        labels = _label_values(path, label, column)
    names = _class_names(path, _features(path, schema), label, labels)
    examined = range(next(int(end) for end in ends if end))
    return Shard(path, metadata.num_rows, (), labels, names, fetch, examined)


def _file(path: Path) -> Any:
    """What Arrow opens: a path of the disk itself, of an object store as Python opens it."""
    return path.open("rb") if isinstance(path, Address) else path


def _arrow_shard(path: Path, info: Mapping[str, Any]) -> Shard:
    pyarrow, ipc = needs("pyarrow", "hf", path), needs("pyarrow.ipc", "hf", path)
    check_exists(path, "an Arrow stream")
    with reading(path, "as an Arrow stream"):
        table = ipc.open_stream(pyarrow.memory_map(str(path), "r")).read_all()
    image, label = _columns(path, table.schema, table.num_rows)
    with reading(path, "as an Arrow stream"):
        column, marks = table.column(image), None if label is None else table.column(label)
    labels = None if label is None else _label_values(path, label, marks)
    names = _class_names(path, _features(path, table.schema) or info.get("features") or {}, label, labels)
    return Shard(path, table.num_rows, (), labels, names, lambda index: _cell(path, column[index]), range(table.num_rows))


def _columns(path: Path, schema: Any, count: int) -> tuple[str, str | None]:
    """The names of the column of images, and of that of labels or None; UserError if there are no rows or no such column."""
    if count == 0:
        raise UserError(f"{path} holds no rows: leave it out.")
    found = [field.name for field in schema if _holds_images(path, field.type)]
    image, label = named_columns(found, schema.names)
    if image is None:
        what = "several columns of images" if found else "no column of images"
        raise UserError(f"{path} holds {what} ({', '.join(found or schema.names)}): call the one to train on image.")
    return image, label


def named_columns(candidates: Sequence[str], names: Sequence[str]) -> tuple[str | None, str | None]:
    """The names of the column of images, None if the candidates leave it open, and of that of labels, None if there is none."""
    image = next((name for name in IMAGE_COLUMNS if name in candidates), candidates[0] if len(candidates) == 1 else None)
    return image, next((name for name in LABEL_COLUMNS if name in names and name != image), None)


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
    """The image in one cell of a table, without a copy of the bytes; what is wrong with it as a plain error, for `naming`."""
    pyarrow = needs("pyarrow", "hf", path)
    if isinstance(value, pyarrow.ExtensionScalar):
        value = value.value
    if isinstance(value, pyarrow.StructScalar) and value.is_valid:
        path_alone = value.as_py().get("path") if not value["bytes"].is_valid else None
        value = value["bytes"]
        if path_alone:
            raise ValueError(f"only its path {path_alone} is stored, not the picture")
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
        raise UserError(f"{path} has {column.null_count} rows without a {name}: label all or none.")
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        raise UserError(f"{path} has {kind} in the column {name}: store whole numbers or names there, or call it otherwise.")
    return column.to_pylist()


def _features(path: Path, schema: Any) -> Mapping[str, Any]:
    """What Hugging Face says of the columns, or nothing."""
    try:
        return json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError):
        return {}
    except (ValueError, RecursionError):
        raise UserError(f"{path} has metadata of Hugging Face that is not JSON: write it again with datasets.") from None


def _class_names(path: Path, features: Any, label: str | None, labels: ShardLabels) -> tuple[str, ...] | None:
    """The names of the numbers in the column of labels, if Hugging Face gives any."""
    numbered = bool(labels) and isinstance(labels[0], int)
    feature = features.get(label) if numbered and isinstance(features, Mapping) else None
    names = feature.get("names") if isinstance(feature, Mapping) else None
    if not names:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path} has class names that are not a list of names: write it again.")
    return tuple(names)


def _inside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or name in ("", ".", "..") or PureWindowsPath(name).name != name:
        raise UserError(f"{folder} lists {name!r}, which is no file or folder in it: save the data set again.")
    return folder / name


def _json(path: Path) -> dict[str, Any]:
    check_regular(path)
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path} is missing: give a folder written by save_to_disk, whole.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({str(error).splitlines()[0]}): save the data set again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object: save the data set again.")
    return found
