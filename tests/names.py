"""What pixelpath/commands/names.json must hold, from the commands and recipes themselves: `python -m tests.names` writes it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import tyro

from pixelpath import cli
from pixelpath.commands import names, settings
from pixelpath.commands.train import RECIPES, train
from pixelpath.recipes.build import student_of
from pixelpath.recipes.recipe import Recipe

PIXELS = {"digits": 8, "cifar10": 32, "imagenet256": 256, "imagenet512": 512}
CLASSES = {"digits": 10, "cifar10": 10, "imagenet256": 1000, "imagenet512": 1000}


def parser(command: Callable[..., Any], *config: Any) -> Any:
    """The options of a command, as tyro reads them from its parameters."""
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.EnumChoicesFromValues, *config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return tyro.extras.get_parser(command, config=config, registry=settings.registry())


def recipe_parser(recipe: Recipe) -> Any:
    """The options of `pixelpath train RECIPE`."""
    return parser(partial(train, recipe=recipe), tyro.conf.AvoidSubcommands)


def options(parsed: Any) -> list[str]:
    """Every long option, in order of the alphabet."""
    return sorted(
        name for action in parsed._actions for name in action.option_strings if name.startswith("--") and name != "--help"
    )


def kind(name: str) -> str:
    """The last word of a recipe's name, which says what it trains."""
    return name.removesuffix("-paper").rpartition("-")[2]


def row(recipe: Recipe) -> list[Any]:
    """The line about a recipe, as `names.Row` takes it."""
    family, *rest = recipe.name.split("-")
    pixels = PIXELS.get(family) or int(rest[0])
    with torch.device("meta"):
        student = student_of(recipe, (3, pixels, pixels), CLASSES.get(family, 0))
    parameters = sum(each.numel() for each in student.parameters())
    return [kind(recipe.name), pixels, recipe.patch, parameters, recipe.steps, recipe.batch_size]


def known() -> dict[str, dict[str, list[Any]]]:
    """Everything that the file holds."""
    kinds = {kind(name): recipe for name, recipe in RECIPES.items()}
    return {
        "commands": {name: options(parser(cli._load(name))) for name in cli.COMMANDS if name != "train"},
        "kinds": {name: options(recipe_parser(recipe)) for name, recipe in kinds.items()},
        "recipes": {name: row(recipe) for name, recipe in RECIPES.items()},
    }


def text() -> str:
    """What the file holds: a line for every command, kind and recipe."""
    parts = [
        f'"{part}": {{\n' + ",\n".join(f'"{name}": {json.dumps(values)}' for name, values in lines.items()) + "\n}"
        for part, lines in known().items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    names.FILE.write_text(text())
