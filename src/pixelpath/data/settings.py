"""Which images to train on and how they are read, as settings of a recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pixelpath.data.addresses import addressed
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.errors import UserError

PLACES = ("path", "held_out", "conditions", "cond_image")
MULTIPLE, SQUARE = 8, 1.6  # that proposed sides are multiples of; longer side in shorter ones, up to which they are equal


@dataclass(frozen=True)
class DataSettings:
    """Which images to train on, and how they are read.

    Raises UserError for sizes that are not positive, a stride without tiles, and tiles together with resizing.
    """

    path: Path | None = None
    """Folder of images (with or without one subfolder per class), or a file: .npy, .npz, TIFF, FILE.h5::DATASET,
    FILE.nc::VARIABLE, STORE.zarr::VARIABLE, DICOM, NIfTI, parquet, tar shards; parquet, tar shards and Zarr also at s3://, gs://,
    az://, https:// and hf://. If it has parts named train and test (or val), these are the training and the held-out images.
    """
    held_out: Path | None = None
    """Folder or file of images kept from training. Without it, the data's own test part is used, or else a share of the images
    (see held_out_share).
    """
    held_out_share: float = 0.05
    """Share of the images kept from training, from 0 to below 1, when the data have no test part of their own."""
    held_out_by: Literal["name", "order"] = "name"
    """Which images are kept from training: "name" takes them by the hash of their names, "order" takes the last ones (for series
    in time).
    """
    tile: tuple[int, ...] = ()
    """Cut large images into tiles of this many rows and columns, in pixels (one number: square). Only the tile is read."""
    stride: tuple[int, ...] = ()
    """Rows and columns from one tile to the next, in pixels (one number: both). Without it, tiles lie side by side."""
    axis: Literal[0, 1, 2] = 2
    """Axis along which the volumes of NIfTI files are sliced."""
    resize: tuple[int, int] | None = None
    """Bring every image to this many rows and columns, in pixels: antialiased resize of the shorter side, then centre crop.
    Nodata does not mix into other values: a pixel is nodata if less than half of it was measured.
    """
    channels: Literal[1, 3, 4] | None = None
    """Convert picture files to grey (1), RGB (3, drops transparency) or RGBA (4). Without it, they stay as they are."""
    alpha: Literal["straight", "premultiplied"] = "straight"
    """Train on the colours of RGBA images as stored ("straight"), or multiplied by alpha; samples are divided by it again."""
    nodata: float | None = None
    """Value that means "not measured" (nan for NaN), where the files do not say so themselves. Such pixels do not count."""
    units: str = ""
    """Units of the values, like mm/h, where the files do not say so themselves."""
    normaliser: Normalisation = field(default_factory=Normalisation)
    """How native values come into model range (mean 0, std 0.5)."""
    conditions: Path | None = None
    """Table with numbers, categories and tags of each image, which samples can be asked for: .csv (first column: the names of the
    images), or .npy [image, number].
    """
    cond_image: Path | None = None
    """Images (masks, maps) of the same size and names as the training images, given to the model as a condition."""
    skip_broken: bool = False
    """Leave out files that cannot be decoded instead of stopping. Every file is decoded once to find them."""
    workers: int | None = None
    """Number of decoding threads. Without it, one per processor core; 0 decodes in the main thread."""
    cache_bytes: int = 2 * 2**30
    """Keep the decoded images in memory if they take at most this many bytes."""

    def __post_init__(self) -> None:
        for name in ("path", "held_out"):
            place = vars(self)[name]
            object.__setattr__(self, name, None if place is None else addressed(place))  # however the data were named
        for name, sides in (("tile", self.tile), ("stride", self.stride), ("resize", self.resize or ())):
            if len(sides) > 2 or any(side < 1 for side in sides):
                given = " ".join(map(str, sides))
                raise UserError(f"`data.{name}` takes one or two numbers of pixels above 0, got {given}.", f"data.{name}")
        if self.stride and not self.tile:
            raise UserError("`data.stride` goes with `data.tile`: say how large tiles are.", "data.tile")
        if self.tile and self.resize:
            raise UserError("`data.tile` and `data.resize` both say how large images become: give one of them.", "data.resize")

    def absolute(self) -> DataSettings:
        """The settings with paths that mean the same from every folder."""
        places = {name: vars(self)[name] for name in PLACES}
        return replace(self, **{name: None if place is None else place.absolute() for name, place in places.items()})

    @property
    def window(self) -> tuple[int, int] | None:
        """Rows and columns of a tile."""
        return (self.tile[0], self.tile[-1]) if self.tile else None

    @property
    def steps(self) -> tuple[int, int] | None:
        """Rows and columns from tile to tile."""
        return (self.stride[0], self.stride[-1]) if self.stride else self.window


def typical(sizes: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """The median of the rows and that of the columns of images, of which there are so many of every size.

    Where most images have one size, it is that.
    """
    sides = zip(*(size for size, count in sizes.items() for _ in range(count)), strict=True)
    rows, columns = (statistics.median_low(each) for each in sides)
    return rows, columns


def fitting(rows: int, columns: int, multiple: int = MULTIPLE) -> tuple[int, int]:
    """Sides near these that patches divide: square unless one is much longer, as resizing crops to the shorter one anyway."""
    near = [max(multiple, round(side / multiple) * multiple) for side in (rows, columns)]
    return (min(near), min(near)) if max(rows, columns) <= SQUARE * min(rows, columns) else (near[0], near[1])
