"""Stacks: numbered images of one shape in one file or store, of which a window can be read without the rest.

Every kind of file that holds arrays is opened as a stack. Several of them, one after the other, make a source, whole or cut into
*tiles*: windows of one size.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data.formats import pictures
from pixelpath.data.metadata import Metadata

FEW = 20  # groups: of fewer none can be held out well, so tiles of one image are split by blocks, other images one by one
BLOCK = 4  # side of a block, in tiles
EVERYTHING = slice(None)


@runtime_checkable
class Stack(Protocol):
    """Images in one file or store. Opening reads no pixels; `read` may be called by several threads at once."""

    @property
    def path(self) -> Path:
        """The file or store."""
        ...

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(count, channels, rows, columns)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The native dtype, in the machine's own byte order."""
        ...

    @property
    def metadata(self) -> Metadata:
        """What is known of the images besides their values."""
        ...

    @property
    def labels(self) -> Int[np.ndarray, "count"] | None:
        """The class of every image, or None."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, or None if they have only numbers."""
        ...

    @property
    def whole(self) -> bool:
        """Whether its images belong together (slices of a volume, pages of a scan), so that a split must not part them."""
        ...

    def name(self, index: int) -> str:
        """What image `index` is called within the file: its number, its key, its slice."""
        ...

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        """A window of image `index`, native, as a fresh array; ValueError naming the file if it cannot be read."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayStack:
    """The rows of one array, in memory or mapped from a file."""

    path: Path
    images: Shaped[np.ndarray, "count channel row column"]
    metadata: Metadata = field(default_factory=Metadata)
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        count, channels, rows, columns = self.images.shape
        return count, channels, rows, columns

    @property
    def dtype(self) -> np.dtype:
        return self.images.dtype.newbyteorder("=")

    def name(self, index: int) -> str:
        return f"{index:08d}"

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        return np.array(self.images[index, :, rows, columns], dtype=self.dtype)


@dataclass(frozen=True, eq=False)
class PictureStack:
    """One picture file, decoded whole for every window."""

    path: Path
    mode: str
    size: pictures.Size
    metadata: Metadata = field(default_factory=Metadata)
    labels: Int[np.ndarray, "count"] | None = None
    classes: tuple[str, ...] | None = None
    whole: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return 1, pictures.channels_of(self.mode), *self.size

    @property
    def dtype(self) -> np.dtype:
        return pictures.DEPTHS.get(self.mode, np.dtype("uint8"))

    def name(self, index: int) -> str:
        return self.path.name

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        whole = pictures.decode(self.path, self.mode, self.shape[1:], None)
        return np.ascontiguousarray(whole[:, rows, columns])


@dataclass(frozen=True, eq=False)
class Stacked:
    """The images of several stacks one after the other, whole or cut into tiles; made by `open_source`.

    Tiles of `tile` rows and columns begin every `stride` pixels; the last of a row or column touches the edge, so that no pixel
    is left out. Whole images must all be of one size, or be brought to one by `resize`.
    """

    stacks: tuple[Stack, ...]
    titles: tuple[str, ...]
    """What every stack is called before the names of its images; "" for the only one."""
    labels: Int[np.ndarray, "count"]
    """The class of every image (before tiling)."""
    classes: tuple[str, ...] = ()
    metadata: Metadata = field(default_factory=Metadata)
    tile: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    broken: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        _, channels, rows, columns = self.stacks[0].shape
        return (channels, *(self.resize or self.tile or (rows, columns)))

    @property
    def dtype(self) -> np.dtype:
        return self.stacks[0].dtype

    def __len__(self) -> int:
        return int(self._ends[-1])

    def get(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        stack, image, row, column = self._place(index)
        if self.tile is None:
            whole = self.stacks[stack].read(image)
            return pictures.resized(whole, self.resize) if self.resize else whole
        window = slice(row, row + self.tile[0]), slice(column, column + self.tile[1])
        return self.stacks[stack].read(image, *window)

    def label(self, index: int) -> int:
        stack, image, _, _ = self._place(index)
        return int(self.labels[self._firsts[stack] + image])

    def name(self, index: int) -> str:
        stack, image, row, column = self._place(index)
        whole = self._title(stack, image)
        return whole if self.tile is None else f"{whole}@{row},{column}"

    def groups(self, index: int) -> tuple[str, ...]:
        stack, image, row, column = self._place(index)
        if len(self.stacks) >= FEW and self.stacks[stack].whole:
            return (self.titles[stack],)
        whole = self._title(stack, image)
        if self.tile is None or len(self.labels) >= FEW:
            return (whole,)
        (rows, columns), sides = self.tile, (BLOCK * self.tile[0], BLOCK * self.tile[1])
        down = range(row // sides[0], (row + rows - 1) // sides[0] + 1)
        across = range(column // sides[1], (column + columns - 1) // sides[1] + 1)
        return tuple(f"{whole}@block{i},{j}" for i in down for j in across)

    def _title(self, stack: int, image: int) -> str:
        title, name = self.titles[stack], self.stacks[stack].name(image)
        if title and self.stacks[stack].shape[0] == 1:
            return title
        return f"{title}:{name}" if title else name

    @cached_property
    def _firsts(self) -> Int[np.ndarray, "stack"]:
        """The number of the first image of every stack."""
        return np.cumsum([0, *(stack.shape[0] for stack in self.stacks)])[:-1]

    @cached_property
    def _corners(self) -> list[tuple[list[int], list[int]]]:
        """The first rows and the first columns of the tiles of every stack."""
        if self.tile is None:
            return [([0], [0])] * len(self.stacks)
        stride = self.stride or self.tile
        return [
            (_begins(stack.shape[2], self.tile[0], stride[0]), _begins(stack.shape[3], self.tile[1], stride[1]))
            for stack in self.stacks
        ]

    @cached_property
    def _ends(self) -> Int[np.ndarray, "stack"]:
        tiles = [len(rows) * len(columns) for rows, columns in self._corners]
        return np.cumsum([stack.shape[0] * count for stack, count in zip(self.stacks, tiles, strict=True)])

    def _place(self, index: int) -> tuple[int, int, int, int]:
        """The stack, the image in it, the first row and the first column of item `index`."""
        stack = int(np.searchsorted(self._ends, index, side="right"))
        rows, columns = self._corners[stack]
        within = index - (int(self._ends[stack - 1]) if stack else 0)
        image, tile = divmod(within, len(rows) * len(columns))
        return stack, image, rows[tile // len(columns)], columns[tile % len(columns)]


def needs(module: str, extra: str, what: Path | str) -> ModuleType:
    """The module of an optional package; ValueError naming the extra that brings it if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ValueError(f"{what} needs the package {package} ({error}): run pip install 'pixelpath[{extra}]'.") from error


def _begins(side: int, tile: int, stride: int) -> list[int]:
    """Where tiles of a side begin, the last one at the edge."""
    regular = list(range(0, side - tile + 1, stride))
    return regular if regular[-1] == side - tile else [*regular, side - tile]
