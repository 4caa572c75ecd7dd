"""The command `pixelpath train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath import recipes
from pixelpath.commands.options import device_named
from pixelpath.errors import Stopped
from pixelpath.recipes.recipe import summary
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.cost import tell_cost
from pixelpath.runs.devices import joined
from pixelpath.runs.digits import located, located_aside
from pixelpath.runs.folder import by_main
from pixelpath.runs.prepare import close, read_data, with_data

RECIPES = {name: make() for name, make in recipes.RECIPES.items()}
AnyRecipe = tyro.extras.subcommand_type_from_defaults(RECIPES, {name: summary(each) for name, each in RECIPES.items()})
RANDOM, USUAL = Beginning(), Saving()


def train(
    recipe: Annotated[AnyRecipe, tyro.conf.arg(name="")],  # pyright: ignore[reportInvalidTypeForm]
    out: Path,
    data: Path | None = None,
    beginning: Annotated[Beginning, tyro.conf.arg(name="")] = RANDOM,
    device: str | None = None,
    saving: Annotated[Saving, tyro.conf.arg(name="")] = USUAL,
    accept_changed_data: bool = False,
    shard: bool = False,
    dry_run: bool = False,
) -> None:
    """Train a recipe on your images; the same command again takes up the run where it stopped, exactly.

    Every setting of a recipe is an option, with the recipe's own value as its default. Some are choices with settings of their
    own: `--size small --size.encoder.depth 4`, `--schedule constant --schedule.warmup 100`.
    On several GPUs: `torchrun --nproc-per-node 8 -m pixelpath train RECIPE ...`.

    Args:
        recipe: What to train. An encoder (stage one) needs no classes; diffusion and one-step recipes (stage two) take it up.
        out: Folder of the run; made if missing, never overwritten.
        data: Folder of images (with or without a subfolder per class), file of arrays, or FILE::VARIABLE; or digits, which come
            with scikit-learn.
        beginning: The weights that the run begins with.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        saving: What the run writes while it trains.
        accept_changed_data: Go on although the images are not those that the run began with; shape and classes must be.
        shard: Give each process of torchrun a share of weights, gradients, moments and EMA: for networks too large for a GPU.
        dry_run: Only say what it would cost: size, compute, memory and speed of three real steps.
    """
    with joined():
        chosen = device_named(device)
        if dry_run:
            with located_aside(data, out) as images:
                recipe = with_data(recipe, images)
                content = read_data(recipe)
                tell_cost(close(recipe, content), content, chosen, shard=shard)
            return
        recipe = with_data(recipe, by_main(located)(data, out))
        if not begin(recipe, out, chosen, beginning, saving, accept_changed_data=accept_changed_data, shard=shard).run():
            raise Stopped
