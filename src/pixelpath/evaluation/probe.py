"""How well the classes can be told from an encoder's features, at several noise levels.

A *probe* predicts classes from frozen features: by the k nearest neighbours, or by a linear classifier.
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
from pixelpath.sampling.checks import noised
from pixelpath.types import Images

FeatureVectors = Float[Tensor, "_ feature"]
Split = tuple[Tensor, Tensor, Tensor, Tensor]
"""(training features, training labels, test features, test labels)."""
TEMPERATURE = 0.07  # Wu et al. 2018
ROWS = 1024  # test features compared at a time


@dataclass(frozen=True)
class ProbeRow:
    """Accuracies on test images by features called `name` of images noised to `sigma`."""

    name: str
    sigma: float
    nearest: float
    linear: float
    train_count: int
    test_count: int


def probe(features_at: Callable[[float], Split], sigmas: Iterable[float], name: str = "encoder") -> list[ProbeRow]:
    """One row per sigma: `features_at(sigma)` gives the features and labels of training and test images noised to that level.

    Call it again with the pixels of the same noisy images (`name="pixels"`): the encoder adds the difference.
    """
    rows = []
    for sigma in sigmas:
        train, train_labels, test, test_labels = features_at(sigma)
        nearest = nearest_accuracy(train, train_labels, test, test_labels)
        linear = linear_accuracy(train, train_labels, test, test_labels)
        rows.append(ProbeRow(name, sigma, nearest, linear, len(train), len(test)))
    return rows


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
    features: Callable[[Tensor, Tensor], Tensor],
    images: Images,
    sigma: float,
    seeds: Sequence[int],
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> FeatureVectors:
    """Features [images, feature] on the CPU of images (model range) noised to sigma, each by its own seed.

    `features(noisy, sigma)` works on `device`; for the control row it is `lambda noisy, sigma: noisy.flatten(1)`.
    """
    parts = []
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        noisy = noised(images[part], sigma, seeds[part]).to(device)
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
