"""Resizing of images that were not measured everywhere: what was not measured does not mix into the rest."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Shaped

from pixelpath.data.dtypes import BEYOND_FLOAT32
from pixelpath.data.formats.resizing import Box, Size, resized

ENOUGH = 0.5 - 1e-4  # share of a new pixel that must be measured: a half, however it is rounded


def resampled(
    image: Shaped[np.ndarray, "channel row column"], size: Size, nodata: float | None, box: Box | None = None
) -> Shaped[np.ndarray, "channel rows columns"]:
    """`resized` of measured values alone: R(valid * image) / R(valid), and nodata where R(valid) < 1/2.

    R is the resize, whose weights of every new pixel sum to 1. Without nodata, or where all is valid, this is R(image).
    """
    valid = np.ones(image.shape, bool) if nodata is None else ~np.isnan(image) if math.isnan(nodata) else image != nodata
    if nodata is None or valid.all() or (box is None and image.shape[1:] == tuple(size)):
        return resized(image, size, box)
    floats = np.float64 if image.dtype.name in BEYOND_FLOAT32 else np.float32
    share = resized(valid.astype(floats), size, box)
    values = resized(np.where(valid, image, 0).astype(floats), size, box) / np.maximum(share, ENOUGH)
    values = np.rint(values) if image.dtype.kind in "iu" else values
    return np.where(share >= ENOUGH, values, nodata).astype(image.dtype)
