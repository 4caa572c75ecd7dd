"""Laws whose noised density and denoiser are known exactly, on which a warm start can be measured without a network's errors.

A *target* is a sum of Gaussians, of few or of so many that it is a kernel estimate or a quadrature; its *oracle* is its exact
denoiser. Points of R^d are images [count, 1, 1, d]. *NFE* is the number of evaluations of the denoiser for one sample.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pixelpath import noise
from pixelpath.randomness import seed_of
from pixelpath.starts.start import by_sigma
from pixelpath.types import Images, Labels, Sigmas

CHUNK = 2048  # images held against all parts at a time

Draw = Callable[[int, torch.Generator], Tensor]
"""(count, source) -> rows [count, value] of the clean law, float64."""


@dataclass(frozen=True, eq=False)
class Target:
    """sum_k share_k N(mean_k, diag(variance_k)) of clean images, computed in the dtype of the images that are asked about.

    `variances` are [part, 1] where a part is round. `drawn` replaces the draw from the sum where that is only a quadrature.
    `quantile` is the exact quantile of the radius |x|, where it is known; `heavy` says that high moments are none.
    """

    name: str
    shares: Float[Tensor, "part"]
    means: Float[Tensor, "part value"]
    variances: Float[Tensor, "part _"]
    drawn: Draw | None = None
    quantile: Callable[[float], float] | None = None
    heavy: bool = False

    @property
    def values(self) -> int:
        """The dimension d."""
        return self.means.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of an image which holds a point."""
        return 1, 1, self.values

    def sample(self, count: int, seed: int) -> Images:
        """Clean images [count, 1, 1, d], float64."""
        source = torch.Generator().manual_seed(seed)
        rows = self._rows(count, source) if self.drawn is None else self.drawn(count, source)
        return rows.reshape(count, *self.shape)

    def log_prob(self, images: Images, sigma: float, labels: Labels | None = None) -> Float[Tensor, "batch"]:
        """ln of the density noised to sigma, in nats; there are no classes, and labels change nothing."""
        return torch.cat([self._joint(rows, sigma).logsumexp(1) for rows in images.flatten(1).split(CHUNK)])

    def denoise(self, noisy: Images, sigma: Sigmas, labels: Labels | None = None) -> Images:
        """sum_k P(k | noisy) (mean_k + kept_k (noisy - mean_k)), kept_k = variance_k / (variance_k + sigma^2), of every value."""

        def estimate(rows: Tensor, level: float, places: Tensor) -> Tensor:
            kept = (self.variances / (self.variances + level**2)).to(rows)
            rest = ((1 - kept) * self.means.to(rows)).expand(-1, self.values)
            blames = ((part, self._joint(part, level).softmax(1)) for part in rows.split(CHUNK))
            return torch.cat([blame @ rest + (blame @ kept) * part for part, blame in blames])

        return by_sigma(noisy.flatten(1), sigma, estimate).reshape(noisy.shape)

    def _joint(self, rows: Tensor, sigma: float) -> Float[Tensor, "batch part"]:
        """ln of share times Gaussian, the square of a difference written out so that products of matrices do the work."""
        total = self.variances + sigma**2
        volume = total.log().expand(-1, self.values).sum(1) + self.values * math.log(2 * math.pi)
        constant = self.shares.log() - (volume + (self.means.square() / total).sum(1)) / 2
        inverse = total.reciprocal().expand(-1, self.values).to(rows)
        return constant.to(rows) + rows @ (self.means / total).to(rows).T - rows.square() @ inverse.T / 2

    def _rows(self, count: int, source: torch.Generator) -> Tensor:
        part = torch.multinomial(self.shares, count, replacement=True, generator=source)
        standard = torch.randn(count, self.values, generator=source, dtype=torch.float64)
        return self.means[part] + self.variances[part].sqrt() * standard


def modes() -> Target:
    """25 round modes of deviation 0.1 on a grid of spacing 1 in the plane, shares from 1 to 5 times the least."""
    axis = torch.arange(-2.0, 3.0, dtype=torch.float64)
    shares = torch.linspace(1, 5, 25, dtype=torch.float64)[torch.randperm(25, generator=torch.Generator().manual_seed(0))]
    return Target("25 modes, d = 2", shares / shares.sum(), torch.cartesian_prod(axis, axis), torch.full((25, 1), 0.01).double())


def sixteen() -> Target:
    """10 modes in 16 values, of unequal shares, with variances of every value between 0.05 and 0.45."""
    chance = np.random.default_rng(0)
    shares, means, variances = chance.uniform(1, 3, 10), chance.normal(size=(10, 16)), chance.uniform(0.05, 0.45, (10, 16))
    shares, means, variances = (torch.from_numpy(each) for each in (shares / shares.sum(), means, variances))
    return Target("10 modes, d = 16", shares, means, variances)


def digits() -> Target:
    """The 1,797 digits of 8 x 8 pixels in [-1, 1], under a round kernel of deviation 0.2, below what pixels vary by."""
    from sklearn.datasets import load_digits

    rows = torch.from_numpy(load_digits(return_X_y=True)[0]).double() / 8 - 1
    count = len(rows)
    return Target("digits, d = 64", torch.full((count,), 1 / count).double(), rows, torch.full((count, 1), 0.04).double())


