"""Sizes of networks, as one table: from `nano` for small images on a CPU to the published ones (EPG, arXiv 2510.12586).

A *size* is the depth, width and heads of encoder and decoder; patch and channels are chosen apart, since they belong to the data.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stack:
    """A stack of transformer blocks: how many, how wide (in values per token), with how many heads of attention.

    Raises ValueError unless there is at least one block, and the heads divide the width.
    """

    depth: int
    width: int
    heads: int

    def __post_init__(self) -> None:
        if self.depth < 1 or self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise ValueError(f"A stack needs a block or more, and a width that its heads divide, got {self}: change one of them.")


@dataclass(frozen=True)
class Size:
    """Encoder and decoder of a generator."""

    encoder: Stack
    decoder: Stack


NANO = Size(Stack(3, 96, 4), Stack(3, 128, 4))
TINY = Size(Stack(4, 192, 6), Stack(4, 192, 6))
SMALL = Size(Stack(8, 384, 6), Stack(8, 384, 6))
B = Size(Stack(12, 768, 12), Stack(12, 768, 12))
L = Size(Stack(16, 1024, 16), Stack(16, 1024, 16))
XL = Size(Stack(12, 768, 12), Stack(12, 1584, 22))
XXL = Size(Stack(12, 768, 12), Stack(12, 1920, 16))
G = Size(Stack(12, 768, 12), Stack(12, 2688, 21))

SIZES = {"nano": NANO, "tiny": TINY, "small": SMALL, "B": B, "L": L, "XL": XL, "XXL": XXL, "G": G}
