"""Images as numbered arrays in the dtype they were stored in.

A *source* is a numbered set of images of one shape [channel, row, column] and one dtype; *native* values are the stored ones,
never scaled. A *class* is a named kind of image; a source with fewer than two is *unconditional*: `classes` is empty, every label
0. A *group* is a set of images that belong together, like the slices of a volume; a *split* is a pair of sources, (training, held
out), with no group on both sides.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Shaped

from pixelpath.data.alpha import premultiply
from pixelpath.data.formats import pictures
from pixelpath.data.formats.resampling import resampled
from pixelpath.data.metadata import Metadata
from pixelpath.errors import UserError

TASK = 16  # images that one thread decodes at a time
TILES, ENOUGH = (64, 32, 16), 16  # sides of tiles that are proposed for a single image, the first that gives so many


@runtime_checkable
class Source(Protocol):
    """A numbered set of images of one shape and dtype."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their labels; empty if there are fewer than two (unconditional)."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, rows, columns) of every image."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The native dtype, one of `dtypes.NAMES`."""
        ...

    @property
    def metadata(self) -> Metadata:
        """What is known of the images besides their values."""
        ...

    @property
    def broken(self) -> list[str]:
        """Files left out because they could not be decoded."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        """Image `index`, native; UserError naming the file if it cannot be decoded. Negative numbers count from the end."""
        ...

    def label(self, index: int) -> int:
        """The class of image `index`, 0 if the source is unconditional."""
        ...

    def name(self, index: int) -> str:
        """What image `index` is called: its path below the folder, or its number in the array."""
        ...

    def groups(self, index: int) -> tuple[str, ...]:
        """The groups that image `index` touches: as a rule one, its own name; several for a tile across blocks."""
        ...


def look(source: Source) -> str:
    """The shape and dtype of a source in words, like "3x32x32 uint8"."""
    return "x".join(map(str, source.shape)) + f" {source.dtype}"


def brief(source: Source) -> str:
    """What a source shows of itself, like "<240 images, 3x64x64 uint8, 2 classes>"."""
    classes = f", {len(source.classes)} classes" if source.classes else ""
    return f"<{len(source)} images, {look(source)}{classes}>"


@dataclass(frozen=True, eq=False, repr=False)
class Folder:
    """Image files below a folder, decoded when asked for; made by `open_source`."""

    root: Path
    names: tuple[str, ...]
    labels: Int[np.ndarray, "count"]
    classes: tuple[str, ...]
    mode: str
    shape: tuple[int, int, int]
    resize: tuple[int, int] | None = None
    broken: list[str] = field(default_factory=list)
    metadata: Metadata = field(default_factory=Metadata)

    def __repr__(self) -> str:
        return brief(self)

    @property
    def dtype(self) -> np.dtype:
        return pictures.dtype_of(self.mode)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        path, nodata = self.root / self.names[index], self.metadata.nodata
        if self.resize and nodata is not None:
            return resampled(pictures.pixels(path, self.mode), self.resize, nodata)
        return pictures.decode(path, self.mode, self.shape, self.resize)

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index]

    def groups(self, index: int) -> tuple[str, ...]:
        return (self.names[index],)


@dataclass(frozen=True, eq=False, repr=False)
class Arrays:
    """Images that are rows of one array, in memory or mapped from a file."""

    images: Shaped[np.ndarray, "count channel row column"]
    labels: Int[np.ndarray, "count"]
    classes: tuple[str, ...] = ()
    resize: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    broken: list[str] = field(default_factory=list)
    metadata: Metadata = field(default_factory=Metadata)

    def __repr__(self) -> str:
        return brief(self)

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, rows, columns = self.images.shape[1:]
        return (channels, *self.resize) if self.resize else (channels, rows, columns)

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype.newbyteorder("=")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        image = np.array(self.images[index], dtype=self.dtype)
        return resampled(image, self.resize, self.metadata.nodata) if self.resize else image

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def name(self, index: int) -> str:
        return self.names[index] if self.names else f"{index:08d}"

    def groups(self, index: int) -> tuple[str, ...]:
        return (self.name(index),)


@dataclass(frozen=True, eq=False, repr=False)
class _Around:
    """Images of another source, by default as they are there."""

    source: Source

    def __repr__(self) -> str:
        return brief(self)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.source.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        return self.source.dtype

    @property
    def metadata(self) -> Metadata:
        return self.source.metadata

    @property
    def broken(self) -> list[str]:
        return self.source.broken

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        return self.source[index]

    def label(self, index: int) -> int:
        return self.source.label(index)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def groups(self, index: int) -> tuple[str, ...]:
        return self.source.groups(index)


@dataclass(frozen=True, eq=False, repr=False)
class Premultiplied(_Around):
    """RGBA images of another source, their colours multiplied by alpha, so that no colour hides where nothing is seen."""

    @property
    def metadata(self) -> Metadata:
        return replace(self.source.metadata, alpha="premultiplied")

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        return premultiply(self.source[index][None])[0]


@dataclass(frozen=True, eq=False, repr=False)
class Subset(_Around):
    """Some images of another source, in the order of `indices`."""

    indices: Int[np.ndarray, "count"]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        return self.source[int(self.indices[index])]

    def label(self, index: int) -> int:
        return self.source.label(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def groups(self, index: int) -> tuple[str, ...]:
        return self.source.groups(int(self.indices[index]))


@dataclass(frozen=True, eq=False, repr=False)
class Remembered(_Around):
    """Images of another source that stay in memory from when they were first asked for; made by `remembered`.

    Several threads may ask: an image that two of them decode at once is the same twice.
    """

    images: Shaped[np.ndarray, "count channel row column"]
    present: Bool[np.ndarray, "count"]

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        self.recall(index)
        return self.images[index].copy()

    def recall(self, index: int) -> None:
        """Bring an image to memory, if it is not there."""
        if not self.present[index]:
            self.images[index] = self.source[index]
            self.present[index] = True


def subset(source: Source, indices: Sequence[int] | Int[np.ndarray, "count"]) -> Source:
    """The images of `source` with these numbers, in this order. The classes stay those of the source, even one without images."""
    return Subset(source, np.asarray(indices, dtype=np.int64))


def split(source: Source, held_out: float = 0.05, by: Literal["name", "order"] = "name") -> tuple[Source, Source]:
    """(training, held out): a group is held out if the blake2b hash of its name, as a fraction of 2^64, is below `held_out`.

    So an image stays on its side whatever is added or removed. By "order" the last groups are held out instead, as suits series
    in time, whose neighbours are alike. Images that touch groups of both sides are on neither. At least one image is held out
    unless the share is 0. Raises UserError unless 0 <= held_out < 1 and an image is left to train on.
    """
    share = "data.held_out_share"
    if not 0 <= held_out < 1:
        raise UserError(f"The held-out share must be at least 0 and below 1, got {held_out}: change `{share}`.", share)
    groups = [source.groups(index) for index in range(len(source))]
    names = list(dict.fromkeys(name for touched in groups for name in touched))
    if by == "order":
        fractions = np.arange(len(names), 0, -1) / len(names) * (1 - 1e-12)
    else:
        fractions = np.array([_fraction(name) for name in names])
    chosen = fractions <= held_out if by == "order" else fractions < held_out
    if held_out > 0 and not chosen.any():
        chosen[fractions.argmin()] = True
    away = dict(zip(names, chosen.tolist(), strict=True))
    sides = [{away[name] for name in touched} for touched in groups]
    training, kept = ([index for index, side in enumerate(sides) if side == {which}] for which in (False, True))
    if not training:
        raise _none_left(source, held_out)
    return subset(source, training), subset(source, kept)


def _none_left(source: Source, held_out: float) -> UserError:
    """That no image is left; of a single one what helps: more, or tiles."""
    if len(source) > 1:
        said = f"No image is left to train on after holding out {held_out:g} of {len(source)}"
        return UserError(f"{said}: lower `data.held_out_share`.", "data.held_out_share")
    fine = [side for side in TILES if np.prod(np.array(source.shape[1:]) // side) >= ENOUGH]
    tiles = f", or cut this one into tiles with `data.tile` {fine[0]}" if fine else ""
    said = f"The data are one image of {source.shape[1]}x{source.shape[2]} pixels, and training needs many"
    return UserError(f"{said}: give a folder or an array of images as `data.path`{tiles}.", "data.path")


def evenly(count: int, most: int) -> Int[np.ndarray, "chosen"]:
    """At most so many of the numbers below `count`, evenly spread."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def threads(workers: int | None) -> int:
    """How many decoding threads so many `workers` are: None is one per core, 0 is none beside the caller's own."""
    return (os.cpu_count() or 1) if workers is None else workers


