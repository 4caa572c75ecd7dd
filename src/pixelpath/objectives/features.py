"""Feature losses: does an estimate look like its image to the encoder of stage one?

The encoder is *frozen*: a Representation in evaluation mode whose weights collect no gradients, while gradients pass through it
to the estimate. Both images are seen at one sigma, without noise added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pixelpath.models.representation import Representation
from pixelpath.noise import expand
from pixelpath.objectives.contrast import info_nce
from pixelpath.types import Batch, Images, Losses, Objective


@dataclass(frozen=True)
class NoFeatures:
    """No loss on features: 0 for every image, and no encoder is needed."""

    def __call__(
        self, frozen: Representation | None, estimate: Images, images: Images, sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "batch"]:
        """Zeros [batch]."""
        return estimate.new_zeros(len(estimate), dtype=torch.float32)


@dataclass(frozen=True)
class ContrastiveFeatures:
    """weight NCE(P(estimate), P(x); temperature), P the projection of the frozen encoder (EPG, arXiv 2510.12586).

    The estimate must find its own image among the images of all processes.
    """

    temperature: float = 0.1
    weight: float = 1.0

    def __call__(
        self, frozen: Representation | None, estimate: Images, images: Images, sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "batch"]:
        """The loss of each image [batch]; ValueError without an encoder."""
        frozen = _given(frozen)
        with torch.no_grad():
            targets = frozen(images, sigma).projection
        return self.weight * info_nce(frozen(estimate, sigma).projection, targets, self.temperature)


@dataclass(frozen=True)
class LayerFeatures:
    """weight mean |n(h(estimate)) - n(h(x))|^2 over tokens and blocks, h a block's output, n division by a token's length.

    `blocks` are numbers of the frozen encoder's blocks, from 0, or from -1 backwards; none given are all. The form is that of
    perceptual losses (Zhang et al. 2018, arXiv 1801.03924, eq. 1, with equal weights), on features learned from one's own data.
    """

    blocks: tuple[int, ...] = ()
    weight: float = 1.0

    def __call__(
        self, frozen: Representation | None, estimate: Images, images: Images, sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "batch"]:
        """The loss of each image [batch]; ValueError without an encoder, or for a block that it does not have."""
        frozen = _given(frozen)
        with torch.no_grad():
            targets = self._units(frozen, images, sigma)
        pairs = zip(self._units(frozen, estimate, sigma), targets, strict=True)
        return self.weight * torch.stack([(ours - theirs).square().sum(2).mean(1) for ours, theirs in pairs]).mean(0)

    def check(self, count: int) -> None:
        """ValueError unless an encoder of `count` blocks has all that are chosen."""
        wrong = [block for block in self.blocks if not -count <= block < count]
        if wrong:
            raise ValueError(f"The frozen encoder has blocks 0 to {count - 1}, not {wrong}: choose other blocks.")

    def _units(self, frozen: Representation, images: Images, sigma: Float[Tensor, ""]) -> list[Tensor]:
        """The chosen blocks' outputs [batch, token, width], every token of length 1, float32."""
        factors = frozen.preconditioning(sigma.expand(len(images)))
        outputs = frozen.encoder(expand(factors.input, images) * images, factors.noise).blocks
        self.check(len(outputs))
        chosen = [outputs[block] for block in self.blocks] if self.blocks else outputs
        return [functional.normalize(output.float(), dim=2) for output in chosen]


def _given(frozen: Representation | None) -> Representation:
    if frozen is None:
        raise ValueError(
            "This objective compares features, so it needs the encoder of a finished stage one: call `through` with it."
        )
    return frozen


FeatureLoss = NoFeatures | ContrastiveFeatures | LayerFeatures


class Comparing(ABC):
    """An objective that may compare features of its estimates with those of the images, by a loss of its choice."""

    features: FeatureLoss

    @property
    def needs_encoder(self) -> bool:
        """Whether it compares features, and so must be called through the frozen encoder of a stage one."""
        return not isinstance(self.features, NoFeatures)

    def through(self, representation: Representation) -> Objective:
        """This objective with its features seen by `representation`, which is frozen here and belongs to no student.

        Raises ValueError for a block that it does not have.
        """
        if isinstance(self.features, LayerFeatures):
            self.features.check(len(representation.encoder.blocks))
        return cast(Objective, partial(self, frozen=representation.requires_grad_(False).eval()))

    @abstractmethod
    def __call__(
        self, student: nn.Module, ema: nn.Module, batch: Batch, step: int, frozen: Representation | None = None
    ) -> Losses:
        """The mean loss of this process's share, and its terms."""
