"""A representation turns a noisy image into features that tell images apart: an encoder, and the projector of stage one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    """f(noisy, sigma): the encoder's normed CLS token, and its projection (EPG, arXiv 2510.12586).

    The encoder takes a batch in `parts` micro-batches and keeps the activations of none: the backward pass computes them again,
    one micro-batch at a time. What compares images, the projector's norms and the loss, still sees the whole batch, so gradients
    are those of one part (gradient caching: Gao et al. 2021, arXiv 2101.06983).
    """

    def __init__(self, encoder: Encoder, projector: Projector, preconditioning: XPrediction) -> None:
        super().__init__()
        self.encoder, self.projector, self.preconditioning = encoder, projector, preconditioning
        self.parts = 1

    def features(self, noisy: Images, sigma: Sigmas) -> Float[Tensor, "batch width"]:
        """CLS features only."""
        sigma = sigma.to(device=noisy.device, dtype=noisy.dtype).expand(len(noisy))
        if self.parts == 1:
            return self._features(noisy, sigma)
        parts = zip(noisy.chunk(self.parts), sigma.chunk(self.parts), strict=True)
        return torch.cat([checkpoint(self._features, *part, use_reentrant=False) for part in parts])

    def _features(self, noisy: Images, sigma: Sigmas) -> Float[Tensor, "batch width"]:
        factors = self.preconditioning(sigma)
        return self.encoder.summary(expand(factors.input, noisy) * noisy, factors.noise)

    def forward(self, noisy: Images, sigma: Sigmas, project: bool = True) -> Features:
        cls = self.features(noisy, sigma)
        return Features(cls, self.projector(cls) if project else cls[:, :0])
