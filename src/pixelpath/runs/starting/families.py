"""The families of starts: how each is fitted to images, with sizes that follow from how many there are.

A *family* makes a start from images. Numbers of components are rules of thumb: the certificate judges what comes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.data.sources import evenly
from pixelpath.errors import UserError
from pixelpath.evaluation.tails import LEAST, Index, hill, radii, require_light_tails
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, permutation
from pixelpath.starts.flow import fit_flow
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.mixture import fit_mixture
from pixelpath.starts.start import Start
from pixelpath.starts.student import fit_student
from pixelpath.starts.tails import SymLog, fit_pareto_tail, symlog

RATIO = 1.15  # of neighbouring levels of a certificate
LOWEST = 0.02  # of the data's standard deviation: no start is looked for below
MIXED = 20_000  # images to which mixtures are fitted at most, evenly chosen
FEWEST_OF_TAILS = 1000  # images, below which nothing is said of their tail
FEWEST = 20  # images of each side, below which no choice is worth making
TINY = 64  # values up to which an image is a point of low dimension


@dataclass(frozen=True, eq=False)
class Known:
    """Clean images in model range [image, channel, row, column] on the CPU, with their classes if there are any.

    `training` is what starts are fitted to, `held_out` what they are judged by. Raises UserError for sets that are not of one
    shape, for values that are not finite, and where classes lack labels.
    """

    training: Float[Tensor, "training channel row column"]
    held_out: Float[Tensor, "held_out _ _ _"]
    training_labels: Int[Tensor, "training"] | None = None
    held_out_labels: Int[Tensor, "held_out"] | None = None
    num_classes: int = 0

    def __post_init__(self) -> None:
        shapes = [list(each.shape[1:]) for each in (self.training, self.held_out)]
        if shapes[0] != shapes[1]:
            raise UserError(f"Training images of shape {shapes[0]} and held-out ones of {shapes[1]}: give images of one shape.")
        if min(len(self.training), len(self.held_out)) < FEWEST:
            raise UserError(
                f"A start is fitted to training images and judged by held-out ones, got {len(self.training)} and "
                f"{len(self.held_out)}: give at least {FEWEST} of each, better some hundreds."
            )
        if not (self.training.isfinite().all() and self.held_out.isfinite().all()):
            raise UserError("Some of the images that a start is fitted to, or judged by, hold NaN or infinity: leave them out.")
        if self.num_classes and (self.training_labels is None or self.held_out_labels is None):
            raise UserError(f"{self.num_classes} classes need the labels of training and held-out images: give both.")

    @property
    def values(self) -> int:
        """Values of an image."""
        return self.training[0].numel()

    def held(self, chosen: slice | Tensor | np.ndarray) -> tuple[Tensor, Tensor | None]:
        """The chosen held-out images and their labels, None without classes."""
        return self.held_out[chosen], None if self.held_out_labels is None else self.held_out_labels[chosen]

    def shuffled(self, seed: int) -> Known:
        """The same with held-out images in an order that is a function of `seed`: any first few of them stand for all."""
        images, labels = self.held(permutation(Streams([seed]), len(self.held_out)))
        return replace(self, held_out=images, held_out_labels=labels)

    def halves(self) -> tuple[Known, Known]:
        """The same twice, each with half of the held-out images: the first ones and the others."""
        middle = len(self.held_out) // 2
        found = [self.held(part) for part in (slice(middle), slice(middle, None))]
        first, second = (replace(self, held_out=images, held_out_labels=labels) for images, labels in found)
        return first, second

    @cached_property
    def index(self) -> Index | None:
        """The tail index of the training images' radii, by one in a hundred and at least 20; None for fewer than 1,000."""
        count = len(self.training)
        return hill(radii(self.training), max(LEAST, count // 100)) if count >= FEWEST_OF_TAILS else None


Family = Callable[[Known, NoiseRange, int], Start]
"""(images, the levels the denoiser learned, seed) -> a start fitted to the training images."""


def moment(known: Known, noise: NoiseRange, seed: int, *, by_class: bool = False) -> Start:
    """A Gaussian of the images' moments, or one for each class; UserError for data of heavy tails."""
    _require(known, by_class=by_class)
    return fit_gaussian(known.training, known.training_labels, known.num_classes) if by_class else fit_gaussian(known.training)


def mixture(known: Known, noise: NoiseRange, seed: int, *, by_class: bool = False) -> Start:
    """A mixture of Gaussians: a component for every 40 images, at most 40; or of each class one for every 100, at most 10.

    UserError for data of heavy tails.
    """
    _require(known, by_class=by_class)
    components = max(1, min(40, len(known.training) // 40))
    if by_class and known.training_labels is not None:
        components = max(1, min(10, int(known.training_labels.bincount(minlength=known.num_classes).min()) // 100))
    return _mixed(known, by_class=by_class, components=components, seed=seed)


def student(known: Known, noise: NoiseRange, seed: int) -> Start:
    """A mixture of Student densities, of three components or fewer where images are few, diagonal above 64 values."""
    components = max(1, min(3, len(known.training) // (4 * known.values + 100)))
    return fit_student(known.training, components=components, diagonal=known.values > TINY, seed=seed)


def pareto_tail(known: Known, noise: NoiseRange, seed: int) -> Start:
    """A generalised Pareto tail on a mixture of Gaussians, which is fitted to all but the outermost hundredth of the images.

    Far images would draw a component each; the tail is there for them.
    """
    away = radii(known.training)
    inner = replace(
        known, training=known.training[away <= away.quantile(0.99)], training_labels=None, held_out_labels=None, num_classes=0
    )
    bulk = _mixed(inner, by_class=False, components=max(1, min(10, len(inner.training) // 100)), seed=seed)
    return fit_pareto_tail(known.training, bulk, seed=seed)


def logarithmic(known: Known, noise: NoiseRange, seed: int) -> Start:
    """A Gaussian of sign(x) ln(1 + |x|) of every value."""
    return SymLog(fit_gaussian(symlog(known.training)))


def flow(known: Known, noise: NoiseRange, seed: int) -> Start:
    """A normalising flow, given sigma and the class, for sigmas from a tenth of the data's standard deviation to 20 times it.

    Needs the package zuko (`pip install 'pixelpath[flows]'`).
    """
    levels, std = levels_of(known, noise), float(known.training.std())
    inside = max(levels[-1], 0.1 * std), min(levels[0], 20 * std)
    return fit_flow(known.training, known.training_labels, known.num_classes, levels=inside, seed=seed)


FAMILIES: dict[str, Family] = {
    "moment": moment,
    "moment-by-class": partial(moment, by_class=True),
    "mixture": mixture,
    "mixture-by-class": partial(mixture, by_class=True),
    "student": student,
    "pareto-tail": pareto_tail,
    "symlog": logarithmic,
    "flow": flow,
}


def usual(known: Known) -> dict[str, Family]:
    """The families compared unless told otherwise: with heavy tails where data have them, by class where there are classes."""
    names = ["moment", "mixture"]
    names += ["moment-by-class", "mixture-by-class"] if known.num_classes else []
    if known.index is not None and known.index.heavy:
        names = ["student", "pareto-tail"]
    return {name: FAMILIES[name] for name in names}


def levels_of(known: Known, noise: NoiseRange) -> list[float]:
    """Falling levels, neighbours a ratio of about 1.15 apart, over the range learned or its part above what data can show."""
    high = noise.sigma_max * noise.shift
    low = min(max(noise.sigma_min * noise.shift, LOWEST * float(known.training.std())), high / 2)
    count = max(8, math.ceil(math.log(high / low) / math.log(RATIO)) + 1)
    return [high * (low / high) ** (place / (count - 1)) for place in range(count)]


def _mixed(known: Known, *, by_class: bool, components: int, seed: int) -> Start:
    """A mixture of so many components, of each class if `by_class`; of half as many, and so on, where they are too many."""
    places = evenly(len(known.training), MIXED)
    images, labels = known.training[places], known.training_labels[places] if known.training_labels is not None else None
    coordinates = min(32, known.values, max(1, len(images) // 4))
    given = (labels, known.num_classes) if by_class else (None, 0)
    while True:
        try:
            return fit_mixture(images, *given, components, coordinates, seed=seed)
        except UserError:  # too few images for so many components, or one that collapsed
            if components == 1:
                raise
            components //= 2


def _require(known: Known, *, by_class: bool) -> None:
    """UserError for heavy tails, which no Gaussian has, and for no classes where a start is to be fitted by class."""
    if known.index is not None:
        require_light_tails(known.index)
    if by_class and not known.num_classes:
        raise UserError("There are no classes to fit by: leave -by-class away.")
