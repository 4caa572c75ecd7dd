"""How `fit` spends a budget of time: a function of the recipe, the data's numbers, the seconds of a step, and the budget.

Costs are counted in *evaluations* of the network for one image, of which a step of training takes three an image of its batch.
What is judged by few samples is not worth its time, so it is left out of a small budget.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pixelpath.errors import UserError
from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import SIZES
from pixelpath.reports.page import duration
from pixelpath.runs.fit_data import Chosen
from pixelpath.runs.monitor import BACKWARD
from pixelpath.runs.tune import CONTROL, FINE, LEARNED, PAIRED, REPEATS, Tune
from pixelpath.sampling.learned import ROUNDS
from pixelpath.sampling.sampler import Sampler

SHARE = 0.1  # of the budget: what tuning may take, and evaluation
MEASURED = 1.05  # times the steps' own time: what training takes with its measurements
FEWEST_STEPS, SMALLEST_BATCH = 1000, 16  # fewer steps of a run are made more by a smaller batch, down to this one
SHOWN = 64  # samples that are saved
TUNED, MOST_TUNED = 200, 1000  # samples by which tuning compares, at least and at most
JUDGED, MOST_JUDGED = 50, 10_000  # samples that an evaluation takes, at least and at most
LEVELS, SIDES, HELD_OUT = 10, 2, 1024  # of the losses that an evaluation measures: noise levels, sides, images at most
FIXED = 10.0  # seconds of an evaluation and of reports whatever they measure, at least
NFE = (5, 9)  # network evaluations that are tuned for
WAYS = 6  # of sampling that tuning compares at each of them, learned sigmas included
ONE_STEP = 1.5  # times a step of diffusion: one of a one-step model, until it is measured


@dataclass(frozen=True)
class Budget:
    """How long a fit may take, and what it is for."""

    minutes: float = 60.0
    """Minutes of all sittings together, from the first look at the data to the report. More minutes later go on from there."""
    one_step: bool = False
    """Train a one-step model too, with half of the training time, from the diffusion model's weights."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < float("inf"):
            raise UserError(f"`minutes` must be above 0, got {self.minutes:g}: choose for example 60.", setting="minutes")


HOUR = Budget()


