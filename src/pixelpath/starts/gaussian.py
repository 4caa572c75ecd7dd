"""Gaussians with the mean and covariance of the data: the default start, and the control of every other.

Each covariance is U diag(l) U^T + diag(v): orthonormal directions U with *spread* l, and a *remainder* v of every value. Noise
of std sigma adds sigma^2 to v, so the fit to clean images holds at every sigma.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, permutation
from pixelpath.starts.start import Fitted, Mixture, Rows, as_images, by_class, level, no_density, to_rows
from pixelpath.types import Images, Labels

CHUNK = 2048  # images taken to float64 at a time
SEARCHED = 4096  # images in which principal directions are looked for; moments along them are those of all images
WIDEST = 1024  # values up to which a full covariance takes seconds


@dataclass(frozen=True)
class Full:
    """Every pair of values has its own covariance; needs more images than values."""


@dataclass(frozen=True)
class Diagonal:
    """Values vary independently, each with its own variance."""


@dataclass(frozen=True)
class LowRank:
    """`rank` principal directions, found by a randomised SVD that is a function of `seed`, and the rest of each value's
    variance.

    Halko, Martinsson and Tropp 2011 ("Finding structure with randomness", algorithm 4.4). Raises UserError if rank < 1.
    """

    rank: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"A low-rank covariance needs a rank of at least 1, got {self.rank}: Diagonal() has none.")


Form = Full | Diagonal | LowRank


def form_for(count: int, width: int) -> Form:
    """The form that `count` images (of the smallest class) of `width` values support: full where they fix it, else low rank."""
    if width <= WIDEST and count >= 2 * width:
        return Full()
    rank = min(64, count // 4, width)
    return LowRank(rank) if rank else Diagonal()


@dataclass(frozen=True)
class Normal:
    """N(mean, S (I + P diag(m) P^T) S), S = diag(scale) holding remainder and noise, P orthonormal `axes`, m their `excess`.

    `scale` is [value], or [1] where it is the same for every value. A Part at `sigma`.
    """

    mean: Float[Tensor, "value"]
    scale: Float[Tensor, "_"]
    axes: Float[Tensor, "value rank"]
    excess: Float[Tensor, "rank"]
    sigma: float

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]:
        """-(z . (I + P m P^T)^-1 z + sum ln(1 + m) + 2 sum ln scale + d ln 2 pi) / 2 of z = (rows - mean) / scale."""
        z = (rows - self.mean) / self.scale
        width = rows.shape[1]
        volume = self.excess.log1p().sum() + 2 * self.scale.log().expand(width).sum() + width * math.log(2 * math.pi)
        return -((z * self._solved(z)).sum(1) + volume) / 2

    def denoise(self, rows: Rows) -> Rows:
        """rows - sigma^2 covariance^-1 (rows - mean)."""
        return rows - self.sigma**2 * self._solved((rows - self.mean) / self.scale) / self.scale

    def _solved(self, z: Rows) -> Rows:
        return z - (z @ self.axes * (self.excess / (1 + self.excess))) @ self.axes.T


@dataclass(frozen=True, eq=False)
class MomentGaussian(Mixture):
    """The Gaussian N(mean, U diag(spread) U^T + diag(remainder) + sigma^2 I) with the moments of the data, one for each class.

    `remainder` is [part, value], or [part, 1] where it is the same for every value. Tensors are float64.
    """

    family = "gaussian"
    mean: Float[Tensor, "part value"]
    basis: Float[Tensor, "part value rank"]
    spread: Float[Tensor, "part rank"]
    remainder: Float[Tensor, "part _"]

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """mean + U sqrt(spread) e1 + sqrt(remainder + sigma^2) e2, one float32 image per stream."""
        parts = self.chosen(streams, labels)
        along, apart = (normal(streams, (size,)).double().cpu() for size in (self.spread.shape[1], self.mean.shape[1]))
        rows = (self.remainder[parts] + level(sigma) ** 2).sqrt() * apart
        for part in parts.unique().tolist():
            inside = parts == part
            rows[inside] += self.mean[part] + (along[inside] * self.spread[part].sqrt()) @ self.basis[part].T
        return as_images(rows, self.shape)

    def part(self, number: int, sigma: float) -> Normal:
        """The Gaussian of one part at one sigma."""
        scale = (self.remainder[number] + sigma**2).sqrt()
        basis, spread = self.basis[number], self.spread[number]
        if not (scale > 0).all():
            raise no_density()
        if len(scale) == 1 or not len(spread):
            axes, excess = basis, spread / scale**2 if len(spread) else spread
        else:
            axes, std, _ = torch.linalg.svd(basis * spread.sqrt() / scale[:, None], full_matrices=False)
            excess = std**2
        return Normal(self.mean[number], scale, axes, excess, sigma)


def fit_gaussian(
    images: Fitted, labels: Int[Tensor, "image"] | None = None, num_classes: int = 0, form: Form | None = None
) -> MomentGaussian:
    """The Gaussian of the images' mean and covariance, of each class where `labels` and `num_classes` > 0 are given.

    `images` are clean and in model range. `form` is Full(), Diagonal() or LowRank(rank); None takes `form_for`. Variances
    divide by count - 1. A low-rank Gaussian keeps the variance of every value, and the covariance along its directions. Raises
    UserError if a class has too few images for the form, for images that are not finite, or for labels that do not fit.
    """
    groups, rows = by_class(images, labels, num_classes), to_rows(images)
    form = form or form_for(min(map(len, groups.places)), rows.shape[1])
    fitted = [_moments(rows[places] if num_classes else rows, form, named) for named, places in groups.named()]
    mean, basis, spread, remainder = (torch.stack(each) for each in zip(*fitted, strict=True))
    return MomentGaussian(**groups.parts(), mean=mean, basis=basis, spread=spread, remainder=remainder)


def noise_alone(images: Fitted) -> MomentGaussian:
    """N(0, v I), v the mean square of the images' values: noised to sigma, the start of cold sampling that adds it to sigma^2."""
    groups, width = by_class(images, None, 0), images[0].numel()
    variance = to_rows(images).double().square().mean().view(1, 1)
    empty = variance.new_zeros(1, 0)
    return MomentGaussian(
        **groups.parts(), mean=variance.new_zeros(1, width), basis=empty.new_zeros(1, width, 0), spread=empty, remainder=variance
    )


