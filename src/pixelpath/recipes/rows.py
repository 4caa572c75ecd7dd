"""The recipes: one function per run. Published settings are those of EPG (Lei et al. 2025, arXiv 2510.12586); the small ones
were chosen here.

A row for stage one is called NAME-encoder, those for stage two NAME-diffusion and NAME-onestep; NAME-onestep-paper has the
published objective where NAME-onestep has a better one. Every row runs as `pixelpath train ROW --data PATH --out RUN`; stage two
takes up a finished stage one with `--encoder RUN_OF_STAGE_ONE`, a one-step row also a finished diffusion with `--start RUN`, and
without either it trains from scratch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Protocol, runtime_checkable

from pixelpath.data.augment import DIGITS, PHOTOGRAPHS, SMALL
from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning
from pixelpath.noise import GridLogNormal, GridWeight, LogNormal, NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.recipes import sizes
from pixelpath.recipes.recipe import ProjectorSize, Recipe, Sampling
from pixelpath.trainer.optimizer import AdamW, Cosine, Muon, Steps

# The published shift would take the highest level of 8 x 8 images down to 10, where such images are still seen: every small row
# names, for 64 pixels, the range and the draws that are 0.002 .. 80 and N(-1.2, 1.6^2) at its own size. Weight and scalings are
# the reference's, which came closest to the data in docs/results.md.


@runtime_checkable
class RecipeFunction(Protocol):
    """Makes a recipe; what is given goes before the recipe's own choice."""

    def __call__(
        self,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        size: sizes.Size | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
    ) -> Recipe:
        """The recipe: optimizer steps, images a step, learning rate, size of the networks, EMA decay per step, seed."""
        ...


def adjustable(make: Callable[[], Recipe]) -> RecipeFunction:
    """The recipe function, whose most frequent settings can be given."""

    @wraps(make)
    def adjusted(
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        size: sizes.Size | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
    ) -> Recipe:
        recipe = make()
        optimizer = recipe.optimizer if lr is None else replace(recipe.optimizer, lr=lr)
        return replace(
            recipe,
            optimizer=optimizer,
            steps=recipe.steps if steps is None else steps,
            batch_size=recipe.batch_size if batch_size is None else batch_size,
            size=recipe.size if size is None else size,
            ema_decay=recipe.ema_decay if ema_decay is None else ema_decay,
            seed=recipe.seed if seed is None else seed,
        )

    return adjusted


@adjustable
def digits_encoder() -> Recipe:
    """Stage one on the 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn.

    Command: pixelpath train digits-encoder --data runs/quickstart/digits.npz --out runs/encoder. Cost: under a minute on two CPU
    cores. Result: features about as good as raw pixels (docs/results.md).
    """
    return Recipe(
        name="digits-encoder",
        objective=RepresentationLearning(NoiseRange(0.016, 640.0), Curriculum()),
        size=sizes.NANO,
        patch=4,
        projector=ProjectorSize(256, 64),
        augmentation=DIGITS,
        steps=400,
        batch_size=128,
        optimizer=AdamW(1e-3, (0.9, 0.95), 0.03),
        schedule=Cosine(warmup=50),
        ema_decay=0.99,
        data=DataSettings(held_out_share=0.2),
    )


@adjustable
def digits_diffusion() -> Recipe:
    """Stage two, diffusion, on the digits.

    Command: pixelpath train digits-diffusion --data runs/quickstart/digits.npz --encoder runs/encoder --out runs/diffusion.
    Cost: about two minutes on two CPU cores. Result: 99 % of guided samples recognised (docs/results.md).
    """
    return Recipe(
        name="digits-diffusion",
        objective=Denoising(NoiseRange(0.016, 640.0), GridLogNormal(0.9, 1.6), GridWeight()),
        size=sizes.NANO,
        patch=4,
        steps=1300,
        batch_size=128,
        optimizer=AdamW(2e-3, (0.9, 0.99), 0.01, clip=1.0),
        schedule=Cosine(warmup=100),
        ema_decay=0.999,
        sampling=Sampling(steps=18, guidance=1.5),
        data=DataSettings(held_out_share=0.2),
    )


