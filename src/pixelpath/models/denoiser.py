"""A denoiser estimates the clean image from a noisy one and its sigma: a backbone under a preconditioning."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pixelpath.models.preconditioning import Preconditioning
from pixelpath.networks.backbone import Backbone
from pixelpath.noise import expand
from pixelpath.types import Condition, Conditioning, Denoise, Images, Labels, Sigmas

Drop = Bool[Tensor, "batch"]


class Denoiser(nn.Module):
    """D(noisy, sigma, labels) = skip noisy + out backbone(input noisy, noise, labels); the estimate has the shape of `noisy`."""

    def __init__(self, backbone: Backbone, preconditioning: Preconditioning) -> None:
        super().__init__()
        self.backbone, self.preconditioning = backbone, preconditioning

    def forward(self, noisy: Images, sigma: Sigmas, labels: Conditioning | None = None, drop: Drop | None = None) -> Images:
        """`labels` are classes [batch], num_classes where there is none, or a whole condition.

        None, or True in `drop` [batch], drops the condition.
        """
        sigma = sigma.to(device=noisy.device, dtype=noisy.dtype).expand(noisy.shape[0])
        if labels is None:
            labels = torch.full((noisy.shape[0],), self.backbone.no_label, device=noisy.device)
        condition = labels if isinstance(labels, Condition) else Condition(labels)
        if drop is not None:
            condition = replace(condition, labels=torch.where(drop, self.backbone.no_label, condition.labels))
        factors = self.preconditioning(sigma)
        given = None if drop is None else ~drop
        raw = self.backbone(expand(factors.input, noisy) * noisy, factors.noise, condition, given)
        return expand(factors.skip, noisy) * noisy + expand(factors.out, noisy) * raw.to(noisy.dtype)

    def condition(
        self,
        noisy: Images,
        labels: Labels | None,
        numbers: Float[Tensor, "batch number"] | None = None,
        cond_image: Float[Tensor, "batch other row column"] | None = None,
    ) -> Conditioning | None:
        """The parts of a condition of `noisy` as one; without numbers and images the labels alone, None without any."""
        if numbers is None and cond_image is None:
            return labels
        if labels is None:
            labels = torch.full((noisy.shape[0],), self.backbone.no_label, device=noisy.device)
        return Condition(labels, numbers, cond_image)

    def features(self, noisy: Images, sigma: Sigmas) -> Float[Tensor, "batch width"]:
        """The encoder's CLS features of noisy images, without a condition."""
        factors = self.preconditioning(sigma.to(device=noisy.device, dtype=noisy.dtype).expand(noisy.shape[0]))
        vector = self.backbone.classes.weight[self.backbone.no_label].expand(noisy.shape[0], 1, -1)
        return self.backbone.encoder.summary(expand(factors.input, noisy) * noisy, factors.noise, vector)

    def bind(self, labels: Conditioning | None) -> Denoise:
        """This denoiser under a condition (None: unconditional), as samplers take it."""
        return lambda noisy, sigma: self(noisy, sigma, labels)
