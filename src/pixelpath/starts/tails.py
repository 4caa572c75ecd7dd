"""Starts with the tails of the data where a fitted density has others: a Pareto tail, and a density of logarithms.

The *radius* of an image is its distance from a centre. Its *excess* over a threshold has a generalised Pareto distribution
P(excess > y) = (1 + xi y / scale)^(-1 / xi). The *heaviness* xi is 1 / (tail index), 0 for an exponential tail.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, seed_of, uniform
from pixelpath.sampling.checks import check_finite
from pixelpath.starts.start import ByClass, Density, Fitted, Rows, Start, Stored, as_images, as_rows, by_class, level
from pixelpath.types import Images, Labels

LEAST = 20  # images beyond a threshold, at least, to fit a tail to
TRIED = 2000  # draws by which a fit estimates how often the bulk is beyond the threshold
ROUNDS = 10_000  # of redrawing, at most; a fit checks that far fewer are needed


@dataclass(frozen=True)
class Pareto:
    """A generalised Pareto distribution, with the 95 % confidence interval of its heaviness, of `count` excesses."""

    heaviness: float
    scale: float
    interval: tuple[float, float]
    count: int


def fit_pareto(excesses: Float[Tensor, "excess"]) -> Pareto:
    """The generalised Pareto distribution of greatest likelihood (Pickands 1975).

    The interval is that of the asymptotic variance (1 + xi)^2 / count, which holds for xi > -1/2 (Smith 1987, "Estimating tails
    of probability distributions"). Raises UserError for fewer than 20 excesses, one that is not above 0, or xi <= -1/2.
    """
    from scipy.stats import genpareto

    count = len(excesses)
    if count < LEAST or not (excesses > 0).all() or not excesses.isfinite().all():
        raise UserError(
            f"A tail needs at least {LEAST} images beyond its threshold, all finite, got {count}: fit it to more images, or "
            "beyond a lower radius."
        )
    unit = float(excesses.mean())  # the optimiser's tolerance is absolute
    heaviness, _, scale = (float(value) for value in genpareto.fit((excesses / unit).double().cpu().numpy(), floc=0))
    if heaviness <= -0.5:
        raise UserError(
            f"The radius of the data ends at a bound (heaviness {heaviness:.2f}): there is no tail to add, use the bulk alone."
        )
    width = 1.96 * (1 + heaviness) / math.sqrt(count)
    return Pareto(heaviness, scale * unit, (heaviness - width, heaviness + width), count)


@dataclass(frozen=True, eq=False)
class ParetoTail(ByClass):
    """A *bulk* start up to a threshold radius, and beyond it the bulk's directions with generalised Pareto radii of the data.

    With probability 1 - `beyond` a clean image is a draw from the bulk that lies within the threshold. Otherwise it is the
    centre plus (threshold + excess) times the direction of a draw that lies outside. Every class has its own centre, threshold
    and tail. Noise is added to the clean sample. The noised distribution has no density or denoiser in closed form, so this is
    a Start and no Density. Tails of excesses: Pickands 1975, Davison and Smith 1990.
    """

    family = "pareto-tail"
    bulk: Start
    beyond: float
    centre: Float[Tensor, "part value"]
    threshold: Float[Tensor, "part"]
    scale: Float[Tensor, "part"]
    heaviness: Float[Tensor, "part"]
    lower: Float[Tensor, "part"]
    upper: Float[Tensor, "part"]
    """`lower` and `upper` are the 95 % confidence interval of the heaviness."""

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """A clean sample plus sigma e, one float32 image per stream.

        Raises UserError also for a bulk that leaves no draws on one side of the threshold.
        """
        parts = self.chosen(streams, labels)
        outside, survival = uniform(streams, (2,), torch.float64).cpu().unbind(1)
        outside = outside < self.beyond
        away = self._drawn(streams, parts, outside)
        scale, heaviness = self.scale[parts], self.heaviness[parts]
        exponent = -heaviness * survival.log()
        excess = scale * torch.where(exponent.abs() < 1e-12, -survival.log(), exponent.expm1() / heaviness)
        radius = torch.where(outside, self.threshold[parts] + excess, away.norm(dim=1))
        clean = self.centre[parts] + away * (radius / away.norm(dim=1).clamp(min=1e-300))[:, None]
        noise = normal(streams, (clean.shape[1],)).double().cpu()
        return _finite(as_images(clean + level(sigma) * noise, self.shape))

    def _drawn(self, streams: Streams, parts: Int[Tensor, "batch"], outside: Bool[Tensor, "batch"]) -> Rows:
        """Draws from the bulk less the centre, each from its own stream until it lies where it is wanted."""
        found = torch.zeros(len(streams), self.centre.shape[1], dtype=torch.float64)
        left = torch.arange(len(streams))
        for _ in range(ROUNDS):
            labels = self.classes[parts[left]] if self.num_classes else None
            drawn = self.bulk.sample(streams[left], 0.0, labels)
            away = as_rows(_finite(drawn), self.shape) - self.centre[parts[left]]
            fits = (away.norm(dim=1) > self.threshold[parts[left]]) == outside[left]
            found[left[fits]] = away[fits]
            left = left[~fits]
            if not len(left):
                return found
        raise UserError(
            f"The bulk of a Pareto tail gave no draw on the wanted side in {ROUNDS} rounds: fit the tail to this bulk."
        )


def fit_pareto_tail(
    images: Fitted,
    bulk: Start,
    labels: Int[Tensor, "image"] | None = None,
    num_classes: int = 0,
    *,
    beyond: float = 0.05,
    seed: int = 0,
) -> ParetoTail:
    """A tail for a start that was fitted to the bulk of the same clean images, for each class where labels are given.

    The centre is the median image, pixel by pixel. The share `beyond` of images exceeds the threshold, and `fit_pareto`
    describes by how much. Raises UserError for fewer than 20 images beyond it, labels that do not fit, a bounded radius, or a
    bulk so far from the data that under `beyond` / 10, or over half, of its draws are outside.
    """
    if not 0 < beyond <= 0.5:
        raise UserError(f"A Pareto tail holds a share of images in (0, 0.5], got {beyond}: 0.05 is usual.")
    groups = by_class(images, labels, num_classes)
    rows = images.detach().cpu().double().flatten(1)
    centres, thresholds, tails = [], [], []
    for label, (named, places) in zip(groups.labels, groups.named(), strict=True):
        centre = rows[places].median(0).values
        radius = (rows[places] - centre).norm(dim=1)
        threshold = radius.sort().values[len(radius) - 1 - math.floor(beyond * len(radius))]
        tails.append(fit_pareto(radius[radius > threshold] - threshold))
        centres.append(centre)
        thresholds.append(threshold)
        streams = Streams(seed_of(seed, label, index) for index in range(TRIED))
        drawn = bulk.sample(streams, 0.0, torch.full((TRIED,), label) if num_classes else None)
        _check_bulk(drawn, centre, float(threshold), beyond, named)
    numbers = [(tail.scale, tail.heaviness, *tail.interval) for tail in tails]
    described = torch.tensor(numbers, dtype=torch.float64).unbind(1)
    return ParetoTail(
        **groups.parts(),
        bulk=bulk,
        beyond=beyond,
        centre=torch.stack(centres),
        threshold=torch.stack(thresholds),
        **dict(zip(("scale", "heaviness", "lower", "upper"), described, strict=True)),
    )


def _check_bulk(drawn: Images, centre: Tensor, threshold: float, beyond: float, named: str) -> None:
    share = float(((_finite(drawn).double().flatten(1) - centre).norm(dim=1) > threshold).double().mean())
    if not beyond / 10 <= share <= 0.5:
        raise UserError(
            f"The bulk puts {share:.1%} of its draws{named} beyond the radius that {beyond:.1%} of the images exceed: fit "
            "another density to the bulk, such as a mixture, before adding a tail to it."
        )


@dataclass(frozen=True, eq=False)
class SymLog(Stored):
    """A density of images in the coordinates y = sign(x) ln(1 + |x|) of every value, in which heavy tails are light.

    A sample is x = sign(y) (e^|y| - 1) plus noise. Noise is not added in these coordinates, so the noised distribution has no
    density or denoiser in closed form: this is a Start and no Density, and only its samples can be judged. A Gaussian of y
    makes tails as heavy as a log-normal's, which are lighter than any power of the radius. Tails like a power take a density of
    y with exponential tails. A density of y with power tails overflows.
    """

    family = "symlog"
    density: Density

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """A clean sample plus sigma e, one float32 image per stream; UserError where the exponential overflows."""
        drawn = self.density.sample(streams, 0.0, labels).double()
        clean = drawn.sign() * drawn.abs().expm1()
        return _finite((clean + level(sigma) * normal(streams, drawn.shape[1:]).double().cpu()).float())


def symlog(images: Images) -> Images:
    """sign(x) ln(1 + |x|) of every value: what to fit the density of a SymLog to."""
    return images.sign() * images.abs().log1p()


def _finite(images: Images) -> Images:
    check_finite(images, "samples of a start", "its tail overflows, or its fit is broken, so fit another start")
    return images
