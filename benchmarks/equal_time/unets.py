"""diffusers' UNet under EDM, and the same UNet under v-prediction through diffusers' schedulers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.equal_time.clock import Clock, Spent, train_for
from benchmarks.equal_time.systems import AT_ONCE, SAMPLERS, How, Task, sampler_of
from pixelpath.data.batches import Batches
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, LogNormal, NoiseRange, expand
from pixelpath.objectives.denoising import Denoising
from pixelpath.randomness import Streams, normal, seed_of, uniform
from pixelpath.runs.prepare import PreparedData
from pixelpath.sampling.guidance import guide
from pixelpath.sampling.sampler import Sampler
from pixelpath.trainer.ema import twin
from pixelpath.trainer.optimizer import Cosine
from pixelpath.types import Batch, Images, Labels, Losses, Objective, Sigmas, classes_of

WEIGHTS = "weights.pt"


class UNet(nn.Module):
    """diffusers' UNet2DModel, with one more class for "no class" where there are classes; attention at the lowest resolution.

    Raises UserError if diffusers is not installed.
    """

    def __init__(self, data: PreparedData, channels: Sequence[int], layers: int) -> None:
        super().__init__()
        unet = diffusers().UNet2DModel
        self.classes = len(data.classes)
        plain = len(channels) - 1
        self.net = unet(
            sample_size=data.shape[1:],
            in_channels=data.shape[0],
            out_channels=data.shape[0],
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
            up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
            norm_num_groups=8,
            num_class_embeds=self.classes + 1 if self.classes else None,
        )

    def forward(self, x: Images, time: Tensor, labels: Labels | None, drop: Tensor | None) -> Images:
        """The output for images at times as of diffusers (0 to 1000, or any number); labels None, or True in `drop`: no class."""
        if not self.classes:
            return self.net(x, time).sample
        none = torch.full((len(x),), self.classes, device=x.device)
        known = none if labels is None else labels.to(x.device)
        return self.net(x, time, known if drop is None else torch.where(drop, none, known)).sample


class EDMUNet(nn.Module):
    """The UNet under EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1), called as a pixelpath denoiser is."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net, self.preconditioning = net, EDMPreconditioning()

    def forward(self, noisy: Images, sigma: Sigmas, labels: Labels | None = None, drop: Tensor | None = None) -> Images:
        """The estimate of the clean images."""
        skip, out, scale, time = self.preconditioning(sigma.to(noisy).expand(len(noisy)))
        raw = self.net(expand(scale, noisy) * noisy, time, labels, drop)
        return expand(skip, noisy) * noisy + expand(out, noisy) * raw.to(noisy.dtype)


@dataclass(frozen=True)
class UNetSystem:
    """What the two UNet systems share: the network's size and how it is trained, by Adam."""

    channels: tuple[int, ...] = (16, 32, 64)
    layers: int = 2
    lr: float = 1e-3
    batch_size: int = 32
    ema_decay: float = 0.999
    warmup: int = 100
    label_dropout: float = 0.1

    def model(self, data: PreparedData) -> nn.Module:
        """A new network."""
        raise NotImplementedError

    def objective(self) -> Objective:
        """What training minimises."""
        raise NotImplementedError

    def draw(self, model: nn.Module, how: How) -> Callable[[Images, Labels | None], Images]:
        """From standard normal noise and labels to images in model range."""
        raise NotImplementedError

    def train(self, task: Task, clock: Clock, folder: Path) -> Spent:
        """Adam with a warm-up and a cosine by time, gradients clipped to 1."""
        torch.manual_seed(seed_of(task.seed))
        model = self.model(task.data).to(task.device)
        ema, data = twin(model), task.data
        spent = train_for(
            clock,
            model,
            ema,
            self.objective(),
            torch.optim.Adam(model.parameters(), self.lr),
            Cosine(self.warmup),
            Batches(data.training, data.normaliser, self.batch_size, task.seed, task.device, flip=task.flip).batches(),
            ema_decay=self.ema_decay,
            seed=task.seed,
            clip=1.0,
            precision=torch.bfloat16 if task.device.type == "cuda" else torch.float32,
        )
        torch.save(ema.state_dict(), folder / WEIGHTS)
        return spent

    def restored(self, data: PreparedData, folder: Path) -> nn.Module:
        """The network of a job; UserError if it left none."""
        if not (folder / WEIGHTS).exists():
            raise UserError(f"{folder} holds no trained network: it has no {WEIGHTS}. Train it by `run`.", setting="networks")
        model = self.model(data)
        model.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
        return model.eval()

    @torch.no_grad()
    def sample(self, task: Task, folder: Path, how: How, labels: Labels) -> Tensor:
        """One native image per label."""
        draw, made = self.draw(self.restored(task.data, folder).to(task.device), how), []
        torch.manual_seed(seed_of(task.seed))  # of systems that draw their own noise
        for first in range(0, len(labels), AT_ONCE):
            part = labels[first : first + AT_ONCE].to(task.device)
            start = normal(Streams([seed_of(first + place) for place in range(len(part))]), task.data.shape).to(task.device)
            made.append(task.data.normaliser.decode(draw(start, part if task.data.classes else None).float().cpu()))
        return torch.cat(made)


