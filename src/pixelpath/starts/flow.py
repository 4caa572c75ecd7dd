"""A normalising flow: a network that turns noised images into standard normal ones, one fit for a whole range of sigmas.

Images are *whitened* first, in closed form, by the mean and covariance of their class and the noise. Whitened values then pass
through *layers*. A layer shifts and stretches a value by what its network makes of the values before it. The *gain* of the
network falls with the share of a value's variance that comes from the images. So a fit begins at the Gaussian of equal moments,
and returns to it where noise dominates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal, permutation, seed_of, uniform
from pixelpath.starts.gaussian import fit_gaussian
from pixelpath.starts.start import Fitted, Load, Mixture, Rows, as_images, by_class, level
from pixelpath.types import Images, Labels

MOST_VALUES = 256  # of an image: the inverse of a layer evaluates its network once for each
SPLINES = 8  # values up to which every layer is a spline; above, only the last is, and the others are affine: ten times quicker
BINS = 16, 8  # of the splines of narrow and of wide images
WIDTH = 128  # hidden units of each of two hidden layers; 64 where all layers are splines
CHUNK = 1024  # images taken through the network at a time
SLACK = 1e-6  # relative: a sigma may be so far outside the range, as float32 rounds
WARMUP = 50  # steps
STEEPEST = 5.0  # largest norm of the gradient


class Layer(nn.Module):
    """One autoregressive map of values [batch, value]: rational quadratic splines of `bins` bins on [-5, 5], or affine for 0.

    Value i is mapped by what the network makes of the values before it, in ascending or `descending` order, and of the context,
    times the network's gain. A new layer is the identity. Durkan et al. 2019 (arXiv 1906.04032); Papamakarios et al. 2017
    (arXiv 1705.07057).
    """

    def __init__(self, values: int, context: int, hidden: int, bins: int, descending: bool) -> None:
        super().__init__()
        from zuko.nn import MaskedMLP

        self.values, self.bins, self.descending = values, bins, descending
        self.numbers = 3 * bins - 1 if bins else 2  # that the network makes for each value
        place = torch.arange(values).flip(0) if descending else torch.arange(values)
        before = torch.cat([place[:, None] > place, torch.ones(values, context, dtype=torch.bool)], 1)
        self.network = MaskedMLP(cast(Any, before.repeat_interleave(self.numbers, 0)), (hidden, hidden), nn.SiLU)
        last = cast(nn.Linear, self.network[-1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, rows: Rows, context: Float[Tensor, "batch _"], gain: Rows) -> tuple[Rows, Float[Tensor, "batch"]]:
        """The mapped rows, and ln |det| of the map's derivative."""
        found = self.network(torch.cat([rows, context], 1)).unflatten(1, (self.values, self.numbers))
        mapped, slopes = self._map(found * gain[..., None]).call_and_ladj(rows)
        return mapped, slopes.sum(1)

    def inverse(self, rows: Rows, context: Float[Tensor, "batch _"], gain: Rows) -> Rows:
        """The values that are mapped to `rows`, found one after the other."""
        *before, last = cast(Any, self.network)
        inside = nn.Sequential(*before)
        shape = (self.values, self.numbers)
        weight, bias = (last.mask * last.weight).unflatten(0, shape), last.bias.unflatten(0, shape)
        found = torch.zeros_like(rows)
        for value in range(self.values - 1, -1, -1) if self.descending else range(self.values):
            inner = inside(torch.cat([found, context], 1))
            numbers = nn.functional.linear(inner, weight[value], bias[value]) * gain[:, value, None]
            found[:, value] = self._map(numbers).inv(rows[:, value])
        return found

    def _map(self, numbers: Float[Tensor, "*places numbers"]) -> Any:
        """The maps of single values that these numbers describe: a torch Transform, of zuko's, which also knows its slope."""
        from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

        if not self.bins:
            return MonotonicAffineTransform(numbers[..., 0], numbers[..., 1])
        widths, heights, slopes = numbers.split([self.bins, self.bins, self.bins - 1], -1)
        return MonotonicRQSTransform(widths, heights, slopes)


