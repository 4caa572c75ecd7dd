"""One pass over the images of a run before its first step, which finds all that a run has to know of their values.

That is the digest by which a changed image is noticed later, and the statistics that the normaliser is made of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pixelpath.data.digest import Digest, Digests, blocks, is_whole
from pixelpath.data.normalise.statistics import Tallies, is_counted, missing_in
from pixelpath.data.passes import in_order, per_chunk
from pixelpath.data.sources import Source, gather
from pixelpath.log import progress


class Examined(NamedTuple):
    """What a pass found: digests, and which values there are of integers of up to 16 bits (None of others)."""

    digests: Digests
    tallies: Tallies | None


def examine(source: Source, workers: int | None, nodata: float | None, *, statistics: bool = True) -> Examined:
    """Every image read once by `workers` threads (None: one per core).

    Without `statistics`, and of what is not counted, only the images that the digest needs are read. Raises UserError naming the
    first image that cannot be decoded.
    """
    counted, whole = statistics and source.dtype.kind in "iu" and is_counted(source), is_whole(source)

    def look(block: range) -> tuple[str, Tallies | None]:
        digest, tallies = Digest(source), Tallies(source) if counted else None
        size = per_chunk(source) if counted or whole else 1
        for first in range(block.start, block.stop, size):
            numbers = np.arange(first, min(first + size, block.stop))
            images = gather(source, numbers) if counted or whole or first == block.start else None
            for place, number in enumerate(numbers.tolist()):
                digest.add(number, images[place] if images is not None and (whole or number == block.start) else None)
            if tallies is not None and images is not None:
                missing = missing_in(images, nodata)
                tallies.add(numbers, images, None if missing is None else ~missing)
        return str(digest), tallies

    every, found, total = blocks(source), [], Tallies(source) if counted else None
    with progress("reading images", len(source)) as advance:
        for block, (digest, tallies) in zip(every, in_order(look, every, workers), strict=True):
            found.append((source.name(block.start), digest))
            if total is not None and tallies is not None:
                total.merge(tallies)
            advance(len(block))
    return Examined(dict(found), total)
