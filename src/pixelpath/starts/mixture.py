"""Mixtures of Gaussians, fitted once to clean images and noised in closed form.

An image is centre + basis z + rest. Its *coordinates* z along principal directions follow the mixture. The rest is isotropic
and independent of them. A component may turn the leading coordinates to axes of its own; the others vary independently.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal
from pixelpath.starts.gaussian import WIDEST, Diagonal, Full, mean_and_variance, principal, scatter
from pixelpath.starts.start import (
    ByClass,
    Fitted,
    Rows,
    as_images,
    as_rows,
    by_class,
    by_sigma,
    level,
    mixed_denoise,
    mixed_log_prob,
    no_density,
    to_rows,
)
from pixelpath.types import Images, Labels

LEAST = 1e-6  # added to variances while fitting, in units of the mean variance of the coordinates
FEWEST = 2  # images for each component of a fit
COLLAPSED = 1.5  # images below which a component holds one alone
HELD = 128  # principal directions held of wide images


@dataclass(frozen=True)
class Component:
    """N(mean, A diag(variances + sigma^2) A^T) of the coordinates, A turning the first of them by `axes` [turned, turned].

    A Part at `sigma`.
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
class ConvolvedMixture(ByClass):
    """sum_k share_k N(centre + basis mean_k, basis C_k basis^T + rest (I - basis basis^T) + sigma^2 I), each k of one class.

    C_k turns diag(variances_k) by axes_k in its first coordinates. Tensors are float64, but for `classes`.
    """

    family = "mixture"
    centre: Float[Tensor, "value"]
    basis: Float[Tensor, "value coordinate"]
    means: Float[Tensor, "part coordinate"]
    axes: Float[Tensor, "part turned turned"]
    variances: Float[Tensor, "part coordinate"]
    rest: Float[Tensor, ""]

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """A component drawn by its share, its coordinates, and an isotropic rest: one float32 image per stream."""
        parts = self.chosen(streams, labels)
        width, held = self.basis.shape
        coordinates = normal(streams, (held,)).double().cpu() * (self.variances[parts] + level(sigma) ** 2).sqrt()
        for part in parts.unique().tolist():
            inside = parts == part
            coordinates[inside] = self.means[part] + _turned(coordinates[inside], self.axes[part].T)
        rows = self.centre + coordinates @ self.basis.T
        if held < width:
            rest = normal(streams, (width,)).double().cpu()
            rows = rows + (self.rest + sigma**2).sqrt() * (rest - rest @ self.basis @ self.basis.T)
        return as_images(rows, self.shape)

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density at `sigma`, in nats, in the dtype of the images."""
        weights = self.weights(labels, len(images))
        coordinates, rest = self._split(as_rows(images, self.shape))
        width, held = self.basis.shape
        noised = self.rest + level(sigma) ** 2
        if not (self.variances + sigma**2 > 0).all() or (held < width and noised <= 0):
            raise no_density()
        found = mixed_log_prob(coordinates, weights, lambda part: self.part(part, sigma))
        if held < width:
            found = found - ((rest**2).sum(1) / noised + (width - held) * (2 * math.pi * noised).log()) / 2
        return found.to(images)

    def denoise(self, noisy: Images, sigma: Tensor, labels: Labels | None = None) -> Images:
        """E[clean | noisy]: the components' estimates by their posterior share, and rest / (rest + sigma^2) of the rest."""
        weights = self.weights(labels, len(noisy))

        def estimate(rows: Rows, value: float, places: Int[Tensor, "chosen"]) -> Rows:
            coordinates, rest = self._split(rows)
            found = mixed_denoise(coordinates, weights[places], lambda part: self.part(part, value))
            return self.centre + found @ self.basis.T + rest * (self.rest / (self.rest + value**2))

        return as_images(by_sigma(as_rows(noisy, self.shape), sigma, estimate), self.shape, noisy)

    def part(self, number: int, sigma: float) -> Component:
        """The coordinates' Gaussian of one component at one sigma."""
        return Component(self.means[number], self.axes[number], self.variances[number], sigma)

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
    quarter of the images' count (128 of wide images). Raises UserError if a component collapses onto one image, for too few
    images, for images that are not finite, or for labels that do not fit.
    """
    groups, rows = by_class(images, labels, num_classes), to_rows(images)
    if components < 1 or coordinates < 1:
        raise UserError(f"A mixture needs at least 1 component and 1 coordinate, got {components} and {coordinates}.")
    centre, basis, rest = _directions(rows, min(coordinates, rows.shape[1]), seed)
    placed = torch.cat([(part.double() - centre) @ basis for part in rows.split(2048)])
    fitted = [
        _components(placed[places], components, coordinates, form or Full(), seed, named) for named, places in groups.named()
    ]
    weights, *described = zip(*fitted, strict=True)
    means, axes, variances = (torch.cat(each) for each in described)
    return ConvolvedMixture(
        **groups.parts(weights), centre=centre, basis=basis, means=means, axes=axes, variances=variances, rest=rest
    )


def _directions(rows: Rows, least: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre [value], principal directions [value, coordinate] of all images, and the mean variance [] across them."""
    count, width = rows.shape
    centre, variance = mean_and_variance(rows)
    if least >= count:
        raise UserError(f"{least} coordinates need more than {least} images, got {count}: choose fewer coordinates.")
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
    from sklearn.exceptions import ConvergenceWarning  # loaded only where a start is fitted
    from sklearn.mixture import GaussianMixture

    if len(placed) < FEWEST * components:
        raise UserError(
            f"{components} components need at least {FEWEST * components} images, got {len(placed)}{named}: "
            f"choose at most {len(placed) // FEWEST}."
        )
    seen = placed[:, :leading].numpy()
    least = LEAST * float(placed[:, :leading].var(0).mean()) or LEAST
    kind = "full" if isinstance(form, Full) else "diag"
    mixture = GaussianMixture(components, covariance_type=kind, reg_covar=least, max_iter=300, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # Any parameters make a density, converged or not; its certificate says how good it is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(seen)
    posterior = torch.from_numpy(mixture.predict_proba(seen))
    held = posterior.sum(0)
    if held.min() < COLLAPSED:
        raise UserError(
            f"Component {int(held.argmin())} of {components}{named} collapsed onto {float(held.min()):.2g} images: choose fewer "
            "components or another seed, or a Student mixture if the data have heavy tails."
        )
    means = posterior.T @ placed / held[:, None]
    variances = (posterior.T @ placed**2 / held[:, None] - means**2).clamp(min=0)
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
