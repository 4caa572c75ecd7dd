"""Alarms for self-supervision: how much of their space a batch of features fills.

*Collapse* is complete when all images get one feature, and dimensional when features vary along few directions.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def feature_std(features: Float[Tensor, "batch feature"]) -> float:
    """sqrt(width) times the mean over dimensions of the std, over the batch, of the features divided by their length.

    About 1 for features spread evenly over the sphere, 0 for collapsed ones (Chen and He 2021, arXiv 2011.10566).
    """
    unit = functional.normalize(features.detach().cpu().double(), dim=1)
    return float(unit.std(0, correction=0).mean() * features.shape[1] ** 0.5)


def effective_rank(features: Float[Tensor, "batch feature"]) -> float:
    """exp of the entropy of the singular values, divided by their sum, of the features less their mean (Roy and Vetterli 2007).

    From 1 (one direction) to min(batch - 1, width) (all directions equally); 0 if all features are equal. Subtracting
    the mean keeps a common part from hiding the rest.
    """
    rows = features.detach().cpu().double()
    values = torch.linalg.svdvals(rows - rows.mean(0))
    total = values.sum()
    if total <= 1e-12 * rows.norm():
        return 0.0
    return float(torch.special.entr(values / total).sum().exp())
