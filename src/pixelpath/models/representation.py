"""A representation turns a noisy image into features that tell images apart: an encoder, and the projector of stage one."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from pixelpath.models.preconditioning import XPrediction
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.noise import expand
from pixelpath.types import Images, Sigmas


class Features(NamedTuple):
    """CLS features of the encoder [batch, width] and their projection [batch, out] ([batch, 0] without `project`)."""

    cls: Float[Tensor, "batch width"]
    projection: Float[Tensor, "batch out"]


class Representation(nn.Module):
    """f(noisy, sigma): the encoder's normed CLS token, and its projection (EPG, arXiv 2510.12586)."""

    def __init__(self, encoder: Encoder, projector: Projector, preconditioning: XPrediction) -> None:
        super().__init__()
        self.encoder, self.projector, self.preconditioning = encoder, projector, preconditioning

    def features(self, noisy: Images, sigma: Sigmas) -> Float[Tensor, "batch width"]:
        """CLS features only."""
        sigma = sigma.to(device=noisy.device, dtype=noisy.dtype).expand(len(noisy))
        factors = self.preconditioning(sigma)
        return self.encoder.summary(expand(factors.input, noisy) * noisy, factors.noise)

    def forward(self, noisy: Images, sigma: Sigmas, project: bool = True) -> Features:
        cls = self.features(noisy, sigma)
        return Features(cls, self.projector(cls) if project else cls[:, :0])
