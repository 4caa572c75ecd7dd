"""Whether images are still those they were: a *digest* of names, labels and values, block by block.

A *block* is a run of images that follow one another; there are at most 256, so that a few kilobytes say where something changed.
"""

from __future__ import annotations

import zlib

import numpy as np

from pixelpath.data.sources import Source

BLOCKS = 256
WHOLE = 2 * 2**30  # bytes of images up to which every image's values are read; beyond, those of each block's first


def digests(source: Source) -> dict[str, str]:
    """The CRC-32 of every block, by the name of its first image."""
    size = max(1, -(-len(source) // BLOCKS))
    is_cheap = len(source) * int(np.prod(source.shape)) * source.dtype.itemsize <= WHOLE
    found = {}
    for first in range(0, len(source), size):
        digest = 0
        for index in range(first, min(first + size, len(source))):
            digest = zlib.crc32(f"{source.name(index)}\n{source.label(index)}\n".encode(), digest)
            if is_cheap or index == first:
                image = source[index]
                digest = zlib.crc32(np.ascontiguousarray(image, image.dtype.newbyteorder("<")).tobytes(), digest)
        found[source.name(first)] = f"{digest:08x}"
    return found
