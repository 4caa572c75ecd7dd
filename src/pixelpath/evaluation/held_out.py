"""How well a denoiser does on images that training did not see, sigma by sigma.

The noise of an image is a function of its seed alone, so it is the same at every sigma and for every model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal
from pixelpath.types import ConditionalDenoise, Conditioning, Images


@dataclass(frozen=True)
class HeldOutRow:
    """The mean squared error per value at one sigma, its standard error over images, and their count."""

    sigma: float
    loss: float
    standard_error: float
    count: int


@torch.no_grad()
def held_out_loss(
    denoise: ConditionalDenoise,
    images: Images,
    labels: Conditioning | None,
    sigmas: Iterable[float],
    seeds: Sequence[int],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    valid: Bool[Tensor, "batch channel row column"] | None = None,
) -> list[HeldOutRow]:
    """mean |D(x + sigma e, sigma) - x|^2 over held-out images x [batch, channel, row, column] (model range), for each sigma.

    `denoise(noisy, sigma, labels)` works on `device` and gets sigma [batch]; `seeds` hold one seed per image; the mean is over
    `valid` values (None: all). Raises UserError if there are fewer than two images, or not as many seeds as images.
    """
    if len(images) < 2 or len(seeds) != len(images):
        raise UserError(
            f"The held-out loss needs at least 2 images and a seed for each, got {len(images)} images and {len(seeds)} seeds: "
            "hold out a larger share."
        )
    sigmas = list(sigmas)
    errors = []
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        clean = images[part].to(device)
        drawn = normal(Streams(seeds[part]), clean.shape[1:]).to(clean)  # drawn on the CPU, so equal for every device
        chosen = None if labels is None else labels[part].to(device)
        known = None if valid is None else valid[part]
        errors.append(torch.stack([_errors(denoise, clean, drawn, chosen, sigma, known) for sigma in sigmas]))
    together = torch.cat(errors, dim=1)
    if valid is not None:
        together = together / valid.double().mean()
    wide = together.std(1) / len(images) ** 0.5
    return [HeldOutRow(s, float(m), float(e), len(images)) for s, m, e in zip(sigmas, together.mean(1), wide, strict=True)]


def _errors(
    denoise: ConditionalDenoise, clean: Images, drawn: Images, labels: Conditioning | None, sigma: float, known: Tensor | None
) -> Float[Tensor, "batch"]:
    levels = clean.new_full((len(clean),), sigma)
    estimate = denoise(clean + sigma * drawn, levels, labels)
    errors = (estimate - clean).cpu().double().square()
    return (errors if known is None else errors * known).flatten(1).mean(1)
