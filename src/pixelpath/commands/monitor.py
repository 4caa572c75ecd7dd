"""What a run looks at now and then while it trains: the held-out loss, previews, and signs that stage one has collapsed.

The *measured* images are the first held-out ones, kept in memory.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from pixelpath import processes
from pixelpath.commands.pictures import grid, save_png
from pixelpath.commands.prepare import Data, for_objective, objective_of
from pixelpath.data import sources
from pixelpath.data.sources import Source
from pixelpath.data.stream import Stream
from pixelpath.data.views import augment
from pixelpath.evaluation.collapse import deviation, effective_rank
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.objectives.contrast import chance_level
from pixelpath.recipes.generate import Plan, balanced, generate
from pixelpath.recipes.recipe import Recipe

PREVIEWS = 36  # images of a preview, always of the seeds 0, 1, ...
MEASURED = 1024  # held-out images, at most, that a measurement during training uses
WATCHED = 256  # of these, how many have their features watched
FEW = 8  # images too few to say anything about the spread of features
SPREAD = 0.2  # features closer together than this share of 1/sqrt(width) have collapsed
RANK = 2.0  # an effective rank below this says the same
SETTLED = 200  # steps after which a contrastive loss should be better than chance


def measured(data: Data) -> Source:
    """The measured images of a run."""
    return sources.load(sources.subset(data.held_out, range(min(MEASURED, len(data.held_out)))))


@torch.no_grad()
def held_out_loss(recipe: Recipe, data: Data, images: Source, average: nn.Module, device: torch.device) -> float | None:
    """The objective's own mean loss of the average on measured images, with the same noise every time; None without images.

    All processes must call it together, each computes its share.
    """
    count = processes.count()
    size = min(len(images), recipe.batch_size) // count * count
    if size == 0:
        return None
    stream = Stream(images, data.normaliser, size, recipe.seed, device, processes.rank(), count)
    found = [for_objective(stream.batch(step), recipe, data) for step in range(len(images) // size)]
    losses = [objective_of(recipe)(average, average, batch, recipe.steps).total for batch in found]
    return float(processes.mean(torch.stack(losses).mean()))


def preview(recipe: Recipe, data: Data, average: nn.Module, path: Path) -> None:
    """A grid of samples of fixed seeds, classes in turn, as the recipe samples."""
    assert isinstance(average, Denoiser)
    seeds = range(PREVIEWS)
    labels = balanced(seeds, len(data.classes))
    plan = Plan(recipe.noise, recipe.sampling.steps, recipe.sampling.scale, recipe.sampling.between)
    images = torch.cat([data.normaliser.decode(part) for part in generate(average, data.shape, seeds, labels, plan)])
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, grid(images, columns=12))


def show_views(recipe: Recipe, data: Data, path: Path) -> None:
    """A grid of training images (first row), and of two views of each (the rows below): what stage one is asked to recognise."""
    stream = Stream(data.training, data.normaliser, 12, recipe.seed, cache_bytes=0)
    views = augment(stream.batch(0), recipe.augmentation, data.normaliser)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = torch.cat([views.images, views.first, views.second])
    save_png(path, grid(data.normaliser.decode(rows), columns=12))


@torch.no_grad()
def watch_features(recipe: Recipe, data: Data, images: Source, average: nn.Module, device: torch.device) -> dict[str, float]:
    """The deviation and effective rank of stage one's features of measured images at the lowest level; empty for too few."""
    assert isinstance(average, Representation)
    if len(images) < FEW:
        return {}
    native = torch.from_numpy(sources.gather(images, range(min(WATCHED, len(images)))))
    sigma = torch.tensor(recipe.noise.lowest * recipe.noise.shift, device=device)
    features = average.features(data.normaliser.encode(native.to(device)), sigma).float()
    return {"feature_deviation": deviation(features), "effective_rank": effective_rank(features)}


def alarms(recipe: Recipe, health: dict[str, float], contrast: float, step: int) -> list[str]:
    """A sentence for each sign that stage one learns nothing: features without spread, or a contrastive loss at chance level."""
    found = []
    spread, rank = health.get("feature_deviation", math.inf), health.get("effective_rank", math.inf)
    if spread < SPREAD or rank < RANK:
        found.append(f"features have collapsed (deviation {spread:.3f} of 1, effective rank {rank:.1f})")
    chance = 2 * chance_level(recipe.batch_size // recipe.accumulate)
    if step >= min(SETTLED, recipe.steps) and contrast > 0.98 * chance:
        found.append(f"contrastive loss {contrast:.2f} is at chance level {chance:.2f}")
    return found
