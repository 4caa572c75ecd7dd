"""Recipes from recipes: the settings that a recipe function takes, and the published variant of a one-step recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Protocol, runtime_checkable

from pixelpath.models.preconditioning import EDMPreconditioning
from pixelpath.noise import NoiseRange
from pixelpath.objectives.consistency import Consistency
from pixelpath.objectives.features import ContrastiveFeatures
from pixelpath.recipes.recipe import Recipe
from pixelpath.recipes.sizes import Size
from pixelpath.trainer.optimizer import AdamW, Steps


@runtime_checkable
class RecipeFunction(Protocol):
    """Makes a recipe; settings that are given replace the recipe's own."""

    def __call__(
        self,
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        size: Size | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
    ) -> Recipe:
        """The recipe: optimizer steps, images per step, learning rate, size of the networks, EMA decay per step, seed."""
        ...


def adjustable(make: Callable[[], Recipe], about: str = "") -> RecipeFunction:
    """The recipe function with the most frequent settings as keywords; what it is `about` is its docstring if it has none."""
    if about:
        make.__doc__, make.__name__ = about, make().name.replace("-", "_").lower()

    @wraps(make)
    def adjusted(
        *,
        steps: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        size: Size | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
    ) -> Recipe:
        recipe = make()
        optimizer = recipe.optimizer if lr is None else replace(recipe.optimizer, lr=lr)
        return replace(
            recipe,
            optimizer=optimizer,
            steps=recipe.steps if steps is None else steps,
            batch_size=recipe.batch_size if batch_size is None else batch_size,
            size=recipe.size if size is None else size,
            ema_decay=recipe.ema_decay if ema_decay is None else ema_decay,
            seed=recipe.seed if seed is None else seed,
        )

    del adjusted.__wrapped__  # so that help() shows the keywords
    return adjusted


def as_published(recipe: Recipe) -> Recipe:
    """A one-step recipe with the published choices (EPG, arXiv 2510.12586) but its own size and lowest sigma.

    EDM preconditioning, AdamW, contrastive features and dropout. It needs a finished stage one (`encoder`).
    """
    assert isinstance(recipe.objective, Consistency)
    sigma_max = recipe.noise.sigma_min * 40_000  # 80 for a lowest sigma of 0.002
    return replace(
        recipe,
        name=f"{recipe.name}-paper",
        objective=replace(recipe.objective, noise=NoiseRange(recipe.noise.sigma_min, sigma_max), features=ContrastiveFeatures()),
        preconditioning=EDMPreconditioning(),
        dropout=0.5,
        position_init=0.0,
        optimizer=AdamW(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.03),
        schedule=Steps(),
    )


def paper(make: RecipeFunction, result: str) -> RecipeFunction:
    """The published variant of a one-step recipe function; `result` says what to expect of it."""
    name = make().name
    command = f"pixelpath train {name}-paper --data PATH --encoder runs/encoder --out runs/onestep"
    return adjustable(lambda: as_published(make()), f"{name} with the published objective.\n\nCommand: {command}. {result}")
