"""Sizes of networks, as one table: from `nano` for small images on a CPU to the published ones (EPG, arXiv 2510.12586).

A *size* is the depth, width and heads of encoder and decoder. Patch and channels belong to the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from pixelpath.errors import UserError


@dataclass(frozen=True)
class Blocks:
    """The transformer blocks of encoder or decoder. Raises UserError unless all are at least 1 and the heads divide the width."""

    depth: int
    """Number of transformer blocks, at least 1; the same in encoder and decoder."""
    width: int
    """Width of the transformer: values per token, a multiple of the heads."""
    heads: int
    """Heads of attention, at least 1."""

    def __post_init__(self) -> None:
        if self.depth < 1 or self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise UserError(
                f"A size needs at least 1 block, and a width that its heads divide, got depth {self.depth}, width {self.width} "
                f"and {self.heads} heads: change one of them.",
                setting="size",
            )


@dataclass(frozen=True)
class Size:
    """Encoder and decoder of a generator."""

    encoder: Blocks
    """Size of the encoder."""
    decoder: Blocks
    """Size of the decoder, as deep as the encoder."""


NANO = Size(Blocks(3, 96, 4), Blocks(3, 128, 4))
TINY = Size(Blocks(4, 192, 6), Blocks(4, 192, 6))
SMALL = Size(Blocks(8, 384, 6), Blocks(8, 384, 6))
B = Size(Blocks(12, 768, 12), Blocks(12, 768, 12))
L = Size(Blocks(16, 1024, 16), Blocks(16, 1024, 16))
XL = Size(Blocks(12, 768, 12), Blocks(12, 1584, 22))
XXL = Size(Blocks(12, 768, 12), Blocks(12, 1920, 16))
G = Size(Blocks(12, 768, 12), Blocks(12, 2688, 21))

SIZES = {"nano": NANO, "tiny": TINY, "small": SMALL, "B": B, "L": L, "XL": XL, "XXL": XXL, "G": G}
