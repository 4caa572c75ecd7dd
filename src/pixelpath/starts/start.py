"""Where sampling may begin: distributions of the noised data.

A *start* draws images at any noise level sigma (std of the noise, in model range, shifted). A *density* also has its log
density and its exact denoiser at every sigma. It is fitted once to clean images and convolved with the noise in closed form. A
*part* is one of the simple densities that a density mixes, such as the Gaussian of one class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, uniform
from pixelpath.sampling.checks import check_finite
from pixelpath.types import Images, Labels

Fitted = Float[Tensor, "image channel row column"]
Rows = Float[Tensor, "batch value"]
State = tuple[dict[str, Any], dict[str, Tensor]]
"""What saving a start takes: metadata that JSON can hold, "family" among them, and tensors."""


@runtime_checkable
class Start(Protocol):
    """Where sampling may begin: the data noised to any sigma."""

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """One float32 image on the CPU per stream, a function of that stream and its label alone.

        Raises UserError for labels that do not fit, or a sigma that is negative or not finite.
        """
        ...


@runtime_checkable
class Density(Start, Protocol):
    """A start with a density at every sigma, and its exact denoiser E[clean | noisy], both in closed form.

    Both raise ValueError for images, sigmas or labels that do not fit, and at sigma 0 where a covariance is singular.
    """

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density at `sigma`, in nats, in the dtype of the images."""
        ...

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """noisy + sigma^2 times the gradient of `log_prob`; sigma [] or [batch]."""
        ...


@runtime_checkable
class Saved(Start, Protocol):
    """A start that knows what saving it takes."""

    def state(self) -> State:
        """JSON-ready metadata, "family" among them, and tensors."""
        ...


Load = Callable[[dict[str, Any], dict[str, Tensor]], Start]
"""Makes the start again that a `state` is of."""


@runtime_checkable
class Part(Protocol):
    """One of the densities that a density mixes, at one sigma, on images flattened to rows of values."""

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]: ...
    def denoise(self, rows: Rows) -> Rows: ...


Made = TypeVar("Made", bound="Stored")


class Stored:
    """A start whose dataclass fields are all that saving it takes: numbers, tensors, dicts of tensors, and other starts."""

    family: ClassVar[str]

    def state(self) -> State:
        """What `from_state` makes this start again from, bit for bit; UserError if a start within it cannot be saved."""
        metadata: dict[str, Any] = {"family": self.family}
        tensors: dict[str, Tensor] = {}
        for name in _names(self):
            value = vars(self)[name]
            if isinstance(value, Start):
                if not isinstance(value, Saved):
                    raise UserError(f"A start around a {type(value).__name__} cannot be saved: put it around a fitted one.")
                metadata[name], value = value.state()
            if isinstance(value, Tensor):
                tensors[name] = value
            elif isinstance(value, dict):
                tensors |= {f"{name}.{key}": tensor for key, tensor in value.items()}
            else:
                metadata[name] = list(value) if isinstance(value, tuple) else value
        return metadata, tensors

    @classmethod
    def from_state(cls: type[Made], metadata: dict[str, Any], tensors: dict[str, Tensor], load: Load) -> Made:
        """The start whose `state` this is; `load` makes the start within it. KeyError for a state of other fields."""
        names = _names(cls)
        strange = {*metadata, *(key.split(".")[0] for key in tensors)} - {"family", *names}
        if strange:
            raise KeyError(f"unexpected {sorted(strange)}")
        found: dict[str, Any] = {}
        for name in names:
            inner = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
            value = metadata[name] if name in metadata else inner or tensors[name]
            if name in metadata and isinstance(value, dict):
                value = load(value, inner)
            found[name] = tuple(value) if isinstance(value, list) else value
        return cls(**found)


def _names(start: Any) -> list[str]:
    return [each.name for each in fields(start)]


@dataclass(frozen=True, eq=False)
class ByClass(Stored):
    """A start of several parts, each of one class: `shares` sum to 1 over all parts.

    Without a class all parts count, by `shares`. `num_classes` 0 means that there are no classes.
    """

    shape: tuple[int, int, int]
    num_classes: int
    classes: Int[Tensor, "part"]
    shares: Float[Tensor, "part"]

    def weights(self, labels: Labels | None, batch: int) -> Float[Tensor, "batch part"]:
        """As `part_weights`."""
        return part_weights(labels, batch, self.classes, self.shares, self.num_classes)

    def chosen(self, streams: Streams, labels: Labels | None) -> Int[Tensor, "batch"]:
        """One part for each image, drawn by its share."""
        return choose(streams, self.weights(labels, len(streams)))


