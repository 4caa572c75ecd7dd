"""How a network is used at a noise level: D(noisy, sigma) = skip noisy + out F(input noisy, noise).

A *preconditioning* is a function of sigma to these four factors (the form is Karras et al. 2022, arXiv 2206.00364, eq. 7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.types import Sigmas

SMALLEST = 1e-8  # lower sigmas, 0 included, have the noise coordinate of this one


class Factors(NamedTuple):
    """The four factors of one sigma, each shaped like it."""

    skip: Tensor
    out: Tensor
    input: Tensor
    noise: Tensor


def noise_coordinate(sigma: Sigmas) -> Tensor:
    """250 ln(sigma), the coordinate whose sinusoids are the noise token (EPG, arXiv 2510.12586); finite at sigma = 0."""
    return 250 * torch.log(sigma.clamp_min(SMALLEST))


@dataclass(frozen=True)
class XPrediction:
    """The network predicts the clean image: skip 0, out 1, input 1/sqrt(sigma^2 + sigma_data^2).

    Raises UserError unless sigma_data > 0.
    """

    sigma_data: float = 0.5
    """Std of the images in model range, above 0."""

    def __post_init__(self) -> None:
        _check(self.sigma_data, "sigma_data")

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        norm = (sigma**2 + self.sigma_data**2).rsqrt()
        return Factors(torch.zeros_like(sigma), torch.ones_like(sigma), norm, noise_coordinate(sigma))


@dataclass(frozen=True)
class EDMPreconditioning:
    """skip = sd^2/((s - b)^2 + sd^2), out = (s - b) sd / sqrt(s^2 + sd^2), input = 1/sqrt(s^2 + sd^2).

    With boundary b = 0 these are EDM's (Karras et al. 2022, arXiv 2206.00364, table 1). With b the lowest sigma they are those of
    consistency models (Song et al. 2023, arXiv 2303.01469, appendix C): the denoiser is the identity at b. Raises UserError
    unless sigma_data > 0.
    """

    sigma_data: float = 0.5
    """Std of the images in model range, above 0."""
    boundary: float = 0.0
    """Shifted sigma at which the denoiser is the identity. 0 in a one-step recipe: the lowest sigma."""

    def __post_init__(self) -> None:
        _check(self.sigma_data, "sigma_data")

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        data, above = self.sigma_data, sigma - self.boundary
        norm = (sigma**2 + data**2).rsqrt()
        return Factors(data**2 / (above**2 + data**2), above * data * norm, norm, noise_coordinate(sigma))


@dataclass(frozen=True)
class Anchored:
    """The network predicts the clean image, except near a boundary b, where the denoiser turns into the identity.

    skip = w^2/((s - b)^2 + w^2), out = 1 - skip, input as in XPrediction, w is `width`: the estimate lies between the noisy image
    and the prediction. At s = b the denoiser is the identity, as a consistency model needs. Far above b it is XPrediction, so the
    weights of a diffusion model under XPrediction keep their meaning. Chosen here; no source. Raises UserError unless sigma_data
    and width are above 0 and finite.
    """

    sigma_data: float = 0.5
    """Std of the images in model range, above 0."""
    boundary: float = 0.0
    """Shifted sigma at which the denoiser is the identity. 0 in a one-step recipe: the lowest sigma."""
    width: float = 0.1
    """Distance from the boundary, as a sigma, at which the estimate is half the noisy image, above 0."""

    def __post_init__(self) -> None:
        _check(self.sigma_data, "sigma_data")
        _check(self.width, "width")

    def __call__(self, sigma: Sigmas) -> Factors:
        """The four factors of sigma."""
        skip = self.width**2 / ((sigma - self.boundary) ** 2 + self.width**2)
        return Factors(skip, 1 - skip, (sigma**2 + self.sigma_data**2).rsqrt(), noise_coordinate(sigma))


Preconditioning = XPrediction | EDMPreconditioning | Anchored


def _check(value: float, field: str) -> None:
    if not 0 < value < math.inf:
        setting = f"preconditioning.{field}"
        raise UserError(f"`{setting}` must be above 0 and finite, got {value}: choose for example 0.1.", setting=setting)
