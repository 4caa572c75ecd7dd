"""From seeds to images: one entry that previews, evaluations, the sample command and Python users share.

A *seed* belongs to one image: what it starts from and all noise on the way come from its own stream, always on the CPU, so the
same seed is the same image (up to rounding) at any batch size, on any device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pixelpath.errors import UserError
from pixelpath.log import Advance
from pixelpath.models.denoiser import Denoiser
from pixelpath.noise import NoiseRange
from pixelpath.randomness import Streams, normal, seed_of
from pixelpath.sampling.checks import check_sigmas
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.sampler import Sampling
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Conditioning, Denoise, Images, Labels, classes_of

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio


@dataclass(frozen=True, eq=False)
class Origin:
    """What sampling needs beside choices: the noise range; a fitted start, if any; a weaker denoiser to guide with, if any.

    Without `warm` sampling begins at pure noise (cold). Without `reference` the same denoiser without label
    is the reference of guidance (classifier-free), which needs classes. Networks compute in `precision`, all else in float32.
    """

    noise: NoiseRange
    warm: WarmStart | None = None
    reference: Denoiser | None = None
    precision: torch.dtype = torch.float32

    def schedule(self, sampling: Sampling) -> torch.Tensor:
        """The shifted sigmas of the chosen sampling; UserError if a start lies outside the range."""
        if self.warm is None:
            return sampling.schedule(self.noise)
        sigmas = sampling.schedule(self.noise, self.warm.sigma)
        check_sigmas(sigmas, self.warm.sigma, self.noise)
        return sigmas

    def first(self, streams: Streams, shape: tuple[int, int, int], std: float, labels: Labels | None) -> Images:
        """The noisy images at the first sigma, one per stream, on the CPU: draws of the start, or N(0, std^2).

        Raises UserError if a start gives what it cannot.
        """
        return std * normal(streams, shape) if self.warm is None else self.warm.draw(streams, shape, labels)


def steps_below(sigmas: torch.Tensor, sigma: float) -> int:
    """How many steps as fine a grid as that of `sigmas`, which end in 0, takes from sigma on; at least 1."""
    return max(1, int((sigmas[:-1] < sigma).sum()))


def balanced(seeds: Sequence[int], num_classes: int) -> Labels:
    """Label seed mod num_classes for every seed: classes in turn; 0 ("no class") where there are none."""
    return torch.tensor([seed % num_classes if num_classes else 0 for seed in seeds], dtype=torch.int64)


def in_shares(seeds: Sequence[int], shares: Float[np.ndarray, "class"]) -> Labels:
    """Labels of which any seeds in a row have about these shares, which sum to 1.

    A seed's class is the one in whose part of [0, 1) the fraction of seed times the golden ratio falls: of all such sequences
    that fills it most evenly (Knuth, The Art of Computer Programming, vol. 3, section 6.4).
    """
    places = [(seed * GOLDEN % 2**64) / 2**64 for seed in seeds]
    return torch.from_numpy(np.searchsorted(np.cumsum(shares)[:-1], places, side="right"))


def generate(
    denoiser: Denoiser,
    origin: Origin,
    sampling: Sampling,
    seeds: Sequence[int],
    condition: Conditioning,
    batch_size: int = 64,
    advance: Advance = lambda steps: None,
) -> Iterator[Images]:
    """Batches of images [<= batch_size, channel, row, column] in model range on the CPU, one per seed, in their order.

    `sampling` has everything chosen. `advance` is called with the number of steps that a batch has taken since. Raises
    UserError for a batch size below 1 or sigmas outside the range.
    """
    return (images.cpu() for images in on_device(denoiser, origin, sampling, seeds, condition, batch_size, advance))


def on_device(
    denoiser: Denoiser,
    origin: Origin,
    sampling: Sampling,
    seeds: Sequence[int],
    condition: Conditioning,
    batch_size: int = 64,
    advance: Advance = lambda steps: None,
) -> Iterator[Images]:
    """As `generate`, but on the denoiser's device, where they may be decoded: native values are fewer bytes to copy."""
    if batch_size < 1:
        raise UserError(f"`batch_size` must be at least 1, got {batch_size}.", setting="batch_size")
    for start in range(0, len(seeds), batch_size):
        streams = Streams([seed_of(seed) for seed in seeds[start : start + batch_size]])
        yield _walked(denoiser, origin, sampling, streams, condition[start : start + batch_size], advance)


def from_sources(
    denoiser: Denoiser,
    origin: Origin,
    sampling: Sampling,
    streams: Streams,
    condition: Conditioning,
    advance: Advance = lambda steps: None,
) -> Images:
    """Images [stream, channel, row, column] in model range on the CPU, all their randomness from their own streams."""
    return _walked(denoiser, origin, sampling, streams, condition, advance).cpu()


@torch.no_grad()
def _walked(
    denoiser: Denoiser, origin: Origin, sampling: Sampling, streams: Streams, condition: Conditioning, advance: Advance
) -> Images:
    """The images on the denoiser's device."""
    assert sampling.sampler is not None
    device, encoder = next(denoiser.parameters()).device, denoiser.backbone.encoder
    shape = (encoder.channels, encoder.rows, encoder.columns)
    labels = classes_of(condition) if denoiser.backbone.num_classes > 0 else None
    sigmas = origin.schedule(sampling)
    denoise = followed(_in(origin.precision, guided(denoiser, condition.to(device), origin, sampling)), sigmas, advance)
    first = origin.first(streams, shape, sampling.sampler.cold_std(float(sigmas[0])), labels).to(device)
    images = sampling.sampler(denoise, first, sigmas, lambda: normal(streams, shape).to(device)).float()
    advance(1)
    return images


def _in(precision: torch.dtype, denoise: Denoise) -> Denoise:
    """The same estimates, their networks computed in a precision."""
    if precision == torch.float32:
        return denoise

    def cast(noisy: Images, sigma: torch.Tensor) -> Images:
        with torch.autocast(noisy.device.type, precision):
            return denoise(noisy, sigma).to(noisy.dtype)

    return cast


def followed(denoise: Denoise, sigmas: torch.Tensor, advance: Advance) -> Denoise:
    """The same estimates, and `advance` called with the steps ended: those to a sigma above or at the one of an estimate.

    A sampler may evaluate a step often, or a little above where it begins; so the lowest sigma seen counts. The last step ends
    with the sampler.
    """
    falling, ended = sigmas[1:-1].tolist(), 0

    def followed(noisy: Images, sigma: torch.Tensor) -> Images:
        nonlocal ended
        now = sum(level >= float(sigma) * (1 - 1e-6) for level in falling)
        advance(max(0, now - ended))
        ended = max(ended, now)
        return denoise(noisy, sigma)

    return followed


def guided(denoiser: Denoiser, condition: Conditioning, origin: Origin, sampling: Sampling) -> Denoise:
    """The denoiser bound to the condition, and guided as was chosen."""
    conditional, reference = denoiser.backbone.conditional, origin.reference
    estimate = denoiser.bind(condition if conditional else None)
    if reference is None and not conditional:
        return estimate
    other = denoiser.bind(None)
    if reference is not None:
        other = reference.bind(condition if conditional and reference.backbone.conditional else None)
    assert sampling.guidance is not None
    assert sampling.guidance_interval is not None
    low, high = (limit * origin.noise.shift for limit in sampling.guidance_interval)
    return guide(estimate, other, sampling.guidance, (low, high))
