"""Stacks as one source: their images one after the other, whole or cut into tiles.

A *tile* is a window of one size. A *block* is a square of neighbouring tiles, or a run of neighbouring slices of the only volume,
which a split does not part.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data.formats.arrays import ClassLabels
from pixelpath.data.formats.dicom import DicomStack
from pixelpath.data.formats.nifti import NiftiStack
from pixelpath.data.formats.resampling import resampled
from pixelpath.data.formats.resizing import centre
from pixelpath.data.formats.stacks import Chosen, Stack
from pixelpath.data.metadata import Axis, Metadata
from pixelpath.data.settings import DataSettings, fitting, typical
from pixelpath.data.sources import Source, brief
from pixelpath.errors import UserError

FEW = 20  # images: of fewer none can be held out well, so their tiles are split by blocks; and blocks of the only volume
BLOCK = 4  # side of a block, in tiles
REGULAR = 1e-3  # of their mean, by which steps between regular coordinates may differ: those of float32 do


@dataclass(frozen=True, eq=False, repr=False)
class Stacked:
    """The images of several stacks one after the other, whole or cut into tiles; made by `stacked`.

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

    def __repr__(self) -> str:
        return brief(self)

    def __getitem__(self, index: int) -> Shaped[np.ndarray, "channel row column"]:
        stack, image, row, column = self._place(index)
        if self.tile is None:
            whole = self.stacks[stack].read(image)
            return resampled(whole, self.resize, self.metadata.nodata) if self.resize else whole
        window = slice(row, row + self.tile[0]), slice(column, column + self.tile[1])
        return self.stacks[stack].read(image, *window)

    def label(self, index: int) -> int:
        stack, image, _, _ = self._place(index)
        return int(self.labels[self._firsts[stack] + image])

    def name(self, index: int) -> str:
        stack, image, row, column = self._place(index)
        whole = self._title(stack, image)
        return whole if self.tile is None else f"{whole}@{row},{column}"

    def image(self, index: int) -> int:
        """The number within its file of the image that item `index` is, or is a tile of."""
        return self._place(index)[1]

    def groups(self, index: int) -> tuple[str, ...]:
        stack, image, row, column = self._place(index)
        whole, volume, depth = self._title(stack, image), self.stacks[stack], self._depth
        if volume.whole and len(self.stacks) > 1:
            return (self._owners[stack],)
        if volume.whole and (self.tile is None or depth >= FEW):
            return (f"{self.titles[stack]}@slices{image % depth // -(-depth // FEW)}",)
        if self.tile is None or len(self.labels) >= FEW:
            return (whole,)
        whole = self.titles[stack] if volume.whole else whole  # what lies behind a tile in a volume is on its side
        (rows, columns), sides = self.tile, (BLOCK * self.tile[0], BLOCK * self.tile[1])
        down = range(row // sides[0], (row + rows - 1) // sides[0] + 1)
        across = range(column // sides[1], (column + columns - 1) // sides[1] + 1)
        return tuple(f"{whole}@block{i},{j}" for i in down for j in across)

    @cached_property
    def _owners(self) -> tuple[str, ...]:
        """Whose every stack is: of DICOM series their patients, else their studies, where there are several; else its own."""
        inner = [stack.stack if isinstance(stack, Chosen) else stack for stack in self.stacks]
        series = [stack for stack in inner if isinstance(stack, DicomStack)]
        for owners in ([each.patient for each in series], [each.study for each in series]):
            if len(owners) == len(inner) and all(owners) and len(set(owners)) > 1:
                return tuple(owners)
        return self.titles

    @cached_property
    def _depth(self) -> int:
        """How many slices the first volume has in space: of one with time points, the same slices come again and again."""
        first = self.stacks[0].stack if isinstance(self.stacks[0], Chosen) else self.stacks[0]
        return first.volume[first.axis] if isinstance(first, NiftiStack) else first.shape[0]

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
        index = range(len(self))[index]  # counts negative ones from the end; IndexError beyond
        stack = int(np.searchsorted(self._ends, index, side="right"))
        rows, columns = self._corners[stack]
        within = index - (int(self._ends[stack - 1]) if stack else 0)
        image, tile = divmod(within, len(rows) * len(columns))
        return stack, image, rows[tile // len(columns)], columns[tile % len(columns)]


def stacked(
    stacks: Sequence[Stack], titles: Sequence[str], labels: ClassLabels, settings: DataSettings, broken: Sequence[str] = ()
) -> Source:
    """Stacks as one source, and the files left out.

    Raises UserError naming the odd one if they do not agree in channels, dtype, alpha, size or nodata.
    """
    first, sizes = stacks[0], Counter[tuple[int, int]]()
    for stack in stacks:
        sizes[stack.shape[2:]] += stack.shape[0]
    for stack in stacks:
        _check_alike(stack, first, settings, typical(sizes))
    metadata = replace(
        first.metadata,
        units=settings.units or first.metadata.units,
        channel_units=() if settings.units else first.metadata.channel_units,
        nodata=_nodata(stacks) if settings.nodata is None else settings.nodata,
        axes=_axes(stacks, settings),
        south_up=all(stack.metadata.south_up for stack in stacks),
        described=first.metadata.described if all(each.metadata.described == first.metadata.described for each in stacks) else (),
    )
    cut = settings.window, settings.steps, settings.resize
    return Stacked(tuple(stacks), tuple(titles), labels.numbers, labels.classes, metadata, *cut, list(broken))


def _axes(stacks: Sequence[Stack], settings: DataSettings) -> tuple[Axis, ...]:
    """The coordinates that all images share, as they are after resizing; none of tiles, which are from many places."""
    axes = stacks[0].metadata.axes
    if not axes or settings.tile or any(stack.metadata.axes != axes for stack in stacks):
        return ()
    rows, columns = (len(axis.values) for axis in axes)
    if settings.resize is None or settings.resize == (rows, columns):
        return axes
    left, top, right, bottom = centre((columns, rows), settings.resize)
    ends = (top, bottom), (left, right)
    found = [_between(axis, *end, count) for axis, end, count in zip(axes, ends, settings.resize, strict=True)]
    return tuple(axis for axis in found if axis is not None) if None not in found else ()


def _between(axis: Axis, first: float, last: float, count: int) -> Axis | None:
    """Regular coordinates at the centres of so many new pixels that share the old ones from `first` to `last`; else None."""
    values = np.array(axis.values)
    steps = np.diff(values)
    if len(steps) == 0 or not np.allclose(steps, steps.mean(), rtol=REGULAR, atol=0):
        return None
    places = first + (np.arange(count) + 0.5) * (last - first) / count - 0.5
    return replace(axis, values=tuple((values[0] + places * steps.mean()).tolist()))


def _check_alike(stack: Stack, first: Stack, settings: DataSettings, usual: tuple[int, int]) -> None:
    # series of scans share one folder
    here, there = (f"{each.path}::{each.name(0)}" if stack.path == first.path else each.path for each in (stack, first))
    if (stack.shape[1], stack.dtype) != (first.shape[1], first.dtype):
        words = [f"{each.shape[1]} channels of {each.dtype}" for each in (stack, first)]
        raise UserError(f"{here} holds {words[0]} but {there} {words[1]}: keep one kind of image in a data set.")
    if stack.metadata.alpha != first.metadata.alpha:
        words = [f"{each.metadata.alpha or 'no'} alpha" for each in (stack, first)]
        raise UserError(f"{here} has {words[0]} but {there} {words[1]}: keep one kind of image in a data set.")
    rows, columns = stack.shape[2:]
    if settings.window is not None and (rows < settings.window[0] or columns < settings.window[1]):
        wanted = "x".join(map(str, settings.window))
        raise UserError(
            f"{here} is {rows}x{columns} pixels, smaller than a tile of {wanted}: use a smaller `data.tile`.", "data.tile"
        )
    if settings.window is None and settings.resize is None and (rows, columns) != first.shape[2:]:
        other, near = "x".join(map(str, first.shape[2:])), " ".join(map(str, fitting(*usual)))
        raise UserError(
            f"{here} is {rows}x{columns} pixels (rows x columns) but {there} is {other}: cut tiles of one size with "
            f"`data.tile`, or bring all to one size with `data.resize` {near}.",
            "data.tile",
        )


def _nodata(stacks: Sequence[Stack]) -> float | None:
    """The value that means "not measured" in all files; where some mark it by NaN, the others need no mark."""
    named = {str(stack.metadata.nodata): stack for stack in stacks}
    if set(named) == {"None", "nan"}:
        return math.nan
    if len(named) > 1:
        (one, first), (other, second) = list(named.items())[:2]
        some_have_none = "None" in named
        remedy = "bring all files to one value" + (", or set `data.nodata`" if some_have_none else "")
        words = f"{first.path} marks missing values by {one} but {second.path} by {other}"
        raise UserError(f"{words}: {remedy}.", "data.nodata" if some_have_none else None)
    return stacks[0].metadata.nodata


def _begins(side: int, tile: int, stride: int) -> list[int]:
    """Where tiles of a side begin, the last one at the edge."""
    regular = list(range(0, side - tile + 1, stride))
    return regular if regular[-1] == side - tile else [*regular, side - tile]
