"""Mixtures of Gaussians, fitted once to clean images and noised in closed form.

An image is centre + basis z + rest: *coordinates* z along principal directions follow the mixture, the rest is isotropic and
independent of them. In a component the leading coordinates may be turned to axes of their own; the others vary independently.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.randomness import normal
from pixelpath.starts.gaussian import WIDEST, Diagonal, Full, mean_and_variance, principal, scatter
from pixelpath.starts.start import (
    Fitted,
    Rows,
    State,
    as_images,
    as_rows,
    by_class,
    by_level,
    choose,
    level,
    mixed_denoise,
    mixed_log_prob,
    no_density,
    of_class,
    part_weights,
)
from pixelpath.types import Images, Labels

LEAST = 1e-6  # added to variances while fitting, in units of the mean variance of the coordinates
FEWEST = 2  # images for each component of a fit
COLLAPSED = 1.5  # images below which a component holds one alone
HELD = 128  # principal directions held of wide images


@dataclass(frozen=True)
class Component:
    """N(mean, A diag(variances + sigma^2) A^T) of the coordinates, A turning the first of them by `axes` [turned, turned].

    A Part of a law at level `sigma`.
    """

    mean: Float[Tensor, "coordinate"]
    axes: Float[Tensor, "turned turned"]
    variances: Float[Tensor, "coordinate"]
    sigma: float

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]:
        """The natural logarithm of the density of coordinates."""
        noised = self.variances + self.sigma**2
        turned = _turned(rows - self.mean, self.axes)
        return -(turned**2 / noised + (2 * math.pi * noised).log()).sum(1) / 2

    def denoise(self, rows: Rows) -> Rows:
        """mean + A diag(variances / (variances + sigma^2)) A^T (rows - mean)."""
        kept = self.variances / (self.variances + self.sigma**2)
        return self.mean + _turned(_turned(rows - self.mean, self.axes) * kept, self.axes.T)


@dataclass(frozen=True, eq=False)
class ConvolvedMixture:
    """sum_k share_k N(centre + basis mean_k, basis C_k basis^T + rest (I - basis basis^T) + sigma^2 I), each k of one class.

    C_k turns diag(variances_k) by axes_k in its first coordinates. Without a class all components count, by `shares`;
    `num_classes` 0 means that there are none. Tensors are float64, but for `classes`.
    """

    shape: tuple[int, int, int]
    num_classes: int
    classes: Int[Tensor, "part"]
    shares: Float[Tensor, "part"]
    centre: Float[Tensor, "value"]
    basis: Float[Tensor, "value coordinate"]
    means: Float[Tensor, "part coordinate"]
    axes: Float[Tensor, "part turned turned"]
    variances: Float[Tensor, "part coordinate"]
    rest: Float[Tensor, ""]

    def sample(self, sources: list[torch.Generator], sigma: float, labels: Labels | None = None) -> Images:
        """A component drawn by its share, its coordinates, and an isotropic rest: one float32 image per generator.

        Raises ValueError for labels that do not fit, or a sigma that is negative or not finite.
        """
        parts = choose(sources, self._weights(labels, len(sources)))
        width, held = self.basis.shape
        coordinates = normal(sources, (held,)).double().cpu() * (self.variances[parts] + level(sigma) ** 2).sqrt()
        for part in parts.unique().tolist():
            inside = parts == part
            coordinates[inside] = self.means[part] + _turned(coordinates[inside], self.axes[part].T)
        rows = self.centre + coordinates @ self.basis.T
        if held < width:
            rest = normal(sources, (width,)).double().cpu()
            rows = rows + (self.rest + sigma**2).sqrt() * (rest - rest @ self.basis @ self.basis.T)
        return as_images(rows, self.shape)

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density at `sigma`, in nats, in the dtype of the images.

        Raises ValueError for images or labels that do not fit, or at sigma 0 where a covariance is singular.
        """
        weights = self._weights(labels, len(images))
        coordinates, rest = self._split(as_rows(images, self.shape))
        width, held = self.basis.shape
        noised = self.rest + level(sigma) ** 2
        if not (self.variances + sigma**2 > 0).all() or (held < width and noised <= 0):
            raise no_density()
        found = mixed_log_prob(coordinates, weights, lambda part: self._part(part, sigma))
        if held < width:
            found = found - ((rest**2).sum(1) / noised + (width - held) * (2 * math.pi * noised).log()) / 2
        return found.to(images)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """E[clean | noisy]: the components' estimates by their posterior share, and rest / (rest + sigma^2) of what is left.

        Raises ValueError for images, sigmas or labels that do not fit.
        """
        weights = self._weights(labels, len(noisy))

        def estimate(rows: Rows, value: float, places: Int[Tensor, "chosen"]) -> Rows:
            coordinates, rest = self._split(rows)
            found = mixed_denoise(coordinates, weights[places], lambda part: self._part(part, value))
            return self.centre + found @ self.basis.T + rest * (self.rest / (self.rest + value**2))

        return as_images(by_level(as_rows(noisy, self.shape), sigma, estimate), self.shape, noisy)

    def state(self) -> State:
        """Facts and tensors from which `from_state` makes this law again, bit for bit."""
        metadata = {"family": "mixture", "shape": list(self.shape), "num_classes": self.num_classes}
        tensors = {"classes": self.classes, "shares": self.shares, "centre": self.centre, "basis": self.basis}
        return metadata, tensors | {"means": self.means, "axes": self.axes, "variances": self.variances, "rest": self.rest}

    @classmethod
    def from_state(cls, metadata: dict[str, Any], tensors: dict[str, Tensor]) -> ConvolvedMixture:
        """The law whose `state` this is."""
        channels, rows, columns = metadata["shape"]
        return cls((channels, rows, columns), metadata["num_classes"], **tensors)

    def _weights(self, labels: Labels | None, batch: int) -> Float[Tensor, "batch part"]:
        return part_weights(labels, batch, self.classes, self.shares, self.num_classes)

    def _part(self, part: int, sigma: float) -> Component:
        return Component(self.means[part], self.axes[part], self.variances[part], sigma)

    def _split(self, rows: Rows) -> tuple[Float[Tensor, "batch coordinate"], Rows]:
        """The coordinates of rows, and what they leave (nothing where there are as many coordinates as values)."""
        centred = rows - self.centre
        coordinates = centred @ self.basis
        left = centred - coordinates @ self.basis.T if self.basis.shape[1] < len(self.centre) else torch.zeros_like(centred)
        return coordinates, left


