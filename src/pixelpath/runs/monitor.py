"""What a run looks at now and then while it trains: the held-out loss, previews, and signs that it goes wrong.

The *measured* images are the first held-out ones, kept in memory once they were read. One-step samples are held against
*references*: training images, evenly chosen.
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
from pixelpath.evaluation.probe import by_content
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.objectives.contrast import chance_level
from pixelpath.recipes.recipe import Recipe
from pixelpath.reports.display import grid
from pixelpath.reports.pictures import save_png
from pixelpath.runs.devices import sampling_precision
from pixelpath.runs.generate import Origin, generate
from pixelpath.runs.prepare import PreparedData, cutting, for_objective
from pixelpath.runs.sample_conditions import captions
from pixelpath.sampling.sampler import Sampling, usual
from pixelpath.trainer.journal import lines
from pixelpath.types import Images, Objective

PREVIEWS = (36, 24, 12, 6, 3, 1)  # images of a preview, of the seeds 0, 1, ...: fewer if a run is short
SHARE, LEAST = 0.1, 0.05  # of the training time: what measurements may take; what all but previews may where these leave less
BACKWARD = 3  # times the cost of an evaluation of the network: a step of training, for each image
MEASURED = 1024  # held-out images, at most, that a measurement during training uses
WATCHED = 256  # of these, how many have their features watched
FEW = 8  # images too few to say anything about the spread of features
SPREAD = 0.2  # features closer together than this share of 1/sqrt(width) have collapsed
NOISY = 1.0  # shifted sigma, twice the std of the images, at which features could as well know the noise
RANK = 2.0  # an effective rank below this says the same
SETTLED = 200  # steps after which a contrastive loss should be better than chance
SAMPLED = 1024  # one-step samples, and references, at most
JUDGED = 256  # of these, how many have their moments compared
REMEDY = (
    "One-step training from scratch is known to collapse: begin with stage one (`encoder` RUN) or diffusion (`init_from` RUN)."
)


@dataclass(frozen=True)
class Measuring:
    """How often a run is measured while it trains, in steps; it is always measured at its end.

    `losses` counts for all but previews, the first of which is `name`; `images` are those of a preview.
    """

    losses: int
    previews: int
    images: int = PREVIEWS[0]
    name: str = "held-out loss"

    def sentence(self, every: int, steps: int) -> str:
        """What is measured less often than at every checkpoint; empty if nothing is."""
        spelled = {what: f"every {what:,} steps" if what < steps else "at the end only" for what in (self.losses, self.previews)}
        few = f" (of {self.images} image{'s' * (self.images > 1)})" if self.images < PREVIEWS[0] else ""
        kinds = ((self.name, self.losses), (f"previews{few}", self.previews))
        said = [f"{name} {spelled[interval]}" for name, interval in kinds if interval > every]
        if not said:
            return ""
        ways = f"`measure_every` {every} measures every {every:,} steps." if every < steps else ""
        return f"Measured less often, to take no more than a tenth of the time: {', '.join(said)}. {ways}".rstrip()


def measuring(recipe: Recipe, every: int, measured: int, references: int, chosen: int | None = None) -> Measuring:
    """How often to measure a run that is saved `every` steps: at each save, or less often where it would take too long.

    The cost is counted in evaluations of the network for one image, so that it depends on the recipe alone and a run taken up
    again is measured at the same steps. `measured` is the number of held-out images; `references` those that a one-step run has.
    `chosen` steps hold whatever they cost.
    """
    measured = 0 if recipe.is_distilled else measured  # it has no held-out loss
    name = "held-out loss" if measured else "one-step samples"
    if chosen is not None:
        return Measuring(chosen, chosen, name=name)
    between = BACKWARD * recipe.batch_size * every  # the cost of training from one save to the next
    losses = measured + (references if recipe.is_one_step else min(WATCHED, measured) if recipe.is_encoder else 0)
    images, each = PREVIEWS[0], 0
    if not recipe.is_encoder:
        how = recipe.usual_sampling
        assert how.sampler is not None
        each = how.sampler.nfe(how.count) * (1 if how.guidance == 1 else 2)
        most = SHARE * between * recipe.steps / every
        images = next((count for count in PREVIEWS if count * each <= most), PREVIEWS[-1])
    left = max(LEAST, SHARE - images * each / between)
    saves = max(1, math.ceil(losses / (left * between)))
    left = SHARE - losses / (saves * between)
    return Measuring(every * saves, every * max(1, math.ceil(images * each / (left * between))), images, name)


def measured(data: PreparedData) -> Source:
    """The measured images of a run."""
    return sources.remembered(sources.subset(data.held_out, range(min(MEASURED, len(data.held_out)))))


@torch.no_grad()
def held_out_loss(
    recipe: Recipe, objective: Objective, data: PreparedData, images: Source, ema: nn.Module, device: torch.device
) -> float | None:
    """The EMA's mean loss on measured images, with the same noise every time; None without images, and in distillation.

    All processes must call it together, each computes its share.
    """
    count = processes.count()
    size = min(len(images), recipe.batch_size) // count * count
    if size == 0 or recipe.is_distilled:
        return None
    given = None if data.given_held_out is None else data.given_held_out.of(range(len(images)))
    cut = cutting(recipe, sources.subset(data.held_out, range(len(images))))
    stream = Batches(images, data.normaliser, size, recipe.seed, device, processes.rank(), count, given=given, cutting=cut)
    found = [for_objective(stream.batch(step), recipe, data) for step in range(len(images) // size)]
    losses = [objective(ema, ema, batch, 1.0).total for batch in found]  # as at the end of the run
    return float(processes.mean(torch.stack(losses).mean()))


def preview(recipe: Recipe, data: PreparedData, ema: nn.Module, path: Path, count: int = PREVIEWS[0]) -> None:
    """A grid of `count` samples of fixed seeds, classes in turn, as the recipe samples."""
    assert isinstance(ema, Denoiser)
    seeds = range(count)
    asked = data.condition(seeds)
    made = generate(ema, origin_of(recipe, ema), recipe.usual_sampling, seeds, asked)
    images = left_out(torch.cat([data.normaliser.decode(part) for part in made]), data.sampled or data.metadata)
    labels = captions(seeds, asked, data.classes)
    save_png(path, grid(images, columns=12, metadata=data.metadata, seen=data.normaliser.shown, labels=labels))


def origin_of(recipe: Recipe, ema: Denoiser) -> Origin:
    """How a run's EMA is sampled while it trains, in the precision that it trains in on CUDA."""
    return Origin(recipe.noise, precision=sampling_precision(recipe, next(ema.parameters()).device))


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
    samples = torch.cat(list(generate(ema, origin_of(recipe, ema), once, seeds, data.like_training(seeds))))
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
    stream = Batches(data.training, data.normaliser, 12, recipe.seed, cache_bytes=0, cutting=cutting(recipe, data.originals))
    views = augment(stream.batch(0), recipe.augmentation, data.normaliser, data.colours)
    rows = torch.cat([views.images, views.first, views.second])
    save_png(path, grid(data.normaliser.decode(rows), columns=12, metadata=data.metadata, seen=data.normaliser.shown))


