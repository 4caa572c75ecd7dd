"""What an encoder's features know at several noise levels: the classes, and images by their content rather than their noise.

A *probe* predicts classes from frozen features: by the k nearest neighbours, or by a linear classifier. *By content*: an image is
nearer to itself under fresh noise than to another image under the same noise.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from pixelpath.errors import UserError
from pixelpath.noise import NoiseRange
from pixelpath.randomness import seed_of
from pixelpath.sampling.checks import noised
from pixelpath.types import Images

FeatureVectors = Float[Tensor, "_ feature"]
NoisyFeatures = Callable[[Images, Tensor], Tensor]
"""(noisy images on the CPU, sigma [batch]) -> their features [batch, feature]."""
TEMPERATURE = 0.07  # Wu et al. 2018
ROWS = 1024  # test features compared at a time


@dataclass(frozen=True)
class ProbeRow:
    """Accuracies on test images by features called `name` of images noised to `sigma`, and the share known `by_content`."""

    name: str
    sigma: float
    nearest: float
    linear: float
    by_content: float
    train_count: int
    test_count: int


def probe(
    features: NoisyFeatures, images: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], sigmas: Iterable[float], name: str
) -> list[ProbeRow]:
    """One row per sigma, of (training, test) `images` in model range and their `labels`; the noise of an image is fixed.

    Call it again with the pixels of the noisy images (`name="pixels"`): the encoder adds the difference.
    """
    rows = []
    for sigma in sigmas:
        found = [
            noisy_features(features, side, sigma, [seed_of(number, index) for index in range(len(side))])
            for number, side in enumerate(images)
        ]
        nearest = nearest_accuracy(found[0], labels[0], found[1], labels[1])
        linear = linear_accuracy(found[0], labels[0], found[1], labels[1])
        rows.append(ProbeRow(name, sigma, nearest, linear, by_content(features, images[1], sigma), *map(len, found)))
    return rows


def by_content(features: NoisyFeatures, images: Images, sigma: float) -> float:
    """The share of images whose features at sigma are nearer (by cosine) to those of the same image under fresh noise than to
    those of the next image under the same noise.

    An objective that pairs two noisy images under one noise can be solved by the noise; features that do so come near 0.
    """
    seeds, others = ([seed_of(number, index) for index in range(len(images))] for number in (1, 2))
    same, fresh, other = (
        functional.normalize(noisy_features(features, shown, sigma, noise), dim=1)
        for shown, noise in ((images, seeds), (images, others), (images.roll(1, 0), seeds))
    )
    return float(((same * fresh).sum(1) > (same * other).sum(1)).double().mean())


def probe_levels(noise_range: NoiseRange, count: int = 6, std: float = 0.5) -> tuple[float, ...]:
    """`count` sigmas evenly spaced in their logarithm, from the lowest of the range (shifted) to ten times the data's std.

    Above that nothing of the image can be recognised. Raises UserError if count < 2.
    """
    if count < 2:
        raise UserError(f"A probe needs at least 2 noise levels, got {count}: ask for more.")
    lowest = noise_range.sigma_min * noise_range.shift
    highest = min(10 * std, noise_range.sigma_max * noise_range.shift)
    step = math.log(highest / lowest) / (count - 1)
    return tuple(lowest * math.exp(step * index) for index in range(count))


@torch.no_grad()
def noisy_features(
    features: NoisyFeatures, images: Images, sigma: float, seeds: Sequence[int], batch_size: int = 256
) -> FeatureVectors:
    """Features [images, feature] on the CPU of images (model range) noised to sigma, each by its own seed."""
    parts = []
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        noisy = noised(images[part], sigma, seeds[part])
        parts.append(features(noisy, noisy.new_full((len(noisy),), sigma)).float().cpu())
    return torch.cat(parts)


def nearest_accuracy(
    train: Float[Tensor, "train feature"],
    train_labels: Int[Tensor, "train"],
    test: Float[Tensor, "test feature"],
    test_labels: Int[Tensor, "test"],
    neighbours: int = 20,
) -> float:
    """The share of test features whose `neighbours` nearest training features vote for the right class.

    Nearness is the cosine; a vote weighs exp(cosine / 0.07) (Wu et al. 2018, arXiv 1805.01978).
    """
    keys = functional.normalize(train.double(), dim=1)
    classes = functional.one_hot(train_labels).double()
    right = 0
    for part, labels in zip(test.split(ROWS), test_labels.split(ROWS), strict=True):
        cosines, chosen = (functional.normalize(part.double(), dim=1) @ keys.T).topk(min(neighbours, len(train)), dim=1)
        votes = ((cosines / TEMPERATURE).exp().unsqueeze(-1) * classes[chosen]).sum(1)
        right += int((votes.argmax(1) == labels).sum())
    return right / len(test)


def linear_accuracy(
    train: Float[Tensor, "train feature"],
    train_labels: Int[Tensor, "train"],
    test: Float[Tensor, "test feature"],
    test_labels: Int[Tensor, "test"],
) -> float:
    """The share of test features put in their class by (multinomial) logistic regression on the training features.

    Features are standardised by the training features' mean and std; the penalty is |weights|^2 / 2 against the sum of
    the cross entropies; at most 300 steps of L-BFGS. Raises UserError if the training labels are of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(train_labels.unique()) < 2:
        raise UserError("A linear probe needs images of 2 or more classes, and this data has one: give images with labels.")
    mean, std = train.mean(0), train.std(0)
    constant = std <= 1e-6 * (1 + mean.abs())
    std = std.masked_fill(constant, 1.0)
    classifier = LogisticRegression(C=1.0, max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # features that separate the classes have no finite optimum to reach
        classifier.fit(((train - mean) / std).numpy(), train_labels.numpy())
    return float(classifier.score(((test - mean) / std).numpy(), test_labels.numpy()))