def _moments(rows: Rows, form: Form, named: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean [value], basis [value, rank], spread [rank] and remainder [value] or [1] of one class."""
    count, width = rows.shape
    mean, variance = mean_and_variance(rows)
    match form:
        case Diagonal():
            return mean, mean.new_zeros(width, 0), mean.new_zeros(0), variance
        case Full():
            if count <= width:
                raise UserError(
                    f"A full covariance of {width} values is singular unless fitted to more than {width} images, got "
                    f"{count}{named}: fit the form LowRank({max(1, min(64, count // 4))})."
                )
            spread, basis = torch.linalg.eigh(scatter(rows, mean) / (count - 1))
            spread = spread.clamp(min=0)
            # What is common to all directions is the remainder: the same covariance, and a density at sigma 0 where it has one.
            return mean, basis, spread - spread[0], spread[:1] * (spread[0] > 1e-13 * spread[-1])
        case LowRank(rank):
            if rank >= count or rank > width:
                raise UserError(
                    f"Rank {rank} needs more than {rank} images and at least {rank} values, got {count} images{named} of {width} "
                    f"values: choose a rank of at most {min(count - 1, width)}."
                )
            basis, spread = principal(rows, mean, rank, form.seed)
            return mean, basis, spread, (variance - basis**2 @ spread).clamp(min=0)


def mean_and_variance(rows: Float[Tensor, "image value"]) -> tuple[Float[Tensor, "value"], Float[Tensor, "value"]]:
    """The mean and the unbiased variance of every value, in float64, a chunk at a time."""
    mean = sum(part.double().sum(0) for part in rows.split(CHUNK)) / len(rows)
    mean = torch.as_tensor(mean)
    total = sum(part.square().sum(0) for part in _centred(rows, mean))
    return mean, torch.as_tensor(total) / (len(rows) - 1)


def scatter(
    rows: Float[Tensor, "image value"], mean: Float[Tensor, "value"], basis: Float[Tensor, "value rank"] | None = None
) -> Float[Tensor, "rank rank"]:
    """The sum over rows of c c^T, c being the centred row or, with a basis, its coordinates; in float64."""
    size = len(mean) if basis is None else basis.shape[1]
    total = torch.zeros(size, size, dtype=torch.float64)
    for part in _centred(rows, mean):
        # Coordinates are sums of many values: the precision of the data is enough for them, and twice as fast.
        seen = part if basis is None else (part.to(rows.dtype) @ basis.to(rows.dtype)).double()
        total += seen.T @ seen
    return total


def principal(
    rows: Float[Tensor, "image value"], mean: Float[Tensor, "value"], rank: int, seed: int
) -> tuple[Float[Tensor, "value rank"], Float[Tensor, "rank"]]:
    """Orthonormal principal directions, widest first, and the unbiased variances of all rows along them.

    The directions are those of a randomised SVD of at most SEARCHED rows, drawn by `seed`.
    """
    from sklearn.utils.extmath import randomized_svd  # loaded only where a start is fitted

    searched = rows if len(rows) <= SEARCHED else rows[permutation(Streams([seed]), len(rows))[:SEARCHED]]
    centred = (searched - mean.to(rows.dtype)).numpy()
    found = randomized_svd(centred, rank, n_oversamples=16, random_state=seed % 2**32)[2]
    basis = torch.linalg.qr(torch.from_numpy(found.T.copy()).double()).Q
    spread, turn = torch.linalg.eigh(scatter(rows, mean, basis) / (len(rows) - 1))
    return (basis @ turn).flip(1), spread.clamp(min=0).flip(0)


def _centred(rows: Float[Tensor, "image value"], mean: Float[Tensor, "value"]) -> Iterator[Tensor]:
    return (part.double() - mean for part in rows.split(CHUNK))
