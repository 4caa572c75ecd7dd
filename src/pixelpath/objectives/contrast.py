"""The contrastive loss: which of many targets belongs to a query? (InfoNCE: Oord et al. 2018, arXiv 1807.03748, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pixelpath import processes

Rows = Float[Tensor, "batch width"]


def info_nce(
    queries: Rows, targets: Rows, temperature: float | Float[Tensor, "batch"], index: Int[Tensor, "batch"] | None = None
) -> Float[Tensor, "batch"]:
    """-log softmax over all targets of cosine(query, target) / temperature, at the query's own target; float32, [batch].

    The positive of row i is row i of `targets`. The negatives are the other targets of all processes, except those of the same
    image: `index` says which image of the data each row is of, and None that no image occurs twice. `temperature` is one number
    or one per query. The cosines are float32 even where TF32 is on; their gradients are not.
    """
    with torch.autocast(queries.device.type, enabled=False), true_float32():
        own = functional.normalize(queries.float(), dim=1)
        all_targets = processes.gather(functional.normalize(targets.float(), dim=1))
        scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
        positives = processes.rank() * len(own) + torch.arange(len(own), device=own.device)
        logits = own @ all_targets.T / scale
        if index is not None:
            again = (index[:, None] == processes.gather(index)).scatter(1, positives[:, None], False)
            logits = logits.masked_fill(again, -math.inf)
        return functional.cross_entropy(logits, positives, reduction="none")


@contextmanager
def true_float32() -> Iterator[None]:
    """Inside, float32 matrix products keep all 24 bits; TF32 keeps 11, which moves a cosine by 1e-3."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def chance_level(batch: int) -> float:
    """The loss of a guess among `batch` targets: ln(batch)."""
    return math.log(batch)
