"""A recipe says everything a run chose: its networks, objective, optimizer, data settings and length, as the working values.

An *open* recipe has not seen data yet; `for_data` *closes* it: the noise range takes the resolution, curricula and schedules the
run's length. Recipes go to JSON and back unchanged; a value of several possible types carries the name of its type under "type".
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import cattrs
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.strategies import configure_tagged_union

from pixelpath.data.augment import PHOTOGRAPHS, Augmentation
from pixelpath.data.settings import DataSettings
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, Preconditioning, XPrediction
from pixelpath.noise import Draw, NoiseRange, Weight
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.features import Comparing, FeatureLoss
from pixelpath.objectives.pairs import Gap, PairWeight
from pixelpath.objectives.representation import RepresentationLearning, Temperature
from pixelpath.objectives.tangent import Tangent
from pixelpath.recipes.sizes import NANO, Size
from pixelpath.sampling.sampler import Sampling, usual
from pixelpath.trainer.optimizer import AdamW, Cosine, Muon, Schedule


class Precision(Enum):
    """The dtype of matrix products and activations; weights, norms, softmax of contrast and losses stay float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


SMALLEST_GAP = 1e-7  # of a level: float32 tells no narrower one from none
LEAST_DRAWN = 1e-3  # of the noise levels of training, within a factor e of an end of the range: with fewer it is hardly learned


@dataclass(frozen=True)
class ProjectorSize:
    """Hidden and output width of the projector of stage one."""

    hidden: int = 4096
    out: int = 256


@dataclass(frozen=True)
class Recipe:
    """One run of training."""

    name: str
    """What the recipe is called."""
    objective: RepresentationLearning | Denoising | Consistency | Tangent
    """What training minimises: representation learning (stage one), denoising or consistency (stage two)."""
    size: Size = NANO
    """Depth, width and heads of encoder and decoder."""
    patch: int = 4
    """Side of a patch in pixels; divides rows and columns."""
    projector: ProjectorSize = field(default_factory=ProjectorSize)
    """The projector of stage one."""
    preconditioning: Preconditioning = field(default_factory=XPrediction)
    """What the network's output means in stage two."""
    dropout: float = 0.0
    """Share of the decoder's activations that stage two sets to 0 while training."""
    position_init: float = 0.0
    """Amplitude of the sinusoids that the encoder's learned positions begin with, beside noise; 0, as published: noise alone."""
    augmentation: Augmentation = PHOTOGRAPHS
    """The views of stage one."""
    flip: bool = False
    """Mirror every other image left to right in stage two."""
    rot90: bool = False
    """Turn images by 0 to 3 right angles in stage two; they must be square."""
    conditional: bool = True
    """Use the classes of the data, where there are any."""
    freeze_encoder: bool = False
    """Stage two leaves the encoder as stage one made it."""
    steps: int = 1000
    """Optimizer steps of the whole run."""
    batch_size: int = 128
    """Images per step, over all processes."""
    accumulate: int = 1
    """Parts into which every process splits its share of the batch, one after the other."""
    optimizer: AdamW | Muon = field(default_factory=AdamW)
    """The optimizer."""
    schedule: Schedule = field(default_factory=Cosine)
    """The learning rate's factor as a function of the step."""
    ema_decay: float = 0.999
    """The share of its past that the average keeps at every step; lower at the very start: (1 + step) / (10 + step)."""
    seed: int = 0
    """All randomness of the run is a function of this."""
    precision: Precision = Precision.AUTO
    """Precision of the computation; auto: bfloat16 on CUDA, float32 elsewhere."""
    compile: bool | None = None
    """torch.compile; none given: on CUDA only."""
    activation_checkpointing: bool = False
    """Keep one activation per block and compute the rest again: less memory, a third more compute."""
    sampling: Sampling = field(default_factory=Sampling)
    """How previews and evaluations are sampled."""
    data: DataSettings = field(default_factory=DataSettings)
    """How the data are read."""

    def __post_init__(self) -> None:
        counts = {"steps": self.steps, "batch-size": self.batch_size, "accumulate": self.accumulate, "patch": self.patch}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"--ema-decay must be at least 0 and below 1, got {self.ema_decay}: choose for example 0.999.")
        if isinstance(self.objective, Tangent) and self.dropout > 0 and self.compile is not False:
            raise ValueError(
                "Tangents need the same dropout masks in both of their passes, which compiled code does not draw: choose "
                "--dropout 0, or --compile False."
            )
        if not 0 <= self.position_init < math.inf:
            raise ValueError(f"--position-init must be at least 0 and finite, got {self.position_init}: choose for example 2.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must be at least 0 and below 1, got {self.dropout}: choose for example 0.5.")

    @property
    def noise(self) -> NoiseRange:
        """The noise range of the run."""
        return self.objective.noise

    @property
    def usual_sampling(self) -> Sampling:
        """How samples are made unless told otherwise: as the recipe says, and as is usual where it says nothing."""
        return self.sampling.over(usual(self.is_one_step))

    @property
    def is_encoder(self) -> bool:
        """Whether this is stage one."""
        return isinstance(self.objective, RepresentationLearning)

    @property
    def is_one_step(self) -> bool:
        """Whether this trains a consistency model, which makes an image in one evaluation."""
        return isinstance(self.objective, Consistency | Tangent)

    @property
    def needs_encoder(self) -> bool:
        """Whether the loss compares features through the frozen encoder of a stage one."""
        return isinstance(self.objective, Comparing) and self.objective.needs_encoder


