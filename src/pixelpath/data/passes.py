"""Passes over all images of a source, with all decoding threads and little memory: a *chunk* is what is looked at at once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from pixelpath.data.sources import Source, decoders, gather, threads

CHUNK = 2**19  # values looked at at once: enough for numpy, and little memory even as 64-bit numbers

Native = Shaped[np.ndarray, "image channel row column"]
Numbers = Int[np.ndarray, "image"]
Item = TypeVar("Item")
Found = TypeVar("Found")


def in_order(work: Callable[[Item], Found], items: Iterable[Item], workers: int | None) -> Iterator[Found]:
    """What `work` gives for every item, in their order, done by `workers` threads a few items ahead."""
    waiting: deque[Future[Found]] = deque()
    with decoders(workers) as pool:
        if pool is None:
            yield from map(work, items)
            return
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * threads(workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def chunks(source: Source, workers: int | None, unreadable: dict[int, str] | None = None) -> Iterator[tuple[Numbers, Native]]:
    """All images, some at once, with their numbers, decoded by `workers` threads.

    Images that cannot be decoded are left out, and noted in `unreadable` with the reason; without it, the error is raised.
    """
    size = per_chunk(source)

    def read(first: int) -> tuple[Numbers, Native, dict[int, str]]:
        numbers = np.arange(first, min(first + size, len(source)))
        try:
            return numbers, gather(source, numbers), {}
        except ValueError:
            if unreadable is None:
                raise
            return _readable(source, numbers)

    for numbers, images, wrong in in_order(read, range(0, len(source), size), workers):
        if unreadable is not None:
            unreadable.update(wrong)
        if len(numbers):
            yield numbers, images


def per_chunk(source: Source) -> int:
    """How many images are looked at at once."""
    return max(1, CHUNK // math.prod(source.shape))


def _readable(source: Source, numbers: Int[np.ndarray, "all"]) -> tuple[Numbers, Native, dict[int, str]]:
    """The images that can be decoded, one by one, and why others cannot."""
    found: dict[int, np.ndarray] = {}
    wrong: dict[int, str] = {}
    for number in numbers.tolist():
        try:
            found[number] = source[number]
        except ValueError as error:
            wrong[number] = str(error)
    images = np.stack([*found.values()]) if found else np.zeros((0, *source.shape), source.dtype)
    return np.array(list(found), np.int64), images, wrong
