"""Rain radar as data, small diffusion models of it, and how samples differ from it; the study of them is benchmarks/radar.py.

*Rates* are rain in mm/h. A *crop* is 16 x 16 pixels of an image, kept if 20 to 60 % of it is wet: rain with its edges, of which
both seasons of the data have alike. Each sixth time of training is held out for choices (*validation*).
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pixelpath import recipes
from pixelpath.data.batches import Batches
from pixelpath.data.memory import from_arrays
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.data.settings import DataSettings
from pixelpath.evaluation.tails import hill
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import EDMWeight, LogNormal, NoiseRange
from pixelpath.objectives.denoising import Denoising
from pixelpath.randomness import Streams, normal, uniform
from pixelpath.recipes.build import student_of
from pixelpath.recipes.recipe import Recipe, for_data
from pixelpath.recipes.sizes import Blocks, Size
from pixelpath.trainer.ema import twin
from pixelpath.trainer.loop import train
from pixelpath.trainer.optimizer import AdamW, Cosine
from pixelpath.types import Batch, Images, Losses, Objective

PIXELS = 16
SHAPE = (1, PIXELS, PIXELS)
DRY = 0.1  # mm/h; the lowest rate in the data other than 0 is 0.105
WET = (0.2, 0.6)  # share of wet pixels in the crops that are kept
EVERY = 6  # of the times of training, the share held out for validation
FREEDOM = 3.0  # of the Student noise: the tail index of the data, which Hill's estimator puts at 2.7 to 3.0
SIZE = Size(Blocks(2, 64, 4), Blocks(2, 64, 4))
QUANTILES = (0.99, 0.999)

Rates = Float[Tensor, "crop 1 row column"]


@dataclass(frozen=True)
class Crops:
    """Rain rates in mm/h of every part of the data."""

    training: Rates
    validation: Rates
    test: Rates


def read(data: Path, limit: int | None = None) -> Crops:
    """The crops of a file; at most `limit` of each part, evenly spread."""
    with np.load(data) as arrays:
        images, times, test = arrays["train"], arrays["train_time"], arrays["test"]
    rates, source = crops(images)
    number = torch.from_numpy(np.unique(times, return_inverse=True)[1].astype(np.int64))[source]
    held = number % EVERY == EVERY - 1
    return Crops(*(spread(each, limit) for each in (rates[~held], rates[held], crops(test)[0])))


def crops(images: np.ndarray) -> tuple[Rates, Int[Tensor, "crop"]]:
    """The crops of images [image, 1, row, column] that are partly wet, and the image that each is from."""
    values = torch.from_numpy(images.astype(np.float32))
    tiles = values.unfold(2, PIXELS, PIXELS).unfold(3, PIXELS, PIXELS)  # [image, 1, down, across, row, column]
    source = torch.arange(len(values)).repeat_interleave(tiles.shape[2] * tiles.shape[3])
    tiles = tiles.reshape(-1, *SHAPE)
    wet = (tiles >= DRY).float().mean((1, 2, 3))
    kept = (wet >= WET[0]) & (wet <= WET[1])
    return tiles[kept].contiguous(), source[kept]


def spread(images: Images, limit: int | None) -> Images:
    """At most `limit` of the images, at even distances."""
    count = len(images) if limit is None else min(limit, len(images))
    return images[torch.arange(count) * len(images) // count]


@dataclass(frozen=True)
class Model:
    """What a diffusion model is of, and the freedom of its noise (infinite: Gaussian)."""

    name: str
    logarithm: bool
    freedom: float = math.inf

    def values(self, rates: Rates) -> Images:
        """What the model's range is made of: ln(1 + rate), or the rate."""
        return rates.log1p() if self.logarithm else rates

    def rates(self, values: Images) -> Rates:
        """Back to rates, none below 0."""
        return (values.expm1() if self.logarithm else values).clamp(min=0)

    def noise(self, streams: Streams) -> Images:
        """Noise of unit deviation: normal, or Student, whose images are normal ones over the root of a chi-square over freedom.

        Every image has one chi-square draw for all of its pixels; sqrt((nu - 2) / nu) makes the deviation 1.
        """
        drawn = normal(streams, SHAPE)
        if math.isinf(self.freedom):
            return drawn
        from scipy.special import gammaincinv

        half = self.freedom / 2
        precision = torch.from_numpy(gammaincinv(half, uniform(streams, (), torch.float64).numpy()) / half)
        return drawn * ((1 - 1 / half) / precision).sqrt().float()[:, None, None, None]


MODELS = (Model("log", True), Model("raw", False), Model("t-EDM", False, FREEDOM))


@dataclass(frozen=True)
class HeavyDenoising:
    """The loss of t-EDM: w(sigma) |D(x + sigma n, sigma) - x|^2 with n from a Student law (arXiv 2410.14171, section 3).

    Sigma is the deviation of the noise, where the paper's is its scale, sqrt(nu / (nu - 2)) times less. Its preconditioner
    matches moments, so that it is EDM's in the std: the preconditioning, the weight 1 / out^2 and the equation of sampling
    dx/dsigma = (x - D) / sigma, which does not know the unit of sigma, are those of Gaussian noise. Sampling begins at Student
    noise.
    """

    plain: Denoising
    model: Model

    def __call__(self, student: nn.Module, ema: nn.Module, batch: Batch, step: int) -> Losses:
        """The mean loss of the batch, and the unweighted squared error."""
        streams = Streams(batch.seeds)
        sigma = self.plain.draw(streams, self.plain.noise)
        errors = self.plain.errors(student, batch, self.model.noise(streams), sigma, torch.zeros(len(sigma), dtype=torch.bool))
        return Losses((self.plain.weight(sigma, self.plain.noise) * errors).mean(), {"squared_error": errors.detach().mean()})


