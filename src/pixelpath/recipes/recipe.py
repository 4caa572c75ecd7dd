"""A recipe says everything a run chose: its networks, objective, optimizer, data settings and length, as the working values.

An *open* recipe has not seen data yet; `for_data` *closes* it: the noise range takes the resolution. Recipes go to JSON and back
unchanged; a value of several possible types carries the name of its type under "type".
"""

from __future__ import annotations

import difflib
import json
import math
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache
from pathlib import Path

import cattrs
from cattrs.errors import BaseValidationError, ForbiddenExtraKeysError
from cattrs.strategies import configure_tagged_union

from pixelpath.atomic import SEAL, parsed
from pixelpath.data.augment import PHOTOGRAPHS, Augmentation
from pixelpath.data.settings import DataSettings
from pixelpath.errors import UserError
from pixelpath.models.preconditioning import Anchored, EDMPreconditioning, Preconditioning, XPrediction
from pixelpath.noise import Draw, NoiseRange, Weight
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.denoising import Denoising
from pixelpath.objectives.distillation import Distillation
from pixelpath.objectives.features import FeatureLoss
from pixelpath.objectives.representation import RepresentationLearning, Temperature, ViewDraw
from pixelpath.recipes.sizes import NANO, Size
from pixelpath.sampling.sampler import Sampling, hidden, usual
from pixelpath.trainer.optimizer import AdamW, Cosine, Muon, Schedule


class Precision(Enum):
    """The dtype of matrix products and activations; weights, norms, softmax of contrast and losses stay float32."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


NARROWEST_GAP = 1e-7  # share of a sigma: float32 does not tell a narrower gap from none
LEAST_DRAWN = 1e-3  # share of training's draws within a factor e of an end of the noise range: with fewer it is hardly learned


@dataclass(frozen=True)
class ProjectorSize:
    """Hidden and output width of the projector of stage one. Raises UserError unless both are at least 1."""

    hidden: int = 4096
    """Width of its two hidden layers, at least 1."""
    out: int = 256
    """Width of its output, at least 1."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"`projector.{name}` must be at least 1, got {value}.", setting=f"projector.{name}")


