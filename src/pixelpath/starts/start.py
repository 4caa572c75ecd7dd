"""Where sampling may begin: laws of the noised data.

A *start* draws images at any noise level; a *law* has their density and exact denoiser too. A law is fitted once to clean images
and convolved with the noise in closed form, so one fit serves every sigma. A *part* is one of the simple laws that a law mixes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.randomness import uniform
from pixelpath.types import Images, Labels

Fitted = Float[Tensor, "image channel row column"]
Rows = Float[Tensor, "batch value"]
State = tuple[dict[str, Any], dict[str, Tensor]]
"""What saving a start takes: facts that JSON can hold, "family" among them, and tensors."""


@runtime_checkable
class Start(Protocol):
    """Where sampling may begin: a law of the data noised to any level sigma (deviation of the noise, in model range, shifted)."""

    def sample(self, sources: list[torch.Generator], sigma: float, labels: Labels | None = None) -> Images:
        """One float32 image on the CPU per generator, a function of that generator and its label alone."""
        ...


@runtime_checkable
class Density(Start, Protocol):
    """A start with a density at every level, and its exact denoiser E[clean | noisy], both in closed form."""

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """The natural logarithm, in nats, of the density of the law noised to `sigma`."""
        ...

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """noisy + sigma^2 times the gradient of `log_prob`; sigma [] or [batch]."""
        ...


@runtime_checkable
class Saved(Start, Protocol):
    """A start that knows what saving it takes."""

    def state(self) -> State:
        """JSON-ready facts, "family" among them, and tensors."""
        ...


@runtime_checkable
class Part(Protocol):
    """One of the laws that a law mixes, at one level, on images flattened to rows of values."""

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]: ...
    def denoise(self, rows: Rows) -> Rows: ...


def by_class(images: Fitted, labels: Int[Tensor, "image"] | None, num_classes: int) -> dict[int, Int[Tensor, "chosen"]]:
    """The places of the images of every class that has any; {0: all of them} where num_classes is 0.

    Raises ValueError for fewer than 2 images of a class, values that are not finite, classes without labels, or labels that are
    not one of 0 .. num_classes - 1 for each image.
    """
    if not images.isfinite().all():
        raise ValueError("A start cannot be fitted to images that are not finite: remove them from the data.")
    if num_classes and (labels is None or len(labels) != len(images)):
        raise ValueError(f"{num_classes} classes need one label for each of {len(images)} images: give them, or num_classes=0.")
    if labels is None or not num_classes:
        groups = {0: torch.arange(len(images))}
    elif ((labels < 0) | (labels >= num_classes)).any():
        raise ValueError(f"Every image to fit needs a class in 0 .. {num_classes - 1}: leave out those without one.")
    else:
        groups = {int(label): (labels == label).nonzero()[:, 0].cpu() for label in labels.unique()}
    for label, places in groups.items():
        if len(places) < 2:
            raise ValueError(f"A start needs at least 2 images{of_class(label, num_classes)}, got {len(places)}: give more.")
    return groups


def of_class(label: int, num_classes: int) -> str:
    """How a message names the images concerned: " of class 3", or nothing where there are no classes."""
    return f" of class {label}" if num_classes else ""


def as_rows(images: Images, shape: Sequence[int]) -> Rows:
    """The images as rows of float64 values on the CPU; raises ValueError if they have not the shape that was fitted."""
    if tuple(images.shape[1:]) != tuple(shape):
        raise ValueError(
            f"This start was fitted to images of shape {list(shape)}, got {list(images.shape[1:])}: "
            "give images of that size, or fit it to data of yours."
        )
    return images.flatten(1).double().cpu()


def as_images(rows: Rows, shape: Sequence[int], like: Tensor | None = None) -> Images:
    """Rows of values shaped to images, in the dtype and on the device of `like` (None: float32 on the CPU)."""
    images = rows.unflatten(1, tuple(shape))
    return images.float() if like is None else images.to(like)


def level(sigma: float) -> float:
    """Sigma; raises ValueError unless it is finite and at least 0."""
    if not 0 <= sigma < math.inf:
        raise ValueError(f"A start's sigma must be a finite number of at least 0, got {sigma}: give the level to begin at.")
    return float(sigma)


def no_density() -> ValueError:
    """The error of a density at sigma 0 that does not exist."""
    return ValueError(
        "This law has a singular covariance, and so no density at sigma 0: ask for a sigma above 0, or fit it with fewer "
        "directions (a low-rank form) to data without constant values."
    )


def part_weights(
    labels: Labels | None, batch: int, classes: Int[Tensor, "part"], shares: Float[Tensor, "part"], num_classes: int
) -> Float[Tensor, "batch part"]:
    """ln of how much each part counts for each image: its share among the parts of the image's class, or among all without class.

    Parts of other classes count -inf. A start fitted without classes (num_classes 0) is the same for every label. Raises
    ValueError for labels that do not fit the batch, or of classes that were not fitted.
    """
    if labels is None:
        labels = torch.full((batch,), num_classes)
    if len(labels) != batch:
        raise ValueError(f"A start needs one label for each of {batch} images, got {len(labels)}: give as many.")
    chosen = labels.cpu()[:, None] if num_classes else torch.zeros(batch, 1, dtype=torch.int64)
    counted = (chosen == classes) | (chosen == num_classes)
    if not counted.any(1).all():
        unseen = sorted({int(label) for label in chosen[~counted.any(1), 0]})
        seen = classes.unique().tolist()
        raise ValueError(
            f"This start was not fitted to images of class {unseen[0]} (its classes: {seen}): "
            f"fit it to images of that class, or ask for no class with label {num_classes}."
        )
    return torch.where(counted, shares.log(), -math.inf).log_softmax(1)


def choose(sources: list[torch.Generator], weights: Float[Tensor, "batch part"]) -> Int[Tensor, "batch"]:
    """One part for each image, drawn from the image's generator with probability exp(weights)."""
    reached = weights.exp().cumsum(1)
    drawn = uniform(sources, ()).double().cpu()
    return (reached <= drawn[:, None]).sum(1).clamp(max=weights.shape[1] - 1)


