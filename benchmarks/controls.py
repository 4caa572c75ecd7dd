"""Controls that every fitted start is compared with: noise alone, and the training images themselves.

*Naive* is the cold start at any sigma; with the variance of the data, at the level that just hides them, it is the best one.
*Empirical* memorises: its samples are training images with noise on them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.noise import expand
from pixelpath.randomness import Streams, normal
from pixelpath.starts.start import Fitted, Rows, as_images, as_rows, by_sigma, choose, level, no_density, part_weights
from pixelpath.types import Images, Labels


@dataclass(frozen=True)
class Naive:
    """N(0, (sigma^2 + data_std^2) I), the cold start, at any sigma: right where sigma dwarfs the data, a negative control below.

    Its distance from the noised data is about tr((C - data_std^2 I)^2) / (4 sigma^4) nats, C being the second moment of the data.
    """

    shape: tuple[int, int, int]
    data_std: float = 0.0

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """sqrt(sigma^2 + data_std^2) e; the label changes nothing."""
        return math.hypot(level(sigma), self.data_std) * normal(streams, self.shape).cpu()

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """-(|x|^2 / v + d ln(2 pi v)) / 2 with v = sigma^2 + data_std^2; ValueError where v is 0."""
        variance = level(sigma) ** 2 + self.data_std**2
        if variance == 0:
            raise no_density()
        rows = as_rows(images, self.shape)
        return (-(rows**2 / variance + math.log(2 * math.pi * variance)).sum(1) / 2).to(images)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """data_std^2 / v of the image: that of Gaussian images, 0 where the clean image is always 0."""
        as_rows(noisy, self.shape)
        return noisy * expand(self.data_std**2 / (self.data_std**2 + sigma**2), noisy)


@dataclass(frozen=True, eq=False)
class Empirical:
    """The mean of N(image, sigma^2 I) over all given images, of the label's class where there are classes.

    It is the most that a training set says of its own noised distribution, and it memorises: for diagnostics. Raises ValueError
    without `allow_memorising`, or for classes without a label for each image.
    """

    images: Fitted
    labels: Int[Tensor, "image"] | None = None
    num_classes: int = 0
    allow_memorising: bool = False

    def __post_init__(self) -> None:
        if not self.allow_memorising:
            raise ValueError(
                "An empirical start gives back the images it is made of: set allow_memorising=True for diagnostics, "
                "or fit a density such as fit_gaussian(images) to sample from."
            )
        if self.num_classes and (self.labels is None or len(self.labels) != len(self.images)):
            raise ValueError(f"{self.num_classes} classes need one label for each of {len(self.images)} images: give them.")

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """One of the images, all equally likely, plus sigma e."""
        chosen = choose(streams, self._weights(labels, len(streams)))
        return self.images.cpu()[chosen].float() + level(sigma) * normal(streams, self.images.shape[1:]).cpu()

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the mean of the Gaussian densities; ValueError at sigma 0."""
        if level(sigma) == 0:
            raise no_density()
        rows, weights = as_rows(images, self.images.shape[1:]), self._weights(labels, len(images))
        volume = rows.shape[1] * math.log(2 * math.pi * sigma**2) / 2
        return ((self._exponents(rows, sigma) + weights).logsumexp(1) - volume).to(images)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """The images averaged with weights exp(-|noisy - image|^2 / (2 sigma^2))."""
        shape, weights = self.images.shape[1:], self._weights(labels, len(noisy))

        def estimate(rows: Rows, value: float, places: Int[Tensor, "chosen"]) -> Rows:
            return (self._exponents(rows, value) + weights[places]).softmax(1) @ self._rows()

        return as_images(by_sigma(as_rows(noisy, shape), sigma, estimate), shape, noisy)

    def _rows(self) -> Float[Tensor, "image value"]:
        return self.images.flatten(1).double().cpu()

    def _weights(self, labels: Labels | None, batch: int) -> Float[Tensor, "batch image"]:
        count = len(self.images)
        known = self.labels if self.num_classes and self.labels is not None else torch.zeros(count, dtype=torch.int64)
        return part_weights(labels, batch, known.cpu(), torch.ones(count, dtype=torch.float64), self.num_classes)

    def _exponents(self, rows: Rows, sigma: float) -> Float[Tensor, "batch image"]:
        """-|row - image|^2 / (2 sigma^2), computed about the images' mean, so that no digits cancel."""
        own = self._rows()
        own, rows = own - own.mean(0), rows - own.mean(0)
        return (rows @ own.T - (rows**2).sum(1)[:, None] / 2 - (own**2).sum(1) / 2) / sigma**2
