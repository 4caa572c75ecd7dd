"""What a process of a run keeps on its device between two steps, from the shapes of its weights alone.

*Kept* are weights, gradients, the optimizer's moments and the EMA, all in float32. Activations, and the weights that a sharded
run gathers for a moment, come on top.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from torch import nn

from pixelpath.networks.layers import Block, ModulatedBlock
from pixelpath.recipes.recipe import Recipe
from pixelpath.trainer.optimizer import AdamW, hidden_matrices

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Kept:
    """Bytes that each of `count` processes keeps: a whole copy, or, sharded, the largest share and what it gathers at once."""

    count: int
    whole: int
    share: int
    gathered: int


def kept(student: nn.Module, recipe: Recipe, count: int) -> Kept:
    """What each of `count` processes keeps of a student; one on the meta device will do.

    The largest share has ceil(rows / count) rows of every tensor. At most two transformer blocks are gathered at once, the next
    one while one computes, and what lies outside of blocks.
    """
    hidden = set() if isinstance(recipe.optimizer, AdamW) else hidden_matrices(student)
    whole = share = 0
    for value in student.parameters():
        moments = 0 if not value.requires_grad else 1 if value in hidden else 2
        copies = 2 + moments + (1 if value.requires_grad else 0)  # weights, EMA, moments, gradient
        whole += BYTES * copies * value.numel()
        share += BYTES * copies * ceil(value.shape[0] / count) * prod(value.shape[1:])
    blocks = [block for block in student.modules() if isinstance(block, Block | ModulatedBlock)]
    sizes = sorted(sum(value.numel() for value in block.parameters()) for block in blocks)
    rest = sum(value.numel() for value in student.parameters()) - sum(sizes)
    return Kept(count, whole, share, BYTES * (rest + sum(sizes[-2:])))
