"""Random numbers as a function of integers: from keys to seeds, from seeds to generators, from generators to draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor


def seed_of(*key: int) -> int:
    """A 63-bit seed that is a function of the integers `key` alone: the same on every machine, unrelated for unequal keys."""
    text = ",".join(map(str, key)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generators(seeds: Iterable[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator per seed, so that what an image draws does not depend on the images beside it."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]


def normal(sources: list[torch.Generator], shape: Iterable[int]) -> Float[Tensor, "batch *shape"]:
    """Standard normal draws [batch, *shape], row i from generator i alone."""
    shape = tuple(shape)
    return torch.stack([torch.randn(shape, generator=source, device=source.device) for source in sources])


def uniform(sources: list[torch.Generator], shape: Iterable[int]) -> Float[Tensor, "batch *shape"]:
    """Draws from [0, 1) of shape [batch, *shape], row i from generator i alone."""
    shape = tuple(shape)
    return torch.stack([torch.rand(shape, generator=source, device=source.device) for source in sources])
