"""How `fit` spends a budget of time: a function of the recipe, the data's numbers, the seconds of a step, and the budget.

Costs are counted in *evaluations* of the network for one image, of which a step of training takes three an image of its batch.
A small budget has a *light* evaluation and tuning: fewer samples, and nothing that costs the network much besides them.
A *kind* is what a run of a fit becomes: a diffusion model, or a one-step model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError
from pixelpath.recipes.distilled import Distilling, distilled
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import SIZES
from pixelpath.reports.page import duration
from pixelpath.runs.audit_recipes import FEWEST as FEWEST_TOKENS
from pixelpath.runs.audit_recipes import largest_size
from pixelpath.runs.fitting.choosing import Chosen
from pixelpath.runs.folder import DIFFUSION, ONE_STEP
from pixelpath.runs.measuring.evaluate import Judges
from pixelpath.runs.monitor import BACKWARD
from pixelpath.runs.tune import CONTROL, FINE, LEARNED, PAIRED, REPEATS, Tune
from pixelpath.sampling.learned import ROUNDS
from pixelpath.sampling.sampler import Sampler

SHARE = 0.1  # of the budget: what tuning may take, and evaluation
MEASURED = 1.05  # times the steps' own time: what training takes with its measurements
FEWEST_STEPS, SMALLEST_BATCH = 1000, 16  # fewer steps of a run are made more by a smaller batch, down to this one
SHOWN, FEW_SHOWN = 64, 16  # samples that are saved, and at least
FEW_TUNED, TUNED, MOST_TUNED = 50, 200, 1000  # samples by which tuning compares: at least if light, at least in full, at most
FEW_JUDGED, JUDGED, MOST_JUDGED = 20, 50, 10_000  # samples of an evaluation: at least if light, at least in full, at most
LEVELS, SIDES, HELD_OUT = 10, 2, 1024  # of the losses that an evaluation measures: noise levels, sides, images at most
LIGHT, FEWEST_LOSSES = 32, 4  # images of either side whose losses a light evaluation measures, and one of the fewest samples
FIXED = 5.0  # seconds of an evaluation and of reports whatever they measure, at least
NFE = (5, 9)  # network evaluations that are tuned for
START_VALUES, START_HELD_OUT = 64, 200  # values of an image, at most, and held-out images, at least, with which a start is fitted
START_POINTS = 512  # noisy images of either half of the held-out ones by which starts are compared at a noise level
START_LEVELS = 100  # noise levels, of all candidates together, at which the network is asked, about
WAYS = 7  # of sampling that tuning compares at each of them, learned sigmas and stochastic Heun for heavy tails included
STARTED = 3  # ways more at each of them with a start: by 2M, Heun, stochastic Heun
FIRSTS = 3  # ways that a light tuning compares: first sigmas of the recipe's own sampler
TRAINING = 0.8  # of a budget, roughly: what training has
ENOUGH = {"small": 1_000_000, "tiny": 240_000, "nano": 60_000}  # images that a network of this size should see in its training
LEARNING = 0.4  # of the time for training: what a one-step model has that learns from the diffusion model
TAUGHT, FEW_TAUGHT = 1 / 3, 1000  # of that time, at most: what the images that it learns from take; and the fewest of them
REPAID = 3  # times as many images as are enough: with so many a one-step model is worth a share of it


@dataclass(frozen=True)
class Budget:
    """How long a fit may take, and what it is for."""

    minutes: float = 60.0
    """Minutes of all sittings together, from the first look at the data to the report. More minutes later go on from there."""
    one_step: bool | None = None
    """Train a one-step model too, which learns from images of the diffusion model (`distill`) in two fifths of the training time.
    Default: where the time shows the network three times as many images as are enough for its size."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise UserError(f"`minutes` must be above 0, got {self.minutes:g}: choose for example 60.", setting="minutes")


HOUR = Budget()


@dataclass(frozen=True)
class Plan:
    """What is done with the budget, in seconds where nothing else is said.

    `shown`, `tuned` and `judged` are numbers of samples, 0 where that is left out; `light` names what is done lightly. `training`
    and `evaluation` are for all models together; `start` is 0 where none is fitted.
    """

    training: float
    start: float
    tuning: float
    evaluation: float
    shown: int
    tuned: int
    judged: int
    steps: int
    batch_size: int
    step: float
    one_step: bool
    light: tuple[str, ...] = ()

    @property
    def after(self) -> float:
        """What follows training."""
        return self.start + self.tuning + self.evaluation

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        return asdict(self)


