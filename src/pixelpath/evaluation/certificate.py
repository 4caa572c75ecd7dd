"""How far densities are from the noised data at every sigma, by a trained denoiser and held-out images alone.

The *divergence* at sigma is KL(p || q) in nats, of the noised data p from a density q noised as much. It is what a sampling run
loses by beginning there. It has three estimators: where the denoiser errs, *direct* is high and *excess* is low. *Cross* is
their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile

import torch
from jaxtyping import Float, Int
from scipy.interpolate import CubicSpline
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.log import followed
from pixelpath.randomness import seed_of
from pixelpath.sampling.checks import check_finite, noised
from pixelpath.starts.start import Density
from pixelpath.types import Images, LabelledDenoise, Labels

FEWEST = 4  # levels, at least, that a spline goes through
LAST = 4  # power of sigma with which the integrand falls above the highest level, for densities of the data's mean
FIRST_HUNDREDTH = 0.5  # share of a divergence, at most, that may come from one image in a hundred
MARGIN = 5.0  # a divergence that few images decide must be so many times below the budget


@dataclass(frozen=True)
class Divergence:
    """KL(p || q) at one sigma in nats, by each estimator, with its standard error over held-out images.

    `top` is the share of `cross`, in absolute values, that comes from the one image in a hundred with the most.
    """

    sigma: float
    direct: float
    excess: float
    cross: float
    direct_error: float
    excess_error: float
    cross_error: float
    top: float

    @property
    def dominated(self) -> bool:
        """Whether so few images decide the number that it and its error are unreliable."""
        return self.top > FIRST_HUNDREDTH

    def keeps_to(self, budget: float) -> bool:
        """Whether the cross estimate is at most `budget` nats, and its error at most half of that.

        If few images decide it, its size plus 3 errors must be at most a fifth of the budget.
        """
        if self.dominated:
            return abs(self.cross) + 3 * self.cross_error <= budget / MARGIN
        return self.cross <= budget and 2 * self.cross_error <= budget

    def sentence(self) -> str:
        """The number in words, with its reservation."""
        found = (
            f"{self.cross:.3g} +- {self.cross_error:.1g} nats at sigma {self.sigma:.3g} (between {self.excess:.3g} and "
            f"{self.direct:.3g})"
        )
        return f"{found}, {self.top:.0%} of it from one image in a hundred: too few decide it" if self.dominated else found


@dataclass(frozen=True)
class Certificate:
    """The divergence of one density at every level; levels fall."""

    rows: tuple[Divergence, ...]

    def within(self, budget: float) -> Divergence | None:
        """The last row of those, from the highest level down, that all keep to `budget` nats."""
        kept = list(takewhile(lambda row: row.keeps_to(budget), self.rows))
        return kept[-1] if kept else None

    def sigma_for(self, budget: float) -> float | None:
        """The smallest sigma down to which the cross estimate keeps to `budget` nats; None if even the highest level does not.

        Between the last level that keeps to it and the next one, ln KL is taken as linear in ln sigma.
        """
        above = self.within(budget)
        if above is None:
            return None
        place = self.rows.index(above)
        if place + 1 == len(self.rows):
            return above.sigma
        below = self.rows[place + 1]
        if below.dominated or not 0 < above.cross < budget < below.cross:  # below may fail by its error alone
            return above.sigma
        share = math.log(budget / above.cross) / math.log(below.cross / above.cross)
        return above.sigma * (below.sigma / above.sigma) ** share


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
    `repeats` noisy versions of every held-out image, as in `certify`.
    """
    rows = []
    for number, row in enumerate(followed(base.rows, "certificate of a flow", len(base.rows))):
        seeds = [seed_of(seed, number, place) for place in range(repeats * len(images))]
        noisy = noised(images.double().cpu().repeat(repeats, 1, 1, 1), row.sigma, seeds)
        own = None if labels is None else labels.cpu().repeat(repeats)
        gaps = (density.log_prob(noisy, row.sigma, own) - other.log_prob(noisy, row.sigma, own)).view(repeats, -1).mean(0)
        found = _row(row.sigma, gaps, gaps, gaps)
        top = max(row.top, found.top)
        more, error = found.cross, found.cross_error
        values = row.direct + more, row.excess + more, row.cross + more
        errors = tuple(math.hypot(each, error) for each in (row.direct_error, row.excess_error, row.cross_error))
        rows.append(Divergence(row.sigma, values[0], values[1], values[2], errors[0], errors[1], errors[2], top))
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
    direct, excess = (counted @ torch.stack(each) for each in (part.direct, part.excess))  # [level, image]
    cross = (direct + excess) / 2
    return Certificate(tuple(_row(*each) for each in zip(levels, direct, excess, cross, strict=True)))


def _row(sigma: float, direct: Tensor, excess: Tensor, cross: Tensor) -> Divergence:
    found = [float(each.mean()) for each in (direct, excess, cross)]
    errors = [float(each.std() / len(each) ** 0.5) for each in (direct, excess, cross)]
    sizes = cross.abs().sort(descending=True).values
    top = float(sizes[: max(1, len(sizes) // 100)].sum() / sizes.sum().clamp(min=1e-300))
    return Divergence(sigma, found[0], found[1], found[2], errors[0], errors[1], errors[2], top)


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