@dataclass(frozen=True, eq=False)
class Mixture(ByClass, ABC):
    """A density that is the sum of share times density over its parts."""

    @abstractmethod
    def part(self, number: int, sigma: float) -> Part:
        """One part at one sigma."""

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density at `sigma`, in nats, in the dtype of the images."""
        rows, weights = as_rows(images, self.shape), self.weights(labels, len(images))
        return mixed_log_prob(rows, weights, lambda number: self.part(number, level(sigma))).to(images)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """E[clean | noisy]: the parts' own estimates, each by the probability that it made the image."""
        weights = self.weights(labels, len(noisy))

        def estimate(rows: Rows, value: float, places: Int[Tensor, "chosen"]) -> Rows:
            return mixed_denoise(rows, weights[places], lambda number: self.part(number, value))

        return as_images(by_sigma(as_rows(noisy, self.shape), sigma, estimate), self.shape, noisy)


@dataclass(frozen=True)
class Groups:
    """Images to fit to, by class: `places` [class] says where in the set the images of every class in `labels` are."""

    shape: tuple[int, int, int]
    num_classes: int
    labels: tuple[int, ...]
    places: tuple[Int[Tensor, "_"], ...]

    def named(self) -> list[tuple[str, Int[Tensor, "_"]]]:
        """The places, and how a message names their images: " of class 3", or nothing without classes."""
        names = [of_class(label, self.num_classes) for label in self.labels]
        return list(zip(names, self.places, strict=True))

    def parts(self, within: Sequence[Tensor] | None = None) -> dict[str, Any]:
        """The fields of a ByClass: one part for every class, or as many as `within` has shares of the class's images."""
        counts = torch.tensor([len(places) for places in self.places], dtype=torch.float64)
        within = [torch.ones(1, dtype=torch.float64)] * len(counts) if within is None else within
        shares = torch.cat([part * share for part, share in zip(within, counts / counts.sum(), strict=True)])
        classes = torch.tensor(self.labels).repeat_interleave(torch.tensor([len(part) for part in within]))
        return {"shape": self.shape, "num_classes": self.num_classes, "classes": classes, "shares": shares}


def by_class(images: Fitted, labels: Int[Tensor, "image"] | None, num_classes: int) -> Groups:
    """The images of every class that has any; those of the one class 0 where num_classes is 0.

    Raises UserError for fewer than 2 images of a class, values that are not finite, classes without labels, or labels that are
    not one of 0 .. num_classes - 1 for each image.
    """
    check_finite(images, "images to fit a start to", "remove them from the data")
    if num_classes and (labels is None or len(labels) != len(images)):
        raise UserError(f"{num_classes} classes need one label for each of {len(images)} images: give them, or num_classes=0.")
    if labels is None or not num_classes:
        groups = {0: torch.arange(len(images))}
    elif ((labels < 0) | (labels >= num_classes)).any():
        raise UserError(f"Every image to fit needs a class in 0 .. {num_classes - 1}: leave out those without one.")
    else:
        groups = {int(label): (labels == label).nonzero()[:, 0].cpu() for label in labels.unique()}
    for label, places in groups.items():
        if len(places) < 2:
            raise UserError(f"A start needs at least 2 images{of_class(label, num_classes)}, got {len(places)}: give more.")
    shape = (images.shape[1], images.shape[2], images.shape[3])
    return Groups(shape, num_classes, tuple(groups), tuple(groups.values()))


def of_class(label: int, num_classes: int) -> str:
    """How a message names the images concerned: " of class 3", or nothing where there are no classes."""
    return f" of class {label}" if num_classes else ""


def to_rows(images: Fitted) -> Float[Tensor, "image value"]:
    """Images to fit to as rows of values on the CPU: float64 where they are, else float32."""
    rows = images.detach().cpu().flatten(1)
    return rows if rows.dtype == torch.float64 else rows.float()


def as_rows(images: Images, shape: Sequence[int]) -> Rows:
    """The images as rows of float64 values on the CPU; raises UserError if they have not the shape that was fitted."""
    if tuple(images.shape[1:]) != tuple(shape):
        raise UserError(
            f"This start was fitted to images of shape {list(shape)}, got {list(images.shape[1:])}: "
            "give images of that size, or fit it to your data."
        )
    return images.flatten(1).double().cpu()


def as_images(rows: Rows, shape: Sequence[int], like: Tensor | None = None) -> Images:
    """Rows of values shaped to images, in the dtype and on the device of `like` (None: float32 on the CPU)."""
    images = rows.unflatten(1, tuple(shape))
    return images.float() if like is None else images.to(like)


