"""The encoder: a plain vision transformer whose sequence is [CLS, noise token, patches] (EPG, arXiv 2510.12586).

It is trained alone in stage one and, unchanged, is the first half of the generator in stage two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pixelpath.errors import UserError
from pixelpath.networks import layers
from pixelpath.networks.layers import EPSILON, Block, Tokens, grid_sinusoids, initialise, sinusoids
from pixelpath.types import Images

Patches = Float[Tensor, "batch patch width"]
EXTRA = 2  # tokens before the patches: CLS and noise
LONGEST = 10000.0  # wavelength of the noise token, over 2 pi


class Encoding(NamedTuple):
    """The encoder's output: normed tokens, the outputs of its blocks (first to last), and the noise token alone."""

    tokens: Tokens
    blocks: list[Tokens]
    noise: Float[Tensor, "batch width"]


class Encoder(nn.Module):
    """Images [batch, channels, rows, columns] and a noise coordinate [batch] to tokens [batch, 2 + patches, width].

    The learned table of positions begins as noise of std 0.02 plus `position_init` times `grid_sinusoids`. Raises UserError if
    `patch` does not divide `rows` and `columns`, or images have another shape.
    """

    def __init__(
        self, channels: int, rows: int, columns: int, patch: int, width: int, depth: int, heads: int, position_init: float = 0.0
    ) -> None:
        super().__init__()
        if rows % patch or columns % patch:
            raise _undivided(patch, rows, columns)
        self.channels, self.rows, self.columns, self.patch, self.width = channels, rows, columns, patch, width
        self.checkpointing = False
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, EXTRA + (rows // patch) * (columns // patch), width))
        self.register_buffer("frequencies", layers.frequencies(width // 2, LONGEST), persistent=False)
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        initialise(self)
        nn.init.xavier_uniform_(self.patches.weight.view(width, -1))
        nn.init.zeros_(self.patches.bias)  # pyright: ignore[reportArgumentType]
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.positions, std=0.02)
        self.positions.data[0, EXTRA:] += position_init * grid_sinusoids(rows // patch, columns // patch, width)

    def forward(
        self, images: Images, noise: Float[Tensor, "batch"], shift: Tokens | None = None, cond_image: Patches | None = None
    ) -> Encoding:
        """`shift` [batch, 1, width], if given, is added to the CLS token, `cond_image` [batch, patches, width] to the patches."""
        tokens, wave = self._enter(images, noise, shift, cond_image)
        outputs: list[Tensor] = []
        for block in self.blocks:
            tokens = self._through(block, tokens)
            outputs.append(tokens)
        return Encoding(self.norm(tokens), outputs, wave)

    def summary(self, images: Images, noise: Float[Tensor, "batch"], shift: Tokens | None = None) -> Float[Tensor, "batch width"]:
        """The normed CLS token alone: `forward(...).tokens[:, 0]` without the last block's work on the other tokens."""
        tokens, _ = self._enter(images, noise, shift)
        *blocks, last = self.blocks
        for block in blocks:
            tokens = self._through(block, tokens)
        return self.norm(self._through(last, tokens, 1))[:, 0]

    def _enter(
        self, images: Images, noise: Float[Tensor, "batch"], shift: Tokens | None, cond_image: Patches | None = None
    ) -> tuple[Tensor, Tensor]:
        """The tokens before the first block, and the noise token alone."""
        if images.shape[1:] != (self.channels, self.rows, self.columns):
            expected = f"{self.channels} x {self.rows} x {self.columns}"
            shape = " x ".join(map(str, images.shape[1:]))
            raise UserError(f"This encoder takes images of {expected}, not {shape}: resize them.", setting="data.resize")
        patches = self.patches(images).flatten(2).transpose(1, 2)
        patches = patches if cond_image is None else patches + cond_image
        wave = sinusoids(noise, self.width, LONGEST, self.get_buffer("frequencies")).to(patches.dtype)
        cls = self.cls.expand(len(images), -1, -1) if shift is None else self.cls + shift
        return torch.cat([cls.to(patches.dtype), wave[:, None], patches], dim=1) + self.positions, wave

    def _through(self, block: nn.Module, tokens: Tensor, first: int | None = None) -> Tensor:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, tokens, first, use_reentrant=False)
        return block(tokens, first)

    def resize(self, rows: int, columns: int) -> None:
        """Make this the encoder of images of `rows` x `columns`: the position table of the patches is interpolated (bicubic)."""
        if rows % self.patch or columns % self.patch:
            raise _undivided(self.patch, rows, columns)
        extra, table = self.positions.data[:, :EXTRA], self.positions.data[:, EXTRA:]
        grid = table.transpose(1, 2).unflatten(2, (self.rows // self.patch, self.columns // self.patch))
        size = (rows // self.patch, columns // self.patch)
        grown = functional.interpolate(grid, size, mode="bicubic", antialias=True)
        self.positions = nn.Parameter(torch.cat([extra, grown.flatten(2).transpose(1, 2)], dim=1))
        self.rows, self.columns = rows, columns


def _undivided(patch: int, rows: int, columns: int) -> UserError:
    return UserError(f"A patch of {patch} does not divide images of {rows} x {columns} pixels: choose another `patch`.", "patch")
