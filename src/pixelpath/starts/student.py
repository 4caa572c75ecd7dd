"""A mixture of Student distributions, fitted once to clean images and noised in closed form to any sigma.

The *freedom* of a component is its degrees of freedom: its density falls like radius^-(freedom + values). The *precision* of an
image divides the scatter of its component. Given the precision an image is Gaussian, so noise adds sigma^2 to every variance.
An *atom* is one precision of a quadrature over precisions: a noised component is a sum of Gaussians, one for each atom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, uniform
from pixelpath.starts.start import Fitted, Mixture, Rows, as_images, by_class, level
from pixelpath.types import Images, Labels

RADIUS = 1e4  # how far out, in stds of the scatter, the atoms reach
ALIAS = 1e-6  # relative error that the distance between atoms may cause in a density
CUT = 1e-7  # share of the precisions of any one image that may lie beyond the first or the last atom
LEAST_FREEDOM, MOST_FREEDOM = 0.3, 200.0  # of a fit; data cannot tell a component of 200 from a Gaussian
RIDGE = 1e-6  # share of the mean variance of the data that is added to every variance: some pixels never change
CHUNK = 16384  # images held against all atoms at a time


def atoms(freedom: float, values: int) -> tuple[Float[Tensor, "atom"], Float[Tensor, "atom"]]:
    """Log precisions v, equally spaced, and their log weights: the trapezoid rule for u = e^v ~ Gamma(nu / 2, rate nu / 2).

    An image at Mahalanobis distance r of a clean component has u ~ Gamma(a, rate (nu + r^2) / 2), a = (nu + values) / 2, so the
    integrand is widest apart in v between r = 0 and r = `RADIUS`, and there the rule with spacing h is wrong by
    2 |Gamma(a + 2 pi i / h)| / Gamma(a) (Poisson summation), which sets h; noise only smooths it. The first atom carries the
    weights below it, so that all sum to 1 within `ALIAS`. In 2 values there are about 60 atoms, in 64 about 100. Far beyond
    `RADIUS` the density falls as a Gaussian does.
    """
    from scipy.optimize import root_scalar
    from scipy.special import gammainccinv, gammaincinv, loggamma

    most = (freedom + values) / 2

    def alias(frequency: float) -> float:
        return float(loggamma(complex(most, frequency)).real - loggamma(most)) - math.log(ALIAS / 2)

    spacing = 2 * math.pi / root_scalar(alias, bracket=(0.1, 100 + 10 * most)).root
    top = math.log(gammainccinv(most, CUT) / (freedom / 2))
    bottom = math.log(gammaincinv(most, CUT) / ((freedom + RADIUS**2) / 2))
    nodes = torch.arange(bottom, top + spacing, spacing, dtype=torch.float64)
    half = freedom / 2
    logs = half * (nodes - nodes.exp()) + half * math.log(half) - math.lgamma(half) + math.log(spacing)
    logs[0] -= math.log(-math.expm1(-half * spacing))  # the weights below would fall geometrically, as u^(nu / 2) does
    return nodes, logs


@dataclass(frozen=True)
class Student:
    """integral N(x; m, S / u + sigma^2) Gamma(u; nu / 2, nu / 2) du, S = Q diag(variance) Q^T. A Part at `sigma`.

    `axes` are the columns of Q, or None for the identity; `nodes` and `logs` are the `atoms` of nu.
    """

    mean: Float[Tensor, "value"]
    variance: Float[Tensor, "value"]
    axes: Float[Tensor, "value value"] | None
    nodes: Float[Tensor, "atom"]
    logs: Float[Tensor, "atom"]
    sigma: float

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]:
        """ln of the sum over atoms of weight times Gaussian."""
        return torch.cat([self._joint(self._turned(part)).logsumexp(1) for part in rows.split(CHUNK)])

    def denoise(self, rows: Rows) -> Rows:
        """m + Q diag(sum over atoms of P(atom | x) (variance / u) / (variance / u + sigma^2)) Q^T (x - m)."""
        signal = self._signal()
        kept = signal / (signal + self.sigma**2)
        moves = []
        for part in rows.split(CHUNK):
            turned = self._turned(part)
            move = turned * (self._joint(turned).softmax(1) @ kept)
            moves.append(move if self.axes is None else move @ self.axes.T)
        return self.mean + torch.cat(moves)

    def _turned(self, rows: Rows) -> Rows:
        return rows - self.mean if self.axes is None else (rows - self.mean) @ self.axes

    def _signal(self) -> Float[Tensor, "atom value"]:
        return self.variance * (-self.nodes).exp()[:, None]

    def _joint(self, turned: Rows) -> Float[Tensor, "batch atom"]:
        total = self._signal() + self.sigma**2
        volume = total.log().sum(1) + total.shape[1] * math.log(2 * math.pi)
        return self.logs - (turned.square() @ total.reciprocal().T + volume) / 2


@dataclass(frozen=True, eq=False)
class ConvolvedStudentMixture(Mixture):
    """The density sum_k share_k t(x; m_k, S_k, nu_k) of clean images, and that of these images plus noise of any std sigma.

    `variance` are the eigenvalues of the scatters S_k, `axes` their eigenvectors, empty where scatters are diagonal. Tensors
    are float64. Student mixtures: Peel and McLachlan 2000 ("Robust mixture modelling using the t distribution"); as a start of
    sampling: Fassina et al. 2026 (arXiv 2603.00772).
    """

    family = "student"
    mean: Float[Tensor, "part value"]
    variance: Float[Tensor, "part value"]
    axes: Float[Tensor, "part _ _"]
    freedom: Float[Tensor, "part"]

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """m + Q sqrt(variance / u) e1 + sigma e2, one float32 image per stream.

        The precision u is chi-square / freedom: the inverse of its distribution function at a uniform draw.
        """
        from scipy.special import gammaincinv

        parts = self.chosen(streams, labels)
        half = self.freedom[parts] / 2
        precision = torch.from_numpy(gammaincinv(half.numpy(), uniform(streams, (), torch.float64).cpu().numpy())) / half
        inside, outside = (normal(streams, (self.mean.shape[1],)).double().cpu() for _ in range(2))
        away = inside * (self.variance[parts] / precision[:, None]).sqrt()
        for part in parts.unique().tolist() if self.axes.numel() else []:
            away[parts == part] = away[parts == part] @ self.axes[part].T
        return as_images(self.mean[parts] + away + level(sigma) * outside, self.shape)

    @cached_property
    def _atoms(self) -> list[tuple[Tensor, Tensor]]:
        return [atoms(freedom, self.mean.shape[1]) for freedom in self.freedom.tolist()]

    def part(self, number: int, sigma: float) -> Student:
        """One component at one sigma."""
        axes = self.axes[number] if self.axes.numel() else None
        return Student(self.mean[number], self.variance[number], axes, *self._atoms[number], sigma)


@dataclass(frozen=True)
class _Fit:
    """The components of one class; scatters [component, feature, feature], or [component, feature] where diagonal.

    `floor` is what every variance has in excess.
    """

    weights: Float[Tensor, "component"]
    means: Float[Tensor, "component feature"]
    scatters: Tensor
    freedom: Float[Tensor, "component"]
    floor: float


def fit_student(
    images: Fitted,
    labels: Int[Tensor, "image"] | None = None,
    num_classes: int = 0,
    *,
    components: int = 1,
    diagonal: bool = False,
    freedom: float | None = None,
    seed: int = 0,
    tolerance: float = 1e-5,
    iterations: int = 2000,
) -> ConvolvedStudentMixture:
    """The mixture of greatest likelihood on clean images, by expectation and conditional maximisation; `components` a class.

    Peel and McLachlan 2000, with two quicker steps that have the same fixed points: scatters are divided by the sum of the
    weights tau u (Kent, Tyler and Vardi 1994), and each freedom maximises the likelihood itself at given tau (Liu and Rubin
    1995); `freedom` sets that of all components instead. Begins at k-means clusters of images drawn in to the 90 % radius, ends
    when the mean log likelihood of an image rises by less than `tolerance` nats. With `labels` and num_classes > 0 there is a
    mixture for each class among the labels. Raises UserError for images that are not finite or all alike, too few for the
    scatter, a component that collapses onto a few images, or no end within `iterations`.
    """
    if components < 1:
        raise UserError(f"A mixture needs at least 1 component, got {components}: ask for one or more.")
    if freedom is not None and not LEAST_FREEDOM <= freedom <= MOST_FREEDOM:
        raise UserError(f"A freedom lies in [{LEAST_FREEDOM}, {MOST_FREEDOM}], got {freedom}: choose one, or None to fit it.")
    groups = by_class(images, labels, num_classes)
    rows = images.detach().cpu().double().flatten(1)
    fits = []
    for named, places in groups.named():
        start = _begin(rows[places], components, diagonal, freedom, seed, named)
        fits.append(_maximise(rows[places], start, freedom is None, tolerance, iterations, named))
    scatters = torch.cat([fit.scatters for fit in fits])
    variance, axes = (scatters, scatters.new_zeros(len(scatters), 0, 0)) if diagonal else torch.linalg.eigh(scatters)
    return ConvolvedStudentMixture(
        **groups.parts([fit.weights for fit in fits]),
        mean=torch.cat([fit.means for fit in fits]),
        variance=variance,
        axes=axes,
        freedom=torch.cat([fit.freedom for fit in fits]),
    )


def _begin(rows: Tensor, components: int, diagonal: bool, freedom: float | None, seed: int, named: str) -> _Fit:
    """Clusters of the rows after those beyond the 90 % radius are drawn in to it: an outlier must not become a cluster."""
    from sklearn.cluster import KMeans

    count, values = rows.shape
    least = 3 if diagonal else values + 1
    if count < least * components:
        kind, remedy = ("diagonal", "") if diagonal else ("full", "diagonal=True, ")
        raise UserError(
            f"{components} components with {kind} scatter of {values} values need at least {least * components} images{named}, "
            f"got {count}: use {remedy}fewer components, more images, or the low-rank Gaussian, "
            "fit_gaussian(images, form=LowRank(64))."
        )
    away = rows - rows.median(0).values
    radius = away.norm(dim=1)
    inner = rows - away * (1 - radius.quantile(0.9) / radius.clamp(min=1e-300)).clamp(min=0)[:, None]
    floor = RIDGE * float(inner.var(0).mean())
    if floor == 0:
        raise UserError(f"The images{named} are all alike: a start needs images that differ.")
    clusters = torch.from_numpy(
        KMeans(components, n_init=cast(Any, 4), random_state=seed % 2**32).fit_predict(inner.numpy())
    ).long()
    member = torch.nn.functional.one_hot(clusters, components).double()
    means = member.T @ inner / member.sum(0)[:, None]
    begin = torch.full((components,), 10.0 if freedom is None else freedom, dtype=torch.float64)
    return _Fit(member.mean(0), means, _scatters(inner, means, member, diagonal, floor), begin, floor)


def _scatters(rows: Tensor, means: Tensor, scale: Tensor, diagonal: bool, floor: float) -> Tensor:
    """The weighted scatter of each component about its mean, `scale` [image, component] being the weights."""
    result = []
    for mean, weight in zip(means, scale.T, strict=True):
        away = rows - mean
        if diagonal:
            result.append(weight @ away.square() / weight.sum() + floor)
        else:
            result.append((away * weight[:, None]).T @ away / weight.sum() + floor * torch.eye(rows.shape[1], dtype=rows.dtype))
    return torch.stack(result)


def _distances(rows: Tensor, fit: _Fit) -> tuple[Float[Tensor, "image component"], Float[Tensor, "component"]]:
    """Squared Mahalanobis distances and log determinants of the scatters."""
    squares, volumes = [], []
    for mean, scatter in zip(fit.means, fit.scatters, strict=True):
        if scatter.ndim == 1:
            squares.append((rows - mean).square() @ scatter.reciprocal())
            volumes.append(scatter.log().sum())
        else:
            root = torch.linalg.cholesky(scatter)
            squares.append(torch.linalg.solve_triangular(root, (rows - mean).T, upper=False).square().sum(0))
            volumes.append(2 * root.diagonal().log().sum())
    return torch.stack(squares, 1), torch.stack(volumes)


def _maximise(rows: Tensor, fit: _Fit, free: bool, tolerance: float, iterations: int, named: str) -> _Fit:
    """Expectation and conditional maximisation until the mean log likelihood rises by less than the tolerance."""
    values = rows.shape[1]
    diagonal = fit.scatters.ndim == 2
    least, before = (2 if diagonal else values), -math.inf
    squares, volumes = _distances(rows, fit)
    for _ in range(iterations):
        logs = fit.weights.log() + _log_student(squares, volumes, fit.freedom, values)
        now = float(logs.logsumexp(1).mean())
        if now - before < tolerance:
            return fit
        before, member = now, logs.softmax(1)
        _check(now, member, least, named)
        scale = member * (fit.freedom + values) / (fit.freedom + squares)
        means = scale.T @ rows / scale.sum(0)[:, None]
        scatters = _scatters(rows, means, scale, diagonal, fit.floor)
        fit = replace(fit, weights=member.mean(0), means=means, scatters=scatters)
        squares, volumes = _distances(rows, fit)
        if free:
            fit = replace(fit, freedom=_freedom(member, squares, values))
    raise UserError(
        f"The Student mixture{named} has not settled after {iterations} iterations (log likelihood {before:.5f} nats an image): "
        "allow more iterations, or a greater tolerance."
    )


def _check(likelihood: float, member: Float[Tensor, "image component"], least: int, named: str) -> None:
    if not math.isfinite(likelihood):
        raise UserError(f"The likelihood of the Student mixture{named} is not finite: use fewer components, or scale the images.")
    worst, size = int(member.sum(0).argmin()), float(member.sum(0).min())
    if size <= least:
        raise UserError(
            f"Component {worst} of {member.shape[1]}{named} has collapsed onto {size:.1f} images: use fewer components, "
            "diagonal=True, or more images."
        )


def _log_student(squares: Tensor, volumes: Tensor, freedom: Tensor, values: int) -> Float[Tensor, "image component"]:
    """The log density of a Student distribution at squared Mahalanobis distances."""
    half = (freedom + values) / 2
    constant = half.lgamma() - (freedom / 2).lgamma() - values / 2 * (freedom * math.pi).log() - volumes / 2
    return constant - half * (squares / freedom).log1p()


def _freedom(member: Tensor, squares: Tensor, values: int) -> Float[Tensor, "component"]:
    """For each component the freedom that maximises its weighted likelihood, at the given distances (Liu and Rubin 1995)."""
    from scipy.optimize import root_scalar
    from scipy.special import digamma

    def best(weight: Tensor, square: Tensor) -> float:
        def slope(log: float) -> float:  # twice the derivative of the mean log likelihood with respect to the freedom
            nu = math.exp(log)
            data = ((square - values) / (nu + square) - (square / nu).log1p()) @ weight
            return float(digamma((nu + values) / 2) - digamma(nu / 2) + data)

        ends = math.log(LEAST_FREEDOM), math.log(MOST_FREEDOM)
        if slope(ends[1]) > 0:
            return MOST_FREEDOM
        return LEAST_FREEDOM if slope(ends[0]) < 0 else math.exp(root_scalar(slope, bracket=ends, xtol=1e-6).root)

    shares = member / member.sum(0)
    return torch.tensor([best(*columns) for columns in zip(shares.T, squares.T, strict=True)], dtype=torch.float64)