class Layers(nn.Module):
    """The layers in turn, every other one descending; `bins` has one number for each."""

    def __init__(self, values: int, context: int, hidden: int, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(values, context, hidden, count, descending=bool(place % 2)) for place, count in enumerate(bins)
        )

    def log_prob(self, rows: Rows, context: Float[Tensor, "batch _"], gain: Rows) -> Float[Tensor, "batch"]:
        """ln N(f(rows); 0, I) + ln |det df / drows|."""
        stretched = torch.zeros_like(rows[:, 0])
        for layer in self.layers:
            rows, more = layer(rows, context, gain)
            stretched = stretched + more
        return stretched - (rows.square().sum(1) + rows.shape[1] * math.log(2 * math.pi)) / 2

    def inverse(self, rows: Rows, context: Float[Tensor, "batch _"], gain: Rows) -> Rows:
        """The values that the layers map to `rows`."""
        for layer in reversed(self.layers):
            rows = cast(Layer, layer).inverse(rows, context, gain)
        return rows


@dataclass(frozen=True, eq=False)
class Whitening:
    """The mean and the covariance Q diag(variance) Q^T of every part's clean images; a part is a class, or all images."""

    mean: Float[Tensor, "part value"]
    basis: Float[Tensor, "part value value"]
    variance: Float[Tensor, "part value"]

    def scale(self, part: int, sigma: Float[Tensor, "batch"]) -> Rows:
        """sqrt(variance + sigma^2), along the axes."""
        return (self.variance[part] + sigma[:, None] ** 2).sqrt()

    def whiten(self, rows: Rows, part: int, sigma: Float[Tensor, "batch"]) -> Rows:
        """Q ((Q^T (rows - mean)) / scale): of mean 0 and covariance I, and of all such maps the nearest to the identity."""
        return ((rows - self.mean[part]) @ self.basis[part] / self.scale(part, sigma)) @ self.basis[part].T

    def colour(self, rows: Rows, part: int, sigma: Float[Tensor, "batch"]) -> Rows:
        """The inverse of `whiten`."""
        return self.mean[part] + (rows @ self.basis[part] * self.scale(part, sigma)) @ self.basis[part].T

    def gain(self, part: int, sigma: Float[Tensor, "batch"]) -> Rows:
        """The diagonal of Q diag(variance / (variance + sigma^2)) Q^T to the power 3/2, as third cumulants of a value fall."""
        share = (self.variance[part] / self.scale(part, sigma) ** 2) @ self.basis[part].square().T
        return share.clamp(0, 1) ** 1.5

    def context(self, part: int, sigma: Float[Tensor, "batch"]) -> Float[Tensor, "batch _"]:
        """ln(sigma / std of all values), and which part it is where there are several."""
        noise = (sigma / self.variance.mean().sqrt()).log()[:, None]
        parts = len(self.mean)
        which = torch.eye(parts, dtype=sigma.dtype)[part].expand(len(sigma), parts)
        return torch.cat([noise, which], 1) if parts > 1 else noise

    def to(self, dtype: torch.dtype) -> Whitening:
        """The same in another precision."""
        return Whitening(self.mean.to(dtype), self.basis.to(dtype), self.variance.to(dtype))


@dataclass(frozen=True, eq=False)
class Noised:
    """A Part of a flow at one sigma, in float64."""

    layers: Layers
    whitening: Whitening
    part: int
    sigma: float

    def log_prob(self, rows: Rows) -> Float[Tensor, "batch"]:
        """ln of the density of the layers at the whitened rows, minus the sum of ln scale."""
        return torch.cat(
            [_log_prob(self.layers, self.whitening, each, self.part, self._sigma(each)) for each in rows.split(CHUNK)]
        )

    def denoise(self, rows: Rows) -> Rows:
        """rows + sigma^2 times the gradient of `log_prob`, which is taken here whether or not the caller records gradients."""
        with torch.inference_mode(False), torch.enable_grad():
            at = rows.detach().clone().requires_grad_()
            slopes = [torch.autograd.grad(self.log_prob(each).sum(), each)[0] for each in at.split(CHUNK)]
        return rows.detach() + self.sigma**2 * torch.cat(slopes)

    def sample(self, rows: Rows) -> Rows:
        """The noised images to which standard normal rows belong."""
        return torch.cat([self._sampled(each) for each in rows.split(CHUNK)])

    def _sampled(self, rows: Rows) -> Rows:
        sigma = self._sigma(rows)
        context, gain = self.whitening.context(self.part, sigma), self.whitening.gain(self.part, sigma)
        return self.whitening.colour(self.layers.inverse(rows, context, gain), self.part, sigma)

    def _sigma(self, rows: Rows) -> Float[Tensor, "batch"]:
        return rows.new_full((len(rows),), self.sigma)


