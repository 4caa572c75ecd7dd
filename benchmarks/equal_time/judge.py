"""How far samples are from real images, as numbers that need no opinion of the system that made them.

Distances are Frechet distances to held-out and to training images, in pixels and in the features of the set's classifier.
*Recognised* is the share of samples that the classifier reads as the class that was asked for. *Seam* is the mean absolute
difference of neighbours across the borders of square cells over that inside them, over the same of held-out images: the largest
of cells of 4, 7 and 8 pixels, which are patches. *Half* is the share of pixels of RGBA images
whose alpha lies between 5 and 95 %. Data of floats, as rain, have the relative error of their q.999, that of the share of dry
pixels, and the lowest and highest ratio of the radial power spectrum. These compare with training images: held-out ones of later
times may have other weather, and their row says how much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from benchmarks.equal_time.classifier import MOST, Classifier, some
from pixelpath.evaluation import statistics
from pixelpath.evaluation.distances import frechet, frechet_of_rows
from pixelpath.evaluation.features import Native, extract
from pixelpath.evaluation.spectrum import SpectrumSum
from pixelpath.runs.measuring.comparison import pixels
from pixelpath.runs.prepare import PreparedData

WIDE = 1024  # features, above which a distance is worked out from rows
FEWER = 2000  # real images there
BATCH = 256
CELLS = (4, 7, 8)  # pixels: the patches of the systems


@dataclass(frozen=True, eq=False)
class Judge:
    """Measures native samples of one data set; what is known of the real images is worked out once."""

    data: PreparedData
    classifier: Classifier
    _real: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def __call__(self, samples: Native, labels: Int[Tensor, "sample"]) -> dict[str, float]:
        """Every measure of the samples."""
        found = self._distances(lambda name, side: self._features(name, samples), "held_out", "training")
        return found | self._alone(samples, labels)

    def floors(self, count: int) -> dict[str, float]:
        """The measures of so many real images: training ones against held-out ones, held-out ones against training ones.

        Where there are fewer held-out images, all of them. `halves` are one half of the training images against the other.
        """
        held, asked = some(self.data, "held_out", count)
        other = {"held_out": "training", "training": "held_out"}
        found = self._distances(lambda name, side: _spread(self._of(name, other[side]), count), "held_out", "training")
        for name in ("features", "pixels"):
            rows = self._of(name, "training")
            found[f"{name}_halves"] = distance(rows[::2], rows[1::2])
        return found | self._alone(held, asked)

    def _distances(self, rows: Callable[[str, str], Tensor], *sides: str) -> dict[str, float]:
        names = ("features", "pixels")
        return {f"{name}_{side}": distance(rows(name, side), self._of(name, side)) for name in names for side in sides}

    def _of(self, name: str, side: str) -> Tensor:
        if (name, side) not in self._real:
            self._real[name, side] = self._features(name, some(self.data, side, MOST)[0])
        return self._real[name, side]

    def _features(self, name: str, images: Native) -> Tensor:
        return extract({"features": self.classifier, "pixels": pixels(self.data)}[name], images.split(BATCH))

    def _alone(self, images: Native, labels: Int[Tensor, "image"]) -> dict[str, float]:
        found = {"seam": max(across / real for across, real in zip(self._seams(images), self._real_seams, strict=True))}
        if self.data.classes:
            found["recognised"] = float((self.classifier.read(images) == labels).float().mean())
        if self.data.shape[0] == 4 and self.data.normaliser.has_unit_range:
            alpha = images[:, 3].double() / float(self.data.normaliser.highest or 1)
            found["half"] = float(((alpha > 0.05) & (alpha < 0.95)).double().mean())
        if self.data.training.dtype.kind == "f":
            found |= self._heavy(images.double().numpy())
        return found

    @cached_property
    def _real_seams(self) -> list[float]:
        return self._seams(some(self.data, "held_out", MOST)[0])

    def _seams(self, images: Native) -> list[float]:
        cells = [cell for cell in CELLS if not any(side % cell for side in self.data.shape[1:])]
        seen = self.data.normaliser.encode(images)
        return [seam(seen, cell) for cell in cells or (max(CELLS),)]

    def _heavy(self, values: np.ndarray) -> dict[str, float]:
        learned = some(self.data, "training", MOST)[0].double().numpy()
        wet = float(learned[learned > learned.min()].min())
        tail, dry = float(np.quantile(values, 0.999)), float((values < wet).mean())
        ratio = _spectrum(values) / _spectrum(learned)
        return {
            "q999": tail,
            "q999_error": tail / float(np.quantile(learned, 0.999)) - 1,
            "dry": dry,
            "dry_error": dry - float((learned < wet).mean()),
            "spectrum_low": float(ratio.min()),
            "spectrum_high": float(ratio.max()),
        }


def distance(first: Tensor, second: Tensor) -> float:
    """The Frechet distance of two sets of features; wide ones from at most 2,000 rows of each."""
    if first.shape[1] <= WIDE:
        return frechet(statistics.of(first), statistics.of(second))
    return frechet_of_rows(_spread(first, FEWER), _spread(second, FEWER))


def seam(images: Tensor, cell: int) -> float:
    """The mean absolute difference of neighbours across the borders of cells, over that of neighbours inside; 1 without seams."""
    across, inside = [], []
    for axis in (2, 3):
        steps = images.diff(dim=axis).abs().mean((0, 1, 5 - axis))
        border = torch.arange(1, len(steps) + 1) % cell == 0
        across.append(steps[border])
        inside.append(steps[~border])
    return float(torch.cat(across).mean() / torch.cat(inside).mean())


def mix(data: PreparedData, count: int) -> Int[Tensor, "sample"]:
    """Labels of so many samples in the held-out images' shares of classes, in an order that mixes them; zeros without classes."""
    numbers = np.sort(some(data, "held_out", len(data.held_out))[1].numpy())
    spread = numbers[np.arange(count) * len(numbers) // count]
    return torch.from_numpy(np.random.RandomState(0).permutation(spread))


def _spectrum(values: np.ndarray) -> np.ndarray:
    total = SpectrumSum(*values.shape[1:])
    total.add(values)
    return total.spectrum().power.mean(0)


def _spread(rows: Tensor, count: int) -> Tensor:
    return rows if len(rows) <= count else rows[torch.arange(count) * len(rows) // count]