@dataclass(frozen=True)
class Plan:
    """What is done with the budget, in seconds where nothing else is said.

    `tuned` and `judged` are numbers of samples, 0 where that is left out. `training` is for all models together.
    """

    training: float
    tuning: float
    evaluation: float
    tuned: int
    judged: int
    steps: int
    batch_size: int
    step: float
    one_step: bool

    @property
    def after(self) -> float:
        """What follows training."""
        return self.tuning + self.evaluation

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, for a JSON file."""
        return asdict(self)


def planned(chosen: Chosen, step: float, left: float, *, one_step: bool, fixed: float = FIXED) -> Plan:
    """The plan for the `left` seconds of a budget, where a step of the recipe takes `step` seconds.

    `fixed` are the seconds of an evaluation and of reports whatever they measure.
    """
    evaluation = evaluated_in(chosen, step)
    tuned = 0 if one_step else tunable(chosen, step, SHARE * left)
    tuning = _tuning(chosen, tuned) * evaluation if tuned else 0.0
    judged = judgeable(chosen, step, SHARE * left - fixed, left / 4 - fixed, one_step=one_step)
    work = _judging(chosen, judged, one_step=one_step) if judged else SHOWN * _sampling(chosen, one_step=one_step)
    after = tuning + fixed + evaluation * work
    training = max(left - after, left / 2)
    after = left - training
    room = training / 2 if one_step else training
    recipe, step = batched(chosen.recipe, chosen.training, step, room)
    steps = steps_in(room, step)
    return Plan(training, tuning, after - tuning, tuned, judged, steps, recipe.batch_size, step, one_step)


def evaluated_in(chosen: Chosen, step: float) -> float:
    """The seconds of an evaluation of the network for one image, where a step of the recipe takes `step`."""
    return step / (BACKWARD * chosen.recipe.batch_size)


def steps_in(seconds: float, step: float) -> int:
    """How many steps training takes in this time, its measurements included."""
    return max(1, int(seconds / (MEASURED * step)))


def batched(recipe: Recipe, images: int, step: float, seconds: float) -> tuple[Recipe, float]:
    """The recipe, its batch halved until enough steps fit or there are as many images; and the seconds of its step."""
    batch = recipe.batch_size
    while batch > SMALLEST_BATCH and (batch > images or steps_in(seconds, step * batch / recipe.batch_size) < FEWEST_STEPS):
        batch //= 2
    return replace(recipe, batch_size=batch), step * batch / recipe.batch_size


def tunable(chosen: Chosen, step: float, seconds: float) -> int:
    """By how many samples a run is tuned in this time; 0 if they are too few to tell ways apart."""
    count = int((seconds / evaluated_in(chosen, step) - _tuning(chosen, 0)) / (_tuning(chosen, 1) - _tuning(chosen, 0)))
    return min(count, MOST_TUNED) if count >= TUNED else 0


def judgeable(chosen: Chosen, step: float, seconds: float, most: float, *, one_step: bool) -> int:
    """By how many samples a run is evaluated in this time, at most as many as training images.

    0 if even a few take more than `most` seconds.
    """
    none, one = (_judging(chosen, count, one_step=one_step) for count in (0, 1))
    least = min(JUDGED, chosen.training)
    if (none + least * (one - none)) * evaluated_in(chosen, step) > max(seconds, most):
        return 0
    count = int((seconds / evaluated_in(chosen, step) - none) / (one - none))
    return max(least, min(count, chosen.training, MOST_JUDGED))


def tuning_of(chosen: Chosen, count: int) -> Tune:
    """What is tuned for, by so many samples: a few numbers of evaluations, with the guidance of the recipe."""
    guidance = chosen.recipe.usual_sampling.guidance if _guided(chosen) == 2 else 1.0
    assert guidance is not None
    return Tune(nfe=NFE, guidance=(guidance,), count=count, reported=count)


def one_step_recipe(diffusion: Recipe) -> Recipe:
    """The one-step recipe that begins with the weights of a diffusion recipe's run: of its family, size, patch and data."""
    family = diffusion.name.removesuffix("-diffusion").replace("cpu-", "small-")
    found = RECIPES[f"{family}-onestep"]()
    edm = isinstance(diffusion.preconditioning, EDMPreconditioning)
    same = {
        name: vars(diffusion)[name] for name in ("size", "patch", "pixel_head", "flip", "batch_size", "data", "position_init")
    }
    return replace(found, **same, preconditioning=diffusion.preconditioning if edm else found.preconditioning)


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
    trained += f"; {seen:.0f} times each image" + (", and a one-step model for as long" if plan.one_step else "")
    end = plan.training + plan.tuning + plan.evaluation
    left_out = ["stage one: it has not been shown to pay at such budgets"]
    left_out += [] if plan.one_step else ["a one-step model: `one_step` asks for it"]
    left_out += [] if plan.judged else ["evaluation: it takes too much of the budget here (`pixelpath evaluate` does it later)"]
    left_out += [] if plan.tuned or plan.one_step else [f"tuning: it takes more than {SHARE:.0%} of the budget here"]
    tuned = f"tune the sampler by {plan.tuned} samples ({duration(plan.tuning)}), " if plan.tuned else ""
    judged = f"evaluate {plan.judged}, " if plan.judged else ""
    return [
        f"Data: {chosen.about} Held out: {chosen.held_out} images.",
        *(f"  {reason[0].upper()}{reason[1:]}." for reason in chosen.reasons),
        f"{clock(0)} to {clock(plan.training)}: train {trained}.",
        f"{clock(plan.training)} to {clock(end)}: {tuned}save {SHOWN} samples, {judged}write the report.",
        f"Left out: {'; '.join(left_out)}.",
        f"{clock(end)}: done, in {out} ({duration(spent)} of the budget are used already).",
    ]


def _guided(chosen: Chosen) -> int:
    """How often a step of sampling evaluates the network for guidance."""
    return 2 if chosen.classes and chosen.recipe.conditional and chosen.recipe.usual_sampling.guidance != 1 else 1


def _tuning(chosen: Chosen, count: int) -> float:
    """Evaluations that tuning by so many samples takes, as `tune_run` does it."""
    sets = count * (1 + REPEATS)
    usual = chosen.recipe.usual_sampling
    assert usual.sampler is not None
    controls = sets * (Sampler.HEUN.nfe(CONTROL) + usual.sampler.nfe(usual.count))
    learned = LEARNED * PAIRED * sum(Sampler.HEUN.nfe(FINE) + ROUNDS * nfe * nfe for nfe in NFE)
    return _guided(chosen) * (sum(nfe * (WAYS * count + REPEATS * count) for nfe in NFE) + controls + learned)


def _sampling(chosen: Chosen, *, one_step: bool) -> int:
    """Evaluations that a sample takes."""
    usual = chosen.recipe.usual_sampling
    assert usual.sampler is not None
    return 1 if one_step else usual.sampler.nfe(usual.count) * _guided(chosen)


def _judging(chosen: Chosen, count: int, *, one_step: bool) -> float:
    """Evaluations that an evaluation by so many samples takes, with the samples that are saved."""
    losses = LEVELS * SIDES * min(HELD_OUT, chosen.held_out)
    return (count + SHOWN) * _sampling(chosen, one_step=one_step) + losses + chosen.training + chosen.held_out + count
