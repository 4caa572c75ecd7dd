"""Starts for pipelines of diffusers, with networks that predict exactly: their calls begin where starts say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.interop.test_denoisers import DEVIATION, MEAN, preserving
from torch import Tensor, nn

import pixelpath as pp
from pixelpath.errors import UserError
from pixelpath.interop.pipelines import from_pipeline
from pixelpath.randomness import Streams
from pixelpath.runs.starting.pipeline import PipelineStart
from pixelpath.sampling.samplers import dpmpp_2m, euler
from pixelpath.types import Images

diffusers = pytest.importorskip("diffusers", reason="the pipelines are of diffusers: pip install diffusers")
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
CHANGE = 0.05, 0.1  # scaling factor and shift of the autoencoder: latents of images in [-1, 1] are small


class Network(nn.Module):
    """Predicts the noise in latents N(0.3, 0.7^2) exactly, or in N(k, 0.7^2) of class k."""

    def __init__(self, **config: int) -> None:
        super().__init__()
        self.weight, self.config, self.network = nn.Parameter(torch.zeros(1)), config, preserving("epsilon")

    def forward(self, seen: Images, level: Tensor, class_labels: Tensor | None = None, return_dict: bool = True) -> Any:
        found = self.network(seen.double(), torch.as_tensor(level).expand(len(seen)), class_labels).float()
        return {"sample": found} if return_dict else (found,)


class Encoded(dict):
    """What an autoencoder returns."""

    @property
    def latents(self) -> Images:
        return self["latents"]

    @property
    def sample(self) -> Images:
        return self["sample"]


class Coder(nn.Module):
    """Latents are shift + images / 20, before scaling by 20 again."""

    dtype, config = torch.float32, {"scaling_factor": 1 / CHANGE[0], "shift_factor": CHANGE[1]}

    def encode(self, images: Images) -> Encoded:
        return Encoded(latents=CHANGE[1] + CHANGE[0] * images)

    def decode(self, latents: Images) -> Encoded:
        return Encoded(sample=(latents - CHANGE[1]) / CHANGE[0])


class Drawing:
    """A pipeline whose call draws its own latents, as those of DDPM, DDIM, LDM and DiT."""

    def __init__(self, scheduler: Any, **components: Any) -> None:
        self.scheduler, self.components = scheduler, {"scheduler": scheduler, **components}

    def __call__(self, batch_size: int = 1, num_inference_steps: int = 50) -> None: ...


class Taking(Drawing):
    """A pipeline whose call takes latents and timesteps or sigmas, and walks as those of diffusers do."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, latents: Images, timesteps: list[int] | None = None, sigmas: list[float] | None = None
    ) -> Images:
        named = {"timesteps": timesteps} if sigmas is None else {"sigmas": sigmas}
        self.scheduler.set_timesteps(**named)
        latents = latents * float(self.scheduler.init_noise_sigma)
        for timestep in self.scheduler.timesteps:
            answer = self.components["unet"](self.scheduler.scale_model_input(latents, timestep), timestep)["sample"]
            latents = self.scheduler.step(answer, timestep, latents).prev_sample
        return latents


def images(count: int, means: Tensor | float = MEAN) -> Images:
    """Images in [-1, 1] whose values are N(mean, 0.7^2) but for those beyond."""
    drawn = torch.randn(count, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    return (means + DEVIATION * drawn).clamp(-1, 1)


def started(pipeline: Any) -> PipelineStart:
    # the exact network knows unclipped values, and a start at a high sigma by hand asks for no more than that
    return pp.fit_start(pipeline, images(400), sigma=1.0, points=64)


def test_an_autoencoder_is_scaled_and_shifted_both_ways() -> None:
    found = from_pipeline(Drawing(diffusers.DDIMScheduler(**LINEAR), unet=Network(), vqvae=Coder()))
    given = images(100)
    torch.testing.assert_close(found.encode(given), given)
    torch.testing.assert_close(found.decode(given), given)
    assert found.classes == 0


def test_samples_of_a_start_have_the_moments_of_the_data_and_the_call_that_takes_none_is_named() -> None:
    start = started(Drawing(diffusers.DDIMScheduler(**LINEAR), unet=Network(), vqvae=Coder()))
    made, data = start.sample(range(400), 6), images(400)
    assert made.shape == data.shape
    assert float(made.mean()) == pytest.approx(float(data.mean()), abs=0.06)
    assert float(made.std()) == pytest.approx(float(data.std()), abs=0.06)
    torch.testing.assert_close(start.sample(range(5, 8), 6), made[5:8], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"The call of Drawing with a DDIMScheduler takes no latents .*start\.sample"):
        start.arguments(range(4), 6)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_a_call_that_takes_latents_walks_from_the_start_as_our_sampler_does(name: str) -> None:
    """Latents and sigmas in the scale of the scheduler: Euler's method is ours exactly, the multistep one closely."""
    kind = getattr(diffusers, name)
    more = {} if name.startswith("Euler") else {"final_sigmas_type": "zero", "lower_order_final": True}
    pipeline = Taking(kind(**LINEAR, **more), unet=Network())
    start = started(pipeline)
    arguments = start.arguments(range(50), 8)
    assert set(arguments) == {"latents", "sigmas" if name.startswith("Euler") else "timesteps"}
    timesteps = start.pipeline.timesteps(8, start.warm.sigma)
    sigmas = torch.tensor([start.pipeline.sigma_of(each) for each in timesteps] + [0.0], dtype=torch.float64)
    assert float(sigmas[0]) == pytest.approx(1.0, rel=0.01)
    drawn = start.warm.start.sample(Streams(range(50)), float(sigmas[0]))
    walk = euler if name.startswith("Euler") else dpmpp_2m
    with torch.no_grad():
        ours, theirs = walk(start.pipeline.denoiser, drawn, sigmas), pipeline(**arguments)
    assert float((ours - theirs).abs().max()) < (0.01 if name.startswith("Euler") else 0.05)
    assert float(theirs.std()) == pytest.approx(float(images(400).std()), abs=0.1)


def test_classes_are_fitted_by_class_and_labels_are_needed() -> None:
    labels = torch.arange(600) % 2
    pipeline = Drawing(diffusers.DDIMScheduler(**LINEAR), transformer=Network(num_embeds_ada_norm=2), vae=None)
    given = (labels[:, None, None, None] + 0.5 * images(600, 0.0) - 0.5).clamp(-1, 1)
    with pytest.raises(UserError, match="knows 2 classes: give `labels`"):
        pp.fit_start(pipeline, given)
    found = from_pipeline(pipeline)
    assert found.classes == 2
    with pytest.raises(UserError, match=r"Labels must lie in 0\.\.2, got \[0, 3\]"):
        found.denoiser(given[:2], torch.tensor(1.0), torch.tensor([0, 3]))


def test_pipelines_with_texts_and_images_out_of_range_are_refused() -> None:
    pipeline = Drawing(diffusers.DDIMScheduler(**LINEAR), unet=Network(), text_encoder=nn.Identity())
    with pytest.raises(UserError, match="Drawing has text_encoder: starts are fitted to pipelines of one unet"):
        pp.fit_start(pipeline, images(100))
    plain = Drawing(diffusers.DDIMScheduler(**LINEAR), unet=Network())
    with pytest.raises(UserError, match=r"Images for a pipeline lie in \[-1, 1\]"):
        pp.fit_start(plain, 255 * images(100))
    with pytest.raises(UserError, match="knows no classes: leave `labels` out"):
        pp.fit_start(plain, images(100), torch.zeros(100, dtype=torch.int64))
