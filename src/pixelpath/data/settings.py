"""Which images to train on and how they are read, as settings of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pixelpath.data.normalise.curves import Normalisation


@dataclass(frozen=True)
class DataSettings:
    """Which images to train on, and how they are read."""

    path: Path | None = None
    """Folder of images (with or without one subfolder per class), or a file: .npy, .npz, TIFF, FILE.h5::DATASET,
    FILE.nc::VARIABLE, STORE.zarr::VARIABLE, DICOM, NIfTI, parquet, tar shards; with train and test (or val) parts, they are used.
    """
    held_out: Path | None = None
    """Folder or file of images kept from training; without it, the data's own test part, or a share of the images."""
    held_out_share: float = 0.05
    """Share of the images kept from training when the data has no test part of its own."""
    held_out_by: Literal["name", "order"] = "name"
    """Which ones: by the hash of their names, or the last ones in order, as suits series in time."""
    tile: tuple[int, ...] = ()
    """Cut large images into tiles of so many rows and columns (one number: square), read lazily."""
    stride: tuple[int, ...] = ()
    """Rows and columns from one tile to the next (one number: both); without it, tiles lie side by side."""
    axis: Literal[0, 1, 2] = 2
    """The axis along which the volumes of NIfTI files are sliced."""
    resize: tuple[int, int] | None = None
    """Rows and columns every image is brought to: antialiased resize of the shorter side, then centre crop."""
    channels: Literal[1, 3, 4] | None = None
    """Convert every picture file to grey (1), RGB (3, transparency dropped) or RGBA (4); without it, as the files are."""
    alpha: Literal["straight", "premultiplied"] = "straight"
    """Train on the colours of RGBA images as stored, or multiplied by alpha (samples are divided by it again)."""
    nodata: float | None = None
    """The value that means "not measured" (nan for NaN), if the files do not say so themselves; such pixels do not count."""
    units: str = ""
    """The units of the values, if the files do not say so themselves."""
    normaliser: Normalisation = field(default_factory=Normalisation)
    """How native values come into model range."""
    conditions: Path | None = None
    """Table (.csv, or .npy [image, number]) of numbers, categories and tags of each image, which samples can be asked for."""
    cond_image: Path | None = None
    """Images (masks, maps) of the same size and the same names, which the model is given beside the noise."""
    skip_broken: bool = False
    """Leave out files that cannot be decoded (every file is decoded once to find them) instead of stopping."""
    workers: int | None = None
    """Decoding threads; without it, one per processor core."""
    cache_bytes: int = 2 * 2**30
    """Keep the decoded images in memory if they fit into so many bytes."""

    def __post_init__(self) -> None:
        for name, given in (("tile", self.tile), ("stride", self.stride)):
            if len(given) > 2 or any(side < 1 for side in given):
                raise ValueError(f"--data.{name} takes one or two numbers of pixels above 0, got {given}.")
        if self.stride and not self.tile:
            raise ValueError("--data.stride goes with --data.tile: say how large tiles are.")
        if self.tile and self.resize:
            raise ValueError("--data.tile and --data.resize both say how large images become: give one of them.")

    @property
    def window(self) -> tuple[int, int] | None:
        """Rows and columns of a tile."""
        return (self.tile[0], self.tile[-1]) if self.tile else None

    @property
    def steps(self) -> tuple[int, int] | None:
        """Rows and columns from tile to tile."""
        return (self.stride[0], self.stride[-1]) if self.stride else self.window
