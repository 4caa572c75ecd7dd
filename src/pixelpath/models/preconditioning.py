"""How a network is used at a noise level: D(noisy, sigma) = skip noisy + out F(input noisy, noise).

Each scaling is a pure function of sigma to these four numbers (the form is Karras et al. 2022, arXiv 2206.00364, eq. 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pixelpath.types import Sigmas

SMALLEST = 1e-8  # the noise coordinate of any sigma below this, sigma = 0 included


class Factors(NamedTuple):
    """The four numbers of one sigma, each shaped like it."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


def noise_coordinate(sigma: Sigmas) -> Tensor:
    """250 ln(sigma), the coordinate whose sinusoids are the noise token (EPG, arXiv 2510.12586); finite at sigma = 0."""
    return 250 * torch.log(sigma.clamp_min(SMALLEST))


@dataclass(frozen=True)
class XPrediction:
    """The network predicts the clean image: skip 0, out 1, input 1/sqrt(sigma^2 + sigma_data^2)."""

    sigma_data: float = 0.5

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        norm = (sigma**2 + self.sigma_data**2).rsqrt()
        return Factors(torch.zeros_like(sigma), torch.ones_like(sigma), norm, noise_coordinate(sigma))


@dataclass(frozen=True)
class EDMPreconditioning:
    """skip = sd^2/((s - b)^2 + sd^2), out = (s - b) sd / sqrt(s^2 + sd^2), input = 1/sqrt(s^2 + sd^2).

    With boundary b = 0 these are EDM's (Karras et al. 2022, arXiv 2206.00364, table 1); with b the lowest level, those of
    consistency models (Song et al. 2023, arXiv 2303.01469, appendix C): the denoiser is the identity at b.
    """

    sigma_data: float = 0.5
    boundary: float = 0.0

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        data, above = self.sigma_data, sigma - self.boundary
        norm = (sigma**2 + data**2).rsqrt()
        return Factors(data**2 / (above**2 + data**2), above * data * norm, norm, noise_coordinate(sigma))


@dataclass(frozen=True)
class Anchored:
    """The network predicts the clean image, except near a boundary b, where the denoiser turns into the identity.

    skip = w^2/((s - b)^2 + w^2) and out = 1 - skip: the estimate lies between the noisy image and the prediction; w, a deviation
    of noise, is `width`; input as in Clean. At s = b it is the identity, as a consistency model needs; far above it is Clean, so
    the weights of a diffusion model under Clean keep their meaning. Chosen here, beside Preconditioned: no source.
    """

    sigma_data: float = 0.5
    boundary: float = 0.0
    width: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.width < math.inf:
            raise ValueError(f"Anchored scalings need a finite width above 0, got {self.width}: choose for example 0.1.")

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        skip = self.width**2 / ((sigma - self.boundary) ** 2 + self.width**2)
        return Factors(skip, 1 - skip, (sigma**2 + self.sigma_data**2).rsqrt(), noise_coordinate(sigma))


Preconditioning = XPrediction | EDMPreconditioning | Anchored
