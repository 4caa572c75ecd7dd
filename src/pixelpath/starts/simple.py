"""A start that needs no fit: the images of another generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pixelpath.errors import UserError
from pixelpath.randomness import Streams, normal
from pixelpath.sampling.checks import check_finite
from pixelpath.starts.start import level
from pixelpath.types import Images, Labels

Generate = Callable[[Streams, Labels | None], Images]
"""Clean images in model range, one for every stream and label; all their randomness comes from the streams."""


@dataclass(frozen=True)
class FromSamples:
    """The images of another generator, noised to sigma: no density, but any one-step model becomes a start.

    So begins ES-DDPM (Lyu et al. 2022, arXiv 2205.12524). `generate(streams, labels)` returns clean images in model range.
    """

    generate: Generate

    def sample(self, streams: Streams, sigma: float, labels: Labels | None = None) -> Images:
        """generate(streams, labels) + sigma e, float32 on the CPU; e is drawn after what `generate` draws.

        Raises UserError if the images are not finite or not one for each stream, or sigma is not finite or negative.
        """
        value = level(sigma)
        clean = self.generate(streams, labels).detach().float().cpu()
        if len(clean) != len(streams):
            raise UserError(
                f"The generator of a start made {len(clean)} images for {len(streams)} seeds: let it make one for each."
            )
        check_finite(clean, "images that the generator of a start made", "check its weights and its input range")
        return clean + value * normal(streams, clean.shape[1:]).cpu()
