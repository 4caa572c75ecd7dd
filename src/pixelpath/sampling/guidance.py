"""Guidance: push an estimate away from that of a weaker or unconditional reference."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.types import Denoise, Images


def guide(denoise: Denoise, reference: Denoise, guidance: float, interval: tuple[float, float] = (0.0, math.inf)) -> Denoise:
    """reference + guidance (estimate - reference) where interval[0] < sigma <= interval[1], the plain estimate elsewhere.

    A reference without a condition gives classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), a weaker model gives
    autoguidance (Karras et al. 2024, arXiv 2406.02507); the interval is that of Kynkaanniemi et al. 2024 (arXiv 2404.07724).
    Guidance 1 changes nothing and costs nothing. Sigma must be one number for the batch ([]), as samplers give it. Raises
    UserError unless interval[0] < interval[1].
    """
    check_interval(*interval)
    if guidance == 1:
        return denoise

    def guided(noisy: Images, sigma: Tensor) -> Images:
        estimate = denoise(noisy, sigma)
        if not interval[0] < float(sigma) <= interval[1]:
            return estimate
        return torch.lerp(reference(noisy, sigma), estimate, guidance)

    return guided


def check_interval(low: float, high: float) -> None:
    """UserError unless low < high."""
    if not low < high:
        raise UserError(f"`guidance_interval` takes the lower sigma first, got {low} and {high}.", "guidance_interval")
