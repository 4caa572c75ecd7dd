"""What a run looks at now and then while it trains: the held-out loss, previews, and signs that stage one has collapsed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from pixelpath import processes
from pixelpath.commands.pictures import grid, save_png
from pixelpath.commands.prepare import Data, batches
from pixelpath.data.views import augment
from pixelpath.evaluation.collapse import deviation, effective_rank
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.objectives.contrast import chance_level
from pixelpath.recipes.generate import Plan, balanced, generate
from pixelpath.recipes.recipe import Recipe
from pixelpath.types import Views

PREVIEWS = 36  # images of a preview, always of the seeds 0, 1, ...
MEASURED = 1024  # held-out images, at most, that a measurement during training uses
SPREAD = 0.2  # features closer together than this share of 1/sqrt(width) have collapsed
RANK = 2.0  # an effective rank below this says the same


@torch.no_grad()
def held_out_loss(recipe: Recipe, data: Data, average: nn.Module, device: torch.device) -> float:
    """The objective's own mean loss of the average on the first held-out images, with the same noise every time."""
    size = min(MEASURED, len(data.held_out), recipe.batch_size) // processes.count() * processes.count()
    if size == 0:
        return math.nan
    count = max(1, min(MEASURED, len(data.held_out)) // size)
    stream = batches(recipe, data, data.held_out, device, 0, size)
    losses = [recipe.objective(average, average, next(stream), recipe.steps).total for _ in range(count)]
    return float(processes.mean(torch.stack(losses).mean()))


def preview(recipe: Recipe, data: Data, average: nn.Module, path: Path) -> None:
    """A grid of samples of fixed seeds, classes in turn, as the recipe samples."""
    assert isinstance(average, Denoiser)
    seeds = range(PREVIEWS)
    labels = balanced(seeds, len(data.classes))
    plan = Plan(recipe.noise, recipe.sampling.steps, recipe.sampling.scale, recipe.sampling.between)
    images = torch.cat(list(generate(average, data.shape, seeds, labels, plan)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, grid(data.normaliser.decode(images), columns=12))


def show_views(recipe: Recipe, data: Data, path: Path) -> None:
    """A grid of training images (first row), and of two views of each (the rows below): what stage one is asked to recognise."""
    plain = next(batches(recipe, data, data.training, torch.device("cpu"), 0, 12 * processes.count()))
    views = plain if isinstance(plain, Views) else augment(plain, recipe.augmentation, data.normaliser)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.cat([views.images, views.first, views.second])
    save_png(path, grid(data.normaliser.decode(rows), columns=12))


@torch.no_grad()
def watch_features(
    recipe: Recipe, data: Data, average: nn.Module, contrast: float | None, device: torch.device
) -> tuple[dict[str, float], list[str]]:
    """Measures of the features of stage one on held-out images at the lowest level, and a sentence for each that is alarming.

    `contrast` is the contrastive loss of the latest steps, both directions together, or None before there is one.
    """
    assert isinstance(average, Representation)
    size = min(256, len(data.held_out)) // processes.count() * processes.count()
    plain = next(batches(recipe, data, data.held_out, device, 0, size))
    sigma = torch.tensor(recipe.noise.lowest * recipe.noise.shift, device=device)
    features = average.features(plain.images, sigma).float()
    spread, rank = deviation(features), effective_rank(features)
    found = []
    if spread < SPREAD or rank < RANK:
        found.append(f"features have collapsed (deviation {spread:.3f} of 1, effective rank {rank:.1f})")
    chance = 2 * chance_level(recipe.batch_size // recipe.accumulate)
    if contrast is not None and contrast > 0.98 * chance:
        found.append(f"contrastive loss {contrast:.2f} is at chance level {chance:.2f}")
    return {"feature_deviation": spread, "effective_rank": rank}, found
