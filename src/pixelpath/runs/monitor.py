"""What a run looks at now and then while it trains: the held-out loss, previews, and signs that it goes wrong.

The *measured* images are the first held-out ones, kept in memory. One-step samples are held against *references*: training
images, evenly chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pixelpath import processes
from pixelpath.data import sources
from pixelpath.data.augment import augment
from pixelpath.data.batches import Batches
from pixelpath.data.sources import Source
from pixelpath.data.unmeasured import left_out, mask_of
from pixelpath.evaluation.collapse import effective_rank, feature_std
from pixelpath.evaluation.distances import frechet_of_rows
from pixelpath.evaluation.divergence import Moments, moments, outside
from pixelpath.evaluation.features import fewer
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.objectives.contrast import chance_level
from pixelpath.recipes.recipe import Recipe
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.runs.generate import Origin, generate
from pixelpath.runs.prepare import PreparedData, for_objective
from pixelpath.sampling.sampler import Sampling, usual
from pixelpath.trainer.journal import lines
from pixelpath.types import Images, Objective

PREVIEWS = 36  # images of a preview, always of the seeds 0, 1, ...
MEASURED = 1024  # held-out images, at most, that a measurement during training uses
WATCHED = 256  # of these, how many have their features watched
FEW = 8  # images too few to say anything about the spread of features
SPREAD = 0.2  # features closer together than this share of 1/sqrt(width) have collapsed
RANK = 2.0  # an effective rank below this says the same
SETTLED = 200  # steps after which a contrastive loss should be better than chance
SAMPLED = 1024  # one-step samples, and references, at most
JUDGED = 256  # of these, how many have their moments compared
REMEDY = (
    "One-step training from scratch is known to collapse: begin with stage one (`encoder` RUN) or diffusion (`init_from` RUN)."
)


def measured(data: PreparedData) -> Source:
    """The measured images of a run."""
    return sources.load(sources.subset(data.held_out, range(min(MEASURED, len(data.held_out)))))


@torch.no_grad()
def held_out_loss(
    recipe: Recipe, objective: Objective, data: PreparedData, images: Source, ema: nn.Module, device: torch.device
) -> float | None:
    """The EMA's mean loss on measured images, with the same noise every time; None without images.

    All processes must call it together, each computes its share.
    """
    count = processes.count()
    size = min(len(images), recipe.batch_size) // count * count
    if size == 0:
        return None
    given = None if data.given_held_out is None else data.given_held_out.first(len(images))
    stream = Batches(images, data.normaliser, size, recipe.seed, device, processes.rank(), count, given=given)
    found = [for_objective(stream.batch(step), recipe, data) for step in range(len(images) // size)]
    losses = [objective(ema, ema, batch, 1.0).total for batch in found]  # as at the end of the run
    return float(processes.mean(torch.stack(losses).mean()))


def preview(recipe: Recipe, data: PreparedData, ema: nn.Module, path: Path) -> None:
    """A grid of samples of fixed seeds, classes in turn, as the recipe samples."""
    assert isinstance(ema, Denoiser)
    seeds = range(PREVIEWS)
    labels = data.condition(seeds)
    made = generate(ema, Origin(recipe.noise), recipe.usual_sampling, seeds, labels)
    images = left_out(torch.cat([data.normaliser.decode(part) for part in made]), data.sampled or data.metadata)
    save_png(path, grid(images, columns=12, metadata=data.metadata, seen=data.normaliser.shown))


@dataclass(frozen=True, eq=False)
class Reference:
    """What one-step samples should be like: `rows` of pixels, and `moments`, or None where real images leave their own band."""

    rows: Tensor
    moments: Moments | None


def reference(data: PreparedData) -> Reference:
    """The references of a run's samples, in model range."""
    count = min(SAMPLED, len(data.training))
    native = sources.gather(data.training, [index * len(data.training) // count for index in range(count)])
    images = data.normaliser.encode(torch.from_numpy(native))
    known = moments(images) if count >= 2 else None
    few = images[:: max(1, count // JUDGED)][:JUDGED]
    steady = known is not None and len(few) >= FEW and not outside(few, known)
    return Reference(_pixels(images), known if steady else None)


@torch.no_grad()
def watch_samples(recipe: Recipe, data: PreparedData, ema: nn.Module, real: Reference) -> tuple[float, list[str]]:
    """The Frechet distance in pixels (model range) of one-step samples of fixed seeds, and a sentence for all that is wrong.

    As many samples as there are references; infinity if some are not finite, or are too few to have a distance.
    """
    assert isinstance(ema, Denoiser)
    seeds = range(len(real.rows))
    once = Sampling(steps=1, guidance=1.0).over(usual(one_step=True))
    samples = torch.cat(list(generate(ema, Origin(recipe.noise), once, seeds, data.condition(seeds))))
    mask = mask_of(data.sampled or data.metadata, data.shape)
    samples = samples if mask is None else samples.masked_fill(torch.from_numpy(mask), 0.0)
    if not bool(samples.isfinite().all()):
        return math.inf, ["samples are not finite"]
    if len(samples) < 2:
        return math.inf, []
    wrong = [] if real.moments is None else outside(samples[:JUDGED], real.moments)
    if len(wrong) > 2:  # of many channels
        wrong = [*wrong[:2], f"and {len(wrong) - 2} more such moments are wrong"]
    return frechet_of_rows(_pixels(samples), real.rows), wrong


def _pixels(images: Images) -> Tensor:
    """Images as rows [image, pixel], large ones made smaller."""
    size = fewer((images.shape[1], images.shape[2], images.shape[3]))
    return (images if size is None else functional.adaptive_avg_pool2d(images, size)).flatten(1)


def show_views(recipe: Recipe, data: PreparedData, path: Path) -> None:
    """A grid of training images (first row), and of two views of each (the rows below): what stage one is asked to recognise."""
    stream = Batches(data.training, data.normaliser, 12, recipe.seed, cache_bytes=0)
    views = augment(stream.batch(0), recipe.augmentation, data.normaliser, data.colours)
    rows = torch.cat([views.images, views.first, views.second])
    save_png(path, grid(data.normaliser.decode(rows), columns=12, metadata=data.metadata, seen=data.normaliser.shown))


@torch.no_grad()
def watch_features(recipe: Recipe, data: PreparedData, images: Source, ema: nn.Module, device: torch.device) -> dict[str, float]:
    """Standard deviation and effective rank of stage one's features of measured images at sigma_min; empty for too few."""
    assert isinstance(ema, Representation)
    if len(images) < FEW:
        return {}
    native = torch.from_numpy(sources.gather(images, range(min(WATCHED, len(images)))))
    sigma = torch.tensor(recipe.noise.sigma_min * recipe.noise.shift, device=device)
    features = ema.features(data.normaliser.encode(native.to(device)), sigma).float()
    return {"feature_std": feature_std(features), "effective_rank": effective_rank(features)}


def standing_alarms(run: Path, step: int) -> list[str]:
    """The alarms that the last measurement of features or samples raised, at `step`."""
    rows = [row for row in lines(run) if row["step"] == step and ("sample_distance" in row or "feature_std" in row)]
    return rows[-1].get("alarms", []) if rows else []


def alarms(recipe: Recipe, health: dict[str, float], contrast: float, step: int) -> list[str]:
    """A sentence for each sign that stage one learns nothing: features without spread, or a contrastive loss at chance level."""
    found = []
    spread, rank = health.get("feature_std", math.inf), health.get("effective_rank", math.inf)
    if spread < SPREAD or rank < RANK:
        found.append(f"features have collapsed (standard deviation {spread:.3f} of 1, effective rank {rank:.1f})")
    chance = 2 * chance_level(recipe.batch_size // recipe.accumulate)
    if step >= min(SETTLED, recipe.steps) and contrast > 0.98 * chance:
        found.append(f"contrastive loss {contrast:.2f} is at chance level {chance:.2f}")
    return found
