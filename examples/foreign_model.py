"""A start for somebody else's network: a UNet2DModel of diffusers on 8 x 8 digits, sampled with half the evaluations.

python -m examples.foreign_model      (needs `pip install diffusers`)

*Cold* samples begin at noise alone, *warm* ones at a law fitted to the noised digits. Distances are Frechet distances in pixels
(0 .. 1) to the training images; the *floor* is that of as many digits that training did not see.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportReturnType=false
# (diffusers exports lazily, and annotates some of its arguments and results more widely or narrowly than they are.)

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import tyro
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import mse_loss

from pixelpath.evaluation.distances import frechet_of_rows, real_floor
from pixelpath.interop.denoisers import ForeignDenoiser, from_diffusers
from pixelpath.randomness import Streams, normal
from pixelpath.runs.starting.families import Known
from pixelpath.runs.starting.search import find_start
from pixelpath.sampling.samplers import heun
from pixelpath.starts.warm import WarmStart
from pixelpath.types import Images

COLD = 20.0  # nothing of a digit is left there; above it a noise prediction, times sigma, errs more and more
Sample = Callable[[Sequence[int], int], Images]
"""(seeds, steps of Heun's method) -> one image for each seed; it takes 2 steps - 1 evaluations of the network."""


def digits() -> Known:
    """The 1,797 digits in [-1, 1], every third of them held out."""
    rows, _ = load_digits(return_X_y=True)
    images = torch.from_numpy(rows).float().view(-1, 1, 8, 8) / 8 - 1
    held_out = torch.arange(len(images)) % 3 == 2
    return Known(images[~held_out], images[held_out])


def trained(images: Images, steps: int, seed: int = 0, batch: int = 64) -> tuple[UNet2DModel, DDPMScheduler]:
    """A network that predicts the noise, as diffusers' own tutorials train it; its weights are averaged over the steps."""
    torch.manual_seed(seed)
    network = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=16,
        norm_num_groups=8,
    )
    scheduler = DDPMScheduler()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    ema = EMAModel(network.parameters(), decay=0.995)
    for _ in range(steps):
        clean = images[torch.randint(len(images), (batch,))]
        noise, time = torch.randn_like(clean), torch.randint(1000, (batch,))
        loss = mse_loss(network(scheduler.add_noise(clean, noise, time), time).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        ema.step(network.parameters())
    ema.copy_to(network.parameters())
    return network.eval(), scheduler


def opened(folder: Path) -> tuple[UNet2DModel, DDPMScheduler]:
    """Network and scheduler as their save_pretrained wrote them."""
    return UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False).eval(), DDPMScheduler.from_pretrained(folder)


def warm(denoiser: ForeignDenoiser, start: WarmStart) -> Sample:
    """Sampling that begins at the start."""

    def sample(seeds: Sequence[int], steps: int) -> Images:
        levels = denoiser.noise.sigmas(steps, start=start.sigma)
        return heun(denoiser, start.draw(Streams(seeds)), levels)

    return sample


def cold(denoiser: ForeignDenoiser, sigma: float) -> Sample:
    """Sampling that begins at noise alone, of deviation sigma."""

    def sample(seeds: Sequence[int], steps: int) -> Images:
        levels = denoiser.noise.sigmas(steps, start=sigma)
        return heun(denoiser, sigma * normal(Streams(seeds), (1, 8, 8)), levels)

    return sample


def comparison(denoiser: ForeignDenoiser, start: WarmStart, known: Known, steps: int, sets: int) -> list[str]:
    """What cold samples at `steps` and warm ones at half of them are worth, with cold ones at half as the control, in words."""
    highest, few = denoiser.noise.sigma_max, steps // 2
    floor = real_floor(pixels(known.training), len(known.held_out), pixels(known.held_out))
    return [
        f"cold from sigma {highest:.3g}: {measured(cold(denoiser, highest), steps, known, sets)}",
        f"cold from sigma {COLD:g}: {measured(cold(denoiser, COLD), steps, known, sets)}",
        f"warm from sigma {start.sigma:.3g}: {measured(warm(denoiser, start), few, known, sets)}",
        f"cold from sigma {COLD:g}: {measured(cold(denoiser, COLD), few, known, sets)}",
        f"floor, {floor.first_count} held-out digits: distance {floor.distance:.4f}",
    ]


@torch.no_grad()
def measured(sample: Sample, steps: int, known: Known, sets: int) -> str:
    """The mean distance of some sets of samples, each of as many as there are held-out digits, in words."""
    count = len(known.held_out)
    drawn = [sample(range(count * number, count * (number + 1)), steps) for number in range(sets)]
    found = [frechet_of_rows(pixels(images), pixels(known.training)) for images in drawn]
    return f"{2 * steps - 1} evaluations, distance {statistics.mean(found):.4f} ({', '.join(f'{each:.4f}' for each in found)})"


def pixels(images: Images) -> Tensor:
    """Rows of pixels in 0 .. 1."""
    return (images.flatten(1) + 1) / 2


def main(saved: Path | None = None, training_steps: int = 800, steps: int = 18, sets: int = 3, save: Path | None = None) -> None:
    """Train a network on the digits, or take a saved one; fit a start for it; compare samples, and say so in a few lines.

    Args:
        saved: A folder with a UNet2DModel and its DDPMScheduler, as save_pretrained writes them; trained here if not given.
        training_steps: Steps of training, of 64 digits each.
        steps: Steps of cold sampling; warm sampling takes half of them.
        sets: Sets of samples whose distances are averaged.
        save: Where to save network and scheduler.
    """
    known = digits()
    network, scheduler = opened(saved) if saved else trained(known.training, training_steps)
    denoiser = from_diffusers(network, scheduler)
    found = find_start(denoiser, denoiser.noise, known)
    lines = [found.sentence(), *comparison(denoiser, found.warm, known, steps, sets)]
    sys.stdout.write("\n".join(lines) + "\n")
    if save:
        network.save_pretrained(save)
        scheduler.save_pretrained(save)


if __name__ == "__main__":
    tyro.cli(main)
