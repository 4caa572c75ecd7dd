"""The feature loss: does an estimate look like its image to the encoder of stage one?

The encoder is *frozen*: a Representation in evaluation mode whose weights collect no gradients, while gradients pass through it
to the estimate. It sees both images at one sigma, without noise added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.models.representation import Representation
from pixelpath.objectives.contrast import info_nce
from pixelpath.types import Batch, Images


@dataclass(frozen=True)
class NoFeatures:
    """No loss on features: 0 for every image, and no encoder is needed."""

    def __call__(
        self, frozen: Representation | None, estimate: Images, batch: Batch, sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "batch"]:
        """Zeros [batch]."""
        return estimate.new_zeros(len(estimate), dtype=torch.float32)


@dataclass(frozen=True)
class ContrastiveFeatures:
    """weight NCE(P(estimate), P(x); temperature), P the projection of the frozen encoder (EPG, arXiv 2510.12586).

    The estimate must find its own image among the images of all processes.
    """

    temperature: float = 0.1
    """Temperature of the contrastive loss, above 0."""
    weight: float = 1.0
    """Weight of this loss relative to the consistency loss."""

    def __call__(
        self, frozen: Representation | None, estimate: Images, batch: Batch, sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "batch"]:
        """The loss of each image [batch]; UserError without an encoder."""
        if frozen is None:
            raise UserError("This objective compares features: call `through` with the representation of a finished stage one.")
        with torch.no_grad():
            targets = frozen(batch.images, sigma).projection
        return self.weight * info_nce(frozen(estimate, sigma).projection, targets, self.temperature, batch.index)


FeatureLoss = NoFeatures | ContrastiveFeatures
