"""The command `pixelpath distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from pixelpath.commands.options import device_named
from pixelpath.errors import Stopped
from pixelpath.recipes.distilled import Distilling, distilled
from pixelpath.runs.beginning import begin
from pixelpath.runs.chosen import Beginning, Saving
from pixelpath.runs.devices import joined
from pixelpath.runs.opened import open_run
from pixelpath.runs.prepare import with_data

USUAL, SAVED = Distilling(), Saving()


def distill(
    run: Annotated[Path, tyro.conf.Positional],
    out: Path,
    how: Annotated[Distilling, tyro.conf.arg(name="")] = USUAL,
    data: Path | None = None,
    device: str | None = None,
    saving: Annotated[Saving, tyro.conf.arg(name="")] = SAVED,
) -> None:
    """Make a one-step model of a diffusion run, which learns to go from noise to that run's own samples at once.

    The same command again takes it up where it stopped. `pixelpath sample OUT` then makes images in one network evaluation.

    Args:
        run: Folder of a diffusion run.
        out: Folder of the one-step run; made if missing, never overwritten.
        how: What to learn from, and how long.
        data: Where the data of the run are now, if elsewhere.
        device: cpu, cuda, cuda:1, mps. Default: the best one here.
        saving: What the run writes while it trains.
    """
    with joined():
        chosen, teacher = device_named(device), open_run(run)
        recipe = with_data(distilled(teacher.recipe, teacher.denoiser.backbone.conditional, how), data)
        if not begin(recipe, out, chosen, Beginning(init_from=teacher.path), saving).run():
            raise Stopped
