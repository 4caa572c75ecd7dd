"""Training as the command line does it, on one CPU, for studies that train many runs."""

from __future__ import annotations

from pathlib import Path

import torch

from pixelpath.recipes.recipe import Recipe
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.prepare import with_data


def train(recipe: Recipe, out: Path, data: Path, encoder: Path | None = None, init_from: Path | None = None) -> None:
    """Train a recipe to its end, or take it up where it stopped."""
    begin(with_data(recipe, data), out, torch.device("cpu"), Beginning(encoder, init_from), Saving()).run()