def planned(chosen: Chosen, step: float, left: float, *, one_step: bool, fixed: float = FIXED) -> Plan:
    """The plan for the `left` seconds of a budget, where a step of the recipe takes `step` seconds.

    `fixed` are the seconds of an evaluation and of reports whatever they measure.
    """
    evaluation, kinds = evaluated_in(chosen, step), kinds_of(one_step=one_step)
    start = startable(chosen, step, SHARE * left)
    tuned, little = tunable(chosen, step, SHARE * left, start=bool(start))
    tuning = _tuning(chosen, tuned, light=little, start=bool(start)) * evaluation if tuned else 0.0
    shown = showable(chosen, step, SHARE * left, kinds)
    known = fixed * len(kinds) + shown * _sampling(chosen, kinds) * evaluation
    most = min(left / 4, left / 2 - known - tuning - start)  # training has half of it in any case
    judged, less = judgeable(chosen, step, SHARE * left - known, most, kinds)
    judging = _judging(chosen, judged, kinds, light=less) * evaluation if judged else 0.0
    light = (*(("tuning",) if little else ()), *(("evaluation",) if less else ()))
    training = max(left - start - tuning - known - judging, left / 2)
    after = left - training - start - tuning
    room = (1 - LEARNING) * training if one_step else training
    recipe, step = batched(chosen.recipe, chosen.training, step, room)
    steps = steps_in(room, step)
    return Plan(training, start, tuning, after, shown, tuned, judged, steps, recipe.batch_size, step, one_step, light)


def kinds_of(*, one_step: bool) -> tuple[str, ...]:
    """The kinds of runs that are trained, in order."""
    return (DIFFUSION, ONE_STEP) if one_step else (DIFFUSION,)


def repaid(chosen: Chosen, step: float, left: float) -> bool:
    """Whether so many seconds show the network so many images that a share of them is better spent on a one-step model."""
    return seen(left, step, chosen.recipe) >= REPAID * enough(chosen.recipe)


def evaluated_in(chosen: Chosen, step: float) -> float:
    """The seconds of an evaluation of the network for one image, where a step of the recipe takes `step`."""
    return step / (BACKWARD * chosen.recipe.batch_size)


def steps_in(seconds: float, step: float) -> int:
    """How many steps training takes in this time, its measurements included."""
    return max(1, int(seconds / (MEASURED * step)))


