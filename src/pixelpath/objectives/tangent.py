"""Stage two, continuous time: consistency training in the limit of no gap, where a derivative takes the place of the pair.

The *tangent* of an image under one noise is the derivative of its estimate along ln sigma: how the estimate moves when the noise
grows by a factor and nothing else changes. A consistency model has none on average; the *pull* is how much of it training sees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pixelpath.models.representation import Representation
from pixelpath.noise import Draw, LogNormal, NoiseRange, expand
from pixelpath.objectives.consistency import DROPOUT, alike
from pixelpath.objectives.features import Comparing, FeatureLoss, NoFeatures
from pixelpath.objectives.pairs import InverseGap, PairWeight
from pixelpath.randomness import generators, normal, seed_of, uniform
from pixelpath.types import Batch, Images, Losses


@dataclass(frozen=True)
class Tangent(Comparing):
    """w(t) S / stopgrad sqrt(S + c^2), S = sum |D - stopgrad(D - u)|^2 over pixels, D = D(x + t e, t), plus a feature loss.

    u = t dD/dt, the whole derivative at fixed x and e: the target is the estimate that a straight line through the student's
    own ones has at level 0. The gradient is 2 w <grad D, u> / sqrt(|u|^2 + c^2). Where a lower level r = t - q t tends to t,
    the gradient of Consistency tends to it: that of softening q c is 1/q times this one, but for a share of order q. So c stands
    for a gap, 0.06 / q for that of share q at Consistency's default, and a large c for none. That limit is the continuous-time
    training of Song et al. 2023 (arXiv 2303.01469, appendix B); the division is, but for the root, the tangent normalisation of
    Lu & Song 2024 (arXiv 2410.11081), who also blend denoising into the tangent first: u is
    (1 - p) (D - x) + p t dD/dt, its pull p rising evenly from 0 to 1 in the share `warmup` of the run's `total` steps.

    w(t) is `weight` of the pair (t, 0): 1/t, shifted, or 1. A total of 0 stands for the length of the run, which a recipe fills
    in. `student` is a Denoiser with Preconditioned scalings whose boundary is the lowest shifted level. No others are right, and
    the objective cannot see them: nothing else says what an estimate is anywhere, and a constant one would be perfect. Dropout
    goes with uncompiled students only: compiled code draws other masks than the derivative does. The faster the waves of the
    noise token are in ln t, the larger is u, and the less does it say of the images: Lu & Song name this a cause of instability.
    Raises ValueError unless softening > 0, 0 <= warmup <= 1 and total >= 0.
    """

    noise: NoiseRange
    draw: Draw = LogNormal(-0.4, 1.6)
    weight: PairWeight = InverseGap()
    features: FeatureLoss = NoFeatures()
    softening: float = 1.0
    label_dropout: float = 0.1
    warmup: float = 0.3
    total: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.softening < math.inf:
            raise ValueError(
                f"The softening of the tangent loss must be above 0 and finite, got {self.softening}: choose for example 1."
            )
        if not 0 <= self.warmup <= 1 or self.total < 0:
            raise ValueError(
                f"The tangent's warm-up is a share of the run, from 0 to 1, and total at least 0, got {self.warmup} and "
                f"{self.total}: choose for example 0.3 and 0."
            )

    def pull(self, step: int) -> float:
        """The share of the tangent in its blend with denoising, at `step`; ValueError if the length of the run is not known."""
        if self.warmup == 0:
            return 1.0
        if self.total == 0:
            raise ValueError(
                "This warm-up does not know the length of its run: give it a total, or close its recipe with for_data."
            )
        return min(step / (self.warmup * self.total), 1.0)

    def __call__(
        self, student: nn.Module, ema: nn.Module, batch: Batch, step: int, frozen: Representation | None = None
    ) -> Losses:
        """The mean loss of this process's share, and its two terms."""
        sources = generators(batch.seeds, batch.images.device)
        sigma = self.draw(sources, self.noise)
        drop = uniform(sources, ()) < self.label_dropout
        noise = normal(sources, batch.images.shape[1:])
        tangent, features = self.terms(student, batch, noise, sigma, drop, self.pull(step), frozen)
        parts = {"tangent": tangent.detach().mean()}
        if self.needs_encoder:
            parts["features"] = features.detach().mean()
        return Losses((tangent + features).mean(), parts)

    def terms(
        self,
        student: nn.Module,
        batch: Batch,
        noise: Images,
        sigma: Float[Tensor, "batch"],
        drop: Bool[Tensor, "batch"],
        pull: float = 1.0,
        frozen: Representation | None = None,
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch"]]:
        """Both terms per image, float32, at unshifted sigma [batch], for given standard normal noise and drops."""
        estimate, tangent = self.estimates(student, batch, noise, sigma, drop)
        estimate = batch.where_valid(estimate)
        tangent = tangent if batch.valid is None else tangent * batch.valid
        residual = estimate.detach() - batch.images
        target = estimate.detach() - (1 - pull) * residual - pull * tangent
        error = (estimate - target).square().sum((1, 2, 3))
        distance = error / (error.detach() + self.softening**2).sqrt()
        weight = self.weight(sigma, torch.zeros_like(sigma), self.noise)
        lowest = estimate.new_tensor(self.noise.sigma_min * self.noise.shift)
        return weight * distance, self.features(frozen, estimate, batch.images, lowest)

    def estimates(
        self, student: nn.Module, batch: Batch, noise: Images, sigma: Float[Tensor, "batch"], drop: Bool[Tensor, "batch"]
    ) -> tuple[Images, Images]:
        """The student's estimate, and its tangent without gradients, under one dropout mask, float32."""
        seed, shifted = seed_of(batch.seeds[0], DROPOUT), sigma * self.noise.shift
        moves = (expand(shifted, noise) * noise, shifted)  # of noisy image and level, as the logarithm of the level grows by 1
        noisy = batch.images + moves[0]
        # In this order: autocast's cache would hand a later pass with gradients the weights of an earlier one without. A pass of
        # its own for the gradient keeps fused attention and compiled code, neither of which has a derivative forward.
        estimate = alike(student, seed)(noisy, shifted, batch.labels, drop).float()
        call = alike(student, seed)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            tangent = torch.func.jvp(lambda *point: call(*point, batch.labels, drop), (noisy, shifted), moves)[1]
        return estimate, tangent.float()
