"""Large sets of small images packed into few files, whatever kind of file packs them.

A *sample* is one image with its label, if it has one. An image is *encoded* (the bytes of a PNG, JPEG, ... file) or an array.
A *shard* is one of the files of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data import dtypes
from pixelpath.data.formats import pictures
from pixelpath.data.formats.reading import leaving_out
from pixelpath.data.formats.resampling import resampled
from pixelpath.data.formats.resizing import Size
from pixelpath.data.formats.stacks import EVERYTHING, Stack
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError
from pixelpath.log import followed

File = Any
"""An open binary file, of Python's or of Arrow's."""

Cell = File | np.ndarray
"""An image as it is stored: a file of an encoded picture, or an array."""

ShardLabels = list[int] | list[str] | None
"""The labels of one shard: numbers, names or none."""


class Look(NamedTuple):
    """What all samples of a set share: the mode of pictures ("" for arrays), shape (once resized) and dtype."""

    mode: str
    shape: tuple[int, int, int]
    dtype: np.dtype


class Shard(NamedTuple):
    """One file whose samples are listed but not read."""

    path: Path
    rows: int
    keys: tuple[str, ...]
    """The names of the samples; empty if they have only numbers."""
    labels: ShardLabels
    names: tuple[str, ...] | None
    """The names of the classes, where labels are numbers."""
    fetch: Callable[[int], Cell]
    examined: Iterable[int]
    """The samples whose look is checked at opening, the first among them."""

    def name(self, index: int) -> str:
        return self.keys[index] if self.keys else f"{index:08d}"

    @contextmanager
    def cell(self, index: int) -> Iterator[tuple[Cell, str]]:
        """An image as it is stored, open until the block ends, and what it is called in errors."""
        where = f"{self.path}::{self.name(index)}"
        with pictures.naming(where):
            cell = self.fetch(index)
        with nullcontext() if isinstance(cell, np.ndarray) else cell:
            yield cell, where


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of one shard, decoded when asked for; made by `as_stacks`."""

    shard: Shard
    metadata: Metadata
    labels: Int[np.ndarray, "count"] | None
    classes: tuple[str, ...] | None
    look: Look
    model: str
    """The sample that all others must look like."""
    channels: int | None
    resize: Size | None
    nodata: float | None = None
    whole: bool = False

    @property
    def path(self) -> Path:
        return self.shard.path

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.shard.rows, *self.look.shape

    @property
    def dtype(self) -> np.dtype:
        return self.look.dtype

    def name(self, index: int) -> str:
        return self.shard.name(index)

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        with self.shard.cell(index) as (cell, where):
            if isinstance(cell, np.ndarray):
                planes = _planes(cell, where)
                look = _look_of_array(planes, self.resize)
                image = resampled(planes, self.resize, self.nodata) if self.resize else planes
            else:
                packed, masked = pictures.Packed(cell, where), self.resize is not None and self.nodata is not None
                header, image = pictures.read(packed, self.channels, None if masked else self.resize)
                image = resampled(image, self.resize, self.nodata) if masked and self.resize else image
                look = _look_of_picture(header, where, self.channels, self.resize)
        _check_alike(where, look, self.model, self.look)
        return np.array(image[:, rows, columns], dtype=self.dtype, order="C")


def as_stacks(
    open_shard: Callable[[Path], Shard],
    paths: Sequence[Path],
    channels: int | None,
    resize: Size | None,
    nodata: float | None = None,
    broken: list[str] | None = None,
) -> list[Stack]:
    """Shards whose samples look alike, as stacks with labels numbered over all of them; their classes are the sorted names.

    `channels` converts encoded 8-bit pictures. With `resize` samples may be of unequal size, and are resized as in
    `pictures.pixels`; arrays, and all with `nodata`, are `resampled`. Damaged shards are added to `broken`, and damaged samples
    passed over until they are read, unless there is no such list. Raises UserError naming two samples that differ, or two shards
    labelled differently.
    """
    shards: list[Shard] = []
    for path in followed(paths, "opening files", len(paths)):
        with leaving_out(broken, path.name):
            shards.append(open_shard(path))
    if not shards:
        raise UserError(
            f"None of the {len(paths)} shards{f' in {paths[0].parent}' if paths else ''} can be read: give whole ones."
        )
    labels, classes = _numbered(shards)
    model, common = "", Look("", (0, 0, 0), np.dtype("uint8"))
    for shard in shards:
        for index in shard.examined:
            with leaving_out(None if broken is None else [], shard.name(index)):
                look, where = _examined(shard, index, channels, resize)
                model, common = (model, common) if model else (where, look)
                _check_alike(where, look, model, common)
    kind = "npy" if not common.mode else "tiff" if common.mode == "F" else "png"
    metadata = Metadata(kind, photographs=common.mode in pictures.PHOTOGRAPHS, alpha=pictures.alpha_of(common.mode))
    return [
        Samples(shard, metadata, numbers, classes, common, model, channels, resize, nodata)
        for shard, numbers in zip(shards, labels, strict=True)
    ]


