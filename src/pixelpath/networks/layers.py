"""The parts that encoder and decoder share: attention, transformer blocks, sinusoids, patches.

A *token* is one vector of a sequence [batch, token, width]. A *modulated* block takes shift, scale and gate of its two branches
from a condition vector, all zero at the start (adaLN-zero: Peebles & Xie 2023, arXiv 2212.09748, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pixelpath.errors import UserError

Tokens = Float[Tensor, "batch token width"]
First = Float[Tensor, "batch first width"]  # the first tokens alone
Norm = Callable[[Tensor], Tensor]
EPSILON = 1e-5  # of every LayerNorm
LARGE = 400_000  # values: below them it takes longer to arrange that a part is computed again than to compute it


def unchanged(tokens: Tokens) -> Tokens:
    """The tokens themselves."""
    return tokens


def recomputed(part: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """part(*inputs), which ends in a linear layer: the backward pass keeps the inputs, and computes again what the layer took.

    So norms, modulation and GELU cost no memory. The layer itself is not computed again: checkpoint stops before it. Compilers
    choose what to keep themselves.
    """
    worth = torch.is_grad_enabled() and not torch.compiler.is_compiling() and inputs[0].numel() >= LARGE
    return checkpoint(part, *inputs, use_reentrant=False) if worth else part(*inputs)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) without bias on query, key and value; [batch, token, width] to the same.

    `dropout` acts on the output. Raises UserError if `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UserError(f"A width of {width} cannot be split into {heads} heads: choose heads that divide it.", "size")
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tokens, first: int | None = None, norm: Norm = unchanged) -> First:
        """Of norm(tokens). `first`: compute the outputs of so many first tokens only; they attend to all."""
        batch, length, width = tokens.shape
        joint = recomputed(lambda given: self.query_key_value(norm(given)), tokens)
        parts = joint.view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(query[:, :, :first], key, value)
        return self.dropout(self.out(attended.transpose(1, 2).reshape(batch, -1, width)))


class Mlp(nn.Sequential):
    """Linear, GELU, linear, four times as wide inside; `dropout` acts after the GELU and at the end (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        within = nn.Sequential(nn.GELU(), nn.Dropout(dropout))
        super().__init__(nn.Linear(width, 4 * width), within, nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, input: Tokens, norm: Norm = unchanged) -> Tokens:
        """Of norm(input)."""
        widen, within, narrow, drop = self
        wide = recomputed(lambda given: widen(norm(given)), input)
        return drop(recomputed(lambda given: narrow(within(given)), wide))


class Block(nn.Module):
    """Pre-norm transformer block: tokens + attention(norm(tokens)), then + mlp(norm(tokens))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Mlp(width)

    def forward(self, tokens: Tokens, first: int | None = None) -> First:
        """`first`: compute the outputs of so many first tokens only."""
        tokens = tokens[:, :first] + self.attention(tokens, first, self.norm_attention)
        return tokens + self.mlp(tokens, self.norm_mlp)


class ModulatedBlock(nn.Module):
    """A block of the decoder: joins one output of the encoder (long skip: Bao et al. 2023, arXiv 2209.12152), attends, modulated.

    tokens [batch, token, width], skip [batch, token, skip_width], condition [batch, condition_width] to [batch, token, width].
    """

    def __init__(self, width: int, heads: int, skip_width: int, condition_width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.join = nn.Linear(width + skip_width, width)
        self.norm_join = nn.LayerNorm(width, eps=EPSILON)
        self.norm_attention = nn.LayerNorm(width, eps=EPSILON)
        self.attention = Attention(width, heads, dropout)
        self.norm_mlp = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = Mlp(width, dropout)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(condition_width, 6 * width))

    def forward(
        self, tokens: Tokens, skip: Float[Tensor, "batch token skip"], condition: Float[Tensor, "batch condition"]
    ) -> Tokens:
        tokens = self.norm_join(recomputed(lambda *both: self.join(torch.cat(both, dim=-1)), tokens, skip))
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = (
            self.modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        )

        def norm_attention(given: Tokens) -> Tokens:
            return self.norm_attention(given) * (1 + scale_attention) + shift_attention

        def norm_mlp(given: Tokens) -> Tokens:
            return self.norm_mlp(given) * (1 + scale_mlp) + shift_mlp

        tokens = tokens + gate_attention * self.attention(tokens, norm=norm_attention)
        return tokens + gate_mlp * self.mlp(tokens, norm_mlp)


def frequencies(count: int, longest: float) -> Float[Tensor, "frequency"]:
    """f_i = longest^(-i / count), float32, on the CPU, where they are rounded alike for all devices."""
    return torch.exp(-math.log(longest) * torch.arange(count, dtype=torch.float32, device="cpu") / count)


def sinusoids(
    position: Float[Tensor, "batch"], width: int, longest: float = 10000.0, known: Float[Tensor, "frequency"] | None = None
) -> Float[Tensor, "batch width"]:
    """[cos(p f_0) .. cos(p f_k), sin(p f_0) .. sin(p f_k)] with f from `frequencies`, float32; an odd width ends in 0.

    `known` are these frequencies; on the device of `position` they spare a call the copy to it.
    """
    if known is None or known.device != position.device:
        known = frequencies(width // 2, longest).to(position.device)
    angles = position.float()[:, None] * known
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return functional.pad(waves, (0, width % 2))


def grid_sinusoids(rows: int, columns: int, width: int) -> Float[Tensor, "place width"]:
    """The position of each of rows x columns patches, row by row: half of the width encodes its row, half its column.

    A half is [sin(2 pi n / l_0) .. sin(2 pi n / l_k), cos(2 pi n / l_0) .. cos(2 pi n / l_k)] for place n of N along its side.
    The wavelengths, from l_0 = 4 to l_k = 4 N patches, are evenly spaced in their logarithm: no two places are alike. If 4 does
    not divide the width, the last values stay 0.
    """
    quarter = width // 4

    def along(count: int) -> Tensor:
        lengths = 4.0 * float(count) ** torch.linspace(0, 1, quarter)
        angles = 2 * math.pi * torch.arange(count)[:, None] / lengths
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    down, across = along(rows), along(columns)
    waves = torch.cat([down[:, None].expand(-1, columns, -1), across.expand(rows, -1, -1)], dim=2).flatten(0, 1)
    return functional.pad(waves, (0, width - 4 * quarter))


def unpatchify(tokens: Tokens, rows: int, columns: int, patch: int) -> Float[Tensor, "batch channel row column"]:
    """Tokens [batch, rows/patch * columns/patch, patch * patch * channel] to images; a token is (row, column, channel)."""
    batch = tokens.shape[0]
    parts = tokens.view(batch, rows // patch, columns // patch, patch, patch, -1)
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, rows, columns)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer; query, key and value count as three matrices."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, Attention):
            for part in layer.query_key_value.weight.data.chunk(3):
                nn.init.xavier_uniform_(part)
        if isinstance(layer, ModulatedBlock):
            nn.init.zeros_(layer.modulation[1].weight)  # pyright: ignore[reportArgumentType]
