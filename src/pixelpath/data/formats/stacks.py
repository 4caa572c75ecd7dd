"""Stacks: numbered images of one shape in one file or store, of which a window can be read without the rest.

Every kind of file that holds arrays is opened as a stack. `tiles` makes a source of several of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data.metadata import Metadata

EVERYTHING = slice(None)
STRIP = 2**26  # bytes of an image that are read at once where one pass over all of it is enough


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
        """Whether its images belong together (slices of a volume, pages of a scan), so that a split keeps them on one side."""
        ...

    def name(self, index: int) -> str:
        """What image `index` is called within the file: its number, its key, its slice."""
        ...

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        """A window of image `index`, native, as a fresh array; UserError naming the file if it cannot be read."""
        ...


def strips(stack: Stack) -> list[slice]:
    """Rows of an image that together are all of it, few enough at a time to be read into memory."""
    _, channels, rows, columns = stack.shape
    step = max(1, STRIP // (channels * columns * stack.dtype.itemsize))
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


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
class Chosen:
    """Some images of another stack, in the order of `indices`."""

    stack: Stack
    indices: Int[np.ndarray, "count"]

    @property
    def path(self) -> Path:
        return self.stack.path

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.indices), *self.stack.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.stack.dtype

    @property
    def metadata(self) -> Metadata:
        return self.stack.metadata

    @property
    def labels(self) -> Int[np.ndarray, "count"] | None:
        return None if self.stack.labels is None else self.stack.labels[self.indices]

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.stack.classes

    @property
    def whole(self) -> bool:
        return self.stack.whole

    def name(self, index: int) -> str:
        return self.stack.name(int(self.indices[index]))

    def read(self, index: int, rows: slice = EVERYTHING, columns: slice = EVERYTHING) -> Shaped[np.ndarray, "channel row column"]:
        return self.stack.read(int(self.indices[index]), rows, columns)
