"""Starts for whole pipelines of diffusers in latents: a DiT with classes and a latent diffusion model without, trained here.

python -m examples.pipelines               (needs `pip install diffusers`; 150 s of one core)
python -m examples.pipelines --only DiT    (or LDM: half of it)

Both make digits of 16 x 16 pixels. *Cold* samples begin at noise with the variance of the latents, at the sigma at which these
are just hidden or at half of it: the best controls. *Warm* ones begin at a fitted start. Both walk by DPM-Solver++(2M).
Distances are Frechet distances in pixels (0 .. 1) of 250 samples to the training images, mean and std of three sets of seeds; the
*floor* is that of 250 held-out images, after the same autoencoder.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    UNet2DModel,
    VQModel,
)
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

import pixelpath as pp
from pixelpath.evaluation.distances import frechet_of_rows
from pixelpath.randomness import Streams, normal
from pixelpath.runs.starting.pipeline import PipelineStart
from pixelpath.sampling.samplers import dpmpp_2m
from pixelpath.types import Images, Labels

BATCH = 32
SETS, COUNT = 3, 250  # of seeds, and samples in each
POINTS = 256  # noisy images of either half of the held-out ones by which starts are compared
CHANNELS = {"block_out_channels": (16, 32), "norm_num_groups": 4, "layers_per_block": 1}
DOWN, UP = {"down_block_types": ("DownEncoderBlock2D",) * 2}, {"up_block_types": ("UpDecoderBlock2D",) * 2}
Sample = Callable[[range, int, list[int] | None], Images]
"""(seeds, evaluations, labels or None) -> images in [-1, 1]."""


def digits() -> tuple[Images, Labels]:
    """The 1,797 digits in [-1, 1], at 16 x 16 pixels."""
    rows, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(rows).float().view(-1, 1, 8, 8) / 8 - 1
    return interpolate(images, size=16, mode="bilinear").clamp(-1, 1), torch.from_numpy(labels).long()


def optimised(module: nn.Module, steps: int, loss: Callable[[], Tensor], lr: float = 2e-3) -> None:
    """AdamW for `steps`, its learning rate falling to 0 by a cosine; the module then has its averaged weights."""
    optimizer, ema = torch.optim.AdamW(module.parameters(), lr=lr), EMAModel(module.parameters(), decay=0.99)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        ema.step(module.parameters())
    ema.copy_to(module.parameters())
    module.eval().requires_grad_(False)


def autoencoder_of(images: Images, steps: int, *, quantised: bool) -> AutoencoderKL | VQModel:
    """An autoencoder to latents of 3 x 8 x 8, whose scaling factor gives them a standard deviation of 1."""
    shared = {"in_channels": 1, "out_channels": 1, "latent_channels": 3, "sample_size": 16, **CHANNELS, **DOWN, **UP}
    model = VQModel(num_vq_embeddings=256, **shared) if quantised else AutoencoderKL(**shared)

    def loss() -> Tensor:
        batch = images[torch.randint(len(images), (BATCH,))]
        if isinstance(model, VQModel):
            shown = model(batch)
            return mse_loss(shown.sample, batch) + shown.commit_loss.mean()
        allowed: Any = model.encode(batch, return_dict=False)[0]
        return (
            mse_loss(model.decode(allowed.sample(), return_dict=False)[0], batch)
            + 1e-4 * allowed.kl().mean() / allowed.mean[0].numel()
        )

    optimised(model, steps, loss)
    with torch.no_grad():
        encoded: Any = model.encode(images)
        spread = float((encoded.latents if quantised else encoded.latent_dist.mode()).std())
    model.register_to_config(scaling_factor=1 / spread)
    return model


def trained(pipeline: DiTPipeline | LDMPipeline, images: Images, labels: Labels | None, steps: int) -> None:
    """Train the network of a pipeline to predict the noise in the latents of its autoencoder, as diffusers' tutorials do."""
    network = pipeline.transformer if isinstance(pipeline, DiTPipeline) else pipeline.unet
    coder = pipeline.vae if isinstance(pipeline, DiTPipeline) else pipeline.vqvae
    with torch.no_grad():
        encoded: Any = coder.encode(images)
        latents = (encoded.latents if labels is None else encoded.latent_dist.mode()) * coder.config.scaling_factor
    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)

    def loss() -> Tensor:
        chosen, times = torch.randint(len(latents), (BATCH,)), torch.randint(1000, (BATCH,))
        noise = torch.randn_like(latents[chosen])
        seen = scheduler.add_noise(latents[chosen], noise, times)
        if labels is None:
            return mse_loss(network(seen, times).sample, noise)
        return mse_loss(network(seen, times, class_labels=labels[chosen]).sample, noise)

    network.requires_grad_(True).train()
    optimised(network, steps, loss)


