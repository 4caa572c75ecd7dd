"""Resizing by the shorter side, cropped at the centre: of arrays, bilinear, so that there are no new extremes, and of pictures.

A new pixel is the mean of the old ones weighted by a *triangle* over them: as wide as two new pixels where the image becomes
smaller, as two old ones where it becomes larger.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int, Shaped
from PIL import Image

from pixelpath.data.dtypes import BEYOND_FLOAT32
from pixelpath.data.formats.appearance import BYTES, Planes, planes_in

Size = tuple[int, int]
Box = tuple[float, float, float, float]  # left, top, right and bottom of a part of an image, in pixels


def resized(
    image: Shaped[np.ndarray, "channel row column"], size: Size, box: Box | None = None
) -> Shaped[np.ndarray, "channel rows columns"]:
    """An array resized by its shorter side and cropped at the centre; integers rounded. With a box, that part of it resized.

    It is computed in float64 where float32 does not hold every value (32-bit integers, float64), else in float32.
    """
    rows, columns = image.shape[1:]
    if box is None and (rows, columns) == tuple(size):
        return image
    box = box or centre((columns, rows), size)
    array = _in_float64(image, size, box) if image.dtype.name in BEYOND_FLOAT32 else _in_float32(image, size, box)
    return (np.rint(array) if image.dtype.kind in "iu" else array).astype(image.dtype)


def resized_by(mode: str, planes: Planes, resize: Size | None, box: Box | None = None) -> Planes:
    """As `resized`, but 8-bit pictures by Pillow's bicubic filter, which keeps what is transparent out of the colours."""
    if resize is None or (box is None and planes.shape[1:] == tuple(resize)):
        return np.array(planes, order="C")  # what Pillow gives cannot be written to
    if mode not in BYTES.values():
        return resized(planes, resize, box)
    image = Image.fromarray(np.ascontiguousarray(planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)))
    small = image.resize((resize[1], resize[0]), Image.Resampling.BICUBIC, box or centre(image.size, resize))
    return np.array(planes_in(small), order="C")


def centre(size: Size, resize: Size) -> Box:
    """The largest centred box of an image (columns, rows) with the sides' ratio of `resize` (rows, columns)."""
    columns, rows = size
    scale = min(rows / resize[0], columns / resize[1])
    high, wide = resize[0] * scale, resize[1] * scale
    left, top = max((columns - wide) / 2, 0.0), max((rows - high) / 2, 0.0)  # rounding must not lead out of the image
    return left, top, min(left + wide, columns), min(top + high, rows)


def _in_float32(image: np.ndarray, size: Size, box: Box) -> np.ndarray:
    planes = [Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)) for plane in image]
    return np.stack([np.asarray(plane.resize((size[1], size[0]), Image.Resampling.BILINEAR, box)) for plane in planes])


def _in_float64(image: np.ndarray, size: Size, box: Box) -> Float64[np.ndarray, "channel rows columns"]:
    """The same filter as Pillow's, which has none for float64."""
    left, top, right, bottom = box
    lower = _rows_mixed(image.astype(np.float64), size[0], top, bottom)
    return _rows_mixed(lower.swapaxes(1, 2), size[1], left, right).swapaxes(1, 2)


def _rows_mixed(image: Float64[np.ndarray, "channel row column"], count: int, first: float, last: float) -> np.ndarray:
    """So many new rows of those between `first` and `last`, one old row of each at a time: that takes little memory."""
    places, weights = _triangle(image.shape[1], count, first, last)
    new = np.zeros((len(image), count, image.shape[2]))
    for place, weight in zip(places.T, weights.T, strict=True):
        new += weight[:, None] * image[:, place]
    return new


def _triangle(
    rows: int, count: int, first: float, last: float
) -> tuple[Int[np.ndarray, "count tap"], Float64[np.ndarray, "count tap"]]:
    """Which old rows every new one is the mean of, and their weights, which sum to 1."""
    scale = (last - first) / count
    reach, centres = max(scale, 1.0), first + (np.arange(count) + 0.5) * scale
    begins = np.maximum(np.floor(centres - reach + 0.5), 0).astype(int)
    ends = np.minimum(np.floor(centres + reach + 0.5), rows).astype(int)
    places = begins[:, None] + np.arange((ends - begins).max())
    weights = np.maximum(1 - np.abs(places + 0.5 - centres[:, None]) / reach, 0) * (places < ends[:, None])
    # beyond its end a row repeats its last one at weight 0: what lies further may be NaN
    return np.minimum(places, ends[:, None] - 1), weights / weights.sum(1, keepdims=True)
