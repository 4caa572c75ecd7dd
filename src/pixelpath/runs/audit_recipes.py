"""Which recipes suit the data that an audit inspects, and the commands that train them."""

from __future__ import annotations

import math
import shlex
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from pixelpath.data.normalise.curves import Normalisation
from pixelpath.data.settings import DataSettings, fitting
from pixelpath.errors import UserError
from pixelpath.evaluation.inspection import Inspection
from pixelpath.recipes import RECIPES
from pixelpath.recipes.recipe import Recipe, from_json
from pixelpath.recipes.sizes import SIZES

TOKENS, FEWEST, MOST, COARSEST = 64, 4, 256, 32  # tokens of an image that are aimed at, and accepted; the largest patch
MANY = 1024  # tokens of an image above which it is rather made smaller
SMALL_SIDE, MIDDLE_SIDE = 16, 45  # sides of images up to which the recipes digits and small-32 are meant
NANO, TINY = 5000, 50_000  # training images up to which a size is enough


def recipes_for(seen: Inspection, name: str | None, count: int, device: torch.device) -> tuple[Recipe, ...]:
    """The recipe of this name, after the encoder that its stage two begins with; without a name those that suit the data."""
    settings, proposal = seen.settings, seen.normaliser.proposal
    if name is None:
        how = proposal.how if proposal is not None and settings.normaliser == Normalisation() else settings.normaliser
        found = proposed(replace(settings, normaliser=how), seen.training.source.shape, count, device)
        return tuple(replace(each, flip=each.flip or (seen.mirrors is True and not each.is_encoder)) for each in found)
    recipe = recipe_of(name)
    encoder = f"{recipe.name.split('-diffusion')[0].split('-onestep')[0]}-encoder"
    first = RECIPES[encoder]() if name in RECIPES and encoder in RECIPES else None
    both = (recipe,) if recipe.is_encoder or first is None else (first, recipe)
    return tuple(replace(each, data=_merged(each.data, settings)) for each in both)


def recipe_of(name: str) -> Recipe:
    """The recipe of a name, or of a run's recipe.json; UserError for an unknown name."""
    if name.endswith(".json"):
        return from_json(Path(name).read_text(encoding="utf-8", errors="replace"))
    if name not in RECIPES:
        sentence = f"There is no recipe {name}: choose from {', '.join(RECIPES)}, or give the recipe.json of a run."
        raise UserError(sentence, setting="recipe")
    return RECIPES[name]()


def proposed(settings: DataSettings, shape: tuple[int, int, int], count: int, device: torch.device) -> tuple[Recipe, ...]:
    """Both stages of a small recipe for so many images of this shape; on a CPU the one stage that is done within the hour.

    The recipe is the one made for the nearest size of images. Its patch stays if it divides the sides into 4 to 256 tokens;
    otherwise the patch is the one of 2 to 32 pixels whose tokens are nearest to 64. Where there is none, images are resized to
    sides that have one. The size is nano on a CPU and for up to
    5,000 training images, tiny for up to 50,000, above that the recipe's own (rules of thumb).
    """
    _, rows, columns = shape
    side = math.sqrt(rows * columns)
    family = "digits" if side <= SMALL_SIDE else "small-32" if side <= MIDDLE_SIDE else "small-64"
    names = [f"{family}-encoder", f"{family}-diffusion"]
    if device.type == "cpu" and family != "digits":
        names = [f"cpu-{family.removeprefix('small-')}-diffusion"]
    found = [RECIPES[name]() for name in names]
    patch, size = _patch(rows, columns, found[0].patch), found[0].size
    if patch is None:
        settings = replace(settings, tile=(), stride=(), resize=fitting(rows, columns))
        patch = _patch(*fitting(rows, columns), found[0].patch) or found[0].patch
    if device.type == "cpu" or largest_size(count) != "small":
        size = SIZES["nano" if device.type == "cpu" else largest_size(count)]
    return tuple(replace(recipe, patch=patch, size=size, data=settings) for recipe in found)


def largest_size(count: int) -> str:
    """The size that is enough for so many training images (a rule of thumb)."""
    return "nano" if count <= NANO else "tiny" if count <= TINY else "small"


def train_commands(recipes: tuple[Recipe, ...], settings: DataSettings) -> list[str]:
    """The commands that train the recipes."""
    found = []
    for number, recipe in enumerate(recipes):
        words = ["pixelpath train", shlex.quote(recipe.name), "--data", shlex.quote(str(settings.path))]
        known = RECIPES[recipe.name]() if recipe.name in RECIPES else None
        if known is not None and known.patch != recipe.patch:
            words += ["--patch", str(recipe.patch)]
        name = next((name for name, size in SIZES.items() if size == recipe.size), None)
        if known is not None and known.size != recipe.size and name is not None:
            words += ["--size", name]
        words += ["--flip"] if known is not None and recipe.flip and not known.flip else []
        if recipe.data.resize is not None:  # as proposed, where nobody asked
            settings = replace(settings, tile=(), stride=(), resize=recipe.data.resize)
        words += _options(replace(settings, path=None, normaliser=Normalisation()), DataSettings(), "data")
        words += _options(recipe.data.normaliser, Normalisation(), "data.normaliser")
        stage = "encoder" if recipe.is_encoder else "onestep" if recipe.is_one_step else "diffusion"
        words += ["--encoder runs/encoder"] if number else []
        found.append(" ".join([*words, "--out", f"runs/{stage}"]))
    return found


def _patch(rows: int, columns: int, patch: int) -> int | None:
    """This patch if it cuts images into an accepted number of tokens, else the divisor of both sides nearest to 64 tokens.

    None if there is none: single pixels are tokens only of images that have as few of them.
    """
    if rows % patch == 0 and columns % patch == 0 and FEWEST <= rows * columns / patch**2 <= MOST:
        return patch
    common = math.gcd(rows, columns)
    least = 1 if rows * columns <= TOKENS else 2
    dividing = [side for side in range(least, min(common, COARSEST) + 1) if common % side == 0]
    accepted = [side for side in dividing if FEWEST <= rows * columns / side**2 <= MANY]
    return min(accepted, key=lambda side: abs(math.log(rows * columns / side**2 / TOKENS)), default=None)


def _merged(own: DataSettings, given: DataSettings) -> DataSettings:
    """The data settings of a recipe, replaced by those that were given."""
    return replace(own, **_changed(given, DataSettings()))


def _changed(settings: Any, plain: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from those of another, with their values."""
    values = {part.name: vars(settings)[part.name] for part in fields(settings)}
    return {name: value for name, value in values.items() if value != vars(plain)[name]}


def _options(settings: Any, plain: Any, path: str) -> list[str]:
    """The settings that differ from the plain ones, as options of the command line."""
    found = []
    for name, value in _changed(settings, plain).items():
        spelled, switch = name.replace("_", "-"), isinstance(vars(plain)[name], bool)
        values = value if isinstance(value, tuple) else (value,)
        words = " ".join(f"{each:g}" if isinstance(each, float) else shlex.quote(str(each)) for each in values)
        found.append(f"--{path}.{'' if value else 'no-'}{spelled}" if switch else f"--{path}.{spelled} {words}")
    return found