def precisions(freedom: float, panels: int, lowest: float = -24.0, highest: float = 4.0) -> tuple[Tensor, Tensor]:
    """Precisions u and their shares under Gamma(nu / 2, rate nu / 2): 16 Gauss-Legendre points of ln u in each of some panels.

    A rule of its own, not the one that the library's Student law uses, which is measured against it.
    """
    points, weights = np.polynomial.legendre.leggauss(16)
    width = (highest - lowest) / panels
    logs = torch.from_numpy(np.concatenate([lowest + width * (k + (points + 1) / 2) for k in range(panels)]))
    half = freedom / 2
    density = half * (logs - logs.exp()) + half * math.log(half) - math.lgamma(half)
    shares = density.exp() * torch.from_numpy(np.tile(weights, panels)) * width / 2
    return logs.exp(), shares / shares.sum()


def student(freedom: float = 3.0) -> Target:
    """The round Student law of unit scale in the plane: z / sqrt(u), u ~ Gamma(nu / 2, rate nu / 2)."""
    from scipy.stats import f

    u, shares = precisions(freedom, panels=8)

    def draw(count: int, source: torch.Generator) -> Tensor:
        return torch.randn(count, 2, generator=source, dtype=torch.float64) * _spread(count, freedom, source)

    name = f"Student nu = {freedom:g}, d = 2"
    zeros = torch.zeros(len(u), 2, dtype=torch.float64)
    return Target(name, shares, zeros, 1 / u[:, None], draw, lambda p: math.sqrt(2 * f.ppf(p, 2, freedom)), heavy=True)


def spiral(freedom: float = 2.5, scale: float = 0.25) -> Target:
    """24 places along a spiral, each under a round Student kernel: no fitted law has this form, and the bulk hides the tail."""
    angle = torch.linspace(1.0, 3.5 * math.pi, 24, dtype=torch.float64)
    places = torch.stack([angle.cos(), angle.sin()], 1) * angle[:, None] / 4
    u, shares = precisions(freedom, panels=3, lowest=-18)

    def draw(count: int, source: torch.Generator) -> Tensor:
        place = torch.randint(24, (count,), generator=source)
        standard = torch.randn(count, 2, generator=source, dtype=torch.float64)
        return places[place] + scale * standard * _spread(count, freedom, source)

    means, variances = places.repeat_interleave(len(u), 0), (scale**2 / u).repeat(24)[:, None]
    return Target("spiral, tail 2.5, d = 2", shares.repeat(24) / 24, means, variances, draw, heavy=True)


def _spread(count: int, freedom: float, source: torch.Generator) -> Float[Tensor, "count 1"]:
    """1 / sqrt(u) of drawn precisions."""
    seed = int(torch.randint(2**62, (), generator=source))
    return torch.from_numpy(1 / np.sqrt(np.random.default_rng(seed).gamma(freedom / 2, 2 / freedom, (count, 1))))


class SmallDenoiser(nn.Module):
    """D(x, sigma) = skip x + out F(in x, ln sigma / 4), preconditioned as by Karras et al. 2022 (arXiv 2206.00364, table 1).

    F has two hidden layers of `width`, or rather three linear maps with SiLU between them, on points of the plane.
    """

    def __init__(self, width: int = 128, std: float = 0.5) -> None:
        super().__init__()
        self.std = std
        sizes = [(3, width), (width, width), (width, width), (width, 2)]
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.network = nn.Sequential(*layers[:-1])

    def forward(self, noisy: Images, sigma: Sigmas) -> Images:
        rows, level = noisy.flatten(1), sigma.to(noisy).reshape(-1, 1).expand(len(noisy), 1)
        total = level**2 + self.std**2
        answer = self.network(torch.cat([rows / total.sqrt(), level.log() / 4], 1))
        return (self.std**2 / total * rows + level * self.std / total.sqrt() * answer).reshape(noisy.shape)


def train_small(target: Target, seed: int, steps: int = 12000, batch: int = 512, count: int = 50_000) -> SmallDenoiser:
    """The exponential average of a small denoiser after `steps` of Adam on `count` points; under a minute on one core.

    Levels are drawn as by Karras et al. 2022 (ln sigma ~ N(-1.2, 1.2^2)) and weighted as there: the usual training of images.
    """
    source = torch.Generator().manual_seed(seed_of(seed, 1))
    data = target.sample(count, seed_of(seed, 2)).float()
    with torch.random.fork_rng():
        torch.manual_seed(seed_of(seed, 3))
        student = SmallDenoiser()
    ema = copy.deepcopy(student)
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 200) * (1 + math.cos(math.pi * step / steps)) / 2
        clean = data[torch.randint(count, (batch,), generator=source)]
        sigma = torch.exp(-1.2 + 1.2 * torch.randn(batch, generator=source))
        weight = (sigma**2 + student.std**2) / (sigma * student.std) ** 2
        noisy = clean + noise.expand(sigma, clean) * torch.randn(clean.shape, generator=source)
        loss = (noise.expand(weight, clean) * (student(noisy, sigma) - clean).square()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, now in zip(ema.parameters(), student.parameters(), strict=True):
                kept.lerp_(now, 1e-3)
    return ema.requires_grad_(False)
