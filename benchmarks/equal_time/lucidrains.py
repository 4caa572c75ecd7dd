"""denoising-diffusion-pytorch (lucidrains) as a system: its class-conditional UNet and its GaussianDiffusion in v-prediction.

Install it with `pip install denoising-diffusion-pytorch`; pixelpath does not need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.equal_time.classifier import some
from benchmarks.equal_time.systems import How, sampler_of
from benchmarks.equal_time.unets import UNetSystem
from pixelpath.errors import UserError
from pixelpath.runs.prepare import PreparedData
from pixelpath.types import Batch, Images, Labels, Losses, Objective, classes_of


class Diffusion(nn.Module):
    """Their diffusion of images in [0, 1], called with images in model range; `low` and `high` are the training images' ends."""

    low: Tensor
    high: Tensor

    def __init__(self, data: PreparedData, dim: int, mults: tuple[int, ...], label_dropout: float) -> None:
        super().__init__()
        library = installed()
        if data.shape[1] != data.shape[2]:
            raise UserError("denoising-diffusion-pytorch takes square images alone.", setting="data")
        net = library.Unet(dim, max(1, len(data.classes)), label_dropout, dim_mults=mults, channels=data.shape[0])
        self.theirs = library.GaussianDiffusion(net, image_size=data.shape[1], objective="pred_v", ddim_sampling_eta=0.0)
        images = data.normaliser.encode(some(data, "training", 2000)[0])
        self.register_buffer("low", images.amin((0, 2, 3), keepdim=True))
        self.register_buffer("high", images.amax((0, 2, 3), keepdim=True))

    def forward(self, images: Images, labels: Labels) -> Tensor:
        """Their loss."""
        return self.theirs((images - self.low) / (self.high - self.low), classes=labels)

    def sample(self, labels: Labels, how: How) -> Images:
        """Samples of their deterministic DDIM."""
        self.theirs.sampling_timesteps, self.theirs.is_ddim_sampling = how.steps, True
        made = self.theirs.sample(labels, cond_scale=how.guidance)
        return self.low + made * (self.high - self.low)


@dataclass(frozen=True)
class Lucidrains(UNetSystem):
    """Their network as wide as the small UNet, `channels` being multiples of the first."""

    def model(self, data: PreparedData) -> nn.Module:
        """Network and diffusion in one."""
        first = self.channels[0]
        return Diffusion(data, first, tuple(each // first for each in self.channels), self.label_dropout)

    def objective(self) -> Objective:
        """Their own loss."""
        return cast(Objective, their_loss)

    def draw(self, model: nn.Module, how: How) -> Callable[[Images, Labels | None], Images]:
        """Their DDIM, which draws its own start."""
        assert isinstance(model, Diffusion)
        sampler_of(how, {"ddim": None})
        if how.guidance == 1:  # their model_predictions expects two outputs, of which there is one then
            raise UserError("denoising-diffusion-pytorch samples no guidance of 1: choose for example 1.5.", "guidance")

        def draw(start: Images, labels: Labels | None) -> Images:
            return model.sample(torch.zeros(len(start), dtype=torch.int64) if labels is None else labels, how)

        return draw


def their_loss(student: nn.Module, ema: nn.Module, batch: Batch, progress: float) -> Losses:
    """The loss of the batch by their code."""
    return Losses(student(batch.images, classes_of(batch.labels)), {})


def installed() -> Any:
    """Their class-conditional module; UserError if it is not installed."""
    try:
        return importlib.import_module("denoising_diffusion_pytorch.classifier_free_guidance")
    except ImportError as error:
        raise UserError(
            f"This system needs another package ({error}): pip install denoising-diffusion-pytorch.", setting="system"
        ) from error
