"""Random numbers as a function of integers: from keys to seeds, from seeds to streams, from streams to draws.

A *stream* is the sequence of random numbers of one seed. Its *blocks* of four 32-bit words are a function of the seed and of the
number of the block (Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so all bits of the seed
count, every device makes the same words, and the streams of a batch are drawn at once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.transfer import to_device

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what the key grows by from round to round
ROUNDS = 10
MASK = 0xFFFFFFFF
AT_ONCE = 2**16  # blocks computed at a time

Words = Int[Tensor, "..."]
"""Unsigned 32-bit words, held as int64."""


def seed_of(*key: int) -> int:
    """A 63-bit seed that is a function of the integers `key` alone: the same on every machine, unrelated for unequal keys."""
    text = ",".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


class Streams:
    """One stream per seed. A draw advances all of them, and what one image draws does not depend on its batch mates.

    `streams[places]` are some of these streams: what they draw is also gone from `streams`. Seeds count by their lowest 64 bits.
    """

    def __init__(self, seeds: Iterable[int], device: torch.device | str = "cpu") -> None:
        seeds = list(seeds)
        low, high = ([seed >> bits & MASK for seed in seeds] for bits in (0, 32))
        self._keys = to_device(torch.tensor([low, high], dtype=torch.int64), torch.device(device))
        self._used = torch.zeros(len(seeds), dtype=torch.int64, device=device)  # blocks of each stream; shared with parts
        self._places = torch.arange(len(seeds), device=device)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, places: slice | Tensor) -> Streams:
        part = object.__new__(Streams)
        part._keys, part._used, part._places = self._keys, self._used, self._places[places]
        return part

    def blocks(self, count: int) -> Iterator[tuple[Words, ...]]:
        """The four words [some, count] of the next blocks of every stream; some streams at a time, so that caches hold them."""
        keys, first = self._keys[:, self._places, None], self._used[self._places, None]
        self._used[self._places] += count
        numbers, rows = torch.arange(count, device=first.device), max(1, AT_ONCE // max(1, count))
        for key, start in zip(keys.split(rows, 1), first.split(rows), strict=True):
            number = start + numbers
            zero = torch.zeros_like(number)
            yield philox((number & MASK, number >> 32, zero, zero), (key[0], key[1]))


def philox(counter: tuple[Words, ...], key: tuple[Words, ...]) -> tuple[Words, ...]:
    """The four words of the block with this counter, of four words, under a key of two (Philox4x32-10)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 holds all 64 bits of a product of two words; the shift copies the sign, which the mask takes off again
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(MASK)
        c2 = (p0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(MASK)
        c1, c3 = p1, p0  # only their lower words count
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1.bitwise_and_(MASK), c2, c3.bitwise_and_(MASK)


def normal(streams: Streams, shape: Iterable[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch *shape"]:
    """Standard normal draws [batch, *shape], row i from stream i alone.

    Two words make two draws: sqrt(-2 ln u) cos(2 pi v) and sqrt(-2 ln u) sin(2 pi v), u = (word + 1/2) / 2^32 and v = word /
    2^32 (Box & Muller 1958). So no draw exceeds 6.8, beyond which lie 1e-11 of a normal distribution. Both dtypes give the same
    draws, float32 with an error of at most 5e-6, which is also how much two kinds of device differ.
    """

    def drawn(words: tuple[Words, ...]) -> Tensor:
        exact = [word.to(dtype) for word in words]
        radius = torch.cat(exact[:2], 1).add_(0.5).mul_(2.0**-32).log_().mul_(-2).sqrt_()
        angle = torch.cat(exact[2:], 1).mul_(2 * math.pi * 2.0**-32)
        return torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], 1)

    return _shaped(streams, tuple(shape), 4, drawn)


def uniform(streams: Streams, shape: Iterable[int], dtype: torch.dtype = torch.float32) -> Float[Tensor, "batch *shape"]:
    """Uniform draws [batch, *shape], row i from stream i alone: multiples of 2^-24 in [0, 1), or in float64 52 bits in (0, 1)."""

    def drawn(words: tuple[Words, ...]) -> Tensor:
        if dtype != torch.float64:
            return (torch.cat(words, 1) >> 8).to(dtype) * 2.0**-24
        high, low = torch.cat(words[:2], 1) >> 6, torch.cat(words[2:], 1) >> 6
        return ((high << 26) + low).double().add_(0.5).mul_(2.0**-52)

    return _shaped(streams, tuple(shape), 2 if dtype == torch.float64 else 4, drawn)


def permutation(streams: Streams, count: int) -> Int[Tensor, "count"]:
    """The numbers below `count` in a random order, drawn from the first stream."""
    return uniform(streams[:1], (count,), torch.float64)[0].argsort(stable=True)


def _shaped(streams: Streams, shape: tuple[int, ...], each: int, drawn: Callable[[tuple[Words, ...]], Tensor]) -> Tensor:
    """Draws [batch, *shape] from blocks that make `each` values."""
    count = math.prod(shape)
    return torch.cat([drawn(words)[:, :count] for words in streams.blocks(-(-count // each))]).reshape(len(streams), *shape)