@dataclass(frozen=True, eq=False)
class Flow(Mixture):
    """The density of images noised to any sigma of `levels` (lowest, highest) whose whitened values a network makes normal.

    `hidden` and `bins` describe the layers, `network` holds their float32 weights. Mean, basis and variance are those of a
    Whitening. All computing is in float64. Unlike other starts it is fitted to noised images (maximum likelihood, as in Fassina
    et al. 2026, arXiv 2603.00772), so its densities at two sigmas need not agree. Far out its tails are Gaussian.
    """

    family = "flow"
    levels: tuple[float, float]
    mean: Float[Tensor, "part value"]
    basis: Float[Tensor, "part value value"]
    variance: Float[Tensor, "part value"]
    hidden: int
    bins: tuple[int, ...]
    network: dict[str, Tensor]

    @torch.no_grad()
    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """The layers' inverse of standard normal values, coloured; one float32 image per stream.

        Every layer evaluates its network once for each value of an image.
        """
        parts = self.chosen(streams, labels)
        rows = normal(streams, (self.mean.shape[1],)).double().cpu()
        made = torch.empty_like(rows)
        for part in parts.unique().tolist():
            made[parts == part] = self.part(part, sigma).sample(rows[parts == part])
        return as_images(made, self.shape)

    @classmethod
    def from_state(cls, metadata: dict[str, Any], tensors: dict[str, Tensor], load: Load) -> Flow:
        """As every start's; raises ValueError without the package zuko, or for weights of other layers."""
        flow = super().from_state(metadata, tensors, load)
        flow._layers.eval()  # made at once, so that weights that do not fit are found here
        return flow

    @cached_property
    def _whitening(self) -> Whitening:
        return Whitening(self.mean, self.basis, self.variance)

    @cached_property
    def _layers(self) -> Layers:
        with torch.inference_mode(False):  # else a flow first used under it could never be differentiated
            layers = _new_layers(self._whitening, self.hidden, self.bins, seed=0)
            try:
                layers.load_state_dict({name: value.clone() for name, value in self.network.items()})
            except RuntimeError as error:
                raise UserError("The weights of this flow are not those of its layers: fit it and save it again.") from error
            return layers.double().requires_grad_(False)

    def part(self, number: int, sigma: float) -> Noised:
        """The density of one part; UserError for a sigma outside the levels."""
        low, high = self.levels
        if not low * (1 - SLACK) <= level(sigma) <= high * (1 + SLACK):
            raise UserError(
                f"This flow was fitted to levels from {low:g} to {high:g}, got sigma {sigma:g}: ask for a level between them, or "
                "fit it to a range that holds this one."
            )
        return Noised(self._layers, self._whitening, number, sigma)


def fit_flow(
    images: Fitted,
    labels: Int[Tensor, "image"] | None = None,
    num_classes: int = 0,
    *,
    levels: tuple[float, float],
    steps: int = 2000,
    batch: int = 256,
    lr: float = 5e-3,
    seed: int = 0,
) -> Flow:
    """The flow of greatest likelihood on noised images, of each class where `labels` and `num_classes` > 0 are given.

    A step takes `batch` images, or noised copies of fewer, with fresh noise at sigmas spread evenly in ln sigma over `levels`
    (lowest, highest), and moves the weights by Adam; `lr` falls to 0 along a half cosine. All randomness is a function of
    `seed`. Covariances are those of `fit_gaussian`. Raises UserError without the package zuko, for more than 256 values,
    levels that are no range, likelihoods that diverge, images that are not finite, or labels that do not fit.
    """
    low, high = levels
    values = images[0].numel()
    if values > MOST_VALUES:
        raise UserError(
            f"A flow takes images of at most {MOST_VALUES} values, got {values}: fit the low-rank Gaussian, "
            "fit_gaussian(images, form=LowRank(64)), or a mixture."
        )
    if not 0 < low < high < math.inf or steps < 1 or batch < 1 or not lr > 0:
        raise UserError(
            f"A flow needs levels 0 < lowest < highest, at least 1 step, at least 1 image a step and lr above 0, got levels "
            f"{low} and {high}, {steps} steps, {batch} images and lr {lr}: choose others."
        )
    groups = by_class(images, labels, num_classes)
    rows = images.detach().cpu().flatten(1).double()
    whitening = _whitening(images, labels, num_classes)
    parts = torch.zeros(len(rows), dtype=torch.int64)
    for part, places in enumerate(groups.places):
        parts[places] = part
    hidden, bins = (WIDTH // 2, (BINS[0],) * 2) if values <= SPLINES else (WIDTH, (0, 0, 0, BINS[1]))
    layers = _new_layers(whitening, hidden, bins, seed)
    _train(layers, whitening.to(torch.float32), rows.float(), parts, (low, high), steps, batch, lr, seed)
    network = {name: value.detach().clone() for name, value in layers.state_dict().items()}
    described = {"levels": (low, high), "hidden": hidden, "bins": bins, "network": network}
    return Flow(**groups.parts(), **described, **vars(whitening))


def _whitening(images: Fitted, labels: Int[Tensor, "image"] | None, num_classes: int) -> Whitening:
    """By the moments of `fit_gaussian`, along the axes of the whole covariance."""
    density = fit_gaussian(images, labels, num_classes)
    remainder = density.remainder.expand(density.mean.shape)
    covariance = density.basis @ (density.spread[..., None] * density.basis.transpose(1, 2)) + torch.diag_embed(remainder)
    variance, basis = torch.linalg.eigh(covariance)
    if not (variance > 0).any():
        raise UserError("The images are all alike: a flow needs images that differ.")
    return Whitening(density.mean, basis, variance.clamp(min=0))


def _new_layers(whitening: Whitening, hidden: int, bins: tuple[int, ...], seed: int) -> Layers:
    """Layers whose weights are a function of `seed`; leaves torch's random state as it was."""
    parts, values = whitening.mean.shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, 0))
        try:
            return Layers(values, 1 + (parts if parts > 1 else 0), hidden, bins)
        except ImportError as error:
            raise UserError(
                "A flow needs the package zuko, not installed here: pip install 'pixelpath[flows]', or fit a mixture."
            ) from error


