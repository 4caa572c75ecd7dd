"""Starts with the tails of the data where a law has others: a radius spliced on to a law, and a law of logarithms.

The *radius* of an image is its distance from a centre. Its *excess* over a threshold has a generalised Pareto law
P(excess > y) = (1 + xi y / scale)^(-1 / xi): the *heaviness* xi is 1 / (tail index), 0 for an exponential tail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pixelpath.randomness import generators, normal, seed_of
from pixelpath.starts.start import (
    Density,
    Fitted,
    Rows,
    Saved,
    Start,
    State,
    as_images,
    as_rows,
    by_class,
    choose,
    level,
    of_class,
    part_weights,
)
from pixelpath.starts.student import fine_uniform
from pixelpath.types import Images, Labels

Load = Callable[[dict[str, Any], dict[str, Tensor]], Start]
"""Makes the start again that a `state` is of."""


LEAST = 20  # images beyond a threshold without which nothing can be said of them
TRIED = 2000  # draws by which a fit sees how often the bulk law is beyond the threshold
ROUNDS = 10_000  # of redrawing; a fit makes sure that far fewer are needed


@dataclass(frozen=True)
class Pareto:
    """A generalised Pareto law of excesses, with the 95 % confidence interval of its heaviness, from `count` excesses."""

    heaviness: float
    scale: float
    interval: tuple[float, float]
    count: int


def fit_pareto(excesses: Float[Tensor, "excess"]) -> Pareto:
    """The generalised Pareto law of greatest likelihood; the interval is that of its asymptotic variance (1 + xi)^2 / count.

    Pickands 1975 for the law, Smith 1987 ("Estimating tails of probability distributions") for the variance, which holds for xi >
    -1/2. Raises ValueError for fewer than 20 excesses, one that is not above 0, or xi <= -1/2.
    """
    from scipy.stats import genpareto

    count = len(excesses)
    if count < LEAST or not (excesses > 0).all() or not excesses.isfinite().all():
        raise ValueError(
            f"A tail needs at least {LEAST} images beyond its threshold, all finite, got {count}: fit it to more images, or "
            "beyond a lower radius."
        )
    unit = float(excesses.mean())  # the optimiser's tolerance is absolute
    heaviness, _, scale = (float(value) for value in genpareto.fit((excesses / unit).double().cpu().numpy(), floc=0))
    if heaviness <= -0.5:
        raise ValueError(
            f"The radius of the data ends at a bound (heaviness {heaviness:.2f}): there is no tail to splice, use the law alone."
        )
    width = 1.96 * (1 + heaviness) / math.sqrt(count)
    return Pareto(heaviness, scale * unit, (heaviness - width, heaviness + width), count)


@dataclass(frozen=True, eq=False)
class ParetoTail:
    """A bulk law up to a threshold radius, and beyond it that law's directions with generalised Pareto radii of the data.

    A clean image is, with probability 1 - `beyond`, a draw from the bulk law that lies within the threshold; otherwise the centre
    plus (threshold + excess) times the direction of a draw that lies outside. There is one centre, threshold and tail for each of
    `classes`, with its share among images. Noise is added to the clean sample: the noised law has no closed-form density or
    denoiser, so this is a Start, not a Law. Tail laws of excesses: Pickands 1975, Davison and Smith 1990.
    """

    bulk: Start
    shape: tuple[int, int, int]
    num_classes: int
    beyond: float
    classes: Int[Tensor, "part"]
    shares: Float[Tensor, "part"]
    centre: Float[Tensor, "part value"]
    threshold: Float[Tensor, "part"]
    scale: Float[Tensor, "part"]
    heaviness: Float[Tensor, "part"]
    lower: Float[Tensor, "part"]
    upper: Float[Tensor, "part"]
    """`lower` and `upper` are the 95 % confidence interval of the heaviness."""

    def sample(self, sources: list[torch.Generator], sigma: float, labels: Labels | None = None) -> Images:
        """A clean sample plus sigma times noise, one float32 image per generator.

        Raises ValueError for labels that do not fit, a sigma that is negative or not finite, or a bulk law that leaves no draws
        on one side of the threshold.
        """
        parts = choose(sources, part_weights(labels, len(sources), self.classes, self.shares, self.num_classes))
        outside = fine_uniform(sources) < self.beyond
        away = self._drawn(sources, parts, outside)
        survival, scale, heaviness = fine_uniform(sources), self.scale[parts], self.heaviness[parts]
        exponent = -heaviness * survival.log()
        excess = scale * torch.where(exponent.abs() < 1e-12, -survival.log(), exponent.expm1() / heaviness)
        radius = torch.where(outside, self.threshold[parts] + excess, away.norm(dim=1))
        clean = self.centre[parts] + away * (radius / away.norm(dim=1).clamp(min=1e-300))[:, None]
        noise = normal(sources, (clean.shape[1],)).double().cpu()
        return _finite(as_images(clean + level(sigma) * noise, self.shape))

    def state(self) -> State:
        """Facts and tensors from which `from_state` makes this start again; those of the bulk law are under "bulk"."""
        metadata, tensors = _nested("bulk", self.bulk)
        metadata |= {"family": "pareto-tail", "shape": list(self.shape), "num_classes": self.num_classes, "beyond": self.beyond}
        tensors |= {"classes": self.classes, "shares": self.shares, "centre": self.centre, "threshold": self.threshold}
        tail = {"scale": self.scale, "heaviness": self.heaviness, "lower": self.lower, "upper": self.upper}
        return metadata, tensors | tail

    @classmethod
    def from_state(cls, metadata: dict[str, Any], tensors: dict[str, Tensor], load: Load) -> ParetoTail:
        """The start whose `state` this is; `load` makes the bulk law."""
        channels, rows, columns = metadata["shape"]
        bulk, own = _unnested("bulk", metadata, tensors, load)
        return cls(bulk, (channels, rows, columns), metadata["num_classes"], metadata["beyond"], **own)

    def _drawn(self, sources: list[torch.Generator], parts: Int[Tensor, "batch"], outside: Bool[Tensor, "batch"]) -> Rows:
        """Draws from the bulk law less the centre, each from its own generator until it lies where it is wanted."""
        found = torch.zeros(len(sources), self.centre.shape[1], dtype=torch.float64)
        left = torch.arange(len(sources))
        for _ in range(ROUNDS):
            labels = self.classes[parts[left]] if self.num_classes else None
            drawn = self.bulk.sample([sources[place] for place in left.tolist()], 0.0, labels)
            away = as_rows(_finite(drawn), self.shape) - self.centre[parts[left]]
            fits = (away.norm(dim=1) > self.threshold[parts[left]]) == outside[left]
            found[left[fits]] = away[fits]
            left = left[~fits]
            if not len(left):
                return found
        raise ValueError(
            f"The bulk law of a splice gave no draw on the wanted side in {ROUNDS} rounds: fit the splice to this law."
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
    """A tail for a law that was fitted to the bulk of the same clean images, for each class where labels are given.

    The centre is the median image, pixel by pixel; the threshold the radius that the share `beyond` of images exceeds; the tail
    `fit_pareto` of what they exceed it by. Raises ValueError for fewer than 20 images beyond it, labels that do not fit, a
    bounded radius, or a bulk law so far from the data that under `beyond` / 10, or over half, of its draws are outside.
    """
    if not 0 < beyond <= 0.5:
        raise ValueError(f"A splice begins at a share of images in (0, 0.5], got {beyond}: 0.05 is usual.")
    groups = by_class(images, labels, num_classes)
    rows = images.detach().cpu().double().flatten(1)
    centres, thresholds, tails = [], [], []
    for label, places in groups.items():
        centre = rows[places].median(0).values
        radius = (rows[places] - centre).norm(dim=1)
        threshold = radius.sort().values[len(radius) - 1 - math.floor(beyond * len(radius))]
        tails.append(fit_pareto(radius[radius > threshold] - threshold))
        centres.append(centre)
        thresholds.append(threshold)
        _check_bulk(bulk, centre, float(threshold), label, num_classes, beyond, seed)
    return ParetoTail(
        bulk=bulk,
        shape=(images.shape[1], images.shape[2], images.shape[3]),
        num_classes=num_classes,
        beyond=beyond,
        classes=torch.tensor(list(groups)),
        shares=torch.tensor([len(places) for places in groups.values()], dtype=torch.float64) / len(images),
        centre=torch.stack(centres),
        threshold=torch.stack(thresholds),
        scale=torch.tensor([tail.scale for tail in tails], dtype=torch.float64),
        heaviness=torch.tensor([tail.heaviness for tail in tails], dtype=torch.float64),
        lower=torch.tensor([tail.interval[0] for tail in tails], dtype=torch.float64),
        upper=torch.tensor([tail.interval[1] for tail in tails], dtype=torch.float64),
    )


def _check_bulk(bulk: Start, centre: Tensor, threshold: float, label: int, num_classes: int, beyond: float, seed: int) -> None:
    sources = generators(seed_of(seed, label, index) for index in range(TRIED))
    labels = torch.full((TRIED,), label) if num_classes else None
    drawn = _finite(bulk.sample(sources, 0.0, labels)).double().flatten(1)
    share = float(((drawn - centre).norm(dim=1) > threshold).double().mean())
    if not beyond / 10 <= share <= 0.5:
        raise ValueError(
            f"The bulk law puts {share:.1%} of its draws{of_class(label, num_classes)} beyond the radius that {beyond:.1%} of "
            "the images exceed: fit another law to the bulk, such as a mixture, before splicing a tail to it."
        )


@dataclass(frozen=True, eq=False)
class SymLog:
    """A law of images in the coordinates y = sign(x) ln(1 + |x|) of every value, in which heavy tails are light.

    What it gives: clean samples x = sign(y) (e^|y| - 1), samples at any sigma (a clean sample plus noise), and the density of
    clean images. What it cannot give: density and denoiser of the noised law, for noise is not added in these coordinates; so it
    is a Start, not a Law, and is certified by its samples only. A Gaussian law of y makes tails as heavy as a log-normal's,
    lighter than any power; a power law takes a law of y with exponential tails, and one of y with power tails overflows.
    """

    density: Density

    def sample(self, sources: list[torch.Generator], sigma: float, labels: Labels | None = None) -> Images:
        """A clean sample plus sigma times noise, one float32 image per generator; ValueError where the exponential overflows."""
        drawn = self.density.sample(sources, 0.0, labels).double()
        clean = drawn.sign() * drawn.abs().expm1()
        return _finite((clean + level(sigma) * normal(sources, drawn.shape[1:]).double().cpu()).float())

    def clean_log_prob(self, images: Images, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density of clean images: that of y less the sum of ln(1 + |x|), in nats."""
        return self.density.log_prob(symlog(images), 0.0, labels) - images.abs().log1p().flatten(1).sum(1)

    def state(self) -> State:
        """Facts and tensors from which `from_state` makes this start again; those of the law are under "law"."""
        metadata, tensors = _nested("law", self.density)
        return metadata | {"family": "symlog"}, tensors

    @classmethod
    def from_state(cls, metadata: dict[str, Any], tensors: dict[str, Tensor], load: Load) -> SymLog:
        """The start whose `state` this is; `load` makes the law."""
        density, _ = _unnested("law", metadata, tensors, load)
        if not isinstance(density, Density):
            raise ValueError(
                f"The start saved as family {metadata['law']['family']!r} has no density: save the SoftLog of a law again."
            )
        return cls(density)


def symlog(images: Images) -> Images:
    """sign(x) ln(1 + |x|) of every value: what to fit the law of a SoftLog to."""
    return images.sign() * images.abs().log1p()


def _finite(images: Images) -> Images:
    if not images.isfinite().all():
        raise ValueError("Some samples of a start are not finite: its tail overflows, or its fit is broken; fit another law.")
    return images


def _nested(name: str, start: Start) -> State:
    if not isinstance(start, Saved):
        raise ValueError(f"A start over a {type(start).__name__} cannot be saved, for that holds a function: wrap a fitted law.")
    metadata, tensors = start.state()
    return {name: metadata}, {f"{name}.{key}": value for key, value in tensors.items()}


def _unnested(name: str, metadata: dict[str, Any], tensors: dict[str, Tensor], load: Load) -> tuple[Start, dict[str, Tensor]]:
    """The start under `name`, and the tensors that are not its own."""
    inner = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    return load(metadata[name], inner), {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
