"""From a recipe to its networks, and from stage one to stage two."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import torch

from pixelpath.errors import UserError
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import XPrediction
from pixelpath.models.representation import Representation
from pixelpath.networks.backbone import Backbone
from pixelpath.networks.decoder import Decoder
from pixelpath.networks.encoder import Encoder
from pixelpath.networks.projector import Projector
from pixelpath.networks.weights import load_strictly
from pixelpath.objectives.consistency import Consistency
from pixelpath.randomness import seed_of
from pixelpath.recipes.recipe import Recipe
from pixelpath.types import Objective

Shape = tuple[int, int, int]  # channels, rows, columns


def encoder_of(recipe: Recipe, shape: Shape) -> Encoder:
    """A new encoder for images of `shape`; UserError if the recipe's patch does not divide them."""
    stack = recipe.size.encoder
    return Encoder(*shape, recipe.patch, stack.width, stack.depth, stack.heads, recipe.position_init)


def denoiser_of(recipe: Recipe, shape: Shape, num_classes: int, numbers: int = 0, cond_image: int = 0) -> Denoiser:
    """A new denoiser for images of `shape` in `num_classes` classes (0: unconditional).

    Its condition has this count of `numbers`, and images of `cond_image` channels.
    """
    encoder, stack = encoder_of(recipe, shape), recipe.size.decoder
    features = recipe.pixel_head if recipe.pixel_blocks else 0
    decoder = Decoder(encoder, stack.width, stack.depth, stack.heads, recipe.dropout, features)
    head = recipe.pixel_head, recipe.pixel_blocks
    return Denoiser(Backbone(encoder, decoder, num_classes, numbers, cond_image, *head), recipe.preconditioning)


def representation_of(recipe: Recipe, shape: Shape) -> Representation:
    """A new encoder under a new projector for images of `shape`."""
    encoder = encoder_of(recipe, shape)
    return Representation(encoder, Projector(encoder.width, recipe.projector.hidden, recipe.projector.out), XPrediction(0.5))


def student_of(
    recipe: Recipe, shape: Shape, num_classes: int, numbers: int = 0, cond_image: int = 0
) -> Representation | Denoiser:
    """The module that a run trains, its weights a function of the recipe's seed; leaves torch's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(recipe.seed, 0))
        student = (
            representation_of(recipe, shape)
            if recipe.is_encoder
            else denoiser_of(recipe, shape, num_classes, numbers, cond_image)
        )
    checkpoint_activations(student, recipe.activation_checkpointing)
    if isinstance(student, Representation):
        student.parts = recipe.accumulate
    return student


def objective_through(recipe: Recipe, frozen: Representation | None) -> Objective:
    """The recipe's objective, ready to be called; `frozen` is the stage one through which a consistency model compares features.

    It must lie on the device of the run, and is frozen here. Raises UserError if it is needed and not given.
    """
    objective = recipe.objective
    if not isinstance(objective, Consistency) or not objective.needs_encoder:
        return cast(Objective, objective)
    if frozen is None:
        raise UserError(
            f"{recipe.name} compares features through the frozen encoder of stage one: name a run of it as `encoder`, or choose "
            "no features (`objective.features`).",
            setting="encoder",
        )
    return objective.through(frozen)


def checkpoint_activations(student: Representation | Denoiser, on: bool) -> None:
    """Keep one activation per block and recompute the others in the backward pass, or keep all."""
    if isinstance(student, Denoiser):
        student.backbone.checkpoint_activations(on)
    else:
        student.encoder.checkpointing = on


def hand_over(encoder: Encoder, target: Denoiser) -> None:
    """Give stage two the encoder of stage one: one strict load, the position table interpolated if the resolution differs.

    Raises UserError naming the first weights that do not fit.
    """
    state = fitted(encoder, target.backbone.encoder).state_dict()
    remedy = "give stage two the same `size`, `patch` and channels as stage one"
    load_strictly(target.backbone.encoder, state, "the encoder of stage one", remedy, "encoder")


def start_from(origin: Representation | Denoiser, target: Representation | Denoiser, name: Path) -> None:
    """Give a new student all weights of a run called `name`, its position table interpolated if the resolution differs.

    Raises UserError if the two are of different stages, or naming the first weights that do not fit.
    """
    if isinstance(target, Denoiser) and isinstance(origin, Representation):
        raise UserError(f"{name} is a run of stage one, which has only an encoder: give it as `encoder` instead.", "init_from")
    if isinstance(target, Representation) and isinstance(origin, Denoiser):
        raise UserError(f"{name} is a run of stage two, but `init_from` must be a run of stage one here.", "init_from")
    encoder = fitted(encoder_in(origin), encoder_in(target))
    prefix = "backbone.encoder." if isinstance(origin, Denoiser) else "encoder."
    state = origin.state_dict() | {f"{prefix}{key}": value for key, value in encoder.state_dict().items()}
    remedy = "begin with a run of the same `size`, `patch`, `pixel_head`, `pixel_blocks`, channels and classes"
    load_strictly(target, state, f"the run {name}", remedy, "init_from")


def fitted(encoder: Encoder, target: Encoder) -> Encoder:
    """The encoder, or a copy of it resized if `target` takes images of another resolution in patches of the same size."""
    if (encoder.rows, encoder.columns) == (target.rows, target.columns) or encoder.patch != target.patch:
        return encoder
    resized = copy.deepcopy(encoder)
    resized.resize(target.rows, target.columns)
    return resized


def encoder_in(model: Representation | Denoiser) -> Encoder:
    """The encoder of a model of either stage."""
    return model.backbone.encoder if isinstance(model, Denoiser) else model.encoder