def _examined(shard: Shard, index: int, channels: int | None, resize: Size | None) -> tuple[Look, str]:
    """What a sample looks like, by its header if it is a picture, and what it is called."""
    with shard.cell(index) as (cell, where):
        if isinstance(cell, np.ndarray):
            return _look_of_array(_planes(cell, where), resize), where
        return _look_of_picture(pictures.header(pictures.Packed(cell, where), channels), where, channels, resize), where


def _numbered(shards: Sequence[Shard]) -> tuple[list[Int[np.ndarray, "count"] | None], tuple[str, ...] | None]:
    """Labels as int64, shard by shard, and the names of the classes; UserError naming two shards labelled differently."""
    first, said = shards[0], {"NoneType": "no labels", "int": "numbers as labels", "str": "names as labels"}
    kinds = [type(shard.labels[0] if shard.labels else None).__name__ for shard in shards]
    for shard, kind in zip(shards, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{shard.path} has {said[kind]} but {first.path} {said[kinds[0]]}: label all shards alike.")
        if shard.names != first.names:
            raise UserError(f"{shard.path} and {first.path} name their classes differently: write both with the same classes.")
    if kinds[0] == "NoneType":
        return [None] * len(shards), None
    names = tuple(sorted({name for shard in shards for name in shard.labels or () if isinstance(name, str)}))
    order: dict[int | str, int] = {name: number for number, name in enumerate(names)}
    numbers = []
    for shard in shards:
        found = [order.get(label, label) for label in shard.labels or ()]
        if not all(isinstance(number, int) and abs(number) < 2**63 for number in found):
            raise UserError(f"{shard.path} has labels of more than 64 bits: number the classes from 0.")
        numbers.append(np.array(found, np.int64))
    return numbers, names or first.names


def _look_of_array(planes: Shaped[np.ndarray, "channel row column"], resize: Size | None) -> Look:
    rows, columns = resize or planes.shape[1:]
    return Look("", (len(planes), rows, columns), planes.dtype.newbyteorder("="))


def _look_of_picture(header: pictures.Header, where: str, channels: int | None, resize: Size | None) -> Look:
    """What a picture looks like once read; UserError for a mode that is not supported."""
    pictures.check_mode(where, header.mode, channels)
    rows, columns = resize or header.size
    return Look(header.mode, (pictures.channels_of(header.mode), rows, columns), pictures.dtype_of(header.mode))


def _check_alike(where: str, look: Look, model: str, common: Look) -> None:
    """UserError naming two samples that differ."""
    if look == common:
        return
    if (look.mode and common.mode) or look == common._replace(shape=(common.shape[0], *look.shape[1:])):
        raise pictures.unlike(
            where, pictures.Header(look.mode, look.shape[1:]), model, pictures.Header(common.mode, common.shape[1:])
        )
    words = [f"{'x'.join(map(str, each.shape))} {each.dtype}{'' if each.mode else ' (an array)'}" for each in (look, common)]
    raise UserError(f"{where} is {words[0]} but {model} is {words[1]}: pack images of one shape and dtype.")


def _planes(array: np.ndarray, where: str) -> Shaped[np.ndarray, "channel row column"]:
    """[H,W], [C,H,W] or [H,W,C] as a view [C,H,W]; the channel axis is the shorter of the two, at a tie the first."""
    dtypes.checked(array.dtype, where)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UserError(f"{where} has shape {array.shape}: give images as [H,W], [C,H,W] or [H,W,C].")
    if array.ndim == 2:
        return array[None]
    return np.moveaxis(array, -1, 0) if array.shape[-1] < array.shape[0] else array
