"""How often the limit of a certificate holds: the true divergence of the start that is chosen, over repetitions.

python -m benchmarks.coverage --repetitions 100
python -m benchmarks.coverage --only Student --levels

Every repetition draws training and held-out images of a law whose denoiser is exact, lets `find_start` choose, and compares the
limit that it states with the true divergence of that start at that sigma. *Truth* is the mean over draws of the noised law p of
ln(p / q) + q / p - 1, which is KL(p || q) with far less variance than that of ln(p / q) alone. With `--levels` densities are not
chosen but given, and the limits of all their levels are counted, those that no search would end at too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor

from benchmarks import targets
from pixelpath.errors import UserError
from pixelpath.evaluation.certificate import certify
from pixelpath.noise import NoiseRange, expand
from pixelpath.randomness import seed_of
from pixelpath.runs.starting.families import FAMILIES, Family, Known, levels_of
from pixelpath.runs.starting.search import find_start
from pixelpath.starts.start import Density
from pixelpath.types import Images, Labels

RANGE = NoiseRange(0.05, 20.0)
FITTED = 20  # repetitions that one given density serves


@dataclass(frozen=True)
class Exponential:
    """`values` independent exponential values of mean 0 and standard deviation `scale`: skewed, with an exponential tail."""

    values: int = 5
    scale: float = 0.5

    def sample(self, count: int, seed: int) -> Images:
        """Clean images [count, 1, 1, values], float64."""
        drawn = torch.empty(count, 1, 1, self.values, dtype=torch.float64)
        return self.scale * (drawn.exponential_(generator=torch.Generator().manual_seed(seed)) - 1)

    def log_prob(self, images: Images, sigma: float) -> Tensor:
        """ln density noised to sigma: of every value that of an exponentially modified normal distribution."""
        away, ratio = (images.flatten(1).double() + self.scale) / sigma, sigma / self.scale
        return (ratio**2 / 2 - away * ratio + torch.special.log_ndtr(away - ratio) - math.log(self.scale)).sum(1)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """The mean of a normal value about noisy - sigma^2 / scale, given that it is above -scale."""
        level = expand(sigma, noisy.double())
        centre = noisy.double() - level**2 / self.scale
        place = (centre + self.scale) / level
        hazard = torch.exp(-(place**2) / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(place))
        return (centre + level * hazard).to(noisy)


@dataclass(frozen=True)
class Law:
    """A law with its exact denoiser, and the families that are compared on it."""

    sample: Callable[[int, int], Images]
    log_prob: Callable[[Images, float], Tensor]
    denoise: Callable[[Images, Tensor, Labels | None], Images]
    families: tuple[str, ...]


def laws() -> dict[str, Law]:
    """A 5-D exponential law, a mixture of 25 Gaussians in the plane, and a Student law of 3 degrees of freedom there."""
    made = Exponential(), targets.modes(), targets.student()
    names = ("exponential, d = 5", "25 modes, d = 2", "Student nu = 3, d = 2")
    families = ("moment", "mixture"), ("moment", "mixture"), ("student", "moment")
    return {name: Law(law.sample, law.log_prob, law.denoise, own) for name, law, own in zip(names, made, families, strict=True)}


def truth(law: Law, density: Density, sigma: float, count: int, seed: int) -> float:
    """KL(noised law || density at sigma) in nats, by whichever of the two means varies less."""
    noise = torch.randn(law.sample(count, seed).shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    noisy = law.sample(count, seed) + sigma * noise
    apart = law.log_prob(noisy, sigma) - density.log_prob(noisy, sigma)
    each = apart + (-apart).exp() - 1
    each = each if each.std() < apart.std() else apart
    return float(each.mean())


@dataclass
class Counts:
    """Of some repetitions: those that chose a start, those whose limit held, and those whose divergence kept to the budget."""

    chosen: int = 0
    held: int = 0
    within: int = 0
    limits: float = 0.0
    truths: float = 0.0


def counted(law: Law, repetitions: range, images: int, points: int, budget: float) -> Counts:
    """One row of the table."""
    found = Counts()
    families: dict[str, Family] = {name: FAMILIES[name] for name in law.families}
    for number in repetitions:
        training, held_out = (law.sample(images, seed_of(number, part) % 2**62).float() for part in (0, 1))
        try:
            search = find_start(law.denoise, RANGE, Known(training, held_out), families, budget, seed=number, points=points)
        except UserError:
            continue
        assert isinstance(search.chosen.start, Density)
        assert search.bound is not None
        true = truth(law, search.chosen.start, search.warm.sigma, 40_000, seed_of(number, 2) % 2**62)
        found.chosen += 1
        found.held += true <= search.bound.limit
        found.within += true <= budget
        found.limits += search.bound.limit
        found.truths += true
    return found


def held_at_levels(law: Law, repetitions: range, images: int, points: int) -> dict[float, list[bool]]:
    """Whether the limits of one density for every 20 repetitions hold, at each fifth level and the lowest one."""
    found: dict[float, list[bool]] = {}
    for fit in range(repetitions.start // FITTED, -(-repetitions.stop // FITTED)):
        training = law.sample(images, seed_of(fit, 3) % 2**62).float()
        known = Known(training, training)
        levels = levels_of(known, RANGE)
        start = FAMILIES[law.families[0]](known, RANGE, fit)
        assert isinstance(start, Density)
        chosen = [*range(0, len(levels) - 1, 5), len(levels) - 1]
        true = {place: truth(law, start, levels[place], 40_000, seed_of(fit, 4) % 2**62) for place in chosen}
        for number in range(max(repetitions.start, fit * FITTED), min(repetitions.stop, (fit + 1) * FITTED)):
            held_out = law.sample(points, seed_of(number, 5) % 2**62).float()
            rows = certify(law.denoise, {"": start}, held_out, None, levels, number)[""].rows
            for place in chosen:
                found.setdefault(levels[place], []).append(true[place] <= rows[place].limit)
    return found


def main(
    repetitions: int = 100,
    images: int = 1000,
    points: int = 500,
    budget: float = 0.02,
    only: str = "",
    first: int = 0,
    levels: bool = False,
) -> None:
    """Print a row for every law.

    Args:
        repetitions: Repetitions of drawing images and choosing a start.
        images: Training images of a repetition, and as many held-out ones.
        points: Noisy images of either half at each level.
        budget: Nats that a start may be from the noised law.
        only: Leave out the laws whose names do not begin so.
        first: Number of the first repetition, to go on where another call ended.
        levels: Count the limits at all levels of given densities instead.
    """
    numbers = range(first, first + repetitions)
    heads = ("law", "starts chosen", "limit holds", "within the budget", "mean limit", "mean truth")
    rows = _rows_of_levels if levels else _rows_of_starts
    heads = ("law", "sigma", "limit holds") if levels else heads
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
    for name, law in laws().items():
        if name.startswith(only):
            for row in rows(law, numbers, images, points, budget):
                sys.stdout.write(f"| {name} | {' | '.join(row)} |\n")
                sys.stdout.flush()


def _rows_of_starts(law: Law, numbers: range, images: int, points: int, budget: float) -> list[list[str]]:
    found = counted(law, numbers, images, points, budget)
    means = [f"{total / max(1, found.chosen):.4f}" for total in (found.limits, found.truths)]
    return [[f"{found.chosen} of {len(numbers)}", str(found.held), str(found.within), *means]]


def _rows_of_levels(law: Law, numbers: range, images: int, points: int, budget: float) -> list[list[str]]:
    found = held_at_levels(law, numbers, images, points)
    rows = [[f"{sigma:.3g}", f"{sum(held)} of {len(held)}"] for sigma, held in found.items()]
    every = [one for held in found.values() for one in held]
    return [*rows, ["all of these", f"{sum(every)} of {len(every)}"]]


if __name__ == "__main__":
    tyro.cli(main)
