"""Resizing: of arrays and of pictures, and of images that were not measured everywhere.

What was not measured, and what is transparent, does not mix into the rest.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from pixelpath.data.formats.appearance import BYTES, Planes, planes_in

ENOUGH = 0.5 - 1e-4  # share of a new pixel that must be measured: a half, however it is rounded

Size = tuple[int, int]
Box = tuple[float, float, float, float]  # left, top, right and bottom of a part of an image, in pixels


def resized(
    image: Shaped[np.ndarray, "channel row column"], size: Size, box: Box | None = None
) -> Shaped[np.ndarray, "channel rows columns"]:
    """An array resized by its shorter side (antialiased, bilinear: no new extremes) and cropped at the centre, computed in
    float32; integers rounded. With a box, that part of it resized.
    """
    rows, columns = image.shape[1:]
    if box is None and (rows, columns) == tuple(size):
        return image
    box = box or _centre((columns, rows), size)
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)) for plane in image]
    array = np.stack([np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)) for plane in planes])
    return (np.rint(array) if image.dtype.kind in "iu" else array).astype(image.dtype)


def resized_by(mode: str, planes: Planes, resize: Size | None, box: Box | None = None) -> Planes:
    """As `resized`, but 8-bit pictures by Pillow's bicubic filter, which keeps what is transparent out of the colours."""
    if resize is None or (box is None and planes.shape[1:] == tuple(resize)):
        return np.array(planes, order="C")  # what Pillow gives cannot be written to
    if mode not in BYTES.values():
        return resized(planes, resize, box)
    image = Image.fromarray(np.ascontiguousarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)))
    small = image.resize((resize[1], resize[0]), Image.Resampling.BICUBIC, box or _centre(image.size, resize))
    return np.array(planes_in(small), order="C")


def resampled(
    image: Shaped[np.ndarray, "channel row column"], size: Size, nodata: float | None, box: Box | None = None
) -> Shaped[np.ndarray, "channel rows columns"]:
    """`resized` of measured values alone: R(valid * image) / R(valid), and nodata where R(valid) < 1/2.

    R is the resize, whose weights of every new pixel sum to 1. Without nodata, or where all is valid, this is R(image).
    """
    valid = np.ones(image.shape, bool) if nodata is None else ~np.isnan(image) if math.isnan(nodata) else image != nodata
    if nodata is None or valid.all() or (box is None and image.shape[1:] == tuple(size)):
        return resized(image, size, box)
    share = resized(valid.astype(np.float32), size, box)
    values = resized(np.where(valid, image, 0).astype(np.float32), size, box) / np.maximum(share, ENOUGH)
    values = np.rint(values) if image.dtype.kind in "iu" else values
    return np.where(share >= ENOUGH, values, nodata).astype(image.dtype)


def _centre(size: Size, resize: Size) -> Box:
    """The largest centred box of an image (columns, rows) with the sides' ratio of `resize` (rows, columns)."""
    columns, rows = size
    scale = min(rows / resize[0], columns / resize[1])
    high, wide = resize[0] * scale, resize[1] * scale
    left, top = (columns - wide) / 2, (rows - high) / 2
    return left, top, min(left + wide, columns), min(top + high, rows)
