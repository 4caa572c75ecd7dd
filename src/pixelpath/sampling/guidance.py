"""Guidance: push an estimate away from that of a reference which knows less."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelpath.types import Denoise, Images


def guide(denoise: Denoise, reference: Denoise, guidance: float, interval: tuple[float, float] = (0.0, math.inf)) -> Denoise:
    """reference + scale (estimate - reference) where between[0] < sigma <= between[1], the plain estimate elsewhere.

    A reference without label gives classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), a weaker model autoguidance
    (Karras et al. 2024, arXiv 2406.02507), limits the interval guidance of Kynkaanniemi et al. 2024 (arXiv 2404.07724). Scale 1
    changes nothing and costs nothing. Sigma must be one number for the batch ([]), as samplers give it. Raises ValueError if
    between[0] < between[1] does not hold.
    """
    if not interval[0] < interval[1]:
        raise ValueError(f"Guidance between sigma {interval[0]:g} and {interval[1]:g} is empty: give the lower level first.")
    if guidance == 1:
        return denoise

    def guided(noisy: Images, sigma: Tensor) -> Images:
        estimate = denoise(noisy, sigma)
        if not interval[0] < float(sigma) <= interval[1]:
            return estimate
        return torch.lerp(reference(noisy, sigma), estimate, guidance)

    return guided


def clip(denoise: Denoise, lowest: Tensor | float, highest: Tensor | float) -> Denoise:
    """The estimate held inside [lowest, highest] (numbers, or tensors that broadcast over images, such as one per channel)."""

    def clipped(noisy: Images, sigma: Tensor) -> Images:
        estimate = denoise(noisy, sigma)
        return estimate.clamp(torch.as_tensor(lowest).to(estimate), torch.as_tensor(highest).to(estimate))

    return clipped
