"""Data as a Python object: images to train on and images held out, from files or from memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pixelpath.data import memory, opening
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.data.sources import Source
from pixelpath.runs import audit as audits
from pixelpath.runs.examined import fitted


@dataclass(frozen=True, eq=False, repr=False)
class Data:
    """Images to train on, images held out, and how they are read.

    `training[0]` and `held_out[0]` are native arrays [channel, row, column]; both have a length.
    """

    training: Source
    held_out: Source
    settings: DataSettings

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns of every image."""
        return self.training.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of native values."""
        return self.training.dtype

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty without labels."""
        return self.training.classes

    @cached_property
    def normaliser(self) -> Normaliser:
        """Native values to model range and back, fitted to the training images."""
        return fitted(self.training, self.settings)

    def audit(self, fast: bool = False) -> audits.Audit:
        """What the data hold and what would go wrong: findings, which print as text and show as HTML in a notebook.

        `fast` inspects about 2,000 evenly spaced images instead of every image.
        """
        return audits.audit_sources(self.training, self.held_out, self.settings, audits.AuditOptions(fast=fast))

    def __repr__(self) -> str:
        shape, classes = "x".join(map(str, self.shape)), len(self.classes)
        return (
            f"<{len(self.training)} training and {len(self.held_out)} held-out images, {shape} {self.dtype}, {classes} classes>"
        )


def open_data(
    path: Path | str,
    *,
    held_out: float | Path | str | None = None,
    tile: int | tuple[int, int] | None = None,
    resize: tuple[int, int] | None = None,
    nodata: float | None = None,
    units: str = "",
    settings: DataSettings | None = None,
) -> Data:
    """Open everything that `train --data` takes: a folder of images, a file of arrays, FILE::VARIABLE.

    Args:
        path: Folder or file; see docs/your-data.md for the kinds.
        held_out: Share of the images kept from training where the data have no test part of their own (0.05 if not given), or
            where other images lie.
        tile: Cut large images into tiles of so many rows and columns.
        resize: Rows and columns that every image is brought to.
        nodata: The value that means "not measured", if the files do not say so themselves.
        units: The units of the values, likewise.
        settings: Every other setting of `pixelpath.DataSettings`; the arguments above go before it where they are given.

    Raises UserError for data that cannot be read, with file and remedy.

    Examples:
        >>> data = open_data(digits_file, held_out=0.2)
        >>> data
        <1425 training and 372 held-out images, 1x8x8 uint8, 10 classes>
        >>> data.training[0].shape
        (1, 8, 8)
    """
    sides = (tile, tile) if isinstance(tile, int) else tile
    given: dict[str, Any] = {"path": Path(path), "tile": sides, "resize": resize, "nodata": nodata, "units": units or None}
    given["held_out_share" if isinstance(held_out, float | int) else "held_out"] = (
        Path(held_out) if isinstance(held_out, str) else held_out
    )
    chosen = _chosen(settings, given)
    return Data(*opening.open_split(chosen), chosen)


def from_arrays(
    images: Any,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    *,
    held_out: float | None = None,
    units: str = "",
    layout: memory.Layout | None = None,
    settings: DataSettings | None = None,
) -> Data:
    """Data that lie in memory.

    Args:
        images: A numpy array or torch tensor of 8 to 32-bit integers or of floats, [N, H, W], [N, C, H, W] or [N, H, W, C];
            or a torch Dataset or a Hugging Face `datasets.Dataset` of images, or of images with labels.
        labels: A class number per image, from 0.
        class_names: A name per class; the numbers if not given.
        held_out: Share of the images kept from training, 0.05 if not given.
        units: The units of the values.
        layout: "channels_first" or "channels_last", where the shape leaves it open.
        settings: Every other setting of `pixelpath.DataSettings`; the arguments above go before it where they are given.

    Raises UserError for arrays of another kind, naming the index of the first image at fault.

    Examples:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 4096, (100, 16, 16), dtype=np.uint16)
        >>> from_arrays(images, held_out=0.1)
        <... training and ... held-out images, 1x16x16 uint16, 0 classes>
    """
    chosen = _chosen(settings, {"held_out_share": held_out, "units": units or None})
    return Data(*memory.from_arrays(images, labels, class_names, settings=chosen, layout=layout), chosen)


def _chosen(settings: DataSettings | None, given: dict[str, Any]) -> DataSettings:
    """The settings, with what was given (is not None) in their place."""
    return replace(settings or DataSettings(), **{name: value for name, value in given.items() if value is not None})
