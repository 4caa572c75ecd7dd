"""Pixels that no image has: a land mask that all images of a sea share, the corners outside of a swath.

A network learns nothing there, so what it gives there means nothing; samples are nodata there. A *mask* is True at such pixels.
The metadata of a run keep it as text.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Shaped
from torch import Tensor

from pixelpath.data import dtypes
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.statistics import missing_in
from pixelpath.data.passes import chunks
from pixelpath.data.sources import Source

Mask = Bool[np.ndarray, "channel row column"]
Unmeasured = tuple[Mask, float]
"""A mask, and the nodata that stands at its pixels."""


def unmeasured(source: Source, nodata: float | None, workers: int | None = 0) -> Mask | None:
    """Where no image of a source has a measured value; None if there is no such pixel.

    Reads all images if there is one, else as a rule only the first.
    """
    found = None
    for _, images in chunks(source, workers):
        missing = missing_in(images, nodata)
        if missing is None:
            return None
        here = np.logical_and.reduce(missing)
        found = here if found is None else found & here
        if not found.any():
            return None
    return found


def moved_along(mask: Mask, *, flip: bool, rot90: bool) -> Mask:
    """What is left of a mask where images are mirrored or turned: the pixels that no view of any image has."""
    mask = mask & mask[..., ::-1] if flip else mask
    return mask & np.rot90(mask, 1, (1, 2)) & np.rot90(mask, 2, (1, 2)) & np.rot90(mask, 3, (1, 2)) if rot90 else mask


def with_mask(metadata: Metadata, mask: Mask | None) -> Metadata:
    """Metadata that keep a mask; without one as they are."""
    if mask is None or not mask.any():
        return metadata
    return replace(metadata, unmeasured=base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode("ascii"))


def mask_of(metadata: Metadata, shape: tuple[int, int, int]) -> Mask | None:
    """The mask that the metadata of images of this shape keep."""
    if not metadata.unmeasured:
        return None
    bits = np.frombuffer(zlib.decompress(base64.b64decode(metadata.unmeasured)), np.uint8)
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def unmeasured_in(metadata: Metadata, shape: tuple[int, int, int]) -> Unmeasured | None:
    """Where images of this shape have no value, and the nodata that stands there; None if nowhere."""
    mask = mask_of(metadata, shape)
    return None if mask is None or metadata.nodata is None else (mask, metadata.nodata)


def left_out(
    images: Shaped[Tensor, "batch channel row column"], metadata: Metadata
) -> Shaped[Tensor, "batch channel row column"]:
    """Native images on the CPU with nodata where the metadata say that no image has a value."""
    found = unmeasured_in(metadata, (images.shape[1], images.shape[2], images.shape[3]))
    if found is None:
        return images
    (mask, nodata), native = found, images.numpy().copy()
    native[:, mask] = dtypes.held(nodata, native.dtype)
    return torch.from_numpy(native)
