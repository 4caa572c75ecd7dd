"""Reading windows of packed TIFF pages.

A *segment* is a strip or tile of a page, packed on its own. Only those under a window are read.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Hashable
from typing import Any

import numpy as np

from pixelpath.data.formats.appearance import JPEGS
from pixelpath.data.formats.reading import needs
from pixelpath.data.formats.recent import DECODED

SEPARATE = 2  # value of PlanarConfiguration


def window(file: Any, key: Hashable, page: Any, dtype: np.dtype, rows: slice, columns: slice) -> np.ndarray:
    """[sample, row, column] of a window of a page; segments that it holds in part are kept under the file's key."""
    frame = page.keyframe
    samples, (high, wide) = frame.samplesperpixel, (frame.imagelength, frame.imagewidth)
    (top, bottom, _), (left, right, _) = rows.indices(high), columns.indices(wide)
    values = np.full((samples, bottom - top, right - left), frame.nodata, dtype)
    tall, broad = segment_size(frame)
    down, across = math.ceil(high / tall), math.ceil(wide / broad)
    planes = len(page.dataoffsets) // (down * across)
    grid = itertools.product(range(planes), range(top // tall, -(-bottom // tall)), range(left // broad, -(-right // broad)))
    for plane, row, column in grid:
        number, y, x = (plane * down + row) * across + column, row * tall, column * broad
        if page.databytecounts[number] == 0:
            continue  # a segment that was never written holds nodata
        inside = top <= y and y + tall <= bottom and left <= x and x + broad <= right
        decode = functools.partial(_segment, file, page, number)
        piece = decode() if inside else DECODED.get((key, page.dataoffsets[number], number), decode)
        held, needed = piece.shape, (samples if planes == 1 else 1, min(tall, high - y), min(broad, wide - x))
        if any(has < least for has, least in zip(held, needed, strict=True)):
            words = ["x".join(map(str, shape)) for shape in (held, needed)]
            raise ValueError(f"a strip or tile holds {words[0]} values where {words[1]} belong")
        y0, y1 = max(top, y), min(bottom, y + piece.shape[1])
        x0, x1 = max(left, x), min(right, x + piece.shape[2])
        sample = plane if planes > 1 else 0
        target = values[sample : sample + len(piece), y0 - top : y1 - top, x0 - left : x1 - left]
        target[...] = piece[:, y0 - y : y1 - y, x0 - x : x1 - x]
    return values


def segment_size(frame: Any) -> tuple[int, int]:
    """Rows and columns of a strip or tile."""
    if frame.is_tiled:
        return frame.tilelength, frame.tilewidth
    return min(frame.rowsperstrip, frame.imagelength), frame.imagewidth


def _segment(file: Any, page: Any, number: int) -> np.ndarray:
    """[sample, row, column] of a strip or tile."""
    frame, packed = page.keyframe, _bytes(file, page.dataoffsets[number], page.databytecounts[number])
    if frame.compression in JPEGS and frame.planarconfig == SEPARATE and frame.samplesperpixel > 1:  # each plane is a grey JPEG
        plane = needs("imagecodecs", "arrays", "JPEG").jpeg_decode(packed, tables=page.jpegtables)
        return plane[None]
    options = {"jpegtables": page.jpegtables, "jpegheader": frame.jpegheader} if frame.compression in JPEGS else {}
    return np.moveaxis(frame.decode(packed, number, **options)[0][0], -1, 0)


def _bytes(file: Any, offset: int, count: int) -> bytes:
    file.seek(offset)
    packed = file.read(count)
    if len(packed) < count:
        raise ValueError(f"it ends at byte {offset + len(packed)} of {offset + count}")
    return packed