@dataclass(frozen=True)
class Recipe:
    """One run of training."""

    name: str
    """Name of the recipe."""
    objective: RepresentationLearning | Denoising | Consistency | Distillation
    """What training minimises: representation learning (stage one), denoising, consistency or distillation (stage two)."""
    size: Size = NANO
    """Depth, width and heads of encoder and decoder."""
    patch: int = 4
    """Side of a patch in pixels; divides rows and columns."""
    projector: ProjectorSize = field(default_factory=ProjectorSize)
    """Projector of stage one."""
    preconditioning: Preconditioning = field(default_factory=XPrediction)
    """What the network's output means in stage two."""
    dropout: float = 0.0
    """Decoder dropout probability, in [0, 1)."""
    pixel_head: int = 0
    """Channels of the convolutions on pixels that follow the decoder. Default: no such convolutions."""
    pixel_blocks: int = 0
    """Residual blocks of the pixel head, two convolutions each; with any, the decoder gives it features too. Default: none."""
    position_init: float = 0.0
    """Amplitude of the sinusoids in the encoder's initial position table, at least 0. Default: random values alone."""
    augmentation: Augmentation = PHOTOGRAPHS
    """Augmentations of the two views of stage one."""
    flip: bool = False
    """Mirror half of the images left to right in stage two."""
    rot90: bool = False
    """Rotate images by 0 to 3 quarter turns in stage two; they must be square."""
    conditional: bool = True
    """Use the classes of the data, where there are any."""
    freeze_encoder: bool = False
    """Keep the encoder's weights fixed in stage two."""
    steps: int = 1000
    """Optimizer steps of the whole run."""
    batch_size: int = 128
    """Images per step, over all processes."""
    accumulate: int = 1
    """Micro-batches per step into which every process splits its share of the batch. Stage one still tells apart the images of
    the whole batch, at a third more compute.
    """
    optimizer: AdamW | Muon = field(default_factory=AdamW)
    """Optimizer."""
    schedule: Schedule = field(default_factory=Cosine)
    """Factor of the learning rate as a function of the step."""
    ema_decay: float = 0.999
    """EMA decay per step, in [0, 1). The first steps use less: step / (9 + step)."""
    seed: int = 0
    """Seed of all randomness of the run."""
    precision: Precision = Precision.AUTO
    """Precision of the computation; auto: bfloat16 on CUDA, float32 elsewhere."""
    compile: bool | None = None
    """Compile the networks with torch.compile. Default: on CUDA only."""
    activation_checkpointing: bool = False
    """Keep one activation per block and recompute the others: less memory, a third more compute."""
    sampling: Sampling = field(default_factory=Sampling)
    """How previews and evaluations are sampled."""
    data: DataSettings = field(default_factory=DataSettings)
    """How the data are read."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "patch"):
            if vars(self)[name] < 1:
                raise UserError(f"`{name}` must be at least 1, got {vars(self)[name]}.", setting=name)
        for name, example in {"ema_decay": 0.999, "dropout": 0.5}.items():
            if not 0 <= vars(self)[name] < 1:
                raise UserError(
                    f"`{name}` must be at least 0 and below 1, got {vars(self)[name]}: choose for example {example}.",
                    setting=name,
                )
        if self.pixel_head < 0:
            raise UserError(f"`pixel_head` must be at least 0, got {self.pixel_head}: choose for example 24.", "pixel_head")
        if self.pixel_blocks < 0:
            raise UserError(f"`pixel_blocks` must be at least 0, got {self.pixel_blocks}: choose for example 1.", "pixel_blocks")
        if not 0 <= self.position_init < math.inf:
            raise UserError(
                f"`position_init` must be at least 0 and finite, got {self.position_init}: choose for example 2.", "position_init"
            )

    @property
    def noise(self) -> NoiseRange:
        """The noise range of the run."""
        return self.objective.noise

    @property
    def usual_sampling(self) -> Sampling:
        """How samples are made unless told otherwise: as the recipe says, and as usual where it chooses nothing."""
        first = None if self.is_one_step else hidden(self.noise)
        return self.sampling.over(replace(usual(self.is_one_step), sigma_max=first))

    @property
    def is_encoder(self) -> bool:
        """Whether this is stage one."""
        return isinstance(self.objective, RepresentationLearning)

    @property
    def is_one_step(self) -> bool:
        """Whether this trains a model that makes an image in one network evaluation."""
        return isinstance(self.objective, Consistency | Distillation)

    @property
    def is_distilled(self) -> bool:
        """Whether the model learns from the samples of a diffusion run, and knows the highest sigma alone."""
        return isinstance(self.objective, Distillation)

    @property
    def needs_encoder(self) -> bool:
        """Whether the loss compares features through the frozen encoder of a stage one."""
        return isinstance(self.objective, Consistency) and self.objective.needs_encoder


def unlearned(recipe: Recipe) -> list[str]:
    """A sentence for each end of the noise range near which training hardly draws a sigma, though every sample passes it.

    Near sigma_min a sampler divides the error of an estimate by sigma, so an unlearned end spoils the sample.
    """
    if not isinstance(recipe.objective, Denoising):
        return []
    draw, noise = recipe.objective.draw, recipe.noise
    low, high = draw.below(noise.sigma_min * math.e), 1 - draw.below(noise.sigma_max / math.e)
    found: list[str] = []
    if low < LEAST_DRAWN:
        drawn = [sigma for sigma in noise.grid(1280).tolist() if LEAST_DRAWN <= draw.below(sigma * math.e) <= 1 - LEAST_DRAWN]
        better = 1.05 * min(drawn, default=noise.sigma_max)
        found.append(
            f"Only {low:.1g} of the noise levels of training lie below {noise.sigma_min * math.e:.2g}, but every sample ends "
            f"there: raise `objective.noise.sigma_min` to {better:.2g}, or lower `objective.draw.p_mean`."
        )
    if high < LEAST_DRAWN:
        found.append(
            f"Only {high:.1g} of the noise levels of training lie above {noise.sigma_max / math.e:.2g}, but every sample begins "
            f"there: lower `objective.noise.sigma_max`, or raise `objective.draw.p_mean`."
        )
    return found


def for_data(recipe: Recipe, rows: int, columns: int) -> Recipe:
    """The closed recipe for images of `rows` x `columns`: its noise range has their shift.

    The preconditioning of a one-step model takes the shifted sigma_min for its boundary, unless one is set. Raises UserError if
    the noise range has a shift already, or if the last gap is none in float32.
    """
    if recipe.noise.shift != 1:
        raise UserError(
            f"The shift of the noise range follows from the size of the images, but this recipe sets {recipe.noise.shift}: "
            "leave it at 1.",
            setting="objective.noise.shift",
        )
    if isinstance(recipe.objective, Consistency) and recipe.objective.gap.narrowest < NARROWEST_GAP:
        raise UserError(
            f"The last gap is {recipe.objective.gap.narrowest:.1g} of its sigma, which is none in float32: choose fewer "
            "`objective.gap.stages`, a lower `objective.gap.first` or a smaller `objective.gap.base`.",
            setting="objective.gap.stages",
        )
    noise, preconditioning = recipe.noise.for_resolution(math.sqrt(rows * columns)), recipe.preconditioning
    if recipe.is_one_step and isinstance(preconditioning, EDMPreconditioning | Anchored) and preconditioning.boundary == 0:
        preconditioning = replace(preconditioning, boundary=noise.sigma_min * noise.shift)
    return replace(recipe, objective=replace(recipe.objective, noise=noise), preconditioning=preconditioning)


def summary(recipe: Recipe) -> str:
    """What the recipe trains, in one line."""
    encoder, decoder = recipe.size.encoder, recipe.size.decoder
    networks = f"encoder {encoder.depth} x {encoder.width}"
    networks += "" if recipe.is_encoder else f", decoder {decoder.depth} x {decoder.width}"
    length = f"{recipe.steps:,} steps of {recipe.batch_size} images"
    stage = "one" if recipe.is_encoder else "two, one step" if recipe.is_one_step else "two"
    return f"Stage {stage}: {networks}, patch {recipe.patch}, {length}."


@cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, prefer_attrib_converters=False)
    converter.register_unstructure_hook(float, lambda value: str(value) if math.isinf(value) else value)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    parts = (Draw, ViewDraw, Weight, FeatureLoss, Preconditioning, Temperature, Schedule, AdamW | Muon)
    for union in (*parts, RepresentationLearning | Denoising | Consistency | Distillation):
        configure_tagged_union(union, converter, tag_name="type")
    return converter


def to_json(recipe: Recipe) -> str:
    """The recipe as indented JSON."""
    return json.dumps(_converter().unstructure(recipe), indent=2)


def from_json(text: str) -> Recipe:
    """The recipe that `to_json` wrote; UserError naming a setting that is unknown (with the near ones) or has a wrong value."""
    try:
        document = parsed(text)
    except ValueError as error:
        raise UserError(f"This recipe is not JSON ({error}): write it with pixelpath.recipes.recipe.to_json.") from error
    if not isinstance(document, dict):
        raise UserError("This recipe is no JSON object: write it with pixelpath.recipes.recipe.to_json.")
    document.pop(SEAL, None)
    try:
        return _converter().structure(document, Recipe)
    except BaseValidationError as error:
        raise _error(error) from error


def _error(error: BaseException) -> UserError:
    """What is wrong with a recipe: the innermost cause of a tree of validation errors, and where it stands."""
    if isinstance(error, ForbiddenExtraKeysError):
        unknown = sorted(error.extra_fields)
        known = [part.name for part in fields(error.cl)]
        near = [name for key in unknown for name in difflib.get_close_matches(key, known, 3, 0.4)] or known
        kind = error.cl.__name__
        return UserError(f"Unknown setting {', '.join(unknown)} in {kind}: did you mean {', '.join(near)}?", unknown[0])
    if isinstance(error, BaseExceptionGroup):
        return _error(error.exceptions[0])
    if isinstance(error, UserError):
        return error
    notes = error.__dict__.get("__notes__", [])
    where = "; ".join(map(str, notes)) or type(error).__name__
    return UserError(f"A setting of this recipe is wrong or missing ({where}: {error}): compare with a fresh recipe.json.")
