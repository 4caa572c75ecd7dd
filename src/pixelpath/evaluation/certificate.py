"""How far densities are from the noised data at every sigma, by a trained denoiser and held-out images alone.

The *divergence* at sigma is KL(p || q) in nats, of the noised data p from a density q noised as much. It is what a sampling run
loses by beginning there. It has three estimators: where the denoiser errs, *direct* is high and *excess* is low. *Cross* is
their mean. Its *limit* is an upper confidence limit: the true divergence lies below it in 95 of 100 repetitions, for errors of
the denoiser that are unrelated to the density.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.interpolate import CubicSpline
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.evaluation.tails import log_spread
from pixelpath.log import followed
from pixelpath.randomness import seed_of
from pixelpath.sampling.checks import check_finite, noised
from pixelpath.starts.start import Density
from pixelpath.types import Images, LabelledDenoise, Labels

FEWEST = 4  # levels, at least, that a spline goes through
LAST = 4  # power of sigma with which the integrand falls above the highest level, for densities of the data's mean
FIRST_HUNDREDTH = 0.5  # share of a divergence, at most, that may come from one image in a hundred
MARGIN = 5.0  # a limit that few images decide must be so many times below the budget
CONFIDENCE = 0.95  # of a limit, one-sided
TOLD = 0.5  # nats that a number of images tell, divided by that number
RESAMPLES = 1000  # of a bootstrap
FARTHEST = 5.0  # times the greatest value, at most, for the mean of those beyond


@dataclass(frozen=True)
class Divergence:
    """KL(p || q) at one sigma in nats, by each estimator, with its standard error over held-out images.

    `limit` is the upper 95 % confidence limit of `cross` (see `upper_limit`), and at least 1/2n nats for n images: no test of n
    images tells laws that are nearer (by Pinsker's inequality their n-fold products have a total variation below 1/2), and what
    rare images beyond those seen would add is of that size. `top` is the share of `cross`, in absolute values, that comes from
    the one image in a hundred with the most.
    """

    sigma: float
    direct: float
    excess: float
    cross: float
    direct_error: float
    excess_error: float
    cross_error: float
    top: float
    limit: float

    @property
    def dominated(self) -> bool:
        """Whether so few images decide the number that its limit is unreliable."""
        return self.top > FIRST_HUNDREDTH

    def keeps_to(self, budget: float) -> bool:
        """Whether the limit is at most `budget` nats, or a fifth of that if few images decide it."""
        return self.limit <= (budget / MARGIN if self.dominated else budget)

    def sentence(self) -> str:
        """The number in words, with its limit and its reservation."""
        found = f"{self.bound()} (estimate {self.cross:.3g}, between {self.excess:.3g} and {self.direct:.3g})"
        return f"{found}, {self.top:.0%} of it from one image in a hundred: too few decide it" if self.dominated else found

    def bound(self) -> str:
        """The limit in words."""
        return f"at most {self.limit:.3g} nats with {CONFIDENCE:.0%} confidence at sigma {self.sigma:.3g}"


@dataclass(frozen=True)
class Certificate:
    """The divergence of one density at every level; levels fall."""

    rows: tuple[Divergence, ...]

    def within(self, budget: float) -> Divergence | None:
        """The last row of those, from the highest level down, that all keep to `budget` nats; None if not even the first does.

        Its divergence exceeds the budget in at most 5 of 100 repetitions, however many rows there are: the first row that truly
        exceeds it is put to the test once, and no row below is looked at unless it passes.
        """
        kept = list(takewhile(lambda row: row.keeps_to(budget), self.rows))
        return kept[-1] if kept else None

    def sigma_for(self, budget: float) -> float | None:
        """The sigma of the row `within` the budget, None without one: never between two rows or below them."""
        row = self.within(budget)
        return None if row is None else row.sigma

    def at(self, sigma: float) -> Divergence | None:
        """The row that bounds the divergence at `sigma`: the highest at or below it, as the divergence falls with noise.

        None if the certificate ends above.
        """
        return next((row for row in self.rows if row.sigma <= sigma * (1 + 1e-9)), None)


@dataclass(eq=False)
class _Parts:
    """Per held-out image and level, |D - D_q|^2 / sigma^2 and (|x - D_q|^2 - |x - D|^2) / sigma^2, each [image]."""

    direct: list[Tensor] = field(default_factory=list)
    excess: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def certify(
    denoise: LabelledDenoise,
    densities: Mapping[str, Density],
    images: Images,
    labels: Int[Tensor, "label"] | None,
    levels: Sequence[float],
    seed: int = 0,
    repeats: int = 1,
    enough: float = math.inf,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> dict[str, Certificate]:
    """The certificate of every density: the integral over ln sigma, from each level up, of E|D(x) - D_q(x)|^2 / sigma^2, x ~
    p_sigma.

    D is `denoise(noisy, sigma, labels)`, on `device`; D_q the density's own exact denoiser; x are `repeats` noisy versions of
    every clean held-out image [image, channel, row, column] (model range) at each of the falling `levels`, by fresh noise. It
    is de Bruijn's identity for two densities. With an error e of D, `direct` = E|D - D_q|^2 has 2 E<e, D - D_q> + E|e|^2 too
    much, `excess` = E|x0 - D_q|^2 - E|x0 - D|^2 has E|e|^2 too little, and their mean `cross` = E<D - D_q, x0 - D_q> has E<e, D
    - D_q> too much, which is 0 for errors unrelated to the density. Levels end at the first at which every density exceeds
    `enough` nats. Above the highest level the integrand is taken to fall like sigma^-4, which adds a fourth of it there. With
    labels, D and densities of classes are conditional, and the divergence is the mean over classes. Raises UserError for fewer
    than 2 images or 4 levels, for levels that do not fall, and for estimates that are not finite.
    """
    _check(images, labels, levels)
    parts = {name: _Parts() for name in densities}
    done: list[float] = []
    for number, sigma in enumerate(followed(levels, "certificate", len(levels))):
        seen = [
            seen
            for repeat in range(repeats)
            for seen in _level(denoise, densities, images, labels, sigma, (seed, number, repeat), batch_size, device)
        ]
        for name, part in parts.items():
            direct, excess = (torch.cat([each[name][kind] for each in seen]) for kind in (0, 1))
            part.direct.append(direct.view(repeats, -1).mean(0))
            part.excess.append(excess.view(repeats, -1).mean(0))
        done.append(sigma)
        if len(done) >= FEWEST and all(_rough(part, done) > enough for part in parts.values()):
            break
    return {name: _certificate(part, done) for name, part in parts.items()}


@torch.no_grad()
def certify_density(
    base: Certificate, density: Density, other: Density, images: Images, labels: Labels | None, seed: int = 0, repeats: int = 1
) -> Certificate:
    """The certificate of `other`, whose densities at two levels need not agree, by that of `density`.

    KL(p || other) = KL(p || density) + E[ln density - ln other]. `base` is the certificate of `density`; the mean is over
    `repeats` noisy versions of every held-out image, as in `certify`. By how much limits exceed their estimates is added up,
    which is the most that two errors, however related, make together.
    """
    rows = []
    for number, row in enumerate(followed(base.rows, "certificate of a flow", len(base.rows))):
        seeds = [seed_of(seed, number, place) for place in range(repeats * len(images))]
        noisy = noised(images.double().cpu().repeat(repeats, 1, 1, 1), row.sigma, seeds)
        own = None if labels is None else labels.cpu().repeat(repeats)
        gaps = (density.log_prob(noisy, row.sigma, own) - other.log_prob(noisy, row.sigma, own)).view(repeats, -1).mean(0)
        (found,) = _rows([row.sigma], gaps[:, None], gaps[:, None])
        top = max(row.top, found.top)
        more, error = found.cross, found.cross_error
        values = [row.direct + more, row.excess + more, row.cross + more]
        errors = [math.hypot(each, error) for each in (row.direct_error, row.excess_error, row.cross_error)]
        limit = max(values[2], 0.0) + (row.limit - max(row.cross, 0.0)) + (found.limit - max(more, 0.0))
        rows.append(Divergence(row.sigma, *_three(values), *_three(errors), top, limit))
    return Certificate(tuple(rows))


def weights(levels: Sequence[float]) -> Float[Tensor, "level level"]:
    """Row j: how much the integrand at each of the falling levels counts in its integral over ln sigma from level j upwards.

    The integrand is taken as a cubic spline of ln sigma, and as falling like sigma^-4 above the highest level.
    """
    places = torch.tensor(list(levels), dtype=torch.float64).log().flip(0).numpy()
    up_to = CubicSpline(places, torch.eye(len(places), dtype=torch.float64).numpy()).antiderivative()
    found = torch.from_numpy(up_to(places[-1]) - up_to(places)).flip(0, 1)
    found[:, 0] += 1 / LAST
    return found


def upper_limit(values: Float[Tensor, "image row"], confidence: float = CONFIDENCE, seed: int = 0) -> Float[Tensor, "row"]:
    """The upper confidence limit of the mean of each column, not below that of normal values, for a mean that cannot be negative.

    By the bootstrap-t (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 12): mean - t s with s the standard
    error and t the 1 - `confidence` quantile of (mean* - mean) / s* over resamples of the rows. For values skewed to the right t
    is far below that of normal values, and the limit farther up. A negative mean counts as 0. One row more is counted, as great
    as what lies `_beyond` all values seen: it has a share of about 1 / (rows + 1), and the mean of skewed values lacks it.
    `benchmarks/coverage.py` measures how often such limits hold.
    """
    values = torch.cat([values, _beyond(values)[None]])
    count = len(values)
    mean, error = values.mean(0), values.std(0) / count**0.5
    chance, found = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // 100):
        drawn = torch.from_numpy(chance.multinomial(count, np.full(count, 1 / count), 100)).double() / count
        means, squares = drawn @ (values - mean), drawn @ (values - mean).square()
        errors = ((squares - means.square()).clamp(min=0) / (count - 1)).sqrt()
        found.append(torch.where(errors > 0, means / errors, torch.zeros_like(means)))
    quantile = torch.cat(found).quantile(1 - confidence, dim=0)
    return mean.clamp(min=0) - quantile.clamp(max=-NormalDist().inv_cdf(confidence)) * error


def _beyond(values: Float[Tensor, "image row"]) -> Float[Tensor, "row"]:
    """The mean of values beyond the greatest one of each column, by a Pareto tail through the greatest twentieth.

    It is index / (index - 1) times the greatest, with Hill's index (see `log_spread`), and at most `FARTHEST`
    times: an index of 1 or less has no mean, and so few values do not tell it from one slightly above.
    """
    tail = values.topk(max(2, len(values) // 20) + 1, dim=0).values
    greatest, least = tail[0], tail[-1]
    factor = torch.where(least > 0, 1 / (1 - log_spread(tail)).clamp(min=1 / FARTHEST), 1.0)
    return torch.where(greatest > 0, greatest * factor, greatest)


def _level(
    denoise: LabelledDenoise,
    densities: Mapping[str, Density],
    images: Images,
    labels: Labels | None,
    sigma: float,
    key: tuple[int, int, int],
    batch_size: int,
    device: torch.device | str,
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """For every batch and density, the direct and excess parts of its images."""
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        clean, chosen = images[part].float().cpu(), None if labels is None else labels[part].cpu()
        noisy = noised(clean, sigma, [seed_of(*key, first + place) for place in range(len(clean))])
        given = noisy.to(device), torch.full((len(clean),), sigma, device=device), None if chosen is None else chosen.to(device)
        estimate = denoise(*given).cpu().double()
        check_finite(estimate, f"estimates of the denoiser at sigma {sigma:g}", "check its weights and its range")
        yield {
            name: _compared(density, noisy.double(), clean.double(), estimate, sigma, chosen)
            for name, density in densities.items()
        }


def _compared(density: Density, noisy: Tensor, clean: Tensor, estimate: Tensor, sigma: float, labels: Labels | None):
    own = density.denoise(noisy, torch.tensor(sigma, dtype=torch.float64), labels)
    check_finite(own, f"estimates of a density at sigma {sigma:g}", "fit it again to finite images")
    apart = estimate - own
    direct = apart.square().flatten(1).sum(1) / sigma**2
    return direct, direct + 2 * ((clean - estimate) * apart).flatten(1).sum(1) / sigma**2


def _rough(part: _Parts, levels: Sequence[float]) -> float:
    """The cross estimate at the last level so far, by trapezoids."""
    values = [float((direct + excess).mean()) / 2 for direct, excess in zip(part.direct, part.excess, strict=True)]
    logs = [math.log(level) for level in levels]
    return sum((a - b) * (f + g) / 2 for (a, b), (f, g) in zip(pairwise(logs), pairwise(values), strict=True))


def _certificate(part: _Parts, levels: Sequence[float]) -> Certificate:
    counted = weights(levels)
    direct, excess = ((counted @ torch.stack(each)).T for each in (part.direct, part.excess))  # [image, level]
    return Certificate(tuple(_rows(levels, direct, excess)))


def _rows(
    levels: Sequence[float], direct: Float[Tensor, "image level"], excess: Float[Tensor, "image level"]
) -> list[Divergence]:
    estimates = torch.stack([direct, excess, (direct + excess) / 2])
    means, errors = estimates.mean(1).T.tolist(), (estimates.std(1) / len(direct) ** 0.5).T.tolist()
    sizes = estimates[2].abs().sort(0, descending=True).values
    tops = (sizes[: max(1, len(sizes) // 100)].sum(0) / sizes.sum(0).clamp(min=1e-300)).tolist()
    limits = upper_limit(estimates[2]).clamp(min=TOLD / len(direct)).tolist()
    each = zip(levels, means, errors, tops, limits, strict=True)
    return [Divergence(sigma, *_three(mean), *_three(error), top, limit) for sigma, mean, error, top, limit in each]


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    direct, excess, cross = values
    return direct, excess, cross


def _check(images: Images, labels: Int[Tensor, "label"] | None, levels: Sequence[float]) -> None:
    if len(images) < 2 or (labels is not None and len(labels) != len(images)):
        raise UserError(
            f"A certificate needs at least 2 held-out images, each with a label or none, got {len(images)} images"
            f"{'' if labels is None else f' and {len(labels)} labels'}: hold out more."
        )
    check_finite(images, "held-out images", "remove them from the data")
    falling = all(above > below > 0 for above, below in pairwise(levels))
    if len(levels) < FEWEST or not falling:
        raise UserError(f"A certificate needs at least {FEWEST} levels that fall and stay above 0, got {list(levels)[:6]}.")
