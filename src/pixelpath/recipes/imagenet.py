"""Recipes for ImageNet with the published settings (EPG: Lei et al. 2025, arXiv 2510.12586)."""

from __future__ import annotations

from pixelpath.data.augment import PHOTOGRAPHS
from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.recipes import sizes
from pixelpath.recipes.changes import adjustable
from pixelpath.recipes.recipe import Recipe
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.optimizer import AdamW, Cosine, Steps


def _encoder(name: str, size: sizes.Size, pixels: int) -> Recipe:
    """Stage one of any size."""
    return Recipe(
        name=name,
        objective=RepresentationLearning(NoiseRange(), Curriculum()),
        size=size,
        patch=pixels // 16,
        augmentation=PHOTOGRAPHS,
        steps=600_000,
        batch_size=1024,
        optimizer=AdamW(2e-4, (0.9, 0.95), 0.03, decay_all=True),
        schedule=Cosine(warmup=10_000),
        ema_decay=0.99,
        data=DataSettings(resize=(pixels, pixels)),
    )


def _diffusion(name: str, size: sizes.Size, pixels: int, steps: int = 1_000_000) -> Recipe:
    """Stage two, diffusion, of any size."""
    return Recipe(
        name=name,
        objective=Denoising(NoiseRange()),
        size=size,
        patch=pixels // 16,
        flip=True,
        steps=steps,
        batch_size=1024,
        optimizer=AdamW(1e-4, (0.9, 0.999), 0.01, clip=0.5, clip_after=10_000, decay_all=True),
        schedule=Cosine(warmup=10_000),
        ema_decay=0.9999,
        sampling=Sampling(steps=32, guidance=2.5, guidance_interval=(0.19, 1.61)),
        data=DataSettings(resize=(pixels, pixels)),
    )


def _onestep(name: str, size: sizes.Size, pixels: int) -> Recipe:
    """Stage two, one step, of any size."""
    return Recipe(
        name=name,
        objective=Consistency(NoiseRange(), StagedGap(), features=ContrastiveFeatures()),
        size=size,
        patch=pixels // 16,
        preconditioning=EDMPreconditioning(),
        dropout=0.5,
        flip=True,
        steps=700_000,
        batch_size=1024,
        optimizer=AdamW(1e-4, (0.9, 0.99), 0.03, decay_all=True),
        schedule=Steps(),
        ema_decay=0.9999,
        sampling=Sampling(steps=1, guidance=1.0),
        data=DataSettings(resize=(pixels, pixels)),
    )


@adjustable
def imagenet256_b_encoder() -> Recipe:
    """Stage one, size B, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-B-encoder --data IMAGENET --data.channels 3 --out runs/encoder, by torchrun on several
    GPUs. Cost by the paper: 57 hours on 8 H200. Not run here.
    """
    return _encoder("imagenet256-B-encoder", sizes.B, 256)


@adjustable
def imagenet256_l_encoder() -> Recipe:
    """Stage one, size L, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-L-encoder --data IMAGENET --data.channels 3 --out runs/encoder, by torchrun on several
    GPUs. Cost by the paper: 57 hours on 8 H200. Not run here.
    """
    return _encoder("imagenet256-L-encoder", sizes.L, 256)


@adjustable
def imagenet512_b_encoder() -> Recipe:
    """Stage one, size B, on ImageNet at 512 x 512 pixels, as published.

    Command: pixelpath train imagenet512-B-encoder --data IMAGENET --data.channels 3 --out runs/encoder, by torchrun on several
    GPUs. Cost by the paper: 57 hours on 8 H200. Not run here.
    """
    return _encoder("imagenet512-B-encoder", sizes.B, 512)


@adjustable
def imagenet512_l_encoder() -> Recipe:
    """Stage one, size L, on ImageNet at 512 x 512 pixels, as published.

    Command: pixelpath train imagenet512-L-encoder --data IMAGENET --data.channels 3 --out runs/encoder, by torchrun on several
    GPUs. Cost by the paper: 57 hours on 8 H200. Not run here.
    """
    return _encoder("imagenet512-L-encoder", sizes.L, 512)


@adjustable
def imagenet256_l_diffusion() -> Recipe:
    """Stage two, diffusion, size L, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-L-diffusion --data IMAGENET --data.channels 3 --encoder runs/encoder --out
    runs/diffusion, by torchrun on several GPUs. Not run here.
    """
    return _diffusion("imagenet256-L-diffusion", sizes.L, 256)


@adjustable
def imagenet256_xl_diffusion() -> Recipe:
    """Stage two, diffusion, size XL, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-XL-diffusion --data IMAGENET --data.channels 3 --encoder runs/encoder --out
    runs/diffusion, by torchrun on several GPUs. By the paper: 139 hours on 8 H200,
    FID 2.04 at 75 network evaluations (NFE). Not run here.
    """
    return _diffusion("imagenet256-XL-diffusion", sizes.XL, 256)


@adjustable
def imagenet256_xxl_diffusion() -> Recipe:
    """Stage two, diffusion, size XXL, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-XXL-diffusion --data IMAGENET --data.channels 3 --encoder runs/encoder --out
    runs/diffusion, by torchrun on several GPUs. Not run here.
    """
    return _diffusion("imagenet256-XXL-diffusion", sizes.XXL, 256)


@adjustable
def imagenet256_g_diffusion() -> Recipe:
    """Stage two, diffusion, size G, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-G-diffusion --data IMAGENET --data.channels 3 --encoder runs/encoder --out
    runs/diffusion, by torchrun on several GPUs. Not run here.
    """
    return _diffusion("imagenet256-G-diffusion", sizes.G, 256, 2_000_000)


@adjustable
def imagenet512_l_diffusion() -> Recipe:
    """Stage two, diffusion, size L, on ImageNet at 512 x 512 pixels, as published.

    Command: pixelpath train imagenet512-L-diffusion --data IMAGENET --data.channels 3 --encoder runs/encoder --out
    runs/diffusion, by torchrun on several GPUs. Not run here.
    """
    return _diffusion("imagenet512-L-diffusion", sizes.L, 512)


@adjustable
def imagenet256_l_onestep() -> Recipe:
    """Stage two, one step, size L, on ImageNet at 256 x 256 pixels, as published.

    Command: pixelpath train imagenet256-L-onestep --data IMAGENET --data.channels 3 --encoder runs/encoder --out runs/onestep,
    by torchrun on several GPUs. By the paper: FID 8.82 in one step. Not run here.
    """
    return _onestep("imagenet256-L-onestep", sizes.L, 256)