@torch.no_grad()
def watch_features(recipe: Recipe, data: PreparedData, images: Source, ema: nn.Module, device: torch.device) -> dict[str, float]:
    """What stage one's features of measured images are like; empty for too few.

    Standard deviation and effective rank at sigma_min, and the share known by content at sigma 1, where little of an image shows.
    """
    assert isinstance(ema, Representation)
    if len(images) < FEW:
        return {}
    native = torch.from_numpy(sources.gather(images, range(min(WATCHED, len(images)))))
    sigma = torch.tensor(recipe.noise.sigma_min * recipe.noise.shift, device=device)
    encoded = data.normaliser.encode(native.to(device))
    features = ema.features(encoded, sigma).float()
    known = by_content(lambda noisy, sigma: ema.features(noisy.to(device), sigma.to(device)), encoded.cpu(), NOISY)
    return {"feature_std": feature_std(features), "effective_rank": effective_rank(features), "by_content": known}


def standing_alarms(run: Path, step: int) -> list[str]:
    """The alarms that the last measurement of features or samples up to `step` raised."""
    rows = [row for row in lines(run) if row["step"] <= step and ("sample_distance" in row or "feature_std" in row)]
    return rows[-1].get("alarms", []) if rows else []


def alarms(recipe: Recipe, health: dict[str, float], contrast: float, step: int) -> list[str]:
    """A sentence for each sign that stage one learns nothing, or the noise.

    That is features without spread or that know an image by its noise, and a contrastive loss at chance level.
    """
    found = []
    spread, rank = health.get("feature_std", math.inf), health.get("effective_rank", math.inf)
    if spread < SPREAD or rank < RANK:
        found.append(f"features have collapsed (standard deviation {spread:.3f} of 1, effective rank {rank:.1f})")
    if step >= min(SETTLED, recipe.steps) and health.get("by_content", 1.0) < 0.5:
        share = f"{health['by_content']:.0%} of the images by their content, the others by their noise"
        found.append(f"features at sigma {NOISY:g} know {share} (`objective.one_noise` and `objective.view_draw` are cures)")
    chance = 2 * chance_level(recipe.batch_size)
    if step >= min(SETTLED, recipe.steps) and contrast > 0.98 * chance:
        found.append(f"contrastive loss {contrast:.2f} is at chance level {chance:.2f}")
    return found
