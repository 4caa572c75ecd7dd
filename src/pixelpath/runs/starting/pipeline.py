"""A start for a whole pipeline of diffusers, and samples from it: by its own call where that takes a start, else by ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.interop.pipelines import Pipeline, PipelineDenoiser, from_pipeline
from pixelpath.randomness import Streams
from pixelpath.runs.starting.choice import Search
from pixelpath.runs.starting.families import Known
from pixelpath.runs.starting.search import find_start
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.samplers import dpmpp_2m
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Images, Labels

HELD_OUT = 5  # of so many images two are held out


@dataclass(frozen=True, eq=False)
class PipelineStart:
    """A start of a pipeline, on its latents. `print(start.search.sentence(), start.search.verdict())` says how good it is."""

    pipeline: PipelineDenoiser
    search: Search

    @property
    def warm(self) -> WarmStart:
        """The start and the sigma to begin at, in units of the latents."""
        return self.search.warm

    def arguments(self, seeds: Sequence[int], steps: int, labels: Sequence[int] | None = None) -> dict[str, Any]:
        """What the pipeline's call takes to make an image of each seed (and label): `pipeline(**start.arguments(range(8), 9))`.

        These are `latents` with `timesteps` or `sigmas`. The first is the timestep nearest to the start's sigma, and latents are
        drawn at the sigma of that timestep. Raises UserError if the call takes no such: then use `sample`.
        """
        given = self._labels(seeds, labels)
        timesteps = self.pipeline.timesteps(steps, self.warm.sigma)
        drawn = self.warm.start.sample(Streams(seeds), self.pipeline.sigma_of(timesteps[0]), given)
        return self.pipeline.arguments(drawn, timesteps, given)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], steps: int, labels: Sequence[int] | None = None, guidance: float = 1.0) -> Images:
        """Images [seed, channel, row, column] in [-1, 1] by `steps` evaluations of the network (DPM-Solver++(2M)).

        `guidance` other than 1 takes as many evaluations of no class, for networks that know it.
        """
        given = self._labels(seeds, labels)
        device, denoiser = self.pipeline.device, self.pipeline.denoiser
        own = None if given is None else given.to(device)
        denoise = denoiser.bind(own)
        if guidance != 1 and own is not None:
            denoise = guide(denoise, denoiser.bind(torch.full_like(own, self.pipeline.classes)), guidance)
        sigmas = denoiser.noise.sigmas(steps, self.warm.sigma)
        return self.pipeline.decode(dpmpp_2m(denoise, self.warm.draw(Streams(seeds), labels=given).to(device), sigmas))

    def _labels(self, seeds: Sequence[int], labels: Sequence[int] | None) -> Tensor | None:
        if (labels is None) == bool(self.pipeline.classes) or (labels is not None and len(labels) != len(seeds)):
            wanted = f"one of {self.pipeline.classes} classes for each seed" if self.pipeline.classes else "none"
            raise UserError(f"This pipeline needs labels, {wanted}: give {len(seeds)} or leave them out.", setting="labels")
        return None if labels is None else torch.tensor(list(labels))


def fit_pipeline_start(
    pipeline: Pipeline,
    images: Images,
    labels: Labels | None = None,
    budget: float | None = None,
    sigma: float | None = None,
    seed: int = 0,
    points: int = 2048,
) -> PipelineStart:
    """Fit a start to a pipeline of diffusers by `images` in [-1, 1], which its own autoencoder encodes where it has one.

    Two of five images are held out. A pipeline of classes needs the `labels` [image] of all images, and gets a start of each
    class where that is better. Raises UserError as `from_pipeline` and `find_start`.
    """
    found = from_pipeline(pipeline)
    if images.min() < -1.01 or images.max() > 1.01:
        raise UserError("Images for a pipeline lie in [-1, 1], as diffusers has them: scale them.", setting="images")
    if bool(found.classes) != (labels is not None):
        wanted = f"knows {found.classes} classes: give `labels`" if found.classes else "knows no classes: leave `labels` out"
        raise UserError(f"The network of {type(pipeline).__name__} {wanted}.", setting="labels")
    latents, held = found.encode(images), torch.arange(len(images)) % HELD_OUT >= HELD_OUT - 2
    own = None if labels is None else labels.cpu().long()
    parts = (None, None) if own is None else (own[~held], own[held])
    known = Known(latents[~held], latents[held], *parts, found.classes)
    denoiser = found.denoiser
    return PipelineStart(found, find_start(denoiser, denoiser.noise, known, None, budget, sigma, seed, points, found.device))