def mixed_log_prob(rows: Rows, weights: Float[Tensor, "batch part"], parts: Callable[[int], Part]) -> Float[Tensor, "batch"]:
    """ln of the sum over parts of exp(weights + log_prob), each part being asked only about the images it counts for."""
    return _joint(rows, weights, _needed(weights, parts)).logsumexp(1)


def mixed_denoise(rows: Rows, weights: Float[Tensor, "batch part"], parts: Callable[[int], Part]) -> Rows:
    """The parts' own estimates, averaged with the probability that each part made the row."""
    needed = _needed(weights, parts)
    blame = _joint(rows, weights, needed).softmax(1)
    estimate = torch.zeros_like(rows)
    for number, part in needed.items():
        inside = (weights[:, number] > -math.inf).nonzero()[:, 0]
        estimate = estimate.index_add(0, inside, blame[inside, number, None] * part.denoise(rows[inside]))
    return estimate


def by_level(rows: Rows, sigma: Tensor, estimate: Callable[[Rows, float, Int[Tensor, "chosen"]], Rows]) -> Rows:
    """`estimate(rows, sigma, places)` once for every sigma there is; at sigma 0 the rows are clean already.

    Raises ValueError unless sigma is one number, or one for each row, finite and at least 0.
    """
    if sigma.ndim and len(sigma) != len(rows):
        raise ValueError(f"A denoiser needs one sigma, or one for each of {len(rows)} images, got {len(sigma)}: give as many.")
    if not sigma.ndim:
        value = level(float(sigma))
        return estimate(rows, value, torch.arange(len(rows))) if value else rows
    found = torch.zeros_like(rows)
    for value in sigma.double().cpu().unique().tolist():
        places = (sigma.double().cpu() == value).nonzero()[:, 0]
        found = found.index_add(0, places, estimate(rows[places], value, places) if level(value) else rows[places])
    return found


def law_log_prob(
    images: Images,
    sigma: float,
    shape: Sequence[int],
    weights: Float[Tensor, "batch part"],
    part: Callable[[int, float], Part],
) -> Float[Tensor, "batch"]:
    """`mixed_log_prob` of images at one level, in their dtype; `part(number, sigma)` makes the parts."""
    return mixed_log_prob(as_rows(images, shape), weights, lambda number: part(number, level(sigma))).to(images)


def law_denoise(
    noisy: Images,
    sigma: Tensor,
    shape: Sequence[int],
    weights: Float[Tensor, "batch part"],
    part: Callable[[int, float], Part],
) -> Images:
    """`mixed_denoise` of images at every level among theirs, in their dtype; `part(number, sigma)` makes the parts."""

    def estimate(rows: Rows, value: float, places: Int[Tensor, "chosen"]) -> Rows:
        return mixed_denoise(rows, weights[places], lambda number: part(number, value))

    return as_images(by_level(as_rows(noisy, shape), sigma, estimate), shape, noisy)


def _needed(weights: Tensor, parts: Callable[[int], Part]) -> dict[int, Part]:
    return {number: parts(number) for number in (weights > -math.inf).any(0).nonzero()[:, 0].tolist()}


def _joint(rows: Rows, weights: Float[Tensor, "batch part"], parts: dict[int, Part]) -> Float[Tensor, "batch part"]:
    columns = [torch.full_like(rows[:, 0], -math.inf)] * weights.shape[1]
    for number, part in parts.items():
        inside = (weights[:, number] > -math.inf).nonzero()[:, 0]
        columns[number] = columns[number].index_copy(0, inside, part.log_prob(rows[inside]) + weights[inside, number])
    return torch.stack(columns, 1)