@adjustable
def digits_onestep() -> Recipe:
    """Stage two, one step, on the digits.

    Command: pixelpath train digits-onestep --data runs/quickstart/digits.npz --encoder runs/encoder --out runs/onestep.
    Cost: about four minutes on two CPU cores. Result: 97 % of one-step samples recognised, 99 % of two-step ones, at 2.1 and 1.3
    times the distance of the diffusion model (docs/results.md).
    """
    return Recipe(
        name="digits-onestep",
        objective=Consistency(NoiseRange(0.016, 160.0), StagedGap(steepness=0.125), LogNormal(1.68, 1.6)),
        size=sizes.NANO,
        patch=4,
        preconditioning=Anchored(),
        steps=1300,
        batch_size=128,
        optimizer=Muon(3e-3, clip=1.0),
        schedule=Cosine(warmup=100),
        ema_decay=0.999,
        sampling=Sampling(steps=1, guidance=1.0),
        data=DataSettings(held_out_share=0.2),
    )


@adjustable
def small_32_encoder() -> Recipe:
    """Stage one for images of about 32 x 32 pixels on one GPU.

    Command: pixelpath train small-32-encoder --data PATH --out runs/encoder. Cost: 14.6 M parameters, 66 tokens. Not run here
    at this size; the nano size on Fashion-MNIST is in docs/results.md.
    """
    return Recipe(
        name="small-32-encoder",
        objective=RepresentationLearning(NoiseRange(0.004, 160.0), Curriculum()),
        size=sizes.SMALL,
        patch=4,
        position_init=2.0,
        projector=ProjectorSize(2048, 256),
        augmentation=SMALL,
        steps=50_000,
        batch_size=512,
        optimizer=AdamW(6e-4, (0.9, 0.95), 0.03),
        schedule=Cosine(warmup=1000),
        ema_decay=0.99,
    )


@adjustable
def small_32_diffusion() -> Recipe:
    """Stage two, diffusion, for images of about 32 x 32 pixels on one GPU.

    Command: pixelpath train small-32-diffusion --data PATH --encoder runs/encoder --out runs/diffusion. Cost: 39 M parameters,
    66 tokens. Not run here at this size; the nano size on Fashion-MNIST is in docs/results.md.
    """
    return Recipe(
        name="small-32-diffusion",
        objective=Denoising(NoiseRange(0.004, 160.0), GridLogNormal(-0.5, 1.6), GridWeight()),
        size=sizes.SMALL,
        patch=4,
        position_init=2.0,
        flip=True,
        steps=100_000,
        batch_size=256,
        optimizer=AdamW(3e-4, (0.9, 0.99), 0.01, clip=1.0),
        schedule=Cosine(warmup=1000),
        ema_decay=0.9995,
    )


@adjustable
def small_32_onestep() -> Recipe:
    """Stage two, one step, for images of about 32 x 32 pixels on one GPU.

    Command: pixelpath train small-32-onestep --data PATH --encoder runs/encoder --out runs/onestep. Cost: a step takes a
    third more evaluations than one of small-32-diffusion, and Muon. Not run here at this size; for nano see docs/results.md.
    """
    return replace(
        digits_onestep(),
        name="small-32-onestep",
        objective=Consistency(NoiseRange(0.004, 40.0), StagedGap(steepness=0.5), LogNormal(0.29, 1.6)),
        size=sizes.SMALL,
        position_init=2.0,
        flip=True,
        steps=100_000,
        batch_size=256,
        optimizer=Muon(1e-3, clip=1.0),
        schedule=Cosine(warmup=1000),
        ema_decay=0.9995,
        data=DataSettings(),
    )


