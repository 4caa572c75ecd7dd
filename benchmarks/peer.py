"""The public peer: the transformer blocks of DiT as diffusers has them, as many, as wide and over as many tokens as ours.

Each block makes its own modulation from noise level and class (adaLN-zero: Peebles & Xie 2023, arXiv 2212.09748), as in
diffusers' DiTTransformer2DModel; there are no long skips.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn

from benchmarks.measure import CLASSES
from pixelpath.networks.encoder import EXTRA
from pixelpath.networks.layers import unpatchify
from pixelpath.recipes.sizes import Blocks, Size


class Peer(nn.Module):
    """Noisy images, sigma and labels [batch] to images; without a decoder (stage one) to the first token [batch, width]."""

    def __init__(self, size: Size, shape: tuple[int, int, int], patch: int, decoder: bool) -> None:
        super().__init__()
        channels, rows, columns = shape
        width, last = size.encoder.width, size.decoder.width
        self.patch, self.decodes = patch, decoder
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.extra = nn.Parameter(torch.zeros(1, EXTRA, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, EXTRA + (rows // patch) * (columns // patch), width))
        self.encoder = _blocks(size.encoder)
        self.enter = nn.Linear(width, last) if decoder and width != last else nn.Identity()
        self.decoder = _blocks(size.decoder) if decoder else nn.ModuleList()
        self.norm = nn.LayerNorm(last if decoder else width, elementwise_affine=False)
        self.out = nn.Linear(last, patch**2 * channels) if decoder else nn.Identity()

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        rows, columns = noisy.shape[2:]
        noise = 250 * sigma.clamp_min(1e-8).log().expand(len(noisy))
        patches = self.patches(noisy).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.extra.expand(len(noisy), -1, -1).to(patches.dtype), patches], dim=1) + self.positions
        for block in self.encoder:
            tokens = block(tokens, timestep=noise, class_labels=labels)
        tokens = self.enter(tokens)
        for block in self.decoder:
            tokens = block(tokens, timestep=noise, class_labels=labels)
        tokens = self.out(self.norm(tokens))
        return unpatchify(tokens[:, EXTRA:], rows, columns, self.patch) if self.decodes else tokens[:, 0]


def _blocks(stack: Blocks) -> nn.ModuleList:
    from diffusers.models.attention import BasicTransformerBlock

    return nn.ModuleList(
        [
            BasicTransformerBlock(
                stack.width,
                stack.heads,
                stack.width // stack.heads,
                activation_fn="gelu-approximate",
                num_embeds_ada_norm=CLASSES,
                attention_bias=True,
                norm_elementwise_affine=False,
                norm_type="ada_norm_zero",
            )
            for _ in range(stack.depth)
        ]
    )


def peer(size: Size, shape: tuple[int, int, int], patch: int, decoder: bool) -> Peer | None:
    """The peer, or None after a sentence on standard error if diffusers cannot be imported."""
    try:
        return Peer(size, shape, patch, decoder)
    except ImportError as error:
        reason = str(error).splitlines()[0]
        sys.stderr.write(
            f"The peer is left out, since diffusers cannot be imported ({reason}): pip install 'pixelpath[bench]'.\n"
        )
        return None
