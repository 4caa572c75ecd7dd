"""The seams of the library, as types.

Images are clean and in model range (about zero mean, deviation 0.5 per channel); a noisy image is `images + sigma * noise`;
sigma is the deviation of that noise. Everything above this module speaks in these words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

Images = Float[Tensor, "batch channel row column"]
Sigmas = Float[Tensor, "batch"] | Float[Tensor, ""]
Labels = Int[Tensor, "batch"]

Denoise = Callable[[Images, Sigmas], Images]
"""The seam: noisy images and their sigma in, the estimate of the clean images out. Labels are bound before."""


@dataclass(frozen=True)
class Condition:
    """What is asked of every image of a batch: its class, and perhaps a vector of numbers, and images beside it (masks, maps).

    `vector` has about mean 0 and deviation 1 per number (categories and tags are 0 or 1); `beside` is in model range and has the
    images' rows and columns.
    """

    labels: Labels
    vector: Float[Tensor, "batch number"] | None = None
    cond_image: Float[Tensor, "batch other row column"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | Tensor) -> Condition:
        vector, cond_image = (None if each is None else each[part] for each in (self.vector, self.cond_image))
        return Condition(self.labels[part], vector, cond_image)

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device."""
        vector, cond_image = (None if each is None else each.to(device) for each in (self.vector, self.cond_image))
        return Condition(self.labels.to(device), vector, cond_image)


Conditioning = Labels | Condition
"""Classes alone, or classes and all else that images can be asked for."""

LabelledDenoise = Callable[[Images, Sigmas, Labels | None], Images]
"""A denoiser that is given the labels with the images; None: no class."""

ConditionalDenoise = Callable[[Images, Sigmas, Conditioning | None], Images]
"""A denoiser that is given with the images all that is asked of them; None: nothing."""


def classes_of(condition: Conditioning) -> Labels:
    """The classes alone."""
    return condition.labels if isinstance(condition, Condition) else condition


Noise = Callable[[], Images]
"""Fresh standard normal images, each drawn from its own image's generator."""


@dataclass(frozen=True)
class Batch:
    """One process's share of a step's images.

    `labels` are classes in [0, num_classes], where num_classes says "no class". `seeds` hold one 63-bit seed per image, a
    function of (run seed, step, position in the global batch); `seed` is the same on every process: all randomness of a step
    comes from them. `measured` is False where a pixel was not measured: its value is 0 and counts in no loss; None: all were.
    """

    images: Images
    labels: Conditioning
    seeds: tuple[int, ...]
    seed: int
    valid: Bool[Tensor, "batch channel row column"] | None = None

    def known(self, estimate: Images) -> Images:
        """The estimate, and the image itself where nothing was measured, so that no loss and no gradient comes from there."""
        return estimate if self.valid is None else torch.where(self.valid, estimate, self.images.to(estimate))

    def share(self) -> Float[Tensor, "batch"] | float:
        """The share of every image's values that were measured, at least one value's."""
        if self.valid is None:
            return 1.0
        return self.valid.float().mean((1, 2, 3)).clamp_min(1 / self.valid[0].numel())


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