@adjustable
def small_64_encoder() -> Recipe:
    """Stage one for images of about 64 x 64 pixels on one GPU.

    Command: pixelpath train small-64-encoder --data PATH --out runs/encoder. Cost: as small-32-encoder. Not run here.
    """
    return replace(
        small_32_encoder(),
        name="small-64-encoder",
        objective=RepresentationLearning(NoiseRange(), Curriculum()),
        patch=8,
        augmentation=PHOTOGRAPHS,
    )


@adjustable
def small_64_diffusion() -> Recipe:
    """Stage two, diffusion, for images of about 64 x 64 pixels on one GPU.

    Command: pixelpath train small-64-diffusion --data PATH --encoder runs/encoder --out runs/diffusion. Cost: as
    small-32-diffusion. Not run here.
    """
    return replace(
        small_32_diffusion(),
        name="small-64-diffusion",
        objective=Denoising(NoiseRange(), GridLogNormal(-1.2, 1.6), GridWeight()),
        patch=8,
    )


@adjustable
def small_64_onestep() -> Recipe:
    """Stage two, one step, for images of about 64 x 64 pixels on one GPU.

    Command: pixelpath train small-64-onestep --data PATH --encoder runs/encoder --out runs/onestep. Cost: as small-32-onestep.
    Not run here.
    """
    objective = Consistency(NoiseRange(0.002, 20.0), StagedGap(), LogNormal(-0.4, 1.6))
    return replace(small_32_onestep(), name="small-64-onestep", objective=objective, patch=8)


@adjustable
def cpu_32_diffusion() -> Recipe:
    """Diffusion for some thousand images of about 32 x 32 pixels on one CPU core, from scratch.

    Command: pixelpath train cpu-32-diffusion --data PATH --out runs/diffusion. Cost: 1.3 M parameters, 66 tokens; 45 minutes.
    Result: sprites in docs/results.md. Levels are drawn higher than in small-32-diffusion, where the parts of an image come to
    agree (docs/decisions/0012).
    """
    return replace(
        small_32_diffusion(),
        name="cpu-32-diffusion",
        objective=Denoising(NoiseRange(0.004, 160.0), GridLogNormal(0.3, 1.6), GridWeight()),
        size=sizes.NANO,
        steps=9000,
        batch_size=32,
        optimizer=Muon(6e-3, betas=(0.9, 0.99), clip=1.0),
        schedule=Cosine(warmup=100),
        ema_decay=0.999,
        sampling=Sampling(steps=18, guidance=1.5),
    )


@adjustable
def cpu_64_diffusion() -> Recipe:
    """The same for images of about 64 x 64 pixels.

    Command: pixelpath train cpu-64-diffusion --data PATH --out runs/diffusion. Cost: as cpu-32-diffusion. Result: rain in
    docs/results.md.
    """
    return replace(
        cpu_32_diffusion(),
        name="cpu-64-diffusion",
        objective=Denoising(NoiseRange(0.02, 80.0), GridLogNormal(0.0, 1.6), GridWeight()),
        patch=8,
    )


@adjustable
def cifar10_encoder() -> Recipe:
    """Stage one on CIFAR-10, 50,000 photographs of 32 x 32 pixels in 10 classes.

    Command: pixelpath train cifar10-encoder --data PATH --out runs/encoder. Cost: four times small-32-encoder a step (258
    tokens). Not run here.
    """
    return replace(small_32_encoder(), name="cifar10-encoder", patch=2, steps=100_000)


@adjustable
def cifar10_diffusion() -> Recipe:
    """Stage two, diffusion, on CIFAR-10.

    Command: pixelpath train cifar10-diffusion --data PATH --encoder runs/encoder --out runs/diffusion. Cost: four times
    small-32-diffusion a step (258 tokens). Not run here.
    """
    return replace(small_32_diffusion(), name="cifar10-diffusion", patch=2, steps=200_000)