def with_classes(images: Images, labels: Labels, coding: int, training: int) -> DiTPipeline:
    """A DiT of ten classes over an AutoencoderKL."""
    network = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=3, out_channels=3, num_layers=3, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, norm_num_groups=1,
    )  # fmt: skip
    coder = autoencoder_of(images, coding, quantised=False)
    pipeline = DiTPipeline(network, coder, DDIMScheduler(clip_sample=False))
    trained(pipeline, images, labels, training)
    return pipeline


def without(images: Images, coding: int, training: int) -> LDMPipeline:
    """A latent diffusion model without classes over a VQModel."""
    network = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(16, 32), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    coder = autoencoder_of(images, coding, quantised=True)
    pipeline = LDMPipeline(coder, network, DDIMScheduler(clip_sample=False))
    trained(pipeline, images, None, training)
    return pipeline


def cold(start: PipelineStart, highest: float) -> Sample:
    """Samples from noise with the variance of the latents, at the sigma `highest`."""
    parts = start.pipeline

    @torch.no_grad()
    def sample(seeds: range, steps: int, labels: list[int] | None) -> Images:
        first = math.hypot(highest, 1.0) * normal(Streams(seeds), (3, 8, 8))
        denoise = parts.denoiser.bind(None if labels is None else torch.tensor(labels))
        return parts.decode(dpmpp_2m(denoise, first, parts.denoiser.noise.sigmas(steps, highest)))

    return sample


def compared(start: PipelineStart, images: Images, labels: Labels | None, evaluations: tuple[int, ...]) -> Iterator[str]:
    """What was found of a start, and the table of distances by numbers of evaluations, line by line."""
    held = torch.arange(len(images)) % 5 >= 3
    parts, own = start.pipeline, None if labels is None else labels[held][:COUNT].tolist()
    real = (images[~held].flatten(1) + 1) / 2

    def distance(made: Images) -> float:
        return frechet_of_rows((made.flatten(1) + 1) / 2, real)

    def cell(sample: Sample, steps: int) -> str:
        found = [distance(sample(range(COUNT * number, COUNT * (number + 1)), steps, own)) for number in range(SETS)]
        return f"{statistics.mean(found):.3f} +- {statistics.stdev(found):.3f}"

    hidden = start.search.cold or parts.denoiser.noise.sigma_max
    ways = {f"cold from {sigma:.3g}": cold(start, sigma) for sigma in (hidden, hidden / 2)}
    ways[f"warm: {start.search.chosen.name} at {start.warm.sigma:.3g}"] = start.sample
    yield f"{start.search.sentence()} {start.search.verdict()}"
    yield f"Floor, {COUNT} held-out digits: {distance(parts.decode(parts.encode(images[held][:COUNT]))):.3f}."
    yield f"| NFE | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}"
    for steps in evaluations:
        yield f"| {steps} | {' | '.join(cell(way, steps) for way in ways.values())} |"


def main(
    only: str = "",
    coding: int = 200,
    training: int = 800,
    evaluations: tuple[int, ...] = (4, 9, 18),
    out: Path | None = None,
) -> None:
    """Train both pipelines, fit a start to each, and compare its samples with cold ones.

    Args:
        only: Leave out the pipelines whose names do not begin so: DiT or LDM.
        coding: Steps of training an autoencoder, of 32 digits each.
        training: Steps of training a network in its latents.
        evaluations: Numbers of network evaluations of one sample.
        out: Folder that keeps the trained pipelines; those that are there are not trained again.
    """
    images, labels = digits()
    for kind, own in ((DiTPipeline, labels), (LDMPipeline, None)):
        if not kind.__name__.startswith(only):
            continue
        torch.manual_seed(0)
        began, folder = time.process_time(), None if out is None else out / kind.__name__
        if folder is not None and folder.exists():
            pipeline = kind.from_pretrained(folder)
        else:
            pipeline = without(images, coding, training) if own is None else with_classes(images, own, coding, training)
            if folder is not None:
                pipeline.save_pretrained(folder)
        said(f"{kind.__name__}, trained in {time.process_time() - began:.0f} s of processor time")
        start = pp.fit_start(pipeline, images, own, points=POINTS)
        for line in compared(start, images, own, evaluations):
            said(line)
        said(f"All of it took {time.process_time() - began:.0f} s.\n")


def said(line: str) -> None:
    """Print the line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    tyro.cli(main)