def level(sigma: float) -> float:
    """Sigma; raises ValueError unless it is finite and at least 0."""
    if not 0 <= sigma < math.inf:
        raise UserError(f"A start's sigma must be a finite number of at least 0, got {sigma}: give the sigma to begin at.")
    return float(sigma)


def no_density() -> ValueError:
    """The error of a density at sigma 0 that does not exist."""
    return ValueError(
        "This start has a singular covariance, and so no density at sigma 0: ask for a sigma above 0, or fit it with fewer "
        "directions (a low-rank form) to data without constant values."
    )


def part_weights(
    labels: Labels | None, batch: int, classes: Int[Tensor, "part"], shares: Float[Tensor, "part"], num_classes: int
) -> Float[Tensor, "batch part"]:
    """ln of how much each part counts for each image: its share among the parts of the image's class, or among all without
    class.

    Parts of other classes count -inf. A start fitted without classes (num_classes 0) is the same for every label. Raises
    ValueError for labels that do not fit the batch, or of classes that were not fitted.
    """
    if labels is None:
        labels = torch.full((batch,), num_classes)
    if len(labels) != batch:
        raise UserError(f"A start needs one label for each of {batch} images, got {len(labels)}: give as many.")
    chosen = labels.cpu()[:, None] if num_classes else torch.zeros(batch, 1, dtype=torch.int64)
    counted = (chosen == classes) | (chosen == num_classes)
    if not counted.any(1).all():
        unseen = sorted({int(label) for label in chosen[~counted.any(1), 0]})
        seen = classes.unique().tolist()
        raise UserError(
            f"This start was not fitted to images of class {unseen[0]} (its classes: {seen}): "
            f"fit it to images of that class, or ask for no class with label {num_classes}."
        )
    return torch.where(counted, shares.log(), -math.inf).log_softmax(1)


def choose(streams: Streams, weights: Float[Tensor, "batch part"]) -> Int[Tensor, "batch"]:
    """One part for each image, drawn from the image's stream with probability exp(weights)."""
    drawn = uniform(streams, (1,), torch.float64).cpu()
    return (weights.exp().cumsum(1) <= drawn).sum(1).clamp(max=weights.shape[1] - 1)


def mixed_log_prob(rows: Rows, weights: Float[Tensor, "batch part"], parts: Callable[[int], Part]) -> Float[Tensor, "batch"]:
    """ln of the sum over parts of exp(weights + log_prob), where each part is asked only about the images it counts for."""
    return _joint(rows, weights, _needed(weights, parts)).logsumexp(1)


def mixed_denoise(rows: Rows, weights: Float[Tensor, "batch part"], parts: Callable[[int], Part]) -> Rows:
    """The parts' own estimates, averaged with the probability that each part made the row."""
    needed = _needed(weights, parts)
    posterior = _joint(rows, weights, needed).softmax(1)
    estimate = torch.zeros_like(rows)
    for number, part in needed.items():
        inside = (weights[:, number] > -math.inf).nonzero()[:, 0]
        estimate = estimate.index_add(0, inside, posterior[inside, number, None] * part.denoise(rows[inside]))
    return estimate


def by_sigma(rows: Rows, sigma: Tensor, estimate: Callable[[Rows, float, Int[Tensor, "chosen"]], Rows]) -> Rows:
    """`estimate(rows, sigma, places)` once for every sigma there is; at sigma 0 the rows are clean already.

    Raises UserError unless sigma is one number, or one for each row, finite and at least 0.
    """
    if sigma.ndim and len(sigma) != len(rows):
        raise UserError(f"A denoiser needs one sigma, or one for each of {len(rows)} images, got {len(sigma)}: give as many.")
    if not sigma.ndim:
        value = level(float(sigma))
        return estimate(rows, value, torch.arange(len(rows))) if value else rows
    found = torch.zeros_like(rows)
    for value in sigma.double().cpu().unique().tolist():
        places = (sigma.double().cpu() == value).nonzero()[:, 0]
        found = found.index_add(0, places, estimate(rows[places], value, places) if level(value) else rows[places])
    return found


def _needed(weights: Tensor, parts: Callable[[int], Part]) -> dict[int, Part]:
    return {number: parts(number) for number in (weights > -math.inf).any(0).nonzero()[:, 0].tolist()}


def _joint(rows: Rows, weights: Float[Tensor, "batch part"], parts: dict[int, Part]) -> Float[Tensor, "batch part"]:
    columns = [torch.full_like(rows[:, 0], -math.inf)] * weights.shape[1]
    for number, part in parts.items():
        inside = (weights[:, number] > -math.inf).nonzero()[:, 0]
        columns[number] = columns[number].index_copy(0, inside, part.log_prob(rows[inside]) + weights[inside, number])
    return torch.stack(columns, 1)
