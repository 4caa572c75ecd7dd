"""Images as they were before they were resized: windows cut from them show details that the resized ones lost.

A *window* is a part of an original, brought to the size of the source's images. A *box* says where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data.alpha import premultiply
from pixelpath.data.formats import pictures
from pixelpath.data.formats.resampling import resampled
from pixelpath.data.formats.resizing import Box, resized_by
from pixelpath.data.sources import Arrays, Folder, Premultiplied, Source, Subset

Boxes = Callable[[int, int], Sequence[Box]]
"""From the rows and columns of an original to the boxes of its windows."""


@dataclass(frozen=True)
class Cutting:
    """A source of larger originals, and which boxes are cut from that of each image, by the images' seeds."""

    source: Source
    boxes: Callable[[Sequence[int]], Sequence[Boxes]]

    def gather(
        self, indices: Int[np.ndarray, "count"], seeds: Sequence[int]
    ) -> Shaped[np.ndarray, "count window channel row column"]:
        """The images with these numbers (window 0), each followed by its windows."""
        return np.stack([windows(self.source, int(index), each) for index, each in zip(indices, self.boxes(seeds), strict=True)])


def has_originals(source: Source) -> bool:
    """Whether the source resizes pictures of a folder or the images of an array; other originals cannot be cut."""
    if isinstance(source, Subset | Premultiplied):
        return has_originals(source.source)
    return isinstance(source, Folder | Arrays) and source.resize is not None


def windows(source: Source, index: int, boxes: Boxes) -> Shaped[np.ndarray, "window channel row column"]:
    """Image `index` of a source that has originals, and windows of its original, native."""
    if isinstance(source, Subset):
        return windows(source.source, int(source.indices[index]), boxes)
    if isinstance(source, Premultiplied):
        return premultiply(windows(source.source, index, boxes))
    assert isinstance(source, Folder | Arrays)
    assert source.resize is not None
    nodata, size = source.metadata.nodata, source.resize
    if isinstance(source, Arrays):
        planes = np.array(source.images[index], dtype=source.dtype)
    else:
        planes = pictures.pixels(source.root / source.names[index], source.mode)
    found = (None, *boxes(*planes.shape[1:]))
    if isinstance(source, Folder) and nodata is None:
        return np.stack([resized_by(source.mode, planes, size, box) for box in found])
    return np.stack([resampled(planes, size, nodata, box) for box in found])
