"""The network that a run trains, before its first step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from pixelpath.errors import UserError
from pixelpath.log import say
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.preconditioning import Anchored, XPrediction
from pixelpath.models.representation import Representation
from pixelpath.recipes.build import hand_over, start_from
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.runs.opened import OpenRun, open_run, read_encoding
from pixelpath.runs.prepare import PreparedData
from pixelpath.trainer import checkpoint


def new_student(recipe: Recipe, data: PreparedData, encoder: Path | None, init_from: Path | None) -> Representation | Denoiser:
    """The student before its first step: new, with the encoder of a stage-one run, or with all weights of a run of its stage.

    With both of them `init_from` gives the weights, and `encoder` is only compared through (see `frozen_encoder`).
    """
    student = data.student(recipe)
    if encoder is not None and not isinstance(student, Denoiser):
        raise UserError(
            f"`encoder` goes with a recipe of stage two, and {recipe.name} is stage one: use `init_from` {encoder} instead.",
            setting="encoder",
        )
    if encoder is not None and init_from is not None and not recipe.needs_encoder:
        raise UserError("`encoder` and `init_from` both name the weights to begin with: give one of them.", setting="init_from")
    if init_from is not None:
        begun = open_run(init_from)
        start_from(begun.model, student, init_from)
        compare_preconditioning(recipe, begun)
    elif encoder is not None and isinstance(student, Denoiser):
        hand_over(open_run(encoder).representation.encoder, student)
    freeze(student, recipe)
    return student


def in_range_of(begun: Path, data: PreparedData, recipe: Recipe) -> PreparedData:
    """The data in the range of values that the weights of the run `begun` know; UserError if its own was made another way."""
    found = checkpoint.latest(begun)
    if found is None:  # refused where the weights are handed over, as are other channels
        return data
    theirs, ours = read_encoding(found)[0], data.normaliser
    if theirs == ours or len(theirs.mean) != len(ours.mean):
        return data
    if theirs.dtype != ours.dtype:
        raise UserError(f"{begun} was trained on {theirs.dtype} and these images are {ours.dtype}: convert them.", setting="data")
    how = from_json(json.dumps(checkpoint.read(found, "recipe"))).data.normaliser
    if how != recipe.data.normaliser:
        raise UserError(
            f"{begun} was trained on values normalised by {how.kind}, with other settings than these: use "
            "its `data.normaliser` settings, or begin with random weights.",
            setting="data.normaliser",
        )
    say(f"Values are normalised as in {begun}, whose weights the run begins with.")
    return replace(data, normaliser=theirs)


def compare_preconditioning(recipe: Recipe, begun: OpenRun) -> None:
    """Say it if the weights of the run that stage two begins with were trained to mean something else."""
    ours, theirs = recipe.preconditioning, begun.recipe.preconditioning
    alike = type(ours) is type(theirs) or (isinstance(ours, Anchored) and isinstance(theirs, XPrediction))
    if not recipe.is_encoder and not (alike and ours.sigma_data == theirs.sigma_data):
        names = [f"{type(each).__name__} (sigma_data {each.sigma_data:g})" for each in (theirs, ours)]
        say(f"{begun.path} was trained under {names[0]} and this recipe has {names[1]}: its weights mean something else there.")


def frozen_encoder(path: Path | None, data: PreparedData, device: torch.device) -> Representation | None:
    """The stage one at `path` on the device, its position table interpolated if its images had another size; None without a path.

    Raises UserError for a run of stage two, or of another number of channels.
    """
    if path is None:
        return None
    run = open_run(path, device=device)
    if run.shape[0] != data.shape[0]:
        raise UserError(
            f"{path} was trained on images of {run.shape[0]} channels and these have {data.shape[0]}: give a stage one of theirs."
        )
    if run.shape != data.shape:
        if any(side % run.recipe.patch for side in data.shape[1:]):
            raise UserError(
                f"The encoder {path} has a patch of {run.recipe.patch}, which does not divide images of {data.shape[1]} x "
                f"{data.shape[2]}: give a stage one whose patch does."
            )
        run.representation.encoder.resize(*data.shape[1:])
    return run.representation


def check_origin(recipe: Recipe, encoder: Path | None, init_from: Path | None) -> None:
    """UserError if the recipe freezes what has learned nothing, leaves nothing to train, or lacks the teacher that it needs."""
    if recipe.freeze_encoder and recipe.is_encoder:
        raise UserError(
            f"{recipe.name} trains an encoder, so a frozen one leaves nothing to train: omit `freeze_encoder`.",
            setting="freeze_encoder",
        )
    if recipe.is_distilled and init_from is None:
        raise UserError("A distilled run begins with the weights of its teacher: give that run as `init_from`.", "init_from")
    if recipe.freeze_encoder and encoder is None and init_from is None:
        raise UserError(
            "`freeze_encoder` would freeze an encoder of random weights: give a trained one as `encoder` or `init_from`.",
            setting="freeze_encoder",
        )


def freeze(student: Representation | Denoiser, recipe: Recipe) -> None:
    """Leave the encoder of stage two as it is, if the recipe says so."""
    if recipe.freeze_encoder and isinstance(student, Denoiser):
        student.backbone.encoder.requires_grad_(False)
