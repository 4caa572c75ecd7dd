"""Tar shards as webdataset writes them.

A *member* is a file within a shard; its *ending* is what follows the last dot of its name. The *parts* of a sample are the
members whose names agree up to the first dot.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from pixelpath.data.addresses import Address
from pixelpath.data.formats import pictures
from pixelpath.data.formats.arrays import npy_header
from pixelpath.data.formats.reading import BrokenFileError, check_exists, leads_out, reading
from pixelpath.data.formats.resizing import Size
from pixelpath.data.formats.shards import Cell, File, Shard, as_stacks
from pixelpath.data.formats.stacks import Stack
from pixelpath.errors import UserError

LONGEST = 2**20  # bytes of a .cls or .json member
PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstandard"}


def open_tar_shards(
    paths: Sequence[Path],
    *,
    channels: int | None = None,
    resize: Size | None = None,
    nodata: float | None = None,
    broken: list[str] | None = None,
) -> list[Stack]:
    """Uncompressed tar shards as webdataset writes them, a stack each; nothing is unpacked to the disk.

    Members whose names agree up to the first dot of the file name are one sample: an image (.png, .jpg, .webp, .bmp, .gif, .tif
    or an array .npy: [H,W], [C,H,W] or [H,W,C]) and a label, which is an integer in .cls, or "label" in .json (integer or
    string); other members, hidden ones and samples without image and .cls are passed over. Headers are read at opening, pixels
    when asked for, of arrays only a window unless they are resized. The options as in `as_stacks`. Raises
    UserError naming shard and member: missing or unfinished shard, a link, a device, a path that leads out of the shard, two
    images in one sample, unequal samples.
    """
    return as_stacks(_tar_shard, paths, channels, resize, nodata, broken)


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
    """The members of one sample: images as ending, offset and size, labels by their ending, as they are stored."""

    images: list[tuple[str, int, int]]
    labels: dict[str, bytes]


def _tar_shard(path: Path) -> Shard:
    samples = {key: parts for key, parts in _indexed(path).items() if parts.images or "cls" in parts.labels}
    if not samples:
        raise UserError(f"{path} holds no images ({', '.join(pictures.IMAGES)}, .npy): leave it out.")
    for key, parts in samples.items():
        if len(parts.images) != 1:
            what = f"{len(parts.images)} images" if parts.images else "a label but no image"
            raise UserError(f"{path}::{key} has {what}: pack one image and at most one label by sample.")
    members = [parts.images[0] for parts in samples.values()]

    def fetch(index: int) -> Cell:
        ending, offset, size = members[index]
        if isinstance(path, Address):
            part = path.part(offset, size)
            return np.load(part, allow_pickle=False) if ending == "npy" else part
        return _mapped(path, offset, size) if ending == "npy" else io.BufferedReader(_Section(path, offset, size))

    labels = [_tar_label(path, key, parts) for key, parts in samples.items()]
    keys = tuple(samples)
    kinds = {type(label): key for label, key in zip(reversed(labels), reversed(keys), strict=True)}
    if len(kinds) > 1:
        one, other = sorted(kinds.values())[:2]
        raise UserError(f"{path} labels {one} and {other} differently (number, name or none): label all samples alike.")
    found: Any = None if labels[0] is None else labels
    # each sample of an object store would be a request: one is examined, the others when they are read
    return Shard(path, len(keys), keys, found, None, fetch, range(1 if isinstance(path, Address) else len(keys)))


def _indexed(path: Path) -> dict[str, _Parts]:
    """Where the members of every sample begin, by one pass over the headers."""
    check_exists(path, "a tar shard")
    with reading(path, "as a tar shard"), path.open("rb") as file:
        start = file.read(2)
    if start in PACKED:
        raise UserError(f"{path} is compressed by {PACKED[start]}, so nothing in it is found quickly: decompress it.")
    samples: dict[str, _Parts] = {}
    end = 0
    with reading(path, "as a tar shard"), path.open("rb") as file:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in iter(tar.next, None):
                _check_member(path, member)
                if member.isreg():
                    _add(path, samples, member, file)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        file.seek(end)
        closed = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    if not closed:
        raise BrokenFileError(f"{path} is damaged or unfinished after {end} bytes: copy or write it again.")
    return samples


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    if leads_out(member.name):
        raise UserError(f"{path} has the member {member.name!r}, whose path leads out of the shard: pack it again without.")
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UserError(
            f"{path} has the member {member.name!r}, which is a link, a device or another special file: pack plain files alone."
        )


def _add(path: Path, samples: dict[str, _Parts], member: tarfile.TarInfo, file: File) -> None:
    place = PurePosixPath(member.name)
    stem, _, rest = place.name.partition(".")
    if not stem or not rest:
        return
    key, ending = (place.parent / stem).as_posix(), rest.rpartition(".")[2].lower()
    parts = samples.setdefault(key, _Parts([], {}))
    if f".{ending}" in pictures.IMAGES or ending == "npy":
        parts.images.append((ending, member.offset_data, member.size))
    elif ending in ("cls", "json"):
        if ending in parts.labels:
            raise UserError(f"{path}::{key} has two labels ({ending}): pack one image and at most one label by sample.")
        file.seek(member.offset_data)
        parts.labels[ending] = file.read(min(member.size, LONGEST))


def _tar_label(path: Path, key: str, parts: _Parts) -> int | str | None:
    """The number in .cls, else what .json calls "label", else None."""
    if not parts.labels:
        return None
    ending = "cls" if "cls" in parts.labels else "json"
    text = parts.labels[ending]
    try:
        value = int(text) if ending == "cls" else json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(
            f"{path}::{key}.{ending} holds no {'integer' if ending == 'cls' else 'JSON'} but {text[:20]!r}: correct it."
        ) from None
    label = value.get("label") if isinstance(value, dict) else value if ending == "cls" else None
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise UserError(f"{path}::{key}.json has the label {str(label)[:20]!r}: store an integer or a name.")
    return label


def _mapped(path: Path, offset: int, size: int) -> np.ndarray:
    """The array of a .npy file that lies within another, mapped."""
    with path.open("rb") as file:
        file.seek(offset)
        shape, by_column, dtype = npy_header(file)
        begin = file.tell()
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if begin - offset + math.prod(shape) * dtype.itemsize > size:
        raise ValueError("it ends too early")
    return np.memmap(path, dtype, "r", begin, shape, "F" if by_column else "C") if 0 not in shape else np.empty(shape, dtype)