def warmup_in(steps: int, usual: int) -> int:
    """The warm-up of so many steps: the usual one, and at most a tenth of them."""
    return min(usual, max(1, steps // 10))


def batched(recipe: Recipe, images: int, step: float, seconds: float) -> tuple[Recipe, float]:
    """The recipe, its batch halved until enough steps fit or there are as many images; and the seconds of its step."""
    batch = recipe.batch_size
    while batch > SMALLEST_BATCH and (batch > images or steps_in(seconds, step * batch / recipe.batch_size) < FEWEST_STEPS):
        batch //= 2
    return replace(recipe, batch_size=batch), step * batch / recipe.batch_size


def seen(seconds: float, step: float, recipe: Recipe) -> float:
    """How many images a budget of so many seconds lets the recipe see, each as often as it comes."""
    return TRAINING * seconds / (MEASURED * step) * recipe.batch_size


def variants(recipe: Recipe, shape: tuple[int, int, int], images: int) -> list[Recipe]:
    """The recipe in other sizes, the largest first, and at last with patches twice as large where that leaves enough tokens.

    No size is larger than suits so many training images (`pixelpath audit` says which).
    """
    most = largest_size(images)
    sizes = [name for name in ENOUGH if list(SIZES).index(name) <= list(SIZES).index(most)]
    found = [replace(recipe, size=SIZES[name]) for name in sizes]
    patch, (_, rows, columns) = 2 * recipe.patch, shape
    if rows % patch == 0 and columns % patch == 0 and rows * columns // patch**2 >= FEWEST_TOKENS:
        found.append(replace(found[-1], patch=patch))
    return found


def enough(recipe: Recipe) -> float:
    """How many images a recipe should see, by its size."""
    return ENOUGH[next(name for name in ENOUGH if SIZES[name] == recipe.size)]


def why_scaled(proposed: Recipe, chosen: Recipe, images: float) -> str:
    """Why another size or patch than the proposed one was taken."""
    names = [next(name for name, size in SIZES.items() if size == each.size) for each in (proposed, chosen)]
    size = f"size {names[1]} instead of {names[0]} (`size`)" if names[0] != names[1] else ""
    patch = f"patch {chosen.patch} instead of {proposed.patch} (`patch`)" if chosen.patch != proposed.patch else ""
    what = " and ".join(filter(None, (size, patch)))
    return f"{what}: it sees about {images:,.0f} images in this time, of {enough(chosen):,} aimed at"


def startable(chosen: Chosen, step: float, seconds: float) -> float:
    """The seconds that fitting a start takes; 0 where none is fitted: for large images, few held-out ones, or too little time."""
    if math.prod(chosen.shape) > START_VALUES or chosen.held_out < START_HELD_OUT:
        return 0.0
    needed = START_LEVELS * START_POINTS * evaluated_in(chosen, step) + FIXED / 2
    return needed if needed <= seconds else 0.0


def tunable(chosen: Chosen, step: float, seconds: float, *, start: bool = False) -> tuple[int, bool]:
    """By how many samples a run is tuned in this time, and whether lightly; 0 if they are too few to tell ways apart."""
    evaluations = seconds / evaluated_in(chosen, step)
    for light, least, most in ((False, TUNED, MOST_TUNED), (True, FEW_TUNED, TUNED)):
        none, one = (_tuning(chosen, count, light=light, start=start) for count in (0, 1))
        count = int((evaluations - none) / (one - none))
        if count >= least:
            return min(count, most), light
    return 0, False


def judgeable(chosen: Chosen, step: float, seconds: float, most: float, kinds: tuple[str, ...]) -> tuple[int, bool]:
    """By how many samples runs of these kinds are evaluated, at most as many as training images, and whether lightly.

    Lightly of the fewest samples where a few take more than `most` seconds; 0 if they do too.
    """
    each, more = evaluated_in(chosen, step), max(seconds, most)
    levels = (
        (False, JUDGED, MOST_JUDGED, seconds),
        (True, FEW_JUDGED, MOST_JUDGED, more),
        (True, FEW_SHOWN, FEW_JUDGED - 1, more),
    )
    for light, few, many, limit in levels:
        least = min(few, chosen.training)
        needed, next_one = (_judging(chosen, count, kinds, light=light) for count in (least, least + 1))
        if needed * each <= limit:
            count = least + int((seconds / each - needed) / (next_one - needed))
            return max(least, min(count, chosen.training, many)), light
    return 0, False


def showable(chosen: Chosen, step: float, seconds: float, kinds: tuple[str, ...]) -> int:
    """How many samples of each kind are saved in this time, at most the usual number and at least a few."""
    held = seconds / (_sampling(chosen, kinds) * evaluated_in(chosen, step))
    return max(FEW_SHOWN, min(SHOWN, int(held)))


def tuning_of(chosen: Chosen, count: int, *, light: bool) -> Tune:
    """What is tuned for, by so many samples, with the guidance of the recipe: lightly for its own evaluations and half."""
    usual = chosen.recipe.usual_sampling
    guidance = usual.guidance if _guided(chosen) == 2 else 1.0
    assert guidance is not None
    assert usual.sampler is not None
    nfe = _light_nfe(chosen) if light else NFE
    return Tune(
        nfe=nfe, guidance=(guidance,), count=count, reported=count, learned=not light, use_own=not light, controls=not light
    )


def judges_of(count: int, *, light: bool) -> Judges:
    """In which features a run is evaluated by so many samples: lightly in pixels alone, with losses of few images."""
    return Judges(use_inception=False, use_own=not light, losses=_losses(count, light=light))


def one_step_recipe(teacher: Recipe, chosen: Chosen, step: float, seconds: float, *, conditional: bool) -> Recipe:
    """The recipe of a one-step model that learns for so many seconds from a run of the recipe `teacher`, conditional or not.

    Its steps take what is left of them when the images that it learns from are made.
    """
    each = Distilling().nfe * _guided(chosen) * evaluated_in(chosen, step)
    images = max(FEW_TAUGHT, min(Distilling().images, int(TAUGHT * seconds / each)))
    steps = steps_in(seconds - images * each, step * teacher.batch_size / chosen.recipe.batch_size)
    return distilled(teacher, conditional, Distilling(images, steps=steps))


def lines(plan: Plan, chosen: Chosen, began: datetime, spent: float, device: str, out: Path) -> list[str]:
    """The plan in five lines, with clock times, and a line for each decision about the data."""
    recipe = chosen.recipe

    def clock(seconds: float) -> str:
        moment = began + timedelta(seconds=seconds)
        return moment.strftime("%H:%M" if plan.training > 600 else "%H:%M:%S")

    size = next((name for name, each in SIZES.items() if each == recipe.size), "own")
    about = f"patch {recipe.patch}, size {size}, {plan.batch_size} images a step"
    number = "bfloat16" if device.startswith("cuda") else "float32"
    seen = plan.steps * plan.batch_size / chosen.training
    trained = f"{plan.steps:,} steps of {recipe.name} ({about}, {number}) on {device}, {plan.step:.3g} s each"
    trained += f"; {seen:.0f} times each image" if seen >= 10 else f"; {seen:.1f} times each image"
    if plan.one_step:
        trained += f", and then a one-step model that learns from it ({duration(LEARNING * plan.training)})"
    end = plan.training + plan.after
    left_out = ["stage one: it has not been shown to pay at such budgets"]
    left_out += [] if plan.one_step else ["a one-step model: more time, or `one_step` True, adds it"]
    left_out += [] if plan.judged else ["evaluation: it takes too much of the budget here (`pixelpath evaluate` does it later)"]
    left_out += [] if plan.tuned else [f"tuning: it takes more than {SHARE:.0%} of the budget here"]
    lightly = {name: " lightly" if name in plan.light else "" for name in ("tuning", "evaluation")}
    tuned = f"tune the sampler{lightly['tuning']} by {plan.tuned} samples ({duration(plan.tuning)}), " if plan.tuned else ""
    started = f"fit a start ({duration(plan.start)}), " if plan.start else ""
    judged = f"evaluate {plan.judged}{lightly['evaluation']}, " if plan.judged else ""
    return [
        f"Data: {chosen.about} Held out: {chosen.held_out} images.",
        *(f"  {reason[0].upper()}{reason[1:]}." for reason in chosen.reasons),
        f"{clock(0)} to {clock(plan.training)}: train {trained}.",
        f"{clock(plan.training)} to {clock(end)}: {started}{tuned}save {plan.shown} samples, {judged}write the report.",
        f"Left out: {'; '.join(left_out)}.",
        f"{clock(end)}: done, in {out} ({duration(spent)} of the budget are used already).",
    ]


def _guided(chosen: Chosen) -> int:
    """How often a step of sampling evaluates the network for guidance."""
    return 2 if chosen.classes and chosen.recipe.conditional and chosen.recipe.usual_sampling.guidance != 1 else 1


def _light_nfe(chosen: Chosen) -> tuple[int, ...]:
    """The network evaluations that are tuned for lightly: those of the recipe, and half of them."""
    usual = chosen.recipe.usual_sampling
    assert usual.sampler is not None
    nfe = usual.sampler.nfe(usual.count)
    return tuple(sorted({max(2, nfe // 2), nfe}))


def _tuning(chosen: Chosen, count: int, *, light: bool, start: bool = False) -> float:
    """Evaluations that tuning by so many samples takes, as `tune_run` does it, at most: with a `start` there are more ways."""
    usual = chosen.recipe.usual_sampling
    assert usual.sampler is not None
    if light:
        return _guided(chosen) * sum(_light_nfe(chosen)) * (FIRSTS + start + REPEATS) * count
    sets, ways = count * (1 + REPEATS), WAYS + STARTED * start
    controls = sets * (Sampler.HEUN.nfe(CONTROL) + usual.sampler.nfe(usual.count))
    learned = LEARNED * PAIRED * sum(Sampler.HEUN.nfe(FINE) + ROUNDS * nfe * nfe for nfe in NFE)
    sampled = _guided(chosen) * (sum(nfe * (ways + REPEATS) * count for nfe in NFE) + controls + learned)
    features = len(NFE) * (ways + REPEATS) * count + 2 * sets + chosen.training + chosen.held_out
    return sampled + features


def _sampling(chosen: Chosen, kinds: tuple[str, ...]) -> int:
    """Evaluations that a sample of each kind takes."""
    usual = chosen.recipe.usual_sampling
    assert usual.sampler is not None
    return sum(1 if kind == ONE_STEP else usual.sampler.nfe(usual.count) * _guided(chosen) for kind in kinds)


def _losses(count: int, *, light: bool) -> int:
    """Images of either side whose losses are measured where so many samples are evaluated."""
    few = LIGHT if count >= FEW_JUDGED else FEWEST_LOSSES
    return few if light else HELD_OUT


def _judging(chosen: Chosen, count: int, kinds: tuple[str, ...], *, light: bool) -> float:
    """Evaluations of the network that an evaluation of each kind by so many samples takes."""
    losses = LEVELS * SIDES * min(_losses(count, light=light), chosen.held_out)
    features = 0 if light else chosen.training + chosen.held_out + count
    return count * _sampling(chosen, kinds) + len(kinds) * (losses + features)