def unlearned(recipe: Recipe) -> list[str]:
    """A sentence for each end of the noise range that training hardly ever draws a level near, though samples pass it.

    Near the lower end a sampler divides the error of an estimate by sigma, so that what was not learned there grows.
    """
    if not isinstance(recipe.objective, Denoising):
        return []
    draw, noise = recipe.objective.draw, recipe.noise
    low, high = draw.below(noise.sigma_min * math.e), 1 - draw.below(noise.sigma_max / math.e)
    drawn = [level for level in noise.grid(1280).tolist() if LEAST_DRAWN <= draw.below(level * math.e) <= 1 - LEAST_DRAWN]
    found: list[str] = []
    if low < LEAST_DRAWN:
        better = 1.05 * min(drawn, default=noise.sigma_max)
        found.append(
            f"Only {low:.1g} of the noise levels of training lie below {noise.sigma_min * math.e:.2g}, but every sample ends "
            f"there, and what is not learned spoils it: raise `objective.noise.sigma_min` to {better:.2g}, or "
            "lower `objective.draw.p_mean`."
        )
    if high < LEAST_DRAWN:
        found.append(
            f"Only {high:.1g} of the noise levels of training lie above {noise.sigma_max / math.e:.2g}, but every sample begins "
            "there: lower `objective.noise.sigma_max`, or raise `objective.draw.p_mean`."
        )
    return found


def for_data(recipe: Recipe, rows: int, columns: int) -> Recipe:
    """The closed recipe for images of `rows` x `columns`: levels shifted, totals of schedule and curricula set to the steps.

    Scalings of a one-step model that have a boundary take the lowest shifted level for it, unless it is set. Raises ValueError if
    the recipe sets a shift other than 1 by hand, trains tangents under scalings without a boundary, or ends with a gap that is
    none.
    """
    if recipe.noise.shift != 1:
        raise ValueError("The shift of the noise range follows from the size of the images: leave --objective.noise.shift alone.")
    if isinstance(recipe.objective, Consistency) and recipe.objective.gap.narrowest < SMALLEST_GAP:
        raise ValueError(
            f"The gap ends at {recipe.objective.gap.narrowest:.1g} of its level, which is none in float32, so nothing would be "
            "learned: choose fewer --objective.gap.stages, a lower first or last, or a smaller base."
        )
    noise, preconditioning = recipe.noise.for_resolution(math.sqrt(rows * columns)), recipe.preconditioning
    if recipe.is_one_step and isinstance(preconditioning, EDMPreconditioning | Anchored) and preconditioning.boundary == 0:
        preconditioning = replace(preconditioning, boundary=noise.sigma_min * noise.shift)
    if isinstance(recipe.objective, Tangent) and (
        isinstance(preconditioning, XPrediction) or preconditioning.boundary != noise.sigma_min * noise.shift
    ):
        raise ValueError(
            f"{recipe.name} trains on tangents, which do not say what an estimate is anywhere: choose scalings that are the "
            "identity at the lowest level, preconditioned or anchored, and leave their boundary at 0."
        )
    closed = replace(recipe, objective=replace(recipe.objective, noise=noise), preconditioning=preconditioning)
    return _with_totals(closed, recipe.steps)