@contextmanager
def decoders(workers: int | None) -> Iterator[Executor | None]:
    """So many decoding threads (None: one per core, 0: no pool) until the block ends, when those still queued are dropped."""
    count = threads(workers)
    pool = ThreadPoolExecutor(count, "decode") if count else None
    try:
        yield pool
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def gather(
    source: Source, indices: Sequence[int] | Int[np.ndarray, "count"], pool: Executor | None = None
) -> Shaped[np.ndarray, "count channel row column"]:
    """The images with these numbers as one fresh native array, decoded by the threads of `pool` if given."""
    indices = np.asarray(indices, dtype=np.int64)
    if isinstance(source, Subset):
        return gather(source.source, source.indices[indices], pool)
    if isinstance(source, Arrays) and source.resize is None:
        return np.ascontiguousarray(source.images[indices], dtype=source.dtype)
    if isinstance(source, Remembered):
        deque(map(source.recall, indices.tolist()) if pool is None else pool.map(source.recall, indices.tolist()), maxlen=0)
        return source.images[indices]
    images = np.empty((len(indices), *source.shape), source.dtype)

    def read(first: int) -> None:
        for place in range(first, min(first + TASK, len(indices))):
            images[place] = source[int(indices[place])]

    starts = range(0, len(indices), TASK)
    deque(map(read, starts) if pool is None else pool.map(read, starts), maxlen=0)
    return images


