"""Whether images are still those they were: a *digest* of names, labels and values, block by block.

A *block* is a run of images that follow one another; there are at most 256, so that a few kilobytes say where something changed.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Shaped

from pixelpath.data.passes import in_order
from pixelpath.data.sources import Source

BLOCKS = 256
WHOLE = 2 * 2**30  # bytes of images up to which every image's values are read; beyond, those of each block's first

Digests = dict[str, str]
"""The digest of every block, by the name of its first image."""


def digests(source: Source, workers: int | None = 0) -> Digests:
    """The CRC-32 of every block, by the name of its first image, read by `workers` threads."""
    whole = is_whole(source)

    def of(block: range) -> str:
        digest = Digest(source)
        for index in block:
            digest.add(index, source[index] if whole or index == block.start else None)
        return str(digest)

    every = blocks(source)
    return {source.name(block.start): found for block, found in zip(every, in_order(of, every, workers), strict=True)}


def is_whole(source: Source) -> bool:
    """Whether the digest is of every image's values."""
    return len(source) * int(np.prod(source.shape)) * source.dtype.itemsize <= WHOLE


def blocks(source: Source) -> Sequence[range]:
    """The numbers of the images of every block."""
    size = max(1, -(-len(source) // BLOCKS))
    return [range(first, min(first + size, len(source))) for first in range(0, len(source), size)]


class Digest:
    """The digest of one block, to which its images are added in their order."""

    def __init__(self, source: Source) -> None:
        self._source, self._value = source, 0

    def add(self, index: int, image: Shaped[np.ndarray, "channel row column"] | None) -> None:
        """Image `index` by its name and label, and by its values if they are given."""
        about = f"{self._source.name(index)}\n{self._source.label(index)}\n"
        self._value = zlib.crc32(about.encode(), self._value)
        if image is not None:
            values = np.ascontiguousarray(image, image.dtype.newbyteorder("<"))
            self._value = zlib.crc32(values.data, self._value)

    def __str__(self) -> str:
        return f"{self._value:08x}"
