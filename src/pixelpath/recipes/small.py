"""Recipes for images of about 32 and 64 pixels: on one GPU, on one CPU core, and on CIFAR-10. Their settings were chosen here."""

from __future__ import annotations

from dataclasses import replace

from pixelpath.data.augment import PHOTOGRAPHS, SMALL
from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, LogNormal, NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.pairs import StagedGap
from pixelpath.objectives.representation import Curriculum, RepresentationLearning
from pixelpath.recipes import sizes
from pixelpath.recipes.changes import adjustable, paper
from pixelpath.recipes.digits import digits_onestep
from pixelpath.recipes.recipe import ProjectorSize, Recipe
from pixelpath.sampling.sampler import Sampling
from pixelpath.trainer.optimizer import AdamW, Cosine, Muon

# As in pixelpath.recipes.digits, noise ranges are those of the paper at the size of the images. Weight, preconditioning and the
# pixel head are not the paper's: they came closest to the data in docs/results.md, at equal time.


@adjustable
def small_32_encoder() -> Recipe:
    """Stage one for images of about 32 x 32 pixels on one GPU.

    Command: pixelpath train small-32-encoder --data PATH --out runs/encoder. Cost: 19.7 M parameters, 66 tokens. Not run here
    at this size; the nano size on Fashion-MNIST is in docs/results.md.
    """
    return Recipe(
        name="small-32-encoder",
        objective=RepresentationLearning(NoiseRange(0.004, 160.0), Curriculum(), one_noise=True, view_draw=LogNormal(0.3, 1.4)),
        size=sizes.SMALL,
        patch=4,
        position_init=2.0,
        projector=ProjectorSize(2048, 256),
        augmentation=SMALL,
        steps=50_000,
        batch_size=512,
        optimizer=AdamW(lr=6e-4, betas=(0.9, 0.95), weight_decay=0.03),
        schedule=Cosine(warmup=1000),
        ema_decay=0.99,
    )


@adjustable
def small_32_diffusion() -> Recipe:
    """Stage two, diffusion, for images of about 32 x 32 pixels on one GPU.

    Command: pixelpath train small-32-diffusion --data PATH --encoder runs/encoder --out runs/diffusion. Cost: 38.2 M parameters,
    66 tokens. Not run here at this size; the nano size on Fashion-MNIST is in docs/results.md.
    """
    return Recipe(
        name="small-32-diffusion",
        objective=Denoising(NoiseRange(0.004, 160.0), LogNormal(-0.5, 1.6), EDMWeight(limit=400.0)),
        preconditioning=EDMPreconditioning(),
        size=sizes.SMALL,
        patch=4,
        pixel_head=32,
        pixel_blocks=2,
        position_init=2.0,
        steps=100_000,
        batch_size=256,
        optimizer=AdamW(lr=3e-4, betas=(0.9, 0.99), weight_decay=0.01, clip=1.0),
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
        steps=100_000,
        batch_size=256,
        optimizer=Muon(lr=1e-3, clip=1.0),
        schedule=Cosine(warmup=1000),
        ema_decay=0.9995,
        data=DataSettings(),
    )


small_32_onestep_paper = paper(small_32_onestep, "Not run here.")


@adjustable
def small_64_encoder() -> Recipe:
    """Stage one for images of about 64 x 64 pixels on one GPU.

    Command: pixelpath train small-64-encoder --data PATH --out runs/encoder. Cost: as small-32-encoder. Not run here.
    """
    return replace(
        small_32_encoder(),
        name="small-64-encoder",
        objective=RepresentationLearning(NoiseRange(), Curriculum(), one_noise=True, view_draw=LogNormal(-0.4, 1.4)),
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
        objective=Denoising(NoiseRange(), LogNormal(-1.2, 1.6), EDMWeight(limit=400.0)),
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


small_64_onestep_paper = paper(small_64_onestep, "Not run here.")


@adjustable
def cpu_32_diffusion() -> Recipe:
    """Diffusion for some thousand images of about 32 x 32 pixels on one CPU core, from scratch.

    Command: pixelpath train cpu-32-diffusion --data PATH --out runs/diffusion. Cost: 1.4 M parameters, 66 tokens; 50 minutes.
    Result: sprites in docs/results.md. Levels are drawn higher than in small-32-diffusion, where the parts of an image come to
    agree (docs/decisions/0012).
    """
    return replace(
        small_32_diffusion(),
        name="cpu-32-diffusion",
        objective=Denoising(NoiseRange(0.008, 160.0), LogNormal(0.3, 1.4), EDMWeight(limit=400.0)),
        size=sizes.NANO,
        steps=9000,
        batch_size=32,
        optimizer=Muon(lr=6e-3, betas=(0.9, 0.99), clip=1.0),
        schedule=Cosine(warmup=100),
        ema_decay=0.999,
        sampling=Sampling(guidance=1.5),
    )


@adjustable
def cpu_32_onestep() -> Recipe:
    """One step for some thousand images of about 32 x 32 pixels on one CPU core, from scratch.

    Command: pixelpath train cpu-32-onestep --data PATH --out runs/onestep. Cost: a step takes 1.7 times as long as one of
    cpu-32-diffusion. Result: sprites in docs/results.md.
    """
    return replace(
        small_32_onestep(),
        name="cpu-32-onestep",
        size=sizes.NANO,
        pixel_head=24,
        steps=9000,
        batch_size=32,
        optimizer=Muon(lr=3e-3, clip=1.0),
        schedule=Cosine(warmup=100),
        ema_decay=0.999,
    )


@adjustable
def cpu_64_diffusion() -> Recipe:
    """The same for images of about 64 x 64 pixels.

    Command: pixelpath train cpu-64-diffusion --data PATH --out runs/diffusion. Cost: 1.5 M parameters, 66 tokens; a step takes
    1.2 times as long. Result: rain in docs/results.md. There are four times the pixels, so the pixel head has half the channels
    (docs/decisions/0027).
    """
    return replace(
        cpu_32_diffusion(),
        name="cpu-64-diffusion",
        objective=Denoising(NoiseRange(0.02, 80.0), LogNormal(0.0, 1.4), EDMWeight(limit=400.0)),
        patch=8,
        pixel_head=16,
    )


@adjustable
def cpu_64_onestep() -> Recipe:
    """The same for images of about 64 x 64 pixels.

    Command: pixelpath train cpu-64-onestep --data PATH --out runs/onestep. Cost: as cpu-32-onestep. Not run here.
    """
    return replace(cpu_32_onestep(), name="cpu-64-onestep", objective=small_64_onestep().objective, patch=8)


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


cifar10_onestep_paper = paper(cifar10_onestep, "Not run here.")
