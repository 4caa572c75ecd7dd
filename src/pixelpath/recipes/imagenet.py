"""Recipes for ImageNet with the published settings (EPG: Lei et al. 2025, arXiv 2510.12586)."""

from __future__ import annotations

from collections.abc import Callable

from pixelpath.data.augment import PHOTOGRAPHS
from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.recipes.changes import RecipeFunction, adjustable
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import SIZES
from pixelpath.sampling.sampler import Sampler, Sampling
from pixelpath.trainer.optimizer import AdamW, Cosine, Steps


def _data(pixels: int) -> DataSettings:
    """All images are trained on, in the range of the published models."""
    return DataSettings(resize=(pixels, pixels), held_out_share=0.0, normaliser=Normalisation("imagenet"))


def _encoder(letter: str, pixels: int) -> Recipe:
    """Stage one of any size."""
    return Recipe(
        name=f"imagenet{pixels}-{letter}-encoder",
        objective=RepresentationLearning(NoiseRange(), Curriculum()),
        size=SIZES[letter],
        patch=pixels // 16,
        augmentation=PHOTOGRAPHS,
        steps=600_000,
        batch_size=1024,
        optimizer=AdamW(lr=2e-4, betas=(0.9, 0.95), weight_decay=0.03, decay_all=True),
        schedule=Cosine(warmup=10_000),
        ema_decay=0.99,
        data=_data(pixels),
    )


def _diffusion(letter: str, pixels: int) -> Recipe:
    """Stage two, diffusion, of any size."""
    return Recipe(
        name=f"imagenet{pixels}-{letter}-diffusion",
        objective=Denoising(NoiseRange()),
        size=SIZES[letter],
        patch=pixels // 16,
        flip=True,
        steps=2_000_000 if letter == "G" else 1_000_000,
        batch_size=1024,
        optimizer=AdamW(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, clip=0.5, clip_after=10_000, decay_all=True),
        schedule=Cosine(warmup=10_000),
        ema_decay=0.9999,
        sampling=Sampling(steps=32, guidance=2.5, guidance_interval=(0.19, 1.61), sampler=Sampler.HEUN),
        data=_data(pixels),
    )


def _onestep(letter: str, pixels: int) -> Recipe:
    """Stage two, one step, of any size."""
    return Recipe(
        name=f"imagenet{pixels}-{letter}-onestep",
        objective=Consistency(NoiseRange(), StagedGap(), features=ContrastiveFeatures()),
        size=SIZES[letter],
        patch=pixels // 16,
        preconditioning=EDMPreconditioning(),
        dropout=0.5,
        flip=True,
        steps=700_000,
        batch_size=1024,
        optimizer=AdamW(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.03, decay_all=True),
        schedule=Steps(),
        ema_decay=0.9999,
        sampling=Sampling(steps=1, guidance=1.0),
        data=_data(pixels),
    )


def _published(make: Callable[[str, int], Recipe], letter: str, pixels: int, result: str = "") -> RecipeFunction:
    """The recipe function of a published size; `result` is what the paper says of it."""
    name, stage, options = make(letter, pixels).name, "two, diffusion", "--encoder runs/encoder --out runs/diffusion"
    if make is _encoder:
        stage, options = "one", "--out runs/encoder"
    elif make is _onestep:
        stage, options = "two, one step", "--encoder runs/encoder --out runs/onestep"
    about = f"""Stage {stage}, size {letter}, on ImageNet at {pixels} x {pixels} pixels, as published.

    Command: pixelpath train {name} --data IMAGENET --data.channels 3 {options}, by torchrun on several GPUs.
    {result}Not run here.
    """
    return adjustable(lambda: make(letter, pixels), about)


HOURS = "Cost by the paper: 57 hours on 8 H200. "
imagenet256_b_encoder = _published(_encoder, "B", 256, HOURS)
imagenet256_l_encoder = _published(_encoder, "L", 256, HOURS)
imagenet512_b_encoder = _published(_encoder, "B", 512, HOURS)
imagenet512_l_encoder = _published(_encoder, "L", 512, HOURS)
imagenet256_l_diffusion = _published(_diffusion, "L", 256)
imagenet256_xl_diffusion = _published(
    _diffusion, "XL", 256, "By the paper: 139 hours on 8 H200, FID 2.04 at 75 network evaluations (NFE). "
)
imagenet256_xxl_diffusion = _published(_diffusion, "XXL", 256)
imagenet256_g_diffusion = _published(_diffusion, "G", 256)
imagenet512_l_diffusion = _published(_diffusion, "L", 512)
imagenet256_l_onestep = _published(_onestep, "L", 256, "By the paper: FID 8.82 in one step. ")