def load(source: Source, workers: int | None = 0) -> Source:
    """The same images, decoded once by `workers` threads (None: one per core) and kept in memory."""
    if isinstance(source, Arrays) and source.resize is None and not isinstance(source.images, np.memmap):
        return source
    with decoders(workers) as pool:
        images = gather(source, range(len(source)), pool)
    names = tuple(source.name(index) for index in range(len(source)))
    metadata = source.metadata
    return Arrays(np.asarray(images), labels(source), source.classes, names=names, broken=source.broken, metadata=metadata)


def remembered(source: Source, workers: int | None = 0) -> Source:
    """The same images, kept in memory: arrays at once, others from when they are first asked for."""
    inner = source
    while isinstance(inner, Subset):
        inner = inner.source
    if isinstance(inner, Remembered):
        return source
    if isinstance(inner, Arrays) and inner.resize is None:
        return load(source, workers)
    return Remembered(source, np.empty((len(source), *source.shape), source.dtype), np.zeros(len(source), bool))


def labels(source: Source) -> Int[np.ndarray, "count"]:
    """Every image's label, in order."""
    return np.fromiter((source.label(index) for index in range(len(source))), np.int64, len(source))


def describe(source: Source) -> str:
    """One sentence about a source: how many images of what look, and its classes or that it is unconditional."""
    shown = ", ".join(source.classes[:10]) + (", ..." if len(source.classes) > 10 else "")
    kind = f"{len(source.classes)} classes: {shown}" if source.classes else "unconditional, for there is one class or none"
    left_out = f"; {len(source.broken)} undecodable files left out" if source.broken else ""
    return f"{len(source)} images, {look(source)}, {kind}{left_out}."


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
