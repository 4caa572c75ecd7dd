"""The command `pixelpath recipes`, and what `pixelpath train --help` says of them. Needs no torch."""

from __future__ import annotations

import sys

from pixelpath.commands import names

FIRST = {
    "cpu-32-diffusion": "Diffusion on images of about 32 x 32 pixels, from scratch, on a CPU.",
    "cpu-64-diffusion": "The same for images of about 64 x 64 pixels.",
    "small-64-encoder": "Stage one on a GPU: an encoder that learns without labels, for images of about 64 x 64 pixels.",
    "small-64-diffusion": "Stage two on a GPU: diffusion; begins with that encoder (--encoder RUN) or from scratch.",
    "small-64-onestep": "Stage two on a GPU: images in one step; begins with the encoder or the diffusion (--init-from RUN).",
}
"""The recipes that a user begins with."""


def recipes() -> None:
    """List every recipe with its size, one line each.

    The first word after `train` is one of them. Pixels are the side of the images it is made for, parameters those of the whole
    network on colour images. Every value is the default of an option of `pixelpath train RECIPE`.
    """
    rows = names.recipes()
    width = max(map(len, rows))
    head = f"{'recipe':<{width}}  {'stage':<14}  {'pixels':>6}  {'patch':>5}  {'parameters':>10}  {'steps':>9}  {'batch':>5}"
    stages = {"encoder": "one", "diffusion": "two", "onestep": "two, one step"}
    lines = [
        f"{name:<{width}}  {stages[row.kind]:<14}  {row.pixels:>6}  {row.patch:>5}  {row.parameters / 1e6:>8.1f} M  "
        f"{row.steps:>9,}  {row.batch_size:>5}"
        for name, row in rows.items()
    ]
    sys.stdout.write("\n".join([head, *lines, ""]))


def overview() -> str:
    """The help of `pixelpath train` without a recipe."""
    return "\n".join(
        [
            "usage: pixelpath train RECIPE --data PATH --out RUN [OPTIONS]",
            "",
            "Train a recipe on your images; the same command again takes up the run where it stopped, exactly.",
            "",
            *(f"  {name:<20} {what}" for name, what in FIRST.items()),
            "",
            f"`pixelpath recipes` lists all {len(names.recipes())} recipes.",
            "`pixelpath train RECIPE --help` lists the usual options of a recipe with its values, `--help-all` every option.",
            "",
        ]
    )
