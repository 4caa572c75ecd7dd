"""Whole pipelines of diffusers: network, scheduler and, where there is one, the autoencoder around them.

A pipeline's *latents* are what its network takes noise off: images in [-1, 1], or what its autoencoder makes of them. *Its call*
is `pipeline(...)`. A call may take `latents` to begin with, and `timesteps` or `sigmas` to visit; many take neither.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pixelpath.errors import UserError
from pixelpath.interop.denoisers import ForeignDenoiser, classes_of_diffusers, configured, from_diffusers
from pixelpath.types import Images, Labels

NETWORKS, AUTOENCODERS = ("unet", "transformer"), ("vae", "vqvae")
PLAIN = {*NETWORKS, *AUTOENCODERS, "scheduler", "id2label", "safety_checker", "feature_extractor"}
BATCH = 64  # images that an autoencoder takes at a time


@runtime_checkable
class Pipeline(Protocol):
    """A pipeline of diffusers, by what is used of it."""

    scheduler: Any

    @property
    def components(self) -> dict[str, Any]: ...

    def __call__(self, *args: Any, **named: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class PipelineDenoiser:
    """The denoiser in a pipeline, on its latents, and the way between images in [-1, 1] and latents.

    `classes` counts the classes of its network, 0 without.
    """

    pipeline: Pipeline
    denoiser: ForeignDenoiser
    network: Any
    autoencoder: Any
    classes: int

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @torch.no_grad()
    def encode(self, images: Images) -> Images:
        """Latents [image, channel, row, column] (float32, CPU) of images in [-1, 1]: the mode of what the autoencoder allows."""
        if self.autoencoder is None:
            return images.float().cpu()
        found = []
        for part in images.split(BATCH):
            encoded = self.autoencoder.encode(part.to(self.device, self.autoencoder.dtype))
            latents = encoded.latents if "latents" in encoded else encoded.latent_dist.mode()
            found.append(((latents.float() - self._shift) * self._factor).cpu())
        return torch.cat(found)

    @torch.no_grad()
    def decode(self, latents: Images) -> Images:
        """Images in [-1, 1] (float32, CPU), limited to that range as the pipeline does."""
        if self.autoencoder is None:
            return latents.float().cpu().clamp(-1, 1)
        parts = (part.to(self.device, self.autoencoder.dtype) for part in latents.split(BATCH))
        decoded = [self.autoencoder.decode(part / self._factor + self._shift).sample for part in parts]
        return torch.cat(decoded).float().cpu().clamp(-1, 1)

    def arguments(self, noisy: Images, timesteps: Sequence[int], labels: Labels | None = None) -> dict[str, Any]:
        """What its call takes to go down `timesteps` from `noisy` latents, x + sigma e at the first of them.

        These are `latents`, in the scale of its scheduler, with `sigmas` or `timesteps`, and `class_labels` where it has such.
        Raises UserError if its call, or its scheduler, takes no such.
        """
        kind, call = type(self.pipeline).__name__, inspect.signature(type(self.pipeline).__call__).parameters
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        allowed = inspect.signature(scheduler.set_timesteps).parameters
        named = next((name for name in ("sigmas", "timesteps") if name in call and name in allowed), None)
        if "latents" not in call or named is None:
            raise UserError(
                f"The call of {kind} with a {type(scheduler).__name__} takes no latents with timesteps or sigmas to begin with: "
                "use `start.sample(seeds, steps)`, which walks its network by the sampler of this package."
            )
        sigmas = self._sigmas(timesteps)
        visited = {"timesteps": list(timesteps), "sigmas": sigmas.tolist()}[named]
        scheduler.set_timesteps(**{named: visited})
        first = scheduler.timesteps[0]
        preserving = torch.equal(scheduler.scale_model_input(torch.ones(1, 1, 1, 1), first), torch.ones(1, 1, 1, 1))
        own = noisy * (1 + sigmas[0] ** 2).rsqrt() if preserving else noisy
        found = {"latents": (own / float(scheduler.init_noise_sigma)).to(self.device), named: visited}
        return found | ({} if labels is None or "class_labels" not in call else {"class_labels": labels.to(self.device)})

    def timesteps(self, steps: int, sigma: float) -> list[int]:
        """`steps` whole timesteps of the training, falling from the one nearest to `sigma` as this package's sigmas do."""
        table = self._sigmas(range(len(self.pipeline.scheduler.alphas_cumprod))).log()
        wanted = self.denoiser.noise.sigmas(steps, sigma)[:-1].log()
        found = (table[None] - wanted[:, None]).abs().argmin(1).unique().flip(0).tolist()
        if len(found) < steps:
            raise UserError(f"Only {len(found)} timesteps lie below sigma {sigma:.3g} for {steps} steps: take fewer.", "steps")
        return found

    def sigma_of(self, timestep: int) -> float:
        """The sigma of a timestep of the training."""
        return float(self._sigmas([timestep])[0])

    def _sigmas(self, timesteps: Sequence[int]) -> Tensor:
        kept = self.pipeline.scheduler.alphas_cumprod.double().cpu()[list(timesteps)]
        return ((1 - kept) / kept).sqrt()

    @property
    def _factor(self) -> float:
        return float(configured(self.autoencoder, "scaling_factor") or 1.0)

    @property
    def _shift(self) -> float:
        return float(configured(self.autoencoder, "shift_factor") or 0.0)


def from_pipeline(pipeline: Pipeline) -> PipelineDenoiser:
    """The denoiser in a pipeline of diffusers that makes images of no condition or of a class, as DDPM, DDIM, LDM and DiT.

    Raises UserError for a pipeline with another condition (a text), without a network, or whose scheduler has no alphas_cumprod.
    """
    parts: Mapping[str, Any] = {name: part for name, part in pipeline.components.items() if part is not None}
    kind, others = type(pipeline).__name__, sorted(set(parts) - PLAIN)
    networks = [parts[name] for name in NETWORKS if name in parts]
    if others or len(networks) != 1:
        raise UserError(
            f"{kind} has {', '.join(others or sorted(parts))}: starts are fitted to pipelines of one unet or transformer, of no "
            "condition or of a class, not of a text or an image."
        )
    number = classes_of_diffusers(networks[0])
    null = configured(networks[0], "num_embeds_ada_norm") is not None  # the last label of a DiT is "no class"
    autoencoder = next((parts[name] for name in AUTOENCODERS if name in parts), None)
    denoiser = from_diffusers(networks[0], pipeline.scheduler)
    return PipelineDenoiser(pipeline, denoiser, networks[0], autoencoder, 0 if number is None else number - null)
