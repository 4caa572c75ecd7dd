"""The mean and covariance of features, gathered one batch at a time.

*Scatter* is the sum over rows of (row - mean)(row - mean)^T; the covariance is scatter / (count - 1). Everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.sampling.checks import check_finite


@dataclass(frozen=True)
class Statistics:
    """Count, mean [feature] and scatter [feature, feature] of features; `first + second` are those of both together.

    Merging follows Chan, Golub and LeVeque 1983 ("Algorithms for computing the sample variance"), with d = mean_2 - mean_1:
    scatter = scatter_1 + scatter_2 + (count_1 count_2 / count) d d^T, which loses no digits to a large mean.
    """

    count: int
    mean: Float[Tensor, "feature"]
    scatter: Float[Tensor, "feature feature"]

    @property
    def covariance(self) -> Float[Tensor, "feature feature"]:
        """The unbiased covariance [feature, feature]; raises ValueError for fewer than two rows."""
        if self.count < 2:
            raise UserError(f"A covariance needs at least 2 images, got {self.count}: evaluate more samples.")
        return self.scatter / (self.count - 1)

    def __add__(self, other: Statistics) -> Statistics:
        count = self.count + other.count
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        return Statistics(count, self.mean + apart * (other.count / count), self.scatter + other.scatter + between)


@dataclass(frozen=True)
class Moments:
    """Mean [feature] and covariance [feature, feature] of features that are not at hand, as a file of statistics keeps them."""

    mean: Float[Tensor, "feature"]
    covariance: Float[Tensor, "feature feature"]


def of(features: Float[Tensor, "batch feature"]) -> Statistics:
    """The statistics of one batch of features, computed on the CPU; raises UserError if it is empty or not finite."""
    if len(features) == 0:
        raise UserError("Statistics need at least one image, got none: evaluate more samples.")
    rows = features.detach().cpu().double()
    check_finite(rows, "features", "look for NaN in the images, or in the weights of the extractor")
    mean = rows.mean(0)
    centred = rows - mean
    return Statistics(len(rows), mean, centred.T @ centred)


def gather(batches: Iterable[Float[Tensor, "_ feature"]]) -> Statistics:
    """The statistics of all batches of features, holding one batch at a time; raises UserError if there is none."""
    total: Statistics | None = None
    for features in batches:
        total = of(features) if total is None else total + of(features)
    if total is None:
        raise UserError("Statistics need at least one batch of features, got none: evaluate more samples.")
    return total
