"""The seams of the library, as types.

Images are clean and in model range (about zero mean, deviation 0.5 per channel); a noisy image is `images + sigma * noise`;
sigma is the deviation of that noise. Everything above this module speaks in these words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "batch channel row column"]
Sigmas = Float[Tensor, "batch"] | Float[Tensor, ""]
Labels = Int[Tensor, "batch"]

Denoise = Callable[[Images, Sigmas], Images]
"""The seam: noisy images and their sigma in, the estimate of the clean images out. Labels are bound before."""

LabelledDenoise = Callable[[Images, Sigmas, Labels | None], Images]
"""A denoiser that is given the labels with the images; None: no class."""

Noise = Callable[[], Images]
"""Fresh standard normal images, each drawn from its own image's generator."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a step's images.

    `labels` are classes in [0, num_classes], where num_classes says "no class". `seeds` hold one 63-bit seed per image, a
    function of (run seed, step, position in the global batch); `seed` is the same on every process: all randomness of a step
    comes from them.
    """

    images: Images
    labels: Labels
    seeds: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Views:
    """A batch for self-supervision: the clean crop and two strong augmentations of each image [batch, channel, row, column]."""

    images: Images
    first: Images
    second: Images
    seeds: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Losses:
    """What an objective returns: the scalar to minimise, and named scalars worth logging (detached)."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor] = field(default_factory=dict)


Objective = Callable[[nn.Module, nn.Module, Batch | Views, int], Losses]
"""(student, average, batch, step) -> Losses."""