def fit_mixture(
    images: Fitted,
    labels: Int[Tensor, "image"] | None = None,
    num_classes: int = 0,
    components: int = 10,
    coordinates: int = 32,
    form: Full | Diagonal | None = None,
    seed: int = 0,
) -> ConvolvedMixture:
    """A mixture of `components` Gaussians, of each class where `labels` and `num_classes` > 0 are given, by maximum likelihood.

    scikit-learn's expectation maximisation finds components with covariances of `form` (None: Full()) on the leading
    `coordinates` of the clean images; further coordinates get a mean and a variance in each component, and are held up to a
    quarter of the images' count (128 of wide images). Raises ValueError if a component collapses onto one image, for too few
    images, for images that are not finite, or for labels that do not fit.
    """
    groups = by_class(images, labels, num_classes)
    rows = images.detach().cpu().flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    if components < 1 or coordinates < 1:
        raise ValueError(f"A mixture needs at least 1 component and 1 coordinate, got {components} and {coordinates}.")
    centre, basis, rest = _directions(rows, min(coordinates, rows.shape[1]), seed)
    placed = torch.cat([(part.double() - centre) @ basis for part in rows.split(2048)])
    fitted = [
        _components(placed[places], components, coordinates, form or Full(), seed, of_class(label, num_classes))
        for label, places in groups.items()
    ]
    weights, means, axes, variances = (torch.cat(each) for each in zip(*fitted, strict=True))
    share = torch.tensor([len(places) for places in groups.values()], dtype=torch.float64) / len(images)
    channels, height, width = images.shape[1:]
    classes = torch.tensor(list(groups)).repeat_interleave(components)
    shares = weights * share.repeat_interleave(components)
    return ConvolvedMixture((channels, height, width), num_classes, classes, shares, centre, basis, means, axes, variances, rest)


def _directions(rows: Rows, least: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [value], principal directions [value, coordinate] of all images, and the mean variance [] across them."""
    count, width = rows.shape
    centre, variance = mean_and_variance(rows)
    if least >= count:
        raise ValueError(f"{least} coordinates need more than {least} images, got {count}: choose fewer coordinates.")
    held = max(least, min(width, count // 4))
    if width <= WIDEST:
        spread, basis = torch.linalg.eigh(scatter(rows, centre) / (count - 1))
        spread, basis = spread.flip(0)[:held], basis.flip(1)[:, :held].contiguous()
    else:
        held = max(least, min(held, HELD))
        basis, spread = principal(rows, centre, held, seed)
    rest = (variance.sum() - spread.sum()).clamp(min=0) / max(1, width - held)
    return centre, basis, rest


def _components(
    placed: Float[Tensor, "image coordinate"], components: int, leading: int, form: Full | Diagonal, seed: int, named: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights [part], means [part, coordinate], axes [part, turned, turned], variances [part, coordinate] of one class."""
    from sklearn.exceptions import ConvergenceWarning  # loaded only where a law is fitted
    from sklearn.mixture import GaussianMixture

    if len(placed) < FEWEST * components:
        raise ValueError(
            f"{components} components need at least {FEWEST * components} images, got {len(placed)}{named}: "
            f"choose at most {len(placed) // FEWEST}."
        )
    seen = placed[:, :leading].numpy()
    least = LEAST * float(placed[:, :leading].var(0).mean()) or LEAST
    kind = "full" if isinstance(form, Full) else "diag"
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=least, max_iter=300, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Any parameters make a law, converged or not: how good it is, its certificate says.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(seen)
    blame = torch.from_numpy(mixture.predict_proba(seen))
    held = blame.sum(0)
    if held.min() < COLLAPSED:
        raise ValueError(
            f"Component {int(held.argmin())} of {components}{named} collapsed onto {float(held.min()):.2g} images: choose fewer "
            "components or another seed, or a Student mixture if the data have heavy tails."
        )
    means = blame.T @ placed / held[:, None]
    variances = (blame.T @ placed**2 / held[:, None] - means**2).clamp(min=0)
    means[:, :leading] = torch.from_numpy(mixture.means_)
    covariances = torch.from_numpy(mixture.covariances_)
    axes = torch.zeros(components, 0, 0, dtype=torch.float64)
    if isinstance(form, Full):
        covariances, axes = torch.linalg.eigh(covariances)
    variances[:, :leading] = covariances
    return torch.from_numpy(mixture.weights_), means, axes, variances


def _turned(rows: Rows, axes: Float[Tensor, "turned turned"]) -> Rows:
    """The leading coordinates of rows times `axes`, the others as they are."""
    turned = len(axes)
    return torch.cat([rows[:, :turned] @ axes, rows[:, turned:]], 1) if turned else rows