def summary(recipe: Recipe) -> str:
    """What the recipe trains, in one line."""
    encoder, decoder = recipe.size.encoder, recipe.size.decoder
    networks = f"encoder {encoder.depth} x {encoder.width}"
    networks += "" if recipe.is_encoder else f", decoder {decoder.depth} x {decoder.width}"
    length = f"{recipe.steps:,} steps of {recipe.batch_size} images"
    stage = "one" if recipe.is_encoder else "two, one step" if recipe.is_one_step else "two"
    return f"Stage {stage}: {networks}, patch {recipe.patch}, {length}."


def _with_totals(value: Any, steps: int) -> Any:
    """A copy of a tree of dataclasses in which every field `total` that is 0 is `steps`."""
    changes = {}
    for part in fields(value):
        inner = value.__dict__[part.name]
        if part.name == "total" and inner == 0:
            changes["total"] = steps
        elif is_dataclass(inner):
            changes[part.name] = _with_totals(inner, steps)
    return replace(value, **changes)


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, prefer_attrib_converters=False)
    converter.register_unstructure_hook(float, lambda value: str(value) if math.isinf(value) else value)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    parts = (Draw, Weight, Gap, PairWeight, FeatureLoss, Preconditioning, Temperature, Schedule, AdamW | Muon)
    for union in (*parts, RepresentationLearning | Denoising | Consistency | Tangent):
        configure_tagged_union(union, converter, tag_name="type")
    return converter


def to_json(recipe: Recipe) -> str:
    """The recipe as indented JSON."""
    return json.dumps(_converter().unstructure(recipe), indent=2)


def from_json(text: str) -> Recipe:
    """The recipe that `to_json` wrote; ValueError naming a setting that is unknown (with the near ones) or has a wrong value.

    An optimizer without a type is AdamW, which was the only one when it was written.
    """
    try:
        document = json.loads(text)
        if isinstance(document, dict) and isinstance(document.get("optimizer"), dict):
            document["optimizer"].setdefault("type", "AdamW")
        return _converter().structure(document, Recipe)
    except json.JSONDecodeError as error:
        raise ValueError(f"This recipe is not JSON ({error}): write it with pixelpath.recipes.recipe.to_json.") from error
    except BaseValidationError as error:
        raise ValueError(_sentence(error)) from error


def _sentence(error: BaseException) -> str:
    """What is wrong with a recipe: the innermost cause of a tree of validation errors, and where it stands."""
    if isinstance(error, ForbiddenExtraKeysError):
        unknown = sorted(error.extra_fields)
        known = [part.name for part in fields(error.cl)]
        near = [name for key in unknown for name in difflib.get_close_matches(key, known, 3, 0.4)] or known
        return f"Unknown setting {', '.join(unknown)} in {error.cl.__name__}: did you mean {', '.join(near)}?"
    if isinstance(error, BaseExceptionGroup):
        return _sentence(error.exceptions[0])
    notes = error.__dict__.get("__notes__", [])
    where = "; ".join(map(str, notes)) or type(error).__name__
    return f"A setting of this recipe is wrong or missing ({where}: {error}): compare with a fresh recipe.json."
