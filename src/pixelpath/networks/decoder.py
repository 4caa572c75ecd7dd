"""The decoder: modulated transformer blocks that walk back over the encoder's outputs, to pixels (EPG, arXiv 2510.12586)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pixelpath.errors import UserError
from pixelpath.networks.encoder import EXTRA, Encoder, Encoding
from pixelpath.networks.layers import EPSILON, ModulatedBlock, initialise, unpatchify


class Decoder(nn.Module):
    """An encoding and a condition [batch, encoder width] to images [batch, channels, rows, columns], zero before training.

    Block i takes the output of encoder block depth - 1 - i as its long skip. `dropout` is the dropout probability of the outputs
    of attention, and of the inner and outer outputs of every MLP. `features` more channels follow those of the images, for a
    pixel head; they are not zero. Raises UserError if the decoder is not as deep as the encoder, or unless 0 <= dropout < 1.
    """

    def __init__(self, encoder: Encoder, width: int, depth: int, heads: int, dropout: float = 0.0, features: int = 0) -> None:
        super().__init__()
        if depth != len(encoder.blocks):
            raise UserError(
                f"A decoder of {depth} blocks cannot join an encoder of {len(encoder.blocks)}: every decoder block takes the "
                "output of one encoder block, so choose equal depths.",
                setting="size.decoder.depth",
            )
        if not 0 <= dropout < 1:
            raise UserError(f"`dropout` must be at least 0 and below 1, got {dropout}: choose for example 0.5.", "dropout")
        self.patch, self.checkpointing, self.features = encoder.patch, False, features
        self.enter = nn.Linear(encoder.width, width) if width != encoder.width else nn.Identity()
        blocks = [ModulatedBlock(width, heads, encoder.width, encoder.width, dropout) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.out = nn.Linear(width, encoder.patch**2 * (encoder.channels + features))
        initialise(self)
        nn.init.zeros_(self.out.weight.data.unflatten(0, (encoder.patch**2, -1))[:, : encoder.channels])

    def forward(
        self, encoding: Encoding, condition: Float[Tensor, "batch width"], rows: int, columns: int
    ) -> Float[Tensor, "batch both rows columns"]:
        tokens = self.enter(encoding.tokens)
        for block, skip in zip(self.blocks, reversed(encoding.blocks), strict=True):
            if self.checkpointing and self.training and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, skip, condition, use_reentrant=False)
            else:
                tokens = block(tokens, skip, condition)
        return unpatchify(self.out(self.norm(tokens))[:, EXTRA:], rows, columns, self.patch)
