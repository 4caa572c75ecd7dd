"""A run on disk, opened for use: its recipe, normaliser and the EMA of its weights.

The folder of a run holds recipe.json, metrics.jsonl, checkpoints/step-*/ and what later commands add; every checkpoint is
complete in itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pixelpath.data.conditions import Conditions
from pixelpath.data.metadata import Metadata
from pixelpath.data.normalise.normaliser import Normaliser
from pixelpath.errors import MissingError, UserError
from pixelpath.log import say
from pixelpath.models.denoiser import Denoiser
from pixelpath.models.representation import Representation
from pixelpath.noise import NoiseRange
from pixelpath.recipes.build import Shape, student_of
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.runs.folder import divergences, fitted_run
from pixelpath.runs.sharing.bundled import located
from pixelpath.trainer import checkpoint


@dataclass(frozen=True, eq=False, repr=False)
class OpenRun:
    """A finished or unfinished run.

    `checkpoint` is the folder it was read from, after `step` steps. `model` is the EMA, in evaluation mode. `shape` is channels,
    rows and columns of an image; `classes` are names, empty for an unconditional run. `normaliser` brings native values to model
    range and back.
    """

    path: Path
    checkpoint: Path
    recipe: Recipe
    shape: Shape
    classes: tuple[str, ...]
    normaliser: Normaliser
    model: Representation | Denoiser
    step: int
    metadata: Metadata = field(default_factory=Metadata)
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def noise(self) -> NoiseRange:
        """The noise range the model was trained on."""
        return self.recipe.noise

    @property
    def denoiser(self) -> Denoiser:
        """The model of a stage-two run; UserError for stage one, which cannot be sampled."""
        if not isinstance(self.model, Denoiser):
            raise UserError(
                f"{self.path} is a run of stage one, an encoder: train a diffusion recipe with it as `encoder` first.",
                setting="run",
            )
        return self.model

    @property
    def representation(self) -> Representation:
        """The model of a stage-one run; UserError for stage two."""
        if not isinstance(self.model, Representation):
            raise UserError(f"{self.path} is a run of stage two: give a run of stage one.", setting="run")
        return self.model


def open_run(path: Path | str, which: Path | None = None, device: torch.device | str = "cpu") -> OpenRun:
    """The run in folder `path` (of a fit: its newest one) at its latest checkpoint, or at the checkpoint folder `which`.

    `path` may be the name of a bundled model. If training removes the latest checkpoint meanwhile, it is the newest then. Says so
    if training went wrong after it. Raises MissingError if there is no run or no checkpoint, UserError if the checkpoint is
    damaged or does not fit the recipe.
    """
    path = fitted_run(located(path))
    while True:
        found = which or checkpoint.latest(path)
        if found is None:
            sentence = f"{path} holds no checkpoint of a run: name the folder that training wrote as `out`."
            raise MissingError(sentence, setting="run")
        try:
            return _open(path, found, device)
        except (UserError, OSError):
            if which is not None or checkpoint.latest(path) == found:
                raise


def _open(path: Path, found: Path, device: torch.device | str) -> OpenRun:
    run = _made(path, found, "cpu")
    checkpoint.restore(run.model, found / "ema.safetensors")
    for fall in divergences(path):
        if fall["back_to"] is None and fall["step"] > run.step:
            say(f"Training of {path} diverged at step {fall['step']}; these are its weights at step {run.step}.")
    return replace(run, model=run.model.to(device).requires_grad_(False).eval())


def outlined(path: Path, found: Path) -> OpenRun:
    """The run in folder `path` at its checkpoint `found` without its weights: its network holds shapes alone."""
    return _made(path, found, "meta")


def _made(path: Path, found: Path, device: str) -> OpenRun:
    """A run whose weights are not read yet, its network on this device."""
    recipe = from_json(json.dumps(checkpoint.read(found, "recipe")))
    about = checkpoint.read(found, "data")
    normaliser, asks = read_encoding(found)
    channels, rows, columns = about["shape"]
    shape, classes = (channels, rows, columns), tuple(about["classes"])
    metadata = Metadata.from_json(about["metadata"])
    with torch.device(device):
        model = student_of(recipe, shape, len(classes), asks.numbers, asks.other)
    step = checkpoint.read_state(found).step
    return OpenRun(path, found, recipe, shape, classes, normaliser, model, step, metadata, asks)


def read_encoding(checkpoint_folder: Path) -> tuple[Normaliser, Conditions]:
    """How the images and conditions of a checkpoint are encoded; raises as `open_run`."""
    asks = Conditions.from_json(checkpoint.read(checkpoint_folder, "data")["conditions"])
    return Normaliser.from_json(checkpoint.read(checkpoint_folder, "normaliser")), asks