@dataclass(frozen=True)
class EDM(UNetSystem):
    """The UNet under EDM: its preconditioning, weight, log-normal draws and sigmas, sampled by Heun's method or 2M."""

    p_mean: float = -1.2
    p_std: float = 1.2

    def model(self, data: PreparedData) -> nn.Module:
        """The UNet under its preconditioning."""
        return EDMUNet(UNet(data, self.channels, self.layers))

    def objective(self) -> Objective:
        """EDM's loss (arXiv 2206.00364, eq. 2)."""
        return cast(Objective, Denoising(NoiseRange(), LogNormal(self.p_mean, self.p_std), EDMWeight(), self.label_dropout))

    def draw(self, model: nn.Module, how: How) -> Callable[[Images, Labels | None], Images]:
        """Down EDM's sigmas from 80 to 0.002."""
        sampler: Sampler = sampler_of(how, SAMPLERS)
        sigmas = NoiseRange().sigmas(how.steps)

        def draw(start: Images, labels: Labels | None) -> Images:
            def estimate(noisy: Images, sigma: Sigmas) -> Images:
                return model(noisy, sigma, labels)

            denoise = estimate if labels is None else guide(estimate, lambda noisy, sigma: model(noisy, sigma), how.guidance)
            return sampler(denoise, start * float(sigmas[0]), sigmas, lambda: torch.randn_like(start))

        return draw


@dataclass(frozen=True)
class VLoss:
    """|v_theta - v|^2 with v = sqrt(abar) e - sqrt(1 - abar) x (Salimans & Ho 2022, arXiv 2202.00512) under a DDPMScheduler."""

    scheduler: Any
    label_dropout: float

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Batch, progress: float) -> Losses:
        """The mean loss of the batch."""
        streams, images = Streams(batch.seeds, batch.images.device), batch.images
        count = self.scheduler.config.num_train_timesteps
        time = (uniform(streams, ()) * count).long().clamp(max=count - 1)
        drop = uniform(streams, ()) < self.label_dropout
        noise = normal(streams, images.shape[1:])
        raw = student(self.scheduler.add_noise(images, noise, time), time, classes_of(batch.labels), drop)
        error = raw.float() - self.scheduler.get_velocity(images, noise, time)
        if batch.valid is not None:
            error = error * batch.valid
        return Losses((error.square().mean((1, 2, 3)) / batch.valid_share()).mean(), {})


@dataclass(frozen=True)
class DDPM(UNetSystem):
    """The UNet under v-prediction and the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672), diffusers' schedulers."""

    timesteps: int = 1000

    def model(self, data: PreparedData) -> nn.Module:
        """The UNet itself."""
        return UNet(data, self.channels, self.layers)

    def objective(self) -> Objective:
        """The mean squared error of v."""
        return cast(Objective, VLoss(diffusers().DDPMScheduler(**self._schedule()), self.label_dropout))

    def draw(self, model: nn.Module, how: How) -> Callable[[Images, Labels | None], Images]:
        """DPM-Solver++(2M), or DDIM, over evenly spread timesteps."""
        library = diffusers()
        known = {
            "2m": lambda: library.DPMSolverMultistepScheduler(**self._schedule(), lambda_min_clipped=-5.1),
            "ddim": lambda: library.DDIMScheduler(**self._schedule(), clip_sample=False, timestep_spacing="trailing"),
        }
        make = sampler_of(how, known)

        def draw(x: Images, labels: Labels | None) -> Images:
            scheduler = make()
            scheduler.set_timesteps(how.steps)
            for time in scheduler.timesteps:
                at = torch.full((len(x),), float(time), device=x.device)
                raw = model(scheduler.scale_model_input(x, time), at, labels, None)
                if labels is not None and how.guidance != 1:
                    raw = torch.lerp(model(x, at, None, None), raw, how.guidance)
                x = scheduler.step(raw, time, x).prev_sample
            return x

        return draw

    def _schedule(self) -> dict[str, Any]:
        return {
            "num_train_timesteps": self.timesteps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": "v_prediction",
        }


def diffusers() -> Any:
    """The library; UserError if it is not installed."""
    try:
        import diffusers as library
    except ImportError as error:
        raise UserError("This system needs diffusers: pip install 'pixelpath[bench]'.", setting="system") from error
    return library
