"""A start and the sigma to begin at, as a sampling run takes it.

*Expected energies* are the residual energies (sampling/checks.py) of held-out images noised to that sigma, by the denoiser that
the start was chosen for. Start samples must have the same, or they were made for another sigma or another denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, seed_of
from pixelpath.sampling.checks import Energies, check_finite, check_residual, residual_energy
from pixelpath.starts.start import Start
from pixelpath.types import Images, LabelledDenoise, Labels

SPREAD = 0.02  # standard error wanted of a mean residual energy; it is sqrt(2 / d) for one image of d values of pure noise
FEWEST, MOST = 64, 4096  # images of a check
CHECK = 2  # second part of the keys of their seeds
REMEDY = "fit the start again on finite images, in float64 or with more regularisation, or choose another family"


@dataclass(frozen=True, eq=False)
class WarmStart:
    """Sampling begins with draws of `start` at `sigma` (std of the noise, in model range, shifted).

    `expected` are the expected energies, None where they are not known, and `labels` the classes of the images that have them,
    None without classes. Raises UserError unless sigma is finite and above 0, and for labels of other images.
    """

    start: Start
    sigma: float
    expected: Energies | None = None
    labels: Int[Tensor, "label"] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise UserError(f"A warm start needs a finite sigma above 0 to begin at, got {self.sigma}: choose one.")
        if self.labels is not None and (self.expected is None or len(self.labels) != len(self.expected)):
            raise UserError(
                f"Expected energies need a class for each image or none, got {len(self.labels)} classes: give as many."
            )

    def draw(self, streams: Streams, shape: Sequence[int] | None = None, labels: Labels | None = None) -> Images:
        """One noisy image per stream at sigma, float32 on the CPU: `draw(Streams(range(64)))`.

        Raises UserError for samples that are not finite or, where it is given, not of the `shape` [channel, row, column].
        """
        drawn = self.start.sample(streams, self.sigma, None if labels is None else labels.cpu())
        if shape is not None and tuple(drawn.shape[1:]) != tuple(shape):
            raise UserError(
                f"The start makes images of shape {list(drawn.shape[1:])} and the denoiser takes {list(shape)}: fit a start to "
                "the data of this model."
            )
        check_finite(drawn, "start samples", REMEDY)
        return drawn

    def labels_for(self, count: int) -> Labels | None:
        """Classes for `count` samples, as frequent as among the images of the expected energies; None without classes."""
        return None if self.labels is None else self.labels[torch.arange(count) % len(self.labels)]

    def check(self, denoise: LabelledDenoise, count: int, device: torch.device | str = "cpu") -> float:
        """The residual energy of `count` start samples over the expected one: about 1; UserError if they are a tenth apart.

        `denoise(noisy, sigma, labels)` works on `device`. The samples are of `labels_for(count)`, from seeds that no user
        gives. Raises UserError if the expected energies are not known.
        """
        if self.expected is None:
            raise UserError("The expected energies of this start are not known: give those of held-out images noised to sigma.")
        labels = self.labels_for(count)
        drawn = self.draw(Streams(seed_of(index, CHECK) for index in range(count)), labels=labels).to(device)
        own = None if labels is None else labels.to(device)
        found = residual_energy(lambda noisy, sigma: denoise(noisy, sigma, own), drawn, self.sigma)
        return check_residual(found, self.expected, self.sigma)


def check_count(values: int) -> int:
    """How many images of so many values tell a mean residual energy to about 2 %."""
    return min(MOST, max(FEWEST, math.ceil(4 / (values * SPREAD**2))))