def recipe_of(steps: int, seed: int) -> Recipe:
    """small-32-diffusion with a smaller network, under EDM's preconditioning, draws and weight at this number of pixels."""
    ratio = 64 / PIXELS
    noise, draw = NoiseRange(0.002 * ratio, 80 * ratio), LogNormal(-1.2 + math.log(ratio), 1.6)
    row = replace(
        recipes.small_32_diffusion(),
        objective=Denoising(noise, draw, EDMWeight()),
        preconditioning=EDMPreconditioning(),
        size=SIZE,
        patch=4,
        position_init=0.0,
        batch_size=128,
        steps=steps,
        optimizer=AdamW(2e-3, (0.9, 0.99), 0.01, clip=1.0),
        schedule=Cosine(warmup=max(1, steps // 20)),
        ema_decay=0.999,
        seed=seed,
    )
    return for_data(row, PIXELS, PIXELS)


@dataclass(frozen=True)
class Trained:
    """The average of a run, how it knows its data, and what it took."""

    model: Model
    recipe: Recipe
    normaliser: Normaliser
    denoiser: Denoiser
    seconds: float


def trained(model: Model, data: Crops, steps: int, seed: int, kept: Path) -> Trained:
    """The model trained on the training crops, or taken from the file `kept`, which it is written to."""
    recipe = recipe_of(steps, seed)
    values, everything = model.values(data.training), DataSettings(held_out_share=0.0)
    source, _ = from_arrays(values, layout="channels_first", settings=everything)
    normaliser = Normaliser.fit(source)
    student = student_of(recipe, SHAPE, 0)
    assert isinstance(student, Denoiser)
    assert isinstance(recipe.objective, Denoising)
    ema = twin(student)
    assert isinstance(ema, Denoiser)
    if kept.exists():
        found = torch.load(kept, weights_only=True)
        ema.load_state_dict(found["weights"])
        return Trained(model, recipe, normaliser, ema, found["seconds"])
    stream = Batches(source, normaliser, recipe.batch_size, seed, flip=True)
    plain = recipe.objective
    objective = cast(Objective, plain if math.isinf(model.freedom) else HeavyDenoising(plain, model))
    walk = train(
        student,
        ema,
        objective,
        recipe.optimizer.build(student),
        recipe.schedule,
        stream.batches(),
        first=0,
        steps=steps,
        ema_decay=recipe.ema_decay,
        seed=seed,
        clip=recipe.optimizer.limit,
    )
    started, losses = time.process_time(), []
    for step in walk:
        losses.append(step.losses["loss"])
        if step.number % 250 == 0:
            say(f"{model.name}, seed {seed}, step {step.number}: loss {np.mean(losses[-250:]):.4f}")
    seconds = time.process_time() - started
    torch.save({"weights": ema.state_dict(), "seconds": seconds}, kept)
    return Trained(model, recipe, normaliser, ema, seconds)


def measured(rates: Rates, test: Rates) -> dict[str, float]:
    """How samples differ from the test crops.

    Relative errors of quantiles of pixels and of crops' maxima, how many are beyond the quantile over how many would be, the tail
    index of maxima (highest 2 %), the mean |ln| of the ratio of spectra, and the share of dry pixels.
    """
    found: dict[str, float] = {}
    sets = {"pixel": (rates.flatten(), test.flatten()), "maximum": (maxima(rates), maxima(test))}
    for name, (made, held) in sets.items():
        for probability in QUANTILES:
            value = quantile(held, probability)
            beyond = float((held > value).sum()) / len(held) * len(made)
            found[f"{name} {probability}"] = quantile(made, probability) / value - 1
            found[f"beyond {name} {probability}"] = float((made > value).sum()) / max(beyond, 1e-9)
    found["index"] = hill(maxima(rates), max(20, len(rates) // 50)).value
    found["spectrum"] = float((spectrum(rates) / spectrum(test)).log().abs().mean())
    found["dry"] = float((rates < DRY).float().mean())
    return found


def maxima(rates: Rates) -> Float[Tensor, "crop"]:
    """The highest rate of every crop."""
    return rates.flatten(1).amax(1)


def quantile(values: Float[Tensor, "value"], probability: float) -> float:
    """The ceil(p n)-th smallest of n values."""
    return float(values.kthvalue(math.ceil(probability * len(values))).values)


def spectrum(rates: Rates) -> Float[Tensor, "wavenumber"]:
    """The power of wavenumbers 1 .. half the pixels, a mean over all waves of that length (rounded) and all crops."""
    power = torch.fft.fft2(rates.double()).abs().square().mean((0, 1))
    waves = torch.fft.fftfreq(PIXELS, 1 / PIXELS)
    length = (waves[:, None] ** 2 + waves**2).sqrt().round()
    return torch.stack([power[length == number].mean() for number in range(1, PIXELS // 2 + 1)])


def say(words: str) -> None:
    """A line on the terminal."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()