@adjustable
def cifar10_onestep() -> Recipe:
    """Stage two, one step, on CIFAR-10.

    Command: pixelpath train cifar10-onestep --data PATH --encoder runs/encoder --out runs/onestep. Cost: four times
    small-32-onestep a step (258 tokens). Not run here.
    """
    return replace(small_32_onestep(), name="cifar10-onestep", patch=2, steps=200_000)


def as_published(row: Recipe) -> Recipe:
    """A one-step row with the published choices: boundary scalings, AdamW, contrastive features, dropout; its own range and size.

    Levels are those of the row's range, and the rate its schedule's share of it; needs a stage one (--encoder). Not run here but
    for the digits (docs/results.md).
    """
    assert isinstance(row.objective, Consistency)
    highest = row.noise.sigma_min * 40_000  # 80 for a lowest level of 0.002
    return replace(
        row,
        name=f"{row.name}-paper",
        objective=replace(row.objective, noise=NoiseRange(row.noise.sigma_min, highest), features=ContrastiveFeatures()),
        preconditioning=EDMPreconditioning(),
        dropout=0.5,
        position_init=0.0,
        optimizer=AdamW(1e-4, (0.9, 0.99), 0.03),
        schedule=Steps(length=700_000),
    )


def imagenet_encoder(name: str, size: sizes.Size, pixels: int) -> Recipe:
    """Stage one as published.

    Command: pixelpath train NAME --data IMAGENET --data.channels 3 --out runs/encoder, by torchrun on several GPUs. Cost by the
    paper: 57 hours on 8 H200. Not run here.
    """
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


def imagenet_diffusion(name: str, size: sizes.Size, pixels: int, steps: int = 1_000_000) -> Recipe:
    """Stage two, diffusion, as published.

    Command: pixelpath train NAME --data IMAGENET --data.channels 3 --encoder runs/encoder --out runs/diffusion, by torchrun on
    several GPUs. Cost by the paper: XL 139 hours on 8 H200, Frechet distance 2.04 at 75 evaluations. Not run here.
    """
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


def imagenet_onestep(name: str, size: sizes.Size, pixels: int) -> Recipe:
    """Stage two, one step, as published.

    Command: pixelpath train NAME --data IMAGENET --data.channels 3 --encoder runs/encoder --out runs/onestep, by torchrun on
    several GPUs. By the paper the L size has a Frechet distance of 8.82 in one step. Not run here.
    """
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
        schedule=Steps(length=700_000),
        ema_decay=0.9999,
        sampling=Sampling(steps=1, guidance=1.0),
        data=DataSettings(resize=(pixels, pixels)),
    )


def table() -> dict[str, Recipe]:
    """Every recipe by its name."""
    small: list[RecipeFunction] = [
        digits_encoder, digits_diffusion, digits_onestep, small_32_encoder, small_32_diffusion, small_32_onestep,
        small_64_encoder, small_64_diffusion, small_64_onestep, cifar10_encoder, cifar10_diffusion, cifar10_onestep,
        cpu_32_diffusion, cpu_64_diffusion,
    ]  # fmt: skip
    rows = [row() for row in small]
    rows += [as_published(row) for row in rows if row.is_one_step]
    rows += [
        imagenet_encoder("imagenet256-B-encoder", sizes.B, 256),
        imagenet_encoder("imagenet256-L-encoder", sizes.L, 256),
        imagenet_encoder("imagenet512-B-encoder", sizes.B, 512),
        imagenet_encoder("imagenet512-L-encoder", sizes.L, 512),
        imagenet_diffusion("imagenet256-L-diffusion", sizes.L, 256),
        imagenet_diffusion("imagenet256-XL-diffusion", sizes.XL, 256),
        imagenet_diffusion("imagenet256-XXL-diffusion", sizes.XXL, 256),
        imagenet_diffusion("imagenet256-G-diffusion", sizes.G, 256, 2_000_000),
        imagenet_diffusion("imagenet512-L-diffusion", sizes.L, 512),
        imagenet_onestep("imagenet256-L-onestep", sizes.L, 256),
    ]
    return {row.name: row for row in rows}