def _log_prob(
    layers: Layers, whitening: Whitening, rows: Rows, part: int, sigma: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    inner = layers.log_prob(whitening.whiten(rows, part, sigma), whitening.context(part, sigma), whitening.gain(part, sigma))
    return inner - whitening.scale(part, sigma).log().sum(1)


def _train(
    layers: Layers,
    whitening: Whitening,
    rows: Rows,
    parts: Int[Tensor, "image"],
    levels: tuple[float, float],
    steps: int,
    batch: int,
    lr: float,
    seed: int,
) -> None:
    """Adam on minus the mean log density of the layers at whitened noised rows; the whitening itself is not learned."""
    places, stream = _passes(len(rows), batch, seed), Streams([seed_of(seed, 2)])
    low, ratio = levels[0], levels[1] / levels[0]
    weights = list(layers.parameters())
    optimizer = torch.optim.Adam(weights, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        chosen = next(places)
        spread = (torch.arange(len(chosen)) + uniform(stream, (len(chosen),))[0]) / len(chosen)
        sigma = low * ratio**spread
        noisy = rows[chosen] + sigma[:, None] * normal(stream, (len(chosen), rows.shape[1]))[0]
        loss = -layers.log_prob(*_whitened(whitening, noisy, parts[chosen], sigma)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        steepness = nn.utils.clip_grad_norm_(weights, STEEPEST)
        if not loss.isfinite() or not steepness.isfinite():
            raise UserError(
                f"The flow diverged at step {step + 1} of {steps} (loss {float(loss.detach())}, slope {float(steepness)}): "
                f"lower lr ({lr:g}), raise the lowest level ({low:g}), or look for far outliers in the images."
            )
        optimizer.step()


def _whitened(
    whitening: Whitening, noisy: Rows, parts: Int[Tensor, "batch"], sigma: Float[Tensor, "batch"]
) -> tuple[Rows, Float[Tensor, "batch _"], Rows]:
    """Whitened rows, contexts and the network's gain, sorted by part."""
    groups = [(part, parts == part) for part in parts.unique().tolist()]
    rows = torch.cat([whitening.whiten(noisy[inside], part, sigma[inside]) for part, inside in groups])
    contexts = torch.cat([whitening.context(part, sigma[inside]) for part, inside in groups])
    return rows, contexts, torch.cat([whitening.gain(part, sigma[inside]) for part, inside in groups])


def _passes(count: int, batch: int, seed: int) -> Iterator[Int[Tensor, "_"]]:
    """Places of images in batches of nearly one size, without end; a pass holds every image equally often."""
    stream = Streams([seed_of(seed, 1)])
    copies = max(1, math.ceil(batch / count))
    while True:
        yield from (permutation(stream, count * copies) % count).chunk(math.ceil(count * copies / batch))
