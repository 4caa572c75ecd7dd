"""The contrastive loss: which of many targets belongs to a query? (InfoNCE: Oord et al. 2018, arXiv 1807.03748, eq. 4)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pixelpath import processes

Rows = Float[Tensor, "batch width"]


def info_nce(queries: Rows, targets: Rows, temperature: float | Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    """-log softmax over all targets of cosine(query, target) / temperature, at the query's own target; float32, [batch].

    The positive of row i is row i of `targets`; the negatives are every other target of every process. `temperature` is one
    number or one per query.
    """
    with torch.autocast(queries.device.type, enabled=False):
        own = functional.normalize(queries.float(), dim=1)
        all_targets = processes.gather(functional.normalize(targets.float(), dim=1))
        scale = temperature[:, None] if isinstance(temperature, Tensor) else temperature
        positives = processes.rank() * len(own) + torch.arange(len(own), device=own.device)
        return functional.cross_entropy(own @ all_targets.T / scale, positives, reduction="none")


def chance_level(batch: int) -> float:
    """The loss of a guess among `batch` targets: ln(batch)."""
    return math.log(batch)
